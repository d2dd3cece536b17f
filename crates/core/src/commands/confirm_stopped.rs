//! A host confirms that nothing of an agent runs: the delete is finished, or the agent moves on.

use fleet_types::{Revision, Timestamp};

use crate::{
    Outcome, Rejection, State,
    command::ConfirmStopped,
    record::{Evidence, Lifecycle},
    state::Moment,
};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &ConfirmStopped,
) -> Result<Outcome, Rejection> {
    state.require_epoch(op.node, op.epoch)?;
    let agent = state.require_agent(&op.agent)?;
    let placement = agent.placement.as_ref().filter(|placement| placement.node == op.node);
    let Some(placement) = placement.filter(|_| agent.generation == op.generation) else {
        let current = agent.generation;
        return Err(Rejection::StaleGeneration { agent: op.agent.clone(), current });
    };
    let deleting = agent.lifecycle == Lifecycle::Deleting;
    if !deleting && !placement.evicting {
        return Err(Rejection::NotStopping(op.agent.clone()));
    }
    let now = Moment { at, revision };
    state.unplace(&op.agent, Evidence::ConfirmedEmpty, now);
    if deleting {
        state.remove_agent(&op.agent, now);
    } else {
        state.place(&op.agent, op.next, now);
    }
    Ok(Outcome::Done(revision))
}
