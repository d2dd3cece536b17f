//! Which session a change concerns. Sessions wake for what their host must know, not for every
//! entry: with thousands of nodes that is the difference between a change and a change times nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use fleet_core::{Key, Role, State};
use fleet_proto::v1::Member;
use fleet_types::{AgentId, NodeId};
use tokio::sync::{Notify, broadcast::error::RecvError, watch};

use super::{GATHER, Leader};

/// What a session has not looked at yet.
#[derive(Default)]
pub(super) struct Mail {
    keys: Mutex<BTreeSet<Key>>,
    news: Notify,
}

impl Mail {
    fn post(&self, key: Key) {
        self.keys.lock().expect("no holder panics").insert(key);
        self.news.notify_one();
    }

    /// The changed records since the last call.
    pub(super) fn take(&self) -> BTreeSet<Key> {
        std::mem::take(&mut *self.keys.lock().expect("no holder panics"))
    }

    /// Returns when there may be some.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }
}

/// The sessions' mail, and what all of them are told.
pub(super) struct Router {
    boxes: Mutex<BTreeMap<NodeId, Arc<Mail>>>,
    members: watch::Sender<Vec<Member>>,
}

/// The voters, for hosts to reach the cluster by.
pub(super) fn members(state: &State) -> Vec<Member> {
    let voters = state.nodes().values().filter(|node| node.role == Role::Voter);
    voters
        .map(|node| Member {
            node_id: node.id.0,
            api_address: node.address.api.clone(),
            peer_address: node.address.peer.clone(),
            lease_address: node.address.lease.clone(),
            role: fleet_proto::v1::Role::Voter.into(),
        })
        .collect()
}

/// Where every agent is.
fn places(state: &State) -> BTreeMap<AgentId, NodeId> {
    let nodes = state.nodes().keys();
    nodes.flat_map(|node| state.placed_on(*node).map(|id| (id.clone(), *node))).collect()
}

/// Every record that concerns a host.
fn all(state: &State) -> Vec<Key> {
    let nodes = state.nodes().keys();
    let quarantined = nodes.flat_map(|node| state.quarantined(*node));
    let quarantined = quarantined.map(|kept| Key::Quarantine(kept.node, kept.block.base));
    let agents = state.agents().keys().cloned().map(Key::Agent);
    let nodes = state.nodes().keys().copied().map(Key::Node);
    agents.chain(nodes).chain(quarantined).collect()
}

impl Router {
    pub(super) fn new() -> Self {
        Self { boxes: Mutex::default(), members: watch::channel(Vec::new()).0 }
    }

    /// A box for a node's session; an earlier one gets no more mail.
    pub(super) fn open(&self, node: NodeId) -> Arc<Mail> {
        let mail = Arc::new(Mail::default());
        self.boxes.lock().expect("no holder panics").insert(node, mail.clone());
        mail
    }

    /// A node has no session any more.
    pub(super) fn close(&self, node: NodeId) {
        self.boxes.lock().expect("no holder panics").remove(&node);
    }

    /// The voters, as they change.
    pub(super) fn members(&self) -> watch::Receiver<Vec<Member>> {
        self.members.subscribe()
    }

    fn post(&self, node: NodeId, key: &Key) {
        if let Some(mail) = self.boxes.lock().expect("no holder panics").get(&node) {
            mail.post(key.clone());
        }
    }

    /// Posts what changes from now on. `placed` is where agents were when it was last looked; an agent
    /// leaves a node only by what its session hears or with the session, so none goes unnoticed.
    fn deliver(&self, state: &State, keys: &BTreeSet<Key>, placed: &mut BTreeMap<AgentId, NodeId>) {
        for key in keys {
            match key {
                Key::Agent(id) => {
                    let agent = state.agent(id);
                    let now = agent.and_then(|agent| agent.placement.as_ref()).map(|p| p.node);
                    let before = match now {
                        Some(now) => placed.insert(id.clone(), now),
                        None => placed.remove(id),
                    };
                    let nodes: BTreeSet<NodeId> = before.into_iter().chain(now).collect();
                    nodes.into_iter().for_each(|node| self.post(node, key));
                }
                Key::Quarantine(node, _) => self.post(*node, key),
                Key::Node(_) => {
                    let now = members(state);
                    self.members.send_if_modified(|before| {
                        let news = *before != now;
                        *before = now;
                        news
                    });
                }
                _ => {}
            }
        }
    }

    /// Never returns while Raft runs.
    pub(super) async fn run(self: Arc<Self>, leader: Leader) {
        let mut changes = leader.raft.changes();
        let (mut placed, first) = leader.raft.read(|state| (places(state), members(state)));
        self.members.send_replace(first);
        loop {
            let mut keys = match changes.recv().await {
                Ok(keys) => (*keys).clone(),
                // What was missed is among what there is, or was.
                Err(RecvError::Lagged(_)) => {
                    let gone = placed.keys().cloned().map(Key::Agent);
                    gone.chain(leader.raft.read(all)).collect()
                }
                Err(RecvError::Closed) => return,
            };
            tokio::time::sleep(GATHER).await;
            while let Ok(more) = changes.try_recv() {
                keys.extend(more.iter().cloned());
            }
            leader.raft.read(|state| {
                self.deliver(state, &keys, &mut placed);
                let agents = keys.iter().filter_map(|key| match key {
                    Key::Agent(id) => Some(id),
                    _ => None,
                });
                let deleted = agents.filter(|id| !state.agents().contains_key(*id));
                deleted.for_each(|id| leader.observed.forget_agent(id));
            });
        }
    }
}
