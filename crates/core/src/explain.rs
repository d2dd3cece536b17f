//! Why an agent is where it is, and what would become of the agents of a node. Reads only; the
//! planner decides, this says what it saw.

use alloc::vec::Vec;

use fleet_types::{AgentClass, AgentId, NodeId};

use crate::{
    plan,
    record::{Agent, Desired, Node, NodeStatus, PendingReason, Schedulable},
    room::{Lack, Load},
    state::State,
};

/// How many ways out are named.
const REMEDIES_MAX: usize = 3;

/// What a node is to an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is placed here.
    Here {
        /// How many agents the node has beside it.
        agents: usize,
        /// How full it is.
        load: Load,
    },
    /// It could run here.
    Suits {
        /// How many agents the node has.
        agents: usize,
        /// How full it is.
        load: Load,
        /// How many agents of its fleet are under the node's value of the label that it is spread by,
        /// if it is.
        of_fleet: Option<usize>,
    },
    /// It cannot run here, and this is all that stands in the way.
    Hindered(Vec<Obstacle>),
}

/// Something that keeps a node from having an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The node takes no agents.
    NotOpen(Schedulable),
    /// The node has not the room it asks for.
    NoRoom(Lack),
    /// The node has no lease.
    NotUp(NodeStatus),
    /// The node has not the labels it asks for.
    NoLabels,
    /// The node has its runtime in an older version than it asks for.
    OldRuntime,
    /// The node has not its runtime.
    NoRuntime,
    /// It is strict, and the node may end agents late.
    Unfit,
    /// It stands apart, and so does an agent of its fleet that the node has.
    NotApart,
}

impl Obstacle {
    /// What it costs to take it away, against others: a command, less asked for or promised, a
    /// machine started, a setting and a restart, software, and last another agent's place.
    const fn effort(self) -> u32 {
        match self {
            Self::NotOpen(_) => 1,
            Self::NoRoom(_) => 2,
            Self::NotUp(_) => 3,
            Self::NoLabels => 4,
            Self::OldRuntime | Self::NoRuntime | Self::Unfit => 5,
            Self::NotApart => 6,
        }
    }
}

/// What every node is to an agent, by number.
pub fn explain(state: &State, agent: &Agent) -> Vec<(NodeId, Verdict)> {
    state.nodes().values().map(|node| (node.id, verdict(state, agent, node))).collect()
}

fn verdict(state: &State, agent: &Agent, node: &Node) -> Verdict {
    let load = state.room(node.id).map_or(0, |room| room.load());
    let agents = state.placed_on(node.id).len();
    if agent.placement.as_ref().is_some_and(|placement| placement.node == node.id) {
        return Verdict::Here { agents: agents - 1, load };
    }
    let obstacles = obstacles(state, agent, node);
    if obstacles.is_empty() {
        return Verdict::Suits { agents, load, of_fleet: of_fleet(state, agent, node) };
    }
    Verdict::Hindered(obstacles)
}

/// How many agents of the fleet of one that is spread are under a node's value of the label.
fn of_fleet(state: &State, agent: &Agent, node: &Node) -> Option<usize> {
    let key = agent.spec.wants.spread_by.as_deref()?;
    let label = node.report.as_ref()?.labels.pair(key)?;
    let whereabouts = &state.index().whereabouts;
    Some(whereabouts.count_under(&agent.id.fleet, label))
}

/// All that keeps a node from having an agent.
fn obstacles(state: &State, agent: &Agent, node: &Node) -> Vec<Obstacle> {
    let mut all = Vec::new();
    if node.status != NodeStatus::Active {
        all.push(Obstacle::NotUp(node.status));
    }
    if node.schedulable != Schedulable::Open {
        all.push(Obstacle::NotOpen(node.schedulable));
    }
    // A node that never registered has said nothing yet.
    let Some(room) = state.room(node.id) else { return all };
    let mismatches = plan::mismatches(node, (&*agent.spec).into());
    all.extend(mismatches.filter_map(|reason| match reason {
        PendingReason::NoRuntime => Some(Obstacle::NoRuntime),
        PendingReason::NoLabels => Some(Obstacle::NoLabels),
        PendingReason::OldRuntime => Some(Obstacle::OldRuntime),
        PendingReason::NoFitNode => Some(Obstacle::Unfit),
        _ => None,
    }));
    if plan::too_close(state, node.id, &agent.id.fleet, &agent.spec) {
        all.push(Obstacle::NotApart);
    }
    all.extend(room.lacking(&agent.spec).map(Obstacle::NoRoom));
    all
}

/// What would let an agent be placed: the nodes that come closest, the closest first, each with
/// what would have to change there. Nothing while it is placed, or when a node suits it already.
pub fn remedies(state: &State, agent: &Agent) -> Vec<(NodeId, Vec<Obstacle>)> {
    let mut ways = Vec::new();
    for (node, verdict) in explain(state, agent) {
        match verdict {
            Verdict::Hindered(obstacles) => ways.push((node, obstacles)),
            Verdict::Here { .. } | Verdict::Suits { .. } => return Vec::new(),
        }
    }
    ways.sort_by_key(|(_, obstacles)| obstacles.iter().map(|o| o.effort()).sum::<u32>());
    ways.truncate(REMEDIES_MAX);
    ways
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
    /// Whether it would be started there.
    pub starts: bool,
}

/// What would become of the agents of `node` if it were lost now, in the order they are placed.
pub fn loss(state: &State, node: NodeId) -> Vec<Loss> {
    plan::losses_in_turn(state, node)
        .into_iter()
        .map(|(agent, to)| Loss {
            agent: agent.id.clone(),
            class: agent.spec.class,
            to,
            starts: agent.desired == Desired::Running,
        })
        .collect()
}
