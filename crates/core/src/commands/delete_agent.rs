//! Deletes an agent: at once when it has no placement, else when its host has confirmed that
//! nothing of it runs. Deleting one that is being deleted is no change.

use fleet_types::Revision;

use crate::{Outcome, Rejection, State, command::DeleteAgent, record::Lifecycle};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    op: &DeleteAgent,
) -> Result<Outcome, Rejection> {
    let mut agent = state.require_agent(&op.agent)?.clone();
    if agent.placement.is_none() {
        state.remove_agent(&op.agent);
    } else if agent.lifecycle == Lifecycle::Live {
        agent.lifecycle = Lifecycle::Deleting;
        agent.revision = revision;
        state.put_agent(agent);
    }
    Ok(Outcome::Done(revision))
}
