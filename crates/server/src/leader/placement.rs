//! Placing agents that wait for a place, whenever something changed that may make room.

use std::time::{Duration, Instant};

use fleet_core::{Operation, PlaceAgents, plan};

use super::{Leader, RETRY};

/// Agents placed in one entry.
const MOVES_MAX: usize = 1_000;
/// Longest pause between looks.
const LOOK: Duration = Duration::from_secs(2);
/// How much longer than a look in vain the pause after it is: looking holds up applying.
const PAUSE_OF_LOOK: u32 = 20;

pub(super) async fn run(leader: Leader) {
    let mut index = leader.raft.applied_index();
    loop {
        index.mark_unchanged();
        let began = Instant::now();
        let moves = leader.raft.read(|state| match state.unplaced().next() {
            Some(_) => {
                let feared = leader.leases.feared_lost(state, &leader.timing);
                plan::placements(state, MOVES_MAX, feared.len())
            }
            None => Vec::new(),
        });
        if moves.is_empty() {
            tokio::time::sleep((began.elapsed() * PAUSE_OF_LOOK).min(LOOK)).await;
            leader.applied(&mut index, LOOK).await;
            continue;
        }
        let count = moves.len();
        let operation = Operation::PlaceAgents(PlaceAgents { moves });
        match leader.proposer.submit(operation).await {
            Ok(_) => tracing::info!(agents = count, "waiting agents placed"),
            Err(status) => {
                tracing::warn!(%status, "placing waiting agents failed; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
