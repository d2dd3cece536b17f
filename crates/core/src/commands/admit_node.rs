//! Admits a node that shows a join token. Its number is the log index, so it is never reused.

use fleet_types::{Epoch, NodeId, Revision, Timestamp, limits::NODES_MAX};

use crate::{
    Outcome, Rejection, State,
    command::AdmitNode,
    event::What,
    record::{Node, NodeStatus, Role, Schedulable},
    state::Moment,
};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &AdmitNode,
) -> Result<Outcome, Rejection> {
    let token = state.tokens().get(&op.token).ok_or(Rejection::TokenUnknown)?;
    if token.secret_sha256 != op.secret_sha256 {
        return Err(Rejection::TokenUnknown);
    }
    if token.expires < at {
        return Err(Rejection::TokenExpired);
    }
    // A joiner whose answer was lost asks again with the same data directory: same node.
    if let Some(node) = state
        .nodes()
        .values()
        .find(|n| n.storage == op.storage && n.token.as_ref() == Some(&op.token))
    {
        return Ok(Outcome::NodeAdmitted { node: node.id, role: node.role });
    }
    if token.uses_left == 0 {
        return Err(Rejection::TokenUsedUp);
    }
    if state.nodes().values().any(|n| n.name == op.name) {
        return Err(Rejection::NodeNameTaken(op.name.clone()));
    }
    if state.nodes().len() >= NODES_MAX {
        return Err(Rejection::LimitReached { what: "nodes", limit: NODES_MAX });
    }
    let voters = state.nodes().values().filter(|n| n.role == Role::Voter).count();
    let role = match token.role {
        Role::Voter if voters < usize::from(state.placement_policy().voters) => Role::Voter,
        Role::Voter | Role::Worker => Role::Worker,
    };
    // Commands of one entry share its index, which only one of them can take.
    let id = NodeId(revision.0);
    if state.nodes().contains_key(&id) {
        return Err(Rejection::NodeNumberTaken(id));
    }
    let may_vote = token.role == Role::Voter;
    let mut token = token.clone();
    token.uses_left -= 1;
    token.revision = revision;
    state.put_token(token);
    state.put_node(Node {
        id,
        name: op.name.clone(),
        address: op.address.clone(),
        role,
        may_vote,
        storage: op.storage.clone(),
        token: Some(op.token.clone()),
        status: NodeStatus::Joining,
        schedulable: Schedulable::Open,
        epoch: Epoch(0),
        hold: None,
        drain: None,
        report: None,
        joined: at,
        revision,
    });
    state.tell(Moment { at, revision }, Some(id), None, What::NodeAdmitted { role });
    Ok(Outcome::NodeAdmitted { node: id, role })
}
