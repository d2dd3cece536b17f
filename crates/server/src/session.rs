//! The node's side of its lease: register, renew, and start over when it lapsed.

use std::{sync::Arc, time::Duration};

use fleet_client::{Identity, connect_node};
use fleet_host::{Host, lease::Deadline};
use fleet_proto::{
    host::{RegisterRequest, registration_service_client::RegistrationServiceClient},
    v1::Member,
};
use fleet_types::{Epoch, NodeId};
use tokio::sync::{mpsc, watch};
use tonic::Status;

/// Pause between rounds over the members.
const RETRY: Duration = Duration::from_millis(200);
/// How long one member may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a session works with.
pub struct Session {
    /// This node's certificate.
    pub identity: Identity,
    /// The host.
    pub host: Host,
    /// Its lease.
    pub deadline: Arc<dyn Deadline>,
    /// What it says of itself.
    pub about: RegisterRequest,
    /// Where the epoch to renew is announced; 0 for none.
    pub epoch: watch::Sender<Epoch>,
    /// Epochs the leader refuses to renew.
    pub refused: mpsc::Receiver<Epoch>,
    /// Set once the node holds its first lease.
    pub ready: watch::Sender<bool>,
}

impl Session {
    /// Never returns.
    pub async fn run(mut self) {
        loop {
            // Nothing of an earlier epoch runs: the host saw to it on opening, and below.
            let epoch = self.register().await;
            let mut lease = self.deadline.watch();
            self.host.begin_epoch(epoch);
            self.epoch.send_replace(epoch);
            tracing::info!(lease.epoch = epoch.0, "registered; asking for a lease");
            let held = async {
                // Ends only with the sender, which the deadline holds.
                let _ = lease.wait_for(Option::is_some).await;
                self.ready.send_replace(true);
                let _ = lease.wait_for(Option::is_none).await;
            };
            tokio::select! {
                () = held => {}
                () = refused(&mut self.refused, epoch) => {
                    tracing::warn!(lease.epoch = epoch.0, "the leader ended this node's lease");
                    let mut lease = self.deadline.watch();
                    self.deadline.end();
                    let _ = lease.wait_for(Option::is_none).await;
                }
            }
            self.epoch.send_replace(Epoch(0));
            self.host.fenced().await;
        }
    }

    async fn register(&self) -> Epoch {
        let mut said = String::new();
        loop {
            let members: Vec<Member> = self.host.members().borrow().clone();
            for member in &members {
                let asked = tokio::time::timeout(PATIENCE, self.ask(member)).await;
                let status = match asked {
                    Ok(Ok(epoch)) => return epoch,
                    Ok(Err(status)) => status,
                    Err(_) => Status::deadline_exceeded("no answer"),
                };
                let news = status.message().to_owned();
                if status.code() != tonic::Code::Unavailable && news != said {
                    tracing::error!(member = member.node_id, %status, "registering was refused");
                    said = news;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn ask(&self, member: &Member) -> Result<Epoch, Status> {
        let channel = connect_node(&self.identity, NodeId(member.node_id), &member.peer_address)?;
        let mut client = RegistrationServiceClient::new(channel);
        Ok(Epoch(client.register(self.about.clone()).await?.into_inner().epoch))
    }
}

/// Returns when `epoch` or a later one is refused.
async fn refused(refused: &mut mpsc::Receiver<Epoch>, epoch: Epoch) {
    while let Some(old) = refused.recv().await {
        if old >= epoch {
            return;
        }
    }
    std::future::pending().await
}
