//! Restarts an agent where it is; one that is stopped starts.

use fleet_types::Revision;

use crate::{
    Outcome, Rejection, State,
    command::RestartAgent,
    record::{Desired, Lifecycle},
};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    op: &RestartAgent,
) -> Result<Outcome, Rejection> {
    let mut agent = state.require_agent(&op.agent)?.clone();
    if agent.lifecycle == Lifecycle::Deleting {
        return Err(Rejection::AgentDeleting(op.agent.clone()));
    }
    agent.desired = Desired::Running;
    agent.restarts += 1;
    agent.revision = revision;
    state.put_agent(agent);
    Ok(Outcome::Done(revision))
}
