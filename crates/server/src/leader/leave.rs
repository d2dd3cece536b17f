//! Asking agents to leave their nodes: for drains, at their pace, and for balance, once the cluster
//! has been calm for a while.

use std::time::{Duration, Instant};

use fleet_core::{NodeStatus, Operation, Schedulable, State, rebalance};
use fleet_runtime::clock;

use super::{Leader, RETRY};

/// Longest pause between looks.
const LOOK: Duration = Duration::from_secs(1);
/// Shortest pause between looks, and how much longer than a look it is: looking holds up applying.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_OF_LOOK: u32 = 100;
/// How long no node may have come or gone before agents are moved for balance: one that flaps
/// is not worth a move.
const CALM: Duration = Duration::from_secs(60);

/// What must not have changed for the cluster to be calm: which nodes take agents, since when.
fn scene(state: &State) -> Vec<(u64, u64)> {
    let open = |node: &&fleet_core::Node| {
        node.status == NodeStatus::Active && node.schedulable == Schedulable::Open
    };
    state.nodes().values().filter(open).map(|node| (node.id.0, node.epoch.0)).collect()
}

pub(super) async fn run(leader: Leader) {
    let mut index = leader.raft.applied_index();
    let (mut seen, mut since) = (leader.raft.read(scene), Instant::now());
    loop {
        index.mark_unchanged();
        let now = leader.raft.read(scene);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        let calm = since.elapsed() >= CALM;
        let looking = Instant::now();
        let asked = leader.raft.read(|state| {
            let moves = calm.then(|| rebalance::automatic(state)).flatten();
            rebalance::drains(state, clock::now()).into_iter().chain(moves).collect::<Vec<_>>()
        });
        let pause = PAUSE.max(looking.elapsed() * PAUSE_OF_LOOK);
        for evict in asked {
            let (agents, cause) = (evict.agents.len(), evict.cause);
            match leader.proposer.submit(Operation::EvictAgents(evict)).await {
                Ok(_) => tracing::info!(agents, ?cause, "agents asked to leave"),
                Err(status) => {
                    tracing::warn!(%status, "asking agents to leave failed; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        tokio::time::sleep(pause).await;
        leader.applied(&mut index, LOOK).await;
    }
}
