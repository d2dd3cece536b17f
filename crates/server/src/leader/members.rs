//! Keeping Raft's members in step with the nodes: a node admitted as a voter and up becomes a
//! learner, then, caught up, a voter; a node that was removed, or made a worker, leaves.

use std::time::Duration;

use fleet_core::{Node, NodeStatus, Role};
use fleet_types::NodeId;

use super::Leader;

/// Pause between looks.
const LOOK: Duration = Duration::from_millis(500);
/// How long one change may take; a node that is not up yet is tried again.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn run(leader: Leader) {
    loop {
        let status = leader.raft.status();
        if status.is_changing {
            match leader.raft.complete_change().await {
                Ok(()) => tracing::info!("a change of the voters that was half made is whole"),
                Err(error) => tracing::warn!(%error, "a change of the voters is half made"),
            }
            tokio::time::sleep(LOOK).await;
            continue;
        }
        let wanted: Vec<(NodeId, String, bool)> = leader.raft.read(|state| {
            let voters = state.nodes().values().filter(|n| n.role == Role::Voter);
            let up = |n: &Node| n.status == NodeStatus::Active;
            voters.map(|n| (n.id, n.address.peer.clone(), up(n))).collect()
        });
        for (node, address, up) in &wanted {
            if status.voters.contains(node) || !up {
                continue;
            }
            tracing::info!(node.id = node.0, "node catches up to become a voter");
            let adding = leader.raft.add_voter(*node, address);
            match tokio::time::timeout(PATIENCE, adding).await {
                Ok(Ok(())) => tracing::info!(node.id = node.0, "node votes"),
                Ok(Err(error)) => {
                    tracing::warn!(node.id = node.0, %error, "node does not vote yet")
                }
                Err(_) => tracing::warn!(node.id = node.0, "node has not caught up yet"),
            }
        }
        let members = status.voters.iter().chain(&status.learners);
        let gone: Vec<&NodeId> =
            members.filter(|id| wanted.iter().all(|(node, ..)| node != *id)).collect();
        if gone.contains(&&leader.raft.id()) {
            // A leader without a vote of its own is for the next to take out.
            leader.raft.transfer_leadership(PATIENCE).await;
        }
        for node in gone.into_iter().filter(|id| **id != leader.raft.id()) {
            match leader.raft.remove_member(*node).await {
                Ok(()) => tracing::info!(node.id = node.0, "removed node votes no more"),
                Err(error) => tracing::warn!(node.id = node.0, %error, "removing a voter failed"),
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
