//! Keeping Raft's members in step with the nodes: a node admitted as a voter and up becomes a
//! learner, then, caught up, a voter; a node that was removed, or made a worker, leaves.

use std::{collections::BTreeSet, time::Duration};

use fleet_core::{NodeStatus, Role, State};
use fleet_types::NodeId;

use super::Leader;

/// Pause between looks.
const LOOK: Duration = Duration::from_millis(500);
/// How long one change may take; a node that is not up yet is tried again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether those that vote would be a quorum without one of them, as far as they are up. A membership
/// counts once it is appended: one that can have no quorum could not be committed, nor taken back.
fn can_spare(voters: &BTreeSet<NodeId>, node: NodeId, up: &BTreeSet<NodeId>) -> bool {
    let rest: Vec<_> = voters.iter().filter(|voter| **voter != node).collect();
    let alive = rest.iter().filter(|voter| up.contains(voter)).count();
    !voters.contains(&node) || alive * 2 > rest.len()
}

/// The nodes that are taken to be up.
fn up(state: &State) -> BTreeSet<NodeId> {
    let up = state.nodes().values().filter(|node| node.status == NodeStatus::Active);
    up.map(|node| node.id).collect()
}

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
        let (wanted, are_up) = leader.raft.read(|state| {
            let voters = state.nodes().values().filter(|n| n.role == Role::Voter);
            let wanted: Vec<_> = voters.map(|n| (n.id, n.address.peer.clone())).collect();
            (wanted, up(state))
        });
        for (node, address) in &wanted {
            if status.voters.contains(node) || !are_up.contains(node) {
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
            // As they are now: who was to take its place may not have caught up, in a long time.
            let up = leader.raft.read(up);
            if !can_spare(&leader.raft.status().voters, *node, &up) {
                tracing::warn!(node.id = node.0, "its vote is kept: the others would be no quorum");
                continue;
            }
            match leader.raft.remove_member(*node).await {
                Ok(()) => tracing::info!(node.id = node.0, "removed node votes no more"),
                Err(error) => tracing::warn!(node.id = node.0, %error, "removing a voter failed"),
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_vote_is_taken_that_is_needed_for_a_quorum() {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        let voters = nodes(&[1, 2, 3]);
        assert!(can_spare(&voters, NodeId(3), &nodes(&[1, 2])));
        assert!(can_spare(&voters, NodeId(2), &nodes(&[1, 2, 3])));
        assert!(!can_spare(&voters, NodeId(2), &nodes(&[1, 2])));
        assert!(!can_spare(&voters, NodeId(2), &nodes(&[1, 2, 4])), "one that votes not yet");
        assert!(can_spare(&voters, NodeId(4), &nodes(&[1])), "it has none");
    }
}
