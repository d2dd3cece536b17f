//! The node's side of its lease: register, renew, and start over when it lapsed.

use std::time::Duration;

use fleet_client::{Identity, connect_node};
use fleet_host::{
    Host,
    disk::DiskProbe,
    guard::{Guard, Lacks},
    lease::Lease,
};
use fleet_proto::{
    error::reason,
    host::{RegisterRequest, registration_service_client::RegistrationServiceClient},
    v1::Member,
};
use fleet_types::{Epoch, NodeId};
use tokio::sync::{mpsc, watch};
use tonic::{Code, Status};

use crate::registration::{DEGRADED_BYTES_MAX, DEGRADED_MAX};

/// Pauses between rounds over the members: the first, and twice as long each time up to the last.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(200);
/// The longest pause of a node that the leader refuses: what it needs is a person.
const REFUSED_MAX: Duration = Duration::from_secs(5);
/// What to do about a node that is no more.
const REMOVED: &str = "this node was removed from its cluster: stop its daemon; to use the machine \
                       again, remove the data directory and join";
/// How long one member may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a session works with.
pub struct Session {
    /// This node's certificate.
    pub identity: Identity,
    /// The host.
    pub host: Host,
    /// What holds its lease.
    pub guard: Guard,
    /// The disk, which must take what the node is told.
    pub disk: DiskProbe,
    /// What it says of itself, but for what the guard lacks.
    pub about: RegisterRequest,
    /// Where the epoch to renew is announced; 0 for none.
    pub epoch: watch::Sender<Epoch>,
    /// Epochs the leader refuses to renew.
    pub refused: mpsc::Receiver<Epoch>,
    /// Set once the node holds a lease and is registered.
    pub ready: watch::Sender<bool>,
}

impl Session {
    /// Never returns.
    pub async fn run(mut self) {
        loop {
            // What was adopted is kept alive while registering; else nothing of an earlier epoch
            // runs.
            let held = self.host.epoch();
            self.epoch.send_replace(held);
            let mut lease = self.guard.watch();
            let life = Life {
                identity: &self.identity,
                host: &self.host,
                guard: &self.guard,
                disk: &self.disk,
                about: &self.about,
                epoch: &self.epoch,
                ready: &self.ready,
            };
            tokio::select! {
                () = life.live(held, &mut lease) => {}
                epoch = refused(&mut self.refused, &self.epoch) => {
                    tracing::warn!(lease.epoch = epoch.0, "the leader ended this node's lease");
                }
            }
            self.epoch.send_replace(Epoch(0));
            if self.guard.current().is_some() {
                self.guard.end();
            }
            // Ends only with the sender, which the guard's handle holds.
            let _ = self.guard.watch().wait_for(Option::is_none).await;
            self.host.fenced().await;
        }
    }
}

/// One epoch, or one try at it.
struct Life<'a> {
    identity: &'a Identity,
    host: &'a Host,
    guard: &'a Guard,
    disk: &'a DiskProbe,
    about: &'a RegisterRequest,
    epoch: &'a watch::Sender<Epoch>,
    ready: &'a watch::Sender<bool>,
}

impl Life<'_> {
    /// Registers and returns when the lease is over, or the epoch that was held.
    async fn live(&self, held: Epoch, lease: &mut watch::Receiver<Option<Lease>>) {
        let (mut while_held, mut lacks) = (lease.clone(), self.guard.lacks());
        if held.0 == 0 {
            self.disk.works().await;
        }
        let registered = tokio::select! {
            registered = self.register(held, &mut lacks) => registered,
            _ = while_held.wait_for(Option::is_none), if held.0 > 0 => None,
        };
        let Some(epoch) = registered else { return };
        if held.0 == 0 {
            self.host.begin_epoch(epoch);
            self.epoch.send_replace(epoch);
        }
        tracing::info!(lease.epoch = epoch.0, kept = held.0 > 0, "registered");
        // Ends only with the sender, which the guard's handle holds.
        let _ = lease.wait_for(Option::is_some).await;
        self.ready.send_replace(true);
        tokio::select! {
            _ = lease.wait_for(Option::is_none) => {}
            () = self.keep_known(epoch, &mut lacks) => {}
        }
    }

    /// Registers again under the epoch in force whenever what the guard lacks has changed; returns
    /// when the epoch is over.
    async fn keep_known(&self, epoch: Epoch, lacks: &mut watch::Receiver<Lacks>) {
        // Ends only with the sender, which the guard's handle holds.
        while lacks.changed().await.is_ok() {
            if self.register(epoch, lacks).await.is_none() {
                return;
            }
        }
    }

    /// The epoch granted, or kept; none when the one held is over.
    async fn register(&self, held: Epoch, lacks: &mut watch::Receiver<Lacks>) -> Option<Epoch> {
        let (mut said, mut pause) = (String::new(), RETRY_MIN);
        loop {
            let Lacks { degraded, unfit } = lacks.borrow_and_update().clone();
            let mut about = self.about.clone();
            about.held_epoch = held.0;
            about.degraded.extend(degraded);
            about.unfit.extend(unfit);
            for whys in [&mut about.degraded, &mut about.unfit] {
                whys.truncate(DEGRADED_MAX);
                for why in whys {
                    why.truncate(why.floor_char_boundary(DEGRADED_BYTES_MAX));
                }
            }
            let members: Vec<Member> = self.host.members().borrow().clone();
            let mut longest = RETRY_MAX;
            for member in &members {
                let asked = tokio::time::timeout(PATIENCE, self.ask(member, &about)).await;
                let status = match asked {
                    Ok(Ok(epoch)) => return Some(epoch),
                    Ok(Err(status)) => status,
                    Err(_) => Status::deadline_exceeded("no answer"),
                };
                if reason(&status).as_deref() == Some("STALE_EPOCH") {
                    tracing::warn!(lease.epoch = held.0, "the epoch that was held is over");
                    return None;
                }
                let code = status.code();
                if matches!(code, Code::NotFound | Code::FailedPrecondition) {
                    longest = REFUSED_MAX;
                }
                let news = status.message().to_owned();
                if code != Code::Unavailable && news != said {
                    let removed = reason(&status).as_deref() == Some("NODE_NOT_FOUND");
                    let help = if removed { REMOVED } else { "" };
                    tracing::error!(member = member.node_id, %status, help, "registering was refused");
                    said = news;
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    async fn ask(&self, member: &Member, about: &RegisterRequest) -> Result<Epoch, Status> {
        let channel = connect_node(self.identity, NodeId(member.node_id), &member.peer_address)?;
        let mut client = RegistrationServiceClient::new(channel);
        Ok(Epoch(client.register(about.clone()).await?.into_inner().epoch))
    }
}

/// Returns the epoch in force when the leader refuses it.
async fn refused(refused: &mut mpsc::Receiver<Epoch>, in_force: &watch::Sender<Epoch>) -> Epoch {
    while let Some(epoch) = refused.recv().await {
        if epoch == *in_force.borrow() {
            return epoch;
        }
    }
    std::future::pending().await
}
