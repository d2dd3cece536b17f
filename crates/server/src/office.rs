//! A node that is made a voter, or a worker, while it runs: it fetches or drops what voters hold,
//! and its daemon starts anew. Its agents go on, as at any restart.

use std::time::Duration;

use fleet_client::{Identity, connect_node};
use fleet_host::Host;
use fleet_proto::{
    host::{TakeOfficeRequest, registration_service_client::RegistrationServiceClient},
    v1::Role,
};
use fleet_types::NodeId;

use crate::data_dir::{NodeFile, VoterSecrets};

/// Pause before something that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long one member may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Returns once the node's role is another one than that it runs as: with what voters hold if it is
/// to vote.
pub(crate) async fn changed(
    me: &NodeFile,
    identity: &Identity,
    host: &Host,
) -> Option<VoterSecrets> {
    let mut role = host.role();
    let new = if me.voter { Role::Worker } else { Role::Voter };
    loop {
        // Ends only with the sender, which the host holds.
        let _ = role.wait_for(|role| *role == new).await;
        if me.voter {
            return None;
        }
        if let Some(secrets) = take_office(me, identity, host).await {
            return Some(secrets);
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// What voters hold, from the leader.
async fn take_office(me: &NodeFile, identity: &Identity, host: &Host) -> Option<VoterSecrets> {
    let members = host.members().borrow().clone();
    for member in members.iter().filter(|member| member.node_id != me.node.0) {
        let asked = async {
            let channel = connect_node(identity, NodeId(member.node_id), &member.peer_address)?;
            let request = TakeOfficeRequest { node_id: me.node.0 };
            RegistrationServiceClient::new(channel).take_office(request).await
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) => {
                return answer.into_inner().voter_secrets.and_then(VoterSecrets::from_wire);
            }
            Ok(Err(status)) => tracing::debug!(member = member.node_id, %status, "not given"),
            Err(_) => tracing::debug!(member = member.node_id, "did not answer"),
        }
    }
    None
}
