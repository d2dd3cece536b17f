//! The first command of every log.

use fleet_types::{Epoch, Revision, Timestamp, limits::AGENT_UID_FIRST};

use crate::{
    Outcome, Rejection, State,
    command::InitCluster,
    record::{Cluster, MovePolicy, Node, NodeStatus, PlacementPolicy, Role, Schedulable},
};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &InitCluster,
) -> Result<Outcome, Rejection> {
    if state.cluster().is_some() {
        return Err(Rejection::ClusterExists);
    }
    state.put_cluster(Cluster {
        id: op.cluster.clone(),
        profile: op.profile,
        next_uid: AGENT_UID_FIRST,
        moves: MovePolicy::default(),
        placement: PlacementPolicy::default(),
        created: at,
        revision,
    });
    state.put_node(Node {
        id: op.node,
        name: op.name.clone(),
        address: op.address.clone(),
        role: Role::Voter,
        may_vote: true,
        storage: op.storage.clone(),
        token: None,
        status: NodeStatus::Joining,
        schedulable: Schedulable::Open,
        epoch: Epoch(0),
        hold: None,
        drain: None,
        report: None,
        joined: at,
        revision,
    });
    Ok(Outcome::Done(revision))
}
