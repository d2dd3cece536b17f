//! Keeping the lease: on a thread, a runtime and connections of its own, so that nothing else the
//! daemon does can make it late.
//!
//! The guard stamps the moment a renewal begins, and a grant counts from there; the answer may come
//! as late as it likes, it cannot make the lease longer than the leader thinks.

use std::{collections::BTreeMap, time::Duration};

use fleet_client::{Identity, connect_node};
use fleet_proto::{
    error::reason,
    lease::{RenewRequest, lease_service_client::LeaseServiceClient},
    v1::Member,
};
use fleet_types::{AgentClass, Epoch, LeaseTiming, NodeId};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{mpsc, watch};
use tonic::{Status, transport::Channel};

use crate::{disk::DiskProbe, guard::Guard};

/// What renewing needs.
pub struct Renewal {
    /// This node's certificate.
    pub identity: Identity,
    /// This node.
    pub node: NodeId,
    /// How often, and how long.
    pub timing: LeaseTiming,
    /// The nodes to ask.
    pub members: watch::Receiver<Vec<Member>>,
    /// The epoch to renew; 0 for none.
    pub epoch: watch::Receiver<Epoch>,
    /// What holds the lease.
    pub guard: Guard,
    /// Says whether the disk takes writes; a node whose does not lets its lease go.
    pub disk: DiskProbe,
    /// Told an epoch that the leader refuses to renew.
    pub refused: mpsc::Sender<Epoch>,
}

/// By how much a lease of hundred times the length is renewed less often.
const SLOWER: u64 = 10;

enum Answer {
    Granted { leader: NodeId, lease_ms: u64 },
    Refused,
    Silence,
}

impl Renewal {
    /// Starts the thread. Of agents that outlast the node's lease, theirs is renewed less often.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start(self) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("lease-renew".into()).spawn(move || {
            runtime.block_on(self.run());
        })?;
        Ok(())
    }

    async fn run(mut self) {
        let slower = if self.guard.class() == AgentClass::Strict { 1 } else { SLOWER };
        let period = Duration::from_millis(self.timing.renew_ms * slower);
        let mut period = tokio::time::interval(period);
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut channels = BTreeMap::new();
        let (mut leader, mut disk_worked) = (None, true);
        loop {
            tokio::select! {
                _ = period.tick() => {}
                changed = self.epoch.changed() => if changed.is_err() { return },
            }
            let epoch = *self.epoch.borrow_and_update();
            if epoch.0 == 0 {
                continue;
            }
            let disk_works = self.disk.fresh();
            if disk_works != disk_worked {
                disk_worked = disk_works;
                if disk_works {
                    tracing::info!("the disk takes writes again");
                } else {
                    tracing::error!("the disk takes no writes: the lease is not renewed");
                }
            }
            if !disk_works {
                continue;
            }
            let nonce = match self.guard.begin() {
                Ok(nonce) => nonce,
                Err(error) => {
                    tracing::error!(%error, "the guard does not answer; the lease is not renewed");
                    continue;
                }
            };
            let request =
                RenewRequest { node_id: self.node.0, epoch: epoch.0, nonce, relayed: false };
            let members = self.members.borrow().clone();
            let answer = self.ask(&mut channels, &members, leader, request).await;
            match answer {
                Answer::Granted { leader: granter, lease_ms } => {
                    leader = Some(granter);
                    let lease_ms = match self.guard.class() {
                        AgentClass::Strict => {
                            if lease_ms > self.timing.lease_ms {
                                self.guard.raise(lease_ms);
                            }
                            lease_ms
                        }
                        // A hold is of the node's own lease.
                        class => class.lease_ms(self.timing.lease_ms),
                    };
                    self.guard.grant(nonce, epoch, lease_ms);
                }
                Answer::Refused => {
                    leader = None;
                    if self.refused.send(epoch).await.is_err() {
                        return;
                    }
                }
                Answer::Silence => leader = None,
            }
        }
    }

    /// Asks the leader of last time, or everybody; the first answer counts.
    async fn ask(
        &self,
        channels: &mut BTreeMap<NodeId, Channel>,
        members: &[Member],
        leader: Option<NodeId>,
        request: RenewRequest,
    ) -> Answer {
        let known = members.iter().find(|m| Some(NodeId(m.node_id)) == leader);
        let asked: Vec<&Member> = match known {
            Some(member) => vec![member],
            None => members.iter().collect(),
        };
        // A renewal that takes longer is no use: the next one is due.
        let limit = Duration::from_millis(self.timing.renew_ms.max(200));
        let calls = FuturesUnordered::new();
        for member in asked {
            let node = NodeId(member.node_id);
            let channel = match channels.get(&node) {
                Some(channel) => channel.clone(),
                None => match connect_node(&self.identity, node, &member.lease_address) {
                    Ok(channel) => channels.entry(node).or_insert(channel).clone(),
                    Err(error) => {
                        tracing::warn!(%node, %error, "a member cannot be asked for a lease");
                        continue;
                    }
                },
            };
            calls.push(renew(node, channel, request, limit));
        }
        let mut calls = calls;
        let mut refused = false;
        while let Some(answer) = calls.next().await {
            match answer {
                Ok((leader, lease_ms)) => return Answer::Granted { leader, lease_ms },
                Err(status) if reason(&status).as_deref() == Some("LEASE_REFUSED") => {
                    refused = true
                }
                Err(_) => {}
            }
        }
        if refused { Answer::Refused } else { Answer::Silence }
    }
}

async fn renew(
    node: NodeId,
    channel: Channel,
    request: RenewRequest,
    limit: Duration,
) -> Result<(NodeId, u64), Status> {
    let call = async {
        let answer = LeaseServiceClient::new(channel).renew(request).await?.into_inner();
        if (answer.nonce, answer.epoch) != (request.nonce, request.epoch) {
            return Err(Status::data_loss("the answer is to another request"));
        }
        Ok((node, answer.lease_ms))
    };
    tokio::time::timeout(limit, call).await.map_err(|_| Status::deadline_exceeded("no answer"))?
}
