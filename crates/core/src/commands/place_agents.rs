//! Places agents that wait for a place. One that was placed meanwhile, or for which the chosen
//! node is no longer right, is passed over: the leader will look again.

use fleet_types::{Revision, Timestamp};

use crate::{Outcome, Rejection, State, command::PlaceAgents, state::Moment};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &PlaceAgents,
) -> Result<Outcome, Rejection> {
    for (id, node) in &op.moves {
        if state.agent(id).is_some_and(|agent| agent.placement.is_none()) {
            state.place(id, Some(*node), Moment { at, revision });
        }
    }
    Ok(Outcome::Done(revision))
}
