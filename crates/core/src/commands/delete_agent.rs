//! Deletes an agent: at once when it has no placement, else when its host has confirmed that
//! nothing of it runs. Deleting one that is being deleted is no change.

use fleet_types::{Revision, Timestamp};

use crate::{Outcome, Rejection, State, command::DeleteAgent, record::Lifecycle, state::Moment};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &DeleteAgent,
) -> Result<Outcome, Rejection> {
    let mut agent = state.require_agent(&op.agent)?.clone();
    if agent.placement.is_none() {
        state.remove_agent(&op.agent, Moment { at, revision });
    } else if agent.lifecycle == Lifecycle::Live {
        agent.lifecycle = Lifecycle::Deleting;
        agent.revision = revision;
        state.put_agent(agent);
    }
    Ok(Outcome::Done(revision))
}
