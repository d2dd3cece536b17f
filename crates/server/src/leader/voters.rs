//! Keeping the number of voters: seeing which nodes are lost for good, and which are steady.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use fleet_core::{
    Node, NodeStatus, Operation, Role,
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
/// How long Raft may not count the vote of a node that is up, in leases, before it is taken back, and how
/// long the node is not given one then: a large state takes a while to be sent.
const STUCK_LEASES: u64 = 100;

pub(super) async fn run(leader: Leader) {
    let leases = |count: u64| Duration::from_millis(count * leader.timing.lease_ms);
    // Since when each node is as it is, as far as this leader saw.
    let mut since: BTreeMap<NodeId, (NodeStatus, Instant)> = BTreeMap::new();
    let mut uncounted: BTreeMap<NodeId, Instant> = BTreeMap::new();
    let mut shunned: BTreeMap<NodeId, Instant> = BTreeMap::new();
    loop {
        let votes = leader.raft.status().voters;
        let waits = |node: &Node| {
            let given = node.role == Role::Voter && node.status == NodeStatus::Active;
            given && !votes.contains(&node.id)
        };
        let (known, waiting) = leader.raft.read(|state| {
            let nodes = state.nodes().values();
            let known: BTreeMap<_, _> = nodes.clone().map(|node| (node.id, node.status)).collect();
            let waiting: BTreeSet<_> =
                nodes.filter(|node| waits(node)).map(|node| node.id).collect();
            (known, waiting)
        });
        since.retain(|node, (status, _)| known.get(node) == Some(status));
        uncounted.retain(|node, _| waiting.contains(node));
        for node in waiting {
            uncounted.entry(node).or_insert_with(Instant::now);
        }
        shunned.retain(|_, since| since.elapsed() < leases(STUCK_LEASES));
        let mut seen = BTreeMap::new();
        for (node, status) in known {
            let (_, began) = *since.entry(node).or_insert((status, Instant::now()));
            let lasted = began.elapsed();
            let is_up = status == NodeStatus::Active && !shunned.contains_key(&node);
            let steady = is_up && lasted >= leases(STEADY_LEASES);
            let gone = status == NodeStatus::Fenced && lasted >= leases(GONE_LEASES);
            let uncounted = uncounted.get(&node);
            let stuck = uncounted.is_some_and(|since| since.elapsed() >= leases(STUCK_LEASES));
            if stuck {
                shunned.insert(node, Instant::now());
            }
            seen.insert(node, Seen { steady, gone, votes: votes.contains(&node), stuck });
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
