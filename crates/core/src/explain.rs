//! Why an agent is where it is, and what would become of the agents of a node. Reads only; the
//! planner decides, this says what it saw.

use alloc::vec::Vec;

use fleet_types::{AgentClass, AgentId, NodeId};

use crate::{
    plan,
    record::{Agent, NodeStatus, PendingReason, Schedulable},
    state::State,
};

/// What a node is to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is placed here.
    Here,
    /// It could run here; the node has so many agents.
    Suits {
        /// How many.
        agents: usize,
    },
    /// The node has no lease.
    NotUp(NodeStatus),
    /// The node takes no agents.
    NotOpen(Schedulable),
    /// The node has not its runtime.
    NoRuntime,
    /// The node has not the labels it asks for.
    NoLabels,
    /// It is strict, and the node may end agents late.
    Unfit,
    /// The node has no free block of its size.
    NoPorts {
        /// Ports that are free, but not in one aligned block.
        free: u32,
    },
}

/// What every node is to an agent, by number.
pub fn explain(state: &State, agent: &Agent) -> Vec<(NodeId, Verdict)> {
    state.nodes().keys().map(|node| (*node, verdict(state, agent, *node))).collect()
}

fn verdict(state: &State, agent: &Agent, id: NodeId) -> Verdict {
    if agent.placement.as_ref().is_some_and(|placement| placement.node == id) {
        return Verdict::Here;
    }
    let Some(node) = state.nodes().get(&id) else { return Verdict::NotUp(NodeStatus::Joining) };
    match (node.status, node.schedulable) {
        (NodeStatus::Active, Schedulable::Open) => {}
        (NodeStatus::Active, schedulable) => return Verdict::NotOpen(schedulable),
        (status, _) => return Verdict::NotUp(status),
    }
    match plan::obstacle(node, &agent.spec) {
        Some(PendingReason::NoRuntime) => return Verdict::NoRuntime,
        Some(PendingReason::NoLabels) => return Verdict::NoLabels,
        Some(_) => return Verdict::Unfit,
        None => {}
    }
    match state.ports(id) {
        Some(ports) if ports.fits(agent.spec.ports) => {
            Verdict::Suits { agents: state.placed_on(id).len() }
        }
        ports => Verdict::NoPorts { free: ports.map_or(0, |ports| ports.free_ports()) },
    }
}

/// What becomes of an agent whose node is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The agent.
    pub agent: AgentId,
    /// When its time is over; pinned agents stay.
    pub class: AgentClass,
    /// Where it goes then; none when it fits nowhere, or stays.
    pub to: Option<NodeId>,
}

/// What would become of the agents of `node` if it were lost now, in the order they are placed.
pub fn loss(state: &State, node: NodeId) -> Vec<Loss> {
    plan::losses(state, node, AgentClass::Sticky)
        .into_iter()
        .map(|(agent, to)| Loss { agent: agent.id.clone(), class: agent.spec.class, to })
        .collect()
}
