//! Forgets a node for good. Its number is never used again.

use alloc::string::ToString;

use fleet_types::{Revision, Timestamp};

use crate::{
    Outcome, Rejection, State,
    command::{RULES_OF_AWAITED, RemoveNode},
    commands::set_role,
    event::What,
    plan,
    record::{NodeStatus, Role},
    state::Moment,
};

pub(crate) fn apply(
    rules: u32,
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &RemoveNode,
) -> Result<Outcome, Rejection> {
    let node = state.require_node(op.node)?;
    if node.role == Role::Voter {
        set_role::check_quorum(state, op.node, &[])?;
    }
    let agents = state.placed_on(op.node).len();
    if agents > 0 {
        return Err(Rejection::NodeNotEmpty { node: op.node, agents });
    }
    if node.status == NodeStatus::Active {
        return Err(Rejection::NodeActive(op.node));
    }
    // Once they may go elsewhere they wait for room, and for no node.
    let holds = rules >= RULES_OF_AWAITED && !plan::moves(state, 0);
    let agents = if holds { state.held_for(op.node).count() } else { 0 };
    if agents > 0 {
        return Err(Rejection::NodeAwaited { node: op.node, agents });
    }
    let name = node.name.to_string();
    state.remove_node(op.node);
    state.tell(Moment { at, revision }, Some(op.node), None, What::NodeRemoved { name });
    Ok(Outcome::Done(revision))
}
