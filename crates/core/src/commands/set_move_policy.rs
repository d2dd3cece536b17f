//! Says when the agents of lost nodes are placed elsewhere by themselves.

use fleet_types::Revision;

use crate::{Outcome, Rejection, State, command::SetMovePolicy};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    op: &SetMovePolicy,
) -> Result<Outcome, Rejection> {
    let mut cluster = state.cluster().ok_or(Rejection::NoCluster)?.clone();
    if op.policy.lost_percent_max > 100 {
        return Err(Rejection::LostPercent(op.policy.lost_percent_max));
    }
    cluster.moves = op.policy;
    cluster.revision = revision;
    state.put_cluster(cluster);
    Ok(Outcome::Done(revision))
}
