//! Ends a node's epoch and re-places its agents, in one entry. The leader proposes it only when
//! nothing of the epoch can still run, up to a class; the evidence is kept with every new
//! placement. Agents of classes that last longer stay placed, until their time is over too: then
//! the node, fenced already, is fenced once more for them.

use alloc::{collections::BTreeMap, vec::Vec};

use fleet_types::{AgentClass, AgentId, NodeId, Revision, Timestamp};

use crate::{
    Outcome, Rejection, State,
    command::FenceNode,
    event::What,
    record::{Lifecycle, NodeStatus},
    state::Moment,
};

pub(crate) fn apply(
    state: &mut State,
    revision: Revision,
    at: Timestamp,
    op: &FenceNode,
) -> Result<Outcome, Rejection> {
    let mut node = state.require_epoch(op.node, op.epoch)?.clone();
    let again = node.status == NodeStatus::Fenced && op.reach > AgentClass::Strict;
    if !(again || node.status == NodeStatus::Active) {
        return Err(Rejection::StaleEpoch { node: op.node, current: node.epoch });
    }
    if node.status == NodeStatus::Active {
        node.epoch = node.epoch.next();
        node.status = NodeStatus::Fenced;
        node.hold = None;
        node.revision = revision;
        state.put_node(node);
    }

    let moves: BTreeMap<&AgentId, NodeId> = op.moves.iter().map(|(a, n)| (a, *n)).collect();
    let gone = |id: &&AgentId| state.agent(id).is_some_and(|a| a.spec.class <= op.reach);
    let lost: Vec<AgentId> = state.placed_on(op.node).filter(gone).cloned().collect();
    let now = Moment { at, revision };
    let (evidence, agents) = (op.evidence.clone(), lost.len() as u64);
    state.tell(now, Some(op.node), None, What::NodeFenced { evidence, agents });
    let mut left_out = Vec::new();
    for id in lost {
        state.unplace(&id, op.evidence.clone(), now);
        let deleting = state.agent(&id).is_some_and(|a| a.lifecycle == Lifecycle::Deleting);
        match moves.get(&id) {
            _ if deleting => state.remove_agent(&id, now),
            None => left_out.push(id),
            node => state.place(&id, node.copied(), now),
        }
    }
    // Why they have no place is seen once the others have theirs.
    for id in left_out {
        match op.paused {
            true => state.hold(&id, now),
            false => state.place(&id, None, now),
        }
    }
    if !op.paused {
        // A fence before this one let them wait for the node.
        let held: Vec<AgentId> = state.held_for(op.node).map(|agent| agent.id.clone()).collect();
        for id in held {
            state.place(&id, moves.get(&id).copied(), now);
        }
    }
    Ok(Outcome::Done(revision))
}
