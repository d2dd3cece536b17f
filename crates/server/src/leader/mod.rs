//! What only the leader does: fence silent nodes, place what has no place, ask agents to leave for
//! drains and balance, keep the number of voters and the
//! members of Raft in step with the nodes, and tell every host what to
//! run.

mod fence;
mod hosts;
mod leave;
mod members;
mod observed;
mod placement;
mod router;
mod session;
mod voters;

use std::{sync::Arc, time::Duration};

use fleet_client::Identity;
use fleet_raft::Node;
use fleet_types::LeaseTiming;
use tokio::{sync::watch, task::JoinSet};

pub(crate) use leave::moving;
pub use observed::{Observed, Pace};

use crate::{leases::Leases, proposer::Proposer};

/// Pause before a step that failed is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Entries this close together are looked at together: a loop that woke for each would take the
/// time its next one needs.
const GATHER: Duration = Duration::from_millis(5);

/// What the leader's loops work with.
#[derive(Clone)]
pub struct Leader {
    /// Consensus.
    pub raft: Node,
    /// Proposals.
    pub proposer: Proposer,
    /// Leases.
    pub leases: Arc<Leases>,
    /// Timings.
    pub timing: LeaseTiming,
    /// For calling hosts.
    pub identity: Identity,
    /// Key of agents' gateway tokens.
    pub agent_token_key: [u8; 32],
    /// What hosts report.
    pub observed: Arc<Observed>,
}

impl Leader {
    /// Returns when entries were applied that `index` has not seen, or after `limit`.
    async fn applied(&self, index: &mut watch::Receiver<u64>, limit: Duration) {
        // Time out or change: both are reasons to look again.
        let _ = tokio::time::timeout(limit, index.changed()).await;
        tokio::time::sleep(GATHER).await;
    }

    /// Runs the loops whenever this node leads. Never returns.
    pub async fn run(self) {
        loop {
            while !self.raft.status().is_leader {
                self.raft.status_changed().await;
            }
            let term = self.raft.status().term;
            // Answers only once an entry of this term is committed.
            if self.raft.linearize().await.is_err() {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            self.leases.begin_term(self.raft.since_predecessors(term), &self.timing);
            self.observed.clear();
            tracing::info!(raft.term = term, "this node leads");
            let mut loops = JoinSet::new();
            loops.spawn(fence::run(self.clone()));
            loops.spawn(placement::run(self.clone()));
            loops.spawn(leave::run(self.clone()));
            loops.spawn(members::run(self.clone()));
            loops.spawn(voters::run(self.clone()));
            loops.spawn(hosts::run(self.clone(), term));
            loop {
                let status = self.raft.status();
                if !status.is_leader || status.term != term {
                    break;
                }
                self.raft.status_changed().await;
            }
            loops.shutdown().await;
            self.leases.end_term();
            tracing::info!(raft.term = term, "this node leads no more");
        }
    }
}
