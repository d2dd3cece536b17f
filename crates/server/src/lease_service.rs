//! Granting leases. Runs on a listener and thread of its own.
//!
//! The order is the proof: the receipt is taken first, then a quorum confirms that this node still
//! leads (with a round that began after the receipt), then the state is looked at, then the
//! receipt counts.

use std::sync::Arc;

use fleet_core::NodeStatus;
use fleet_proto::{
    error::status,
    lease::{RenewRequest, RenewResponse, lease_service_server::LeaseService},
};
use fleet_raft::Node;
use fleet_runtime::clock::raw_ms;
use fleet_types::{Epoch, LeaseTiming, NodeId, Principal};
use tonic::{Code, Request, Response, Status};

use crate::leases::Leases;

/// The service.
pub struct Service {
    /// Consensus; none on a worker, which grants nothing.
    pub raft: Option<Node>,
    /// The table.
    pub leases: Arc<Leases>,
    /// Timings of the cluster.
    pub timing: LeaseTiming,
}

#[tonic::async_trait]
impl LeaseService for Service {
    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        let receipt_ms = raw_ms();
        let caller = request.extensions().get::<Principal>().copied();
        let RenewRequest { node_id, epoch, nonce } = request.into_inner();
        let (node, epoch) = (NodeId(node_id), Epoch(epoch));
        if caller != Some(Principal::Node(node)) {
            return Err(Status::permission_denied("a node renews its own lease only"));
        }
        let not_leader = || status(Code::Unavailable, "NOT_LEADER", "this node does not lead", &[]);
        let raft = self.raft.as_ref().ok_or_else(not_leader)?;
        raft.linearize().await.map_err(|_| not_leader())?;
        let current = raft.read(|state| {
            let node = state.nodes().get(&node);
            node.is_some_and(|n| n.epoch == epoch && n.status == NodeStatus::Active)
        });
        if !current {
            let message = format!("epoch {epoch} of node {node} is over; register again");
            return Err(status(Code::FailedPrecondition, "LEASE_REFUSED", message, &[]));
        }
        if !self.leases.grant(node, epoch, receipt_ms) {
            return Err(not_leader());
        }
        let lease_ms = self.timing.lease_ms;
        Ok(Response::new(RenewResponse { nonce, epoch: epoch.0, lease_ms }))
    }
}
