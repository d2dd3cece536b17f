//! Granting leases. Runs on a listener and thread of its own.
//!
//! The order is the proof: the receipt is taken first, then a quorum confirms that this node still
//! leads (with a round that began after the receipt), then the state is looked at, then the
//! receipt counts.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fleet_client::{Identity, connect_node};
use fleet_core::NodeStatus;
use fleet_mutants::{Mutant, note_round, planted, takes_earlier_round};
use fleet_proto::{
    error::status,
    lease::{
        RenewRequest, RenewResponse, lease_service_client::LeaseServiceClient,
        lease_service_server::LeaseService,
    },
};
use fleet_raft::Node;
use fleet_runtime::clock::raw_ms;
use fleet_types::{Epoch, LeaseTiming, NodeId, Principal};
use tonic::{Code, Request, Response, Status, transport::Channel};

use crate::leases::Leases;

/// The service.
pub struct Service {
    /// Consensus; none on a worker, which grants nothing.
    raft: Option<Node>,
    leases: Arc<Leases>,
    timing: LeaseTiming,
    identity: Identity,
    /// The way to the leader of late, for passing requests on.
    leader: Mutex<Option<(NodeId, String, Channel)>>,
}

fn not_leader() -> Status {
    status(Code::Unavailable, "NOT_LEADER", "this node does not lead", &[])
}

impl Service {
    /// Grants with the `timing` of the cluster, noting receipts in `leases`.
    pub fn new(
        raft: Option<Node>,
        leases: Arc<Leases>,
        timing: LeaseTiming,
        identity: Identity,
    ) -> Self {
        Self { raft, leases, timing, identity, leader: Mutex::default() }
    }

    /// Returns once a quorum confirmed, after the call began, that this node leads.
    async fn confirm(&self, raft: &Node) -> Result<(), Status> {
        if planted(Mutant::GrantsWithoutQuorum) {
            return Ok(());
        }
        let raft = raft.clone();
        let round = async move {
            let confirmed = raft.linearize().await.map_err(|_| not_leader());
            confirmed.inspect(|()| note_round(raw_ms()))
        };
        if takes_earlier_round(raw_ms(), self.timing.lease_ms) {
            tokio::spawn(round);
            return Ok(());
        }
        round.await
    }

    /// A connection to the lease listener of the node that leads.
    fn to_leader(&self, raft: &Node) -> Result<Channel, Status> {
        let leader = raft.leader().filter(|id| *id != raft.id()).ok_or_else(not_leader)?;
        let address =
            raft.read(|state| state.nodes().get(&leader).map(|n| n.address.lease.clone()));
        let address = address.ok_or_else(not_leader)?;
        let mut known = self.leader.lock().expect("no holder panics");
        match &*known {
            Some((id, at, channel)) if (*id, at) == (leader, &address) => Ok(channel.clone()),
            _ => {
                let channel = connect_node(&self.identity, leader, &address)?;
                *known = Some((leader, address, channel.clone()));
                Ok(channel)
            }
        }
    }
}

#[tonic::async_trait]
impl LeaseService for Service {
    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        let receipt_ms = raw_ms();
        let caller = request.extensions().get::<Principal>().copied();
        let request = request.into_inner();
        let RenewRequest { node_id, epoch, nonce, relayed } = request;
        let (node, epoch) = (NodeId(node_id), Epoch(epoch));
        // A member that passes a request on is believed: it could only keep a lease alive,
        // which makes others wait, never end it early.
        let may = caller == Some(Principal::Node(node))
            || (relayed && matches!(caller, Some(Principal::Node(_))));
        if !may {
            return Err(Status::permission_denied("a node renews its own lease only"));
        }
        let raft = self.raft.as_ref().ok_or_else(not_leader)?;
        if raft.leader() != Some(raft.id()) && !relayed {
            let channel = self.to_leader(raft)?;
            let passed_on = RenewRequest { relayed: true, ..request };
            let limit = Duration::from_millis(self.timing.renew_ms);
            let mut leader = LeaseServiceClient::new(channel);
            let answer = tokio::time::timeout(limit, leader.renew(passed_on)).await;
            return answer.map_err(|_| Status::deadline_exceeded("the leader did not answer"))?;
        }
        self.confirm(raft).await?;
        let hold_now = || {
            raft.read(|state| {
                let node = state.nodes().get(&node)?;
                let active = node.epoch == epoch && node.status == NodeStatus::Active;
                active.then(|| node.hold.filter(|hold| !hold.ending))
            })
        };
        let Some(hold) = hold_now() else {
            let message = format!("epoch {epoch} of node {node} is over; register again");
            return Err(status(Code::FailedPrecondition, "LEASE_REFUSED", message, &[]));
        };
        if !self.leases.grant(node, epoch, receipt_ms, hold.is_some()) {
            return Err(not_leader());
        }
        // A hold ends once no long lease is known: it may have ended before this one was.
        let hold = hold.filter(|_| hold_now() == Some(hold));
        let lease_ms = hold.map_or(self.timing.lease_ms, |hold| hold.lease_ms);
        Ok(Response::new(RenewResponse { nonce, epoch: epoch.0, lease_ms }))
    }
}
