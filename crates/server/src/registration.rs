//! Granting epochs to hosts.

use std::sync::Arc;

use fleet_core::{NodeReport, Operation, Outcome, RegisterNode};
use fleet_proto::{
    convert::api::parse_labels,
    error::{invalid_field, status},
    host::{RegisterRequest, RegisterResponse, registration_service_server::RegistrationService},
};
use fleet_runtime::clock::raw_ms;
use fleet_types::{Epoch, NodeId, PortRange, Principal};
use tonic::{Code, Request, Response, Status};

use crate::{leases::Leases, proposer::Proposer};

/// Most things a node may say it lacks, and the bytes of one.
const DEGRADED_MAX: usize = 8;
const DEGRADED_BYTES_MAX: usize = 256;

/// The service.
pub struct Service {
    /// Consensus; none on a worker.
    pub proposer: Option<Proposer>,
    /// The table.
    pub leases: Arc<Leases>,
}

fn report(request: RegisterRequest) -> Result<NodeReport, Status> {
    let range = request.port_range.unwrap_or_default();
    let narrow = |port: u32| u16::try_from(port).unwrap_or(0);
    let invalid = |e| invalid_field("PORT_RANGE_INVALID", "port_range", "", e);
    let runtimes = request.runtimes.into_iter().map(|(name, version)| {
        let invalid = |e| invalid_field("INVALID_NAME", "runtimes", &name, e);
        Ok((name.parse().map_err(invalid)?, version))
    });
    for (field, why) in [("degraded", &request.degraded), ("unfit", &request.unfit)] {
        let lacks = why.len();
        if lacks > DEGRADED_MAX || why.iter().any(|why| why.len() > DEGRADED_BYTES_MAX) {
            let limit = format!("at most {DEGRADED_MAX} entries of {DEGRADED_BYTES_MAX} bytes");
            return Err(invalid_field("DEGRADED_INVALID", field, &lacks.to_string(), limit));
        }
    }
    Ok(NodeReport {
        port_range: PortRange::new(narrow(range.first), narrow(range.last)).map_err(invalid)?,
        runtimes: runtimes.collect::<Result<_, Status>>()?,
        labels: parse_labels("labels", request.labels)?,
        version: request.version,
        boot: request.boot_id,
        degraded: request.degraded,
        unfit: request.unfit,
    })
}

#[tonic::async_trait]
impl RegistrationService for Service {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let caller = request.extensions().get::<Principal>().copied();
        let request = request.into_inner();
        let node = NodeId(request.node_id);
        if caller != Some(Principal::Node(node)) {
            return Err(Status::permission_denied("a node registers itself only"));
        }
        let not_leader = || status(Code::Unavailable, "NOT_LEADER", "this node does not lead", &[]);
        let proposer = self.proposer.as_ref().ok_or_else(not_leader)?;
        let storage = request.storage_id.clone();
        let held = (request.held_epoch > 0).then_some(Epoch(request.held_epoch));
        let report = report(request)?;
        let operation = Operation::RegisterNode(RegisterNode { node, storage, held, report });
        match proposer.submit(operation).await? {
            Outcome::NodeRegistered { epoch } => {
                // The lease counts from here until the first renewal.
                self.leases.grant(node, epoch, raw_ms(), false);
                Ok(Response::new(RegisterResponse { epoch: epoch.0 }))
            }
            other => Err(Status::internal(format!("registering ended in {other:?}"))),
        }
    }
}
