//! Keeps an agent's ports from agents because something else listens there, and gives the agent
//! others: on its node if it may have some, which its host starts it with; else it is asked to
//! leave, for it may run by now.

use fleet_types::{Revision, Timestamp};

use crate::{
    Outcome, Rejection, State,
    admission::asked,
    command::QuarantinePorts,
    commands::evict_agents,
    event::{Cause, What},
    index::open,
    plan::matches,
    record::{Evidence, Lifecycle, QuarantineCause},
    state::Moment,
};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &QuarantinePorts,
) -> Result<Outcome, Rejection> {
    let node = state.require_node(op.node)?;
    if node.epoch != op.epoch {
        return Err(Rejection::StaleEpoch { node: op.node, current: node.epoch });
    }
    let agent = state.require_agent(&op.agent)?;
    let placement = agent.placement.as_ref().filter(|placement| placement.node == op.node);
    let Some(block) = placement.filter(|_| agent.generation == op.generation).map(|p| p.block)
    else {
        let current = agent.generation;
        return Err(Rejection::StaleGeneration { agent: op.agent.clone(), current });
    };
    if agent.lifecycle == Lifecycle::Deleting || placement.is_some_and(|p| p.evicting) {
        return Ok(Outcome::Done(revision));
    }
    let now = Moment { at, revision };
    let spec = &agent.spec;
    let fits = state.room(op.node).cloned().is_some_and(|mut room| {
        room.disown(spec, block);
        room.has(asked(spec))
    });
    if fits && open(node) && matches(node, spec.as_ref().into()) {
        let cause = QuarantineCause::Foreign(op.by.clone());
        state.unplace_for(&op.agent, Evidence::ConfirmedEmpty, cause, now);
        state.place(&op.agent, Some(op.node), now);
    } else {
        evict_agents::evict(state, &op.agent, None, Cause::PortsTaken, now);
    }
    let what = What::PortsQuarantined { block, by: op.by.clone() };
    state.tell(now, Some(op.node), Some(op.agent.clone()), what);
    Ok(Outcome::Done(revision))
}
