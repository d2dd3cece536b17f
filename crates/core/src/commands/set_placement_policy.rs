//! Says how agents are placed and moved, and how many nodes vote.

use fleet_types::{
    Revision,
    limits::{OVERCOMMIT_PERCENT, REBALANCE_MOVES, VOTERS},
};

use crate::{Outcome, Rejection, State, command::SetPlacementPolicy};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    op: &SetPlacementPolicy,
) -> Result<Outcome, Rejection> {
    let mut cluster = state.cluster().ok_or(Rejection::NoCluster)?.clone();
    let policy = op.policy.clone();
    for percent in [policy.memory_percent, policy.cpu_percent] {
        if !OVERCOMMIT_PERCENT.contains(&percent) {
            return Err(Rejection::OvercommitPercent(percent));
        }
    }
    if !REBALANCE_MOVES.contains(&policy.moves_max) {
        return Err(Rejection::RebalanceMoves(policy.moves_max));
    }
    if !VOTERS.contains(&policy.voters) {
        return Err(Rejection::VoterCount(policy.voters));
    }
    cluster.placement = policy;
    cluster.revision = revision;
    state.put_cluster(cluster);
    Ok(Outcome::Done(revision))
}
