//! Forgets a node for good. Its number is never used again.

use fleet_types::Revision;

use crate::{
    Outcome, Rejection, State,
    command::RemoveNode,
    record::{NodeStatus, Role},
};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    op: &RemoveNode,
) -> Result<Outcome, Rejection> {
    let node = state.require_node(op.node)?;
    let other_voter = state.nodes().values().any(|n| n.id != op.node && n.role == Role::Voter);
    if !other_voter {
        return Err(Rejection::LastNode(op.node));
    }
    let agents = state.placed_on(op.node).len();
    if agents > 0 {
        return Err(Rejection::NodeNotEmpty { node: op.node, agents });
    }
    if node.status == NodeStatus::Active {
        return Err(Rejection::NodeActive(op.node));
    }
    state.remove_node(op.node);
    Ok(Outcome::Done(revision))
}
