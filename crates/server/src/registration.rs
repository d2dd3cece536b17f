//! Granting epochs to hosts.

use std::sync::Arc;

use fleet_core::{NodeReport, NodeStatus, Operation, Outcome, RegisterNode, Role, check_register};
use fleet_proto::{
    convert::api::parse_labels,
    error::{invalid_field, reason, status},
    host::{
        RegisterRequest, RegisterResponse, TakeOfficeRequest, TakeOfficeResponse,
        registration_service_server::RegistrationService,
    },
};
use fleet_raft::Node;
use fleet_runtime::clock::raw_ms;
use fleet_types::{Epoch, NodeId, PortRange, Principal, Resources};
use tonic::{Code, Request, Response, Status};

use crate::{
    data_dir::VoterSecrets,
    leases::Leases,
    proposer::{Build, Proposer, SMALL},
};

/// Most things a node may say it lacks, and the bytes of one.
pub(crate) const DEGRADED_MAX: usize = 8;
pub(crate) const DEGRADED_BYTES_MAX: usize = 256;

/// The service.
pub struct Service {
    /// Consensus; none on a worker.
    pub proposer: Option<Proposer>,
    /// The table.
    pub leases: Arc<Leases>,
    /// What voters hold; none on a worker.
    pub office: Option<Office>,
}

/// What is given to a node that was made a voter.
pub struct Office {
    /// Consensus.
    pub raft: Node,
    /// What every voter holds.
    pub secrets: VoterSecrets,
}

fn not_leader() -> Status {
    status(Code::Unavailable, "NOT_LEADER", "this node does not lead", &[])
}

/// The caller, who acts for itself only.
fn caller<T>(request: &Request<T>, node: NodeId) -> Result<(), Status> {
    let caller = request.extensions().get::<Principal>().copied();
    let own = caller == Some(Principal::Node(node));
    own.then_some(()).ok_or_else(|| Status::permission_denied("a node acts for itself only"))
}

/// Whether a node will be refused again. While it is up, another one's data directory is a copy's.
fn is_lasting(status: &Status, is_up: bool) -> bool {
    match reason(status).as_deref() {
        Some("STALE_EPOCH") => false,
        Some("STORAGE_MISMATCH") if is_up => false,
        _ => matches!(status.code(), Code::FailedPrecondition | Code::InvalidArgument),
    }
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
    let fleet_proto::v1::Resources { memory_bytes, cpu_millis } =
        request.capacity.unwrap_or_default();
    Ok(NodeReport {
        capacity: Resources { memory_bytes, cpu_millis },
        disk_bytes: request.disk_bytes,
        port_range: PortRange::new(narrow(range.first), narrow(range.last)).map_err(invalid)?,
        runtimes: runtimes.collect::<Result<_, Status>>()?,
        labels: parse_labels("labels", request.labels)?,
        version: request.version,
        rules: request.rules,
        boot: request.boot_id,
        degraded: request.degraded,
        unfit: request.unfit,
    })
}

impl Service {
    /// The epoch a node is granted.
    async fn registered(
        &self,
        proposer: &Proposer,
        node: NodeId,
        request: RegisterRequest,
    ) -> Result<Epoch, Status> {
        let storage = request.storage_id.clone();
        let held = (request.held_epoch > 0).then_some(Epoch(request.held_epoch));
        let report = report(request)?;
        let op = RegisterNode { node, storage, held, report };
        let _registering = self.leases.registering(node);
        // A machine that was removed, or a copy of one, asks for ever: not in an entry each.
        let build: Build = Box::new(move |draft| {
            check_register(draft.planner.state(), &op)?;
            Ok(Operation::RegisterNode(op))
        });
        match proposer.commit(None, SMALL, build).await? {
            Outcome::NodeRegistered { epoch } => {
                // The lease counts from here until the first renewal.
                self.leases.grant(node, epoch, raw_ms(), false);
                Ok(epoch)
            }
            other => Err(Status::internal(format!("registering ended in {other:?}"))),
        }
    }
}

#[tonic::async_trait]
impl RegistrationService for Service {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let node = NodeId(request.get_ref().node_id);
        caller(&request, node)?;
        let request = request.into_inner();
        let proposer = self.proposer.as_ref().ok_or_else(not_leader)?;
        let Office { raft, .. } = self.office.as_ref().ok_or_else(not_leader)?;
        // Who is not known here now is not known.
        raft.linearize().await.map_err(|_| not_leader())?;
        let registered = self.registered(proposer, node, request).await;
        let up = raft.read(|state| Some(state.nodes().get(&node)?.status == NodeStatus::Active));
        match (&registered, up) {
            (Ok(_), _) => self.leases.registered(node, Ok(())),
            (Err(status), Some(up)) if is_lasting(status, up) => {
                self.leases.registered(node, Err(status.message().to_owned()));
            }
            _ => {}
        }
        Ok(Response::new(RegisterResponse { epoch: registered?.0 }))
    }

    async fn take_office(
        &self,
        request: Request<TakeOfficeRequest>,
    ) -> Result<Response<TakeOfficeResponse>, Status> {
        let node = NodeId(request.get_ref().node_id);
        caller(&request, node)?;
        let Office { raft, secrets } = self.office.as_ref().ok_or_else(not_leader)?;
        raft.linearize().await.map_err(|_| not_leader())?;
        let voter = raft
            .read(|state| state.nodes().get(&node).is_some_and(|node| node.role == Role::Voter));
        if !voter {
            let message = format!("node {node} is no voter");
            return Err(status(Code::PermissionDenied, "NOT_A_VOTER", message, &[]));
        }
        tracing::info!(node.id = node.0, "a new voter is given what voters hold");
        let voter_secrets = Some(secrets.to_wire());
        Ok(Response::new(TakeOfficeResponse { voter_secrets }))
    }
}
