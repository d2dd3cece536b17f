//! Starts or stops an agent. Asking for what is wanted already is no change.

use fleet_types::Revision;

use crate::{Outcome, Rejection, State, command::SetAgentDesired, record::Lifecycle};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    op: &SetAgentDesired,
) -> Result<Outcome, Rejection> {
    let agent = state.require_agent(&op.agent)?;
    if agent.lifecycle == Lifecycle::Deleting {
        return Err(Rejection::AgentDeleting(op.agent.clone()));
    }
    if agent.desired != op.desired {
        let mut agent = agent.clone();
        agent.desired = op.desired;
        agent.revision = revision;
        state.put_agent(agent);
    }
    Ok(Outcome::Done(revision))
}
