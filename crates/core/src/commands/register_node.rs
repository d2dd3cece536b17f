//! Grants a node a new epoch, or lets it keep the one its agents still run under. For a new one, a
//! host registers only once nothing of an earlier epoch runs on it, but for agents of classes that
//! outlast their epoch and are placed there still; so either way its placements may stay where they
//! are. Strict agents of a node that says it cannot keep them are asked to leave.

use alloc::vec::Vec;

use fleet_types::{AgentClass, Revision, Timestamp};

use crate::{
    Outcome, Rejection, State,
    command::RegisterNode,
    commands::evict_agents,
    event::{Cause, What},
    record::NodeStatus,
    state::Moment,
};

/// Whether the caller is this node: what no retry changes.
pub(crate) fn check(state: &State, op: &RegisterNode) -> Result<(), Rejection> {
    if state.require_node(op.node)?.storage != op.storage {
        return Err(Rejection::StorageMismatch(op.node));
    }
    Ok(())
}

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &RegisterNode,
) -> Result<Outcome, Rejection> {
    check(state, op)?;
    let mut node = state.require_node(op.node)?.clone();
    let kept = match op.held {
        Some(held) if held != node.epoch || node.status != NodeStatus::Active => {
            return Err(Rejection::StaleEpoch { node: op.node, current: node.epoch });
        }
        held => held,
    };
    if !state.set_port_range(op.node, op.report.port_range) {
        return Err(Rejection::PortsInUse(op.node));
    }
    node.epoch = kept.unwrap_or(node.epoch.next());
    node.status = NodeStatus::Active;
    node.report = Some(op.report.clone());
    node.revision = revision;
    let epoch = node.epoch;
    state.put_node(node);
    let now = Moment { at, revision };
    state.tell(now, Some(op.node), None, What::NodeRegistered { epoch });
    if !op.report.unfit.is_empty() {
        let agents = state.placed_on(op.node).filter_map(|id| state.agent(id));
        let strict = agents.filter(|agent| agent.spec.class == AgentClass::Strict);
        for agent in strict.map(|agent| agent.id.clone()).collect::<Vec<_>>() {
            evict_agents::evict(state, &agent, None, Cause::UnfitNode, now);
        }
    }
    Ok(Outcome::NodeRegistered { epoch })
}
