//! Keeps an agent's ports from agents because something else listens there, and gives the agent
//! others: on its node if it may have some, which its host starts it with; else it is asked to
//! leave, for it may run by now. A pinned agent leaves no node by itself: it stays, and its host
//! says what hinders it.

use fleet_types::{AgentClass, Revision, Timestamp};

use crate::{
    Outcome, Rejection, State,
    admission::asked,
    command::QuarantinePorts,
    commands::evict_agents,
    event::Cause,
    index::open,
    plan::matches,
    record::{Agent, Evidence, Lifecycle},
    state::Moment,
};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &QuarantinePorts,
) -> Result<Outcome, Rejection> {
    state.require_epoch(op.node, op.epoch)?;
    let agent = state.require_agent(&op.agent)?;
    let here = agent.placement.as_ref().is_some_and(|placement| placement.node == op.node);
    if !here || agent.generation != op.generation {
        let current = agent.generation;
        return Err(Rejection::StaleGeneration { agent: op.agent.clone(), current });
    }
    let Some(remedy) = remedy(state, agent) else { return Ok(Outcome::Done(revision)) };
    let now = Moment { at, revision };
    let mut agent = agent.clone();
    if let Some(placement) = agent.placement.as_mut() {
        placement.taken_by = Some(op.by.as_str().into());
    }
    state.put_agent(agent);
    match remedy {
        Remedy::Others => {
            state.unplace(&op.agent, Evidence::ConfirmedEmpty, now);
            state.place(&op.agent, Some(op.node), now);
        }
        Remedy::Leave => evict_agents::evict(state, &op.agent, None, Cause::PortsTaken, now),
    }
    Ok(Outcome::Done(revision))
}

/// What helps an agent whose ports something else listens on.
enum Remedy {
    /// Others, where it is.
    Others,
    /// Another node.
    Leave,
}

/// None when there is nothing to do for it, or it is done.
fn remedy(state: &State, agent: &Agent) -> Option<Remedy> {
    let placement = agent.placement.as_ref().filter(|placement| !placement.evicting)?;
    if agent.lifecycle == Lifecycle::Deleting {
        return None;
    }
    let (node, spec) = (state.nodes().get(&placement.node)?, &agent.spec);
    let fits = state.room(placement.node).cloned().is_some_and(|mut room| {
        room.disown(spec, placement.block);
        room.has(asked(spec))
    });
    match fits && open(node) && matches(node, spec.as_ref().into()) {
        true => Some(Remedy::Others),
        false if spec.class == AgentClass::Pinned => None,
        false => Some(Remedy::Leave),
    }
}

/// Whether saying that something else listens on an agent's ports would change anything.
pub(crate) fn helps(state: &State, agent: &Agent) -> bool {
    remedy(state, agent).is_some()
}
