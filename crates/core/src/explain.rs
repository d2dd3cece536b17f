//! Why an agent is where it is, and what would become of the agents of a node. Reads only; the
//! planner decides, this says what it saw.

use alloc::vec::Vec;

use fleet_types::{AgentClass, AgentId, NodeId};

use crate::{
    plan,
    record::{Agent, NodeStatus, PendingReason, Schedulable},
    room::{Lack, Load},
    state::State,
};

/// What a node is to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is placed here.
    Here,
    /// It could run here.
    Suits {
        /// How many agents the node has.
        agents: usize,
        /// How full it is.
        load: Load,
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
    /// The node has its runtime in an older version than it asks for.
    OldRuntime,
    /// It stands apart, and so does an agent of its fleet that the node has.
    NotApart,
    /// The node has not the room it asks for.
    NoRoom(Lack),
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
    let room = state.room(id);
    match plan::obstacle(state, node, &agent.id.fleet, &agent.spec) {
        Some(PendingReason::NoRuntime) => Verdict::NoRuntime,
        Some(PendingReason::NoLabels) => Verdict::NoLabels,
        Some(PendingReason::OldRuntime) => Verdict::OldRuntime,
        Some(PendingReason::NoFitNode) => Verdict::Unfit,
        Some(PendingReason::NotApart) => Verdict::NotApart,
        Some(_) => {
            let lack = room.and_then(|room| room.lacks(&agent.spec));
            Verdict::NoRoom(lack.unwrap_or(Lack::Ports(0)))
        }
        None => {
            let load = room.map_or(0, |room| room.load());
            Verdict::Suits { agents: state.placed_on(id).len(), load }
        }
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
