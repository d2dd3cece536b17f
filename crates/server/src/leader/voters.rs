//! Keeping the number of voters: seeing which nodes are lost for good, and which are steady.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use fleet_core::{
    NodeStatus, Operation,
    voters::{self, Seen},
};
use fleet_types::NodeId;

use super::{Leader, RETRY};

/// Pause between looks.
const LOOK: Duration = Duration::from_secs(1);
/// How long a node must have been up before it is given a vote, in leases.
const STEADY_LEASES: u64 = 5;
/// How long a voter must have been fenced before another node gets its vote, in leases: one minute
/// in the default profile, time for a machine to restart its daemon.
const GONE_LEASES: u64 = 10;

pub(super) async fn run(leader: Leader) {
    let leases = |count: u64| Duration::from_millis(count * leader.timing.lease_ms);
    // Since when each node is as it is, as far as this leader saw.
    let mut since: BTreeMap<NodeId, (NodeStatus, Instant)> = BTreeMap::new();
    loop {
        let votes = leader.raft.status().voters;
        let known: BTreeMap<NodeId, NodeStatus> = leader
            .raft
            .read(|state| state.nodes().values().map(|node| (node.id, node.status)).collect());
        since.retain(|node, (status, _)| known.get(node) == Some(status));
        let mut seen = BTreeMap::new();
        for (node, status) in known {
            let (_, began) = *since.entry(node).or_insert((status, Instant::now()));
            let lasted = began.elapsed();
            let steady = status == NodeStatus::Active && lasted >= leases(STEADY_LEASES);
            let gone = status == NodeStatus::Fenced && lasted >= leases(GONE_LEASES);
            seen.insert(node, Seen { steady, gone, votes: votes.contains(&node) });
        }
        let change = leader.raft.read(|state| voters::next(state, &seen, leader.raft.id()));
        if let Some(change) = change {
            let (node, role, cause) = (change.node.0, change.role, change.cause);
            match leader.proposer.submit(Operation::SetRole(change)).await {
                Ok(_) => tracing::info!(node.id = node, ?role, ?cause, "node's role changed"),
                Err(status) => {
                    tracing::warn!(node.id = node, %status, "changing a role failed; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
