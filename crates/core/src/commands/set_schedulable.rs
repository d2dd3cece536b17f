//! Cordons, drains or reopens a node. A drain that names a pace leaves it to the leader to ask
//! agents to leave; one that names none asks all at once. Ending a drain lets those that have not
//! stopped yet stay, but for strict agents of a node that cannot keep them.

use alloc::vec::Vec;

use fleet_types::{AgentClass, AgentId, Revision, Timestamp};

use crate::{
    Outcome, Rejection, State,
    command::SetSchedulable,
    commands::evict_agents,
    event::{Cause, What},
    index::open,
    record::{Agent, NodeStatus, Schedulable},
    state::Moment,
};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &SetSchedulable,
) -> Result<Outcome, Rejection> {
    let now = Moment { at, revision };
    let mut node = state.require_node(op.node)?.clone();
    let draining = op.schedulable == Schedulable::Draining;
    let others = state.nodes().values().any(|other| other.id != op.node && open(other));
    if draining && !others && state.placed_on(op.node).len() > 0 {
        return Err(Rejection::NowhereToGo(op.node));
    }
    // Nobody says that what it has was stopped.
    if draining && node.status != NodeStatus::Active && state.placed_on(op.node).len() > 0 {
        return Err(Rejection::NodeNotActive(op.node));
    }
    let drained = node.schedulable == Schedulable::Draining;
    let unfit = node.report.as_ref().is_some_and(|report| !report.unfit.is_empty());
    node.schedulable = op.schedulable;
    node.drain = op.drain.filter(|_| draining);
    node.revision = revision;
    state.put_node(node);
    let schedulable = op.schedulable;
    state.tell(now, Some(op.node), None, What::NodeScheduling { schedulable });
    let agents: Vec<AgentId> = state.placed_on(op.node).cloned().collect();
    for id in agents {
        match op.schedulable {
            Schedulable::Draining if op.drain.is_none() => {
                evict_agents::evict(state, &id, None, Cause::Drain, now);
            }
            Schedulable::Open | Schedulable::Cordoned if drained => {
                let strict = |agent: &Agent| agent.spec.class == AgentClass::Strict;
                if !(unfit && state.agent(&id).is_some_and(strict)) {
                    evict_agents::keep(state, &id, now);
                }
            }
            _ => {}
        }
    }
    Ok(Outcome::Done(revision))
}
