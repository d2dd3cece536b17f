//! Fencing nodes that were silent for W, and re-placing their agents in the same entry; later,
//! those of classes that lasted longer. And ending holds, which put fences off.

use std::time::Duration;

use fleet_core::{Evidence, HoldChange, HoldNode, Operation, plan};

use tonic::Code;

use super::{Leader, RETRY};
use crate::leases::Silent;

/// Longest pause between looks at the table: a node that registers shortens it by itself.
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn run(leader: Leader) {
    loop {
        let (silent, next_ms) =
            leader.raft.read(|state| leader.leases.silent(state, &leader.timing));
        for silent in &silent {
            fence(&leader, *silent).await;
        }
        for (node, since) in leader.raft.read(|s| leader.leases.released(s, &leader.timing)) {
            let change = HoldChange::End { since };
            let ended =
                leader.proposer.submit(Operation::HoldNode(HoldNode { node, change })).await;
            match ended {
                Ok(_) => tracing::info!(node.id = node.0, "the node is held no more"),
                Err(status) => tracing::warn!(node.id = node.0, %status, "its hold has not ended"),
            }
        }
        let pause = next_ms.map_or(LOOK, |ms| Duration::from_millis(ms).min(LOOK));
        tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
    }
}

/// Proposes until it is settled. The epoch is granted nothing any more, so waiting is safe.
async fn fence(leader: &Leader, silent: Silent) {
    let Silent { node, epoch, waited_ms, reach } = silent;
    loop {
        let evidence = Evidence::LeaseExpired { waited_ms };
        let (fence, agents) = leader.raft.read(|state| {
            let feared = leader.leases.feared_lost(state, &leader.timing).len();
            (plan::fence(state, node, epoch, evidence, reach, feared), state.placed_on(node).len())
        });
        let paused = fence.paused;
        let operation = Operation::FenceNode(fence);
        match leader.proposer.submit(operation).await {
            Ok(_) => {
                tracing::warn!(
                    node.id = node.0,
                    lease.epoch = epoch.0,
                    waited_ms,
                    agents,
                    up_to = %reach,
                    paused,
                    "node fenced; its agents up to that class are placed elsewhere unless moves \
                     are paused"
                );
                return;
            }
            // It has another epoch, or is no more.
            Err(status) if matches!(status.code(), Code::Aborted | Code::NotFound) => return,
            Err(status) => {
                tracing::warn!(node.id = node.0, %status, "fencing is not settled; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
