//! One session with each registered host.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fleet_core::NodeStatus;
use fleet_types::{Epoch, NodeId};
use tokio::task::JoinSet;

use super::{Leader, router::Router, session::Session};

/// Pause between looks for hosts that registered or were fenced.
const LOOK: Duration = Duration::from_millis(500);

/// Keeps a session with every registered host.
pub(super) async fn run(leader: Leader, term: u64) {
    let mut sessions: BTreeMap<NodeId, (Epoch, tokio::task::AbortHandle)> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let router = Arc::new(Router::new());
    tasks.spawn(router.clone().run(leader.clone()));
    let mut index = leader.raft.applied_index();
    loop {
        index.mark_unchanged();
        let hosts: BTreeMap<NodeId, (Epoch, String)> = leader.raft.read(|state| {
            let active = state.nodes().values().filter(|n| n.status == NodeStatus::Active);
            active.map(|n| (n.id, (n.epoch, n.address.peer.clone()))).collect()
        });
        sessions.retain(|node, (epoch, session)| {
            let keep = hosts.get(node).is_some_and(|(current, _)| current == epoch);
            if !keep {
                session.abort();
                router.close(*node);
                leader.observed.forget_node(*node);
            }
            keep
        });
        for (node, (epoch, address)) in hosts {
            sessions.entry(node).or_insert_with(|| {
                let (mail, members) = (router.open(node), router.members());
                let leader = leader.clone();
                let session = Session { leader, term, node, epoch, mail, members };
                (epoch, tasks.spawn(session.run(address)))
            });
        }
        while tasks.try_join_next().is_some() {}
        leader.applied(&mut index, LOOK).await;
    }
}
