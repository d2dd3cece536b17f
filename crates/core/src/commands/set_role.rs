//! Gives a node a vote, or takes it. Raft's members follow. A node whose vote an operator took is
//! not given one again but by an operator, and only once there is one to be given.

use fleet_types::{NodeId, Revision, Timestamp};

use crate::{
    Outcome, Rejection, State,
    command::SetRole,
    event::{RoleCause, What},
    record::{NodeStatus, Role},
    state::Moment,
    voters::{are_enough, votes},
};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &SetRole,
) -> Result<Outcome, Rejection> {
    let mut node = state.require_node(op.node)?.clone();
    match op.role {
        Role::Voter if node.status != NodeStatus::Active => {
            return Err(Rejection::NodeNotActive(op.node));
        }
        Role::Worker if node.role == Role::Voter => check_quorum(state, op.node, &[])?,
        Role::Voter | Role::Worker => {}
    }
    // What an operator says is meant to last.
    let by_operator = op.cause == RoleCause::Operator;
    let may_vote = if by_operator { op.role == Role::Voter } else { node.may_vote };
    // It takes the place of one that is lost then.
    let waits = by_operator && are_enough(state);
    let role = if waits && op.role == Role::Voter { node.role } else { op.role };
    if (node.role, node.may_vote) == (role, may_vote) {
        return Ok(Outcome::Done(revision));
    }
    let changes = node.role != role;
    (node.role, node.may_vote, node.revision) = (role, may_vote, revision);
    state.put_node(node);
    if changes {
        let what = What::RoleChanged { role, cause: op.cause };
        state.tell(Moment { at, revision }, Some(op.node), None, what);
    }
    Ok(Outcome::Done(revision))
}

/// Refuses to take a vote when those that are left and up would be no majority of those left. `lost`
/// are not taken to be up.
pub(crate) fn check_quorum(state: &State, node: NodeId, lost: &[NodeId]) -> Result<(), Rejection> {
    let voters = state.nodes().values().filter(|other| votes(other) && other.id != node);
    let (all, up) = voters.fold((0, 0), |(all, up), voter| {
        let is_up = voter.status == NodeStatus::Active && !lost.contains(&voter.id);
        (all + 1, up + usize::from(is_up))
    });
    if all == 0 {
        return Err(Rejection::LastNode(node));
    }
    if up < all / 2 + 1 {
        return Err(Rejection::QuorumAtRisk { node, up, voters: all });
    }
    Ok(())
}
