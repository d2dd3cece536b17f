//! Cordons, drains or reopens a node. Draining asks every agent there to stop, so that it can
//! move; reopening lets those that have not stopped yet stay.

use alloc::vec::Vec;

use fleet_types::{AgentId, Revision};

use crate::{
    Outcome, Rejection, State,
    command::SetSchedulable,
    record::{Lifecycle, Schedulable},
};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    op: &SetSchedulable,
) -> Result<Outcome, Rejection> {
    let mut node = state.require_node(op.node)?.clone();
    node.schedulable = op.schedulable;
    node.revision = revision;
    state.put_node(node);
    let evicting = op.schedulable == Schedulable::Draining;
    let agents: Vec<AgentId> = state.placed_on(op.node).cloned().collect();
    for id in agents {
        let mut agent = state.require_agent(&id)?.clone();
        let Some(placement) = agent.placement.as_mut() else { continue };
        if placement.evicting != evicting && agent.lifecycle == Lifecycle::Live {
            placement.evicting = evicting;
            agent.revision = revision;
            state.put_agent(agent);
        }
    }
    Ok(Outcome::Done(revision))
}
