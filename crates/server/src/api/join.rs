//! `fleet.v1.JoinService`: the one service that asks for no certificate.

use fleet_core::{AdmitNode, NodeAddress, Operation, Outcome, Rejection, Role};
use fleet_proto::{
    convert::api as convert,
    error::{from_rejection, invalid_field, reason, status},
    v1::{JoinClusterRequest, JoinClusterResponse, Member, join_service_server::JoinService},
};
use fleet_types::{InvalidName, NodeName};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tonic::{Code, Request, Response, Status};

use super::Api;

/// Longest address accepted, in bytes: a DNS name and a port.
const ADDRESS_BYTES_MAX: usize = 260;

fn address(field: &str, text: &str) -> Result<String, Status> {
    let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_some()
        && text.len() <= ADDRESS_BYTES_MAX
        && text.bytes().all(|b| b.is_ascii_graphic())
    {
        return Ok(text.to_owned());
    }
    Err(invalid_field("ADDRESS_INVALID", field, text, "is not host:port"))
}

fn parse(request: &JoinClusterRequest) -> Result<AdmitNode, Status> {
    let unknown = || from_rejection(&Rejection::TokenUnknown);
    let name = &request.node_name;
    let secret: [u8; 32] =
        const_hex::decode_to_array(&request.token_secret).map_err(|_| unknown())?;
    if request.storage_id.len() != 32 {
        let why = "is not 32 hexadecimal digits";
        return Err(invalid_field("STORAGE_ID_INVALID", "storage_id", &request.storage_id, why));
    }
    let invalid = |why: String| invalid_field("INVALID_NAME", "node_name", name, why);
    let parsed: NodeName = name.parse().map_err(|e: InvalidName| invalid(e.to_string()))?;
    if parsed.is_number() {
        return Err(invalid("is a number, by which nodes are named, too: give it a letter".into()));
    }
    Ok(AdmitNode {
        token: request.token_id.parse().map_err(|_| unknown())?,
        secret_sha256: Sha256::digest(secret).into(),
        name: parsed,
        address: NodeAddress {
            api: address("api_address", &request.api_address)?,
            peer: address("peer_address", &request.peer_address)?,
            lease: address("lease_address", &request.lease_address)?,
        },
        storage: request.storage_id.clone(),
    })
}

/// Joins at the same time that may come before one.
const TRIES: usize = 100;

impl Api {
    /// Admits a node: of several in one entry of the log, one is admitted and the others come again.
    async fn admit(&self, admit: AdmitNode) -> Result<Outcome, Status> {
        for _ in 0..TRIES {
            match self.proposer.submit(Operation::AdmitNode(admit.clone())).await {
                Err(status) if reason(&status).as_deref() == Some("NODE_NUMBER_TAKEN") => {}
                done => return done,
            }
        }
        Err(Status::unavailable("too many nodes join at the same time; try again"))
    }
}

#[tonic::async_trait]
impl JoinService for Api {
    async fn join_cluster(
        &self,
        request: Request<JoinClusterRequest>,
    ) -> Result<Response<JoinClusterResponse>, Status> {
        let request = request.into_inner();
        let admit = parse(&request)?;
        // Looked at before anything is proposed, so that guesses never reach the log.
        let (known, rules) = self
            .read(|state| {
                let token = state.tokens().get(&admit.token);
                let secret = token.map(|token| token.secret_sha256);
                (secret.is_some_and(|it| it.ct_eq(&admit.secret_sha256).into()), state.rules())
            })
            .await?;
        if !known {
            return Err(from_rejection(&Rejection::TokenUnknown));
        }
        if request.rules < rules {
            let message = "this build of fleet-cluster is older than the cluster's voters: install \
                           their version here first";
            return Err(status(Code::FailedPrecondition, "BUILD_TOO_OLD", message, &[]));
        }
        let name = admit.name.clone();
        let outcome = self.admit(admit).await?;
        let Outcome::NodeAdmitted { node, role } = outcome else {
            return Err(Status::internal(format!("admitting ended in {outcome:?}")));
        };
        let certificate_pem =
            self.authority.issue_node(node, &request.certificate_request_pem).map_err(|e| {
                invalid_field("CERTIFICATE_REQUEST_INVALID", "certificate_request_pem", "", e)
            })?;
        tracing::info!(node.id = node.0, node.name = %name, ?role, "node admitted");
        let (profile, members) = self.raft.read(|state| {
            let voters = state.nodes().values().filter(|n| n.role == Role::Voter && n.id != node);
            let members = voters.map(|n| Member {
                node_id: n.id.0,
                api_address: n.address.api.clone(),
                peer_address: n.address.peer.clone(),
                lease_address: n.address.lease.clone(),
                role: convert::role(n.role).into(),
            });
            (state.cluster().map(|c| c.profile).unwrap_or_default(), members.collect())
        });
        let voter_secrets = (role == Role::Voter).then(|| self.secrets.to_wire());
        Ok(Response::new(JoinClusterResponse {
            cluster_id: self.identity.cluster.to_string(),
            node_id: node.0,
            role: convert::role(role).into(),
            certificate_pem,
            ca_certificate_pem: self.identity.ca_pem.clone(),
            profile: profile.to_string(),
            voter_secrets,
            members,
        }))
    }
}
