//! Which agents leave their nodes: off those that are drained, and to those that have more room.
//! Runs on the leader, on a view of the state; [`crate::EvictAgents`] carries it out.
//!
//! A drain lets agents go as its pace allows, those first that are placed first, and before its
//! deadline only those that have somewhere to go: an agent that runs on a node to be left is better
//! than one that runs nowhere.
//!
//! A rebalance first spreads: while a fleet that is spread by a label has at least two agents more
//! under one value than under another where one of them suits, one is moved over. Then it levels:
//! it takes agents from the fullest nodes to the emptiest. Every move ends an agent for as long as
//! it takes to start, so there is a price: a move is made only while the two nodes differ by more
//! than [`COST_PERCENT`] of the mean load, and if the difference is still on the same side after
//! it. No move makes a fleet that is spread less so, or brings two together that stand apart. What
//! is on its way counts where it goes.
//!
//! Properties: (1) allowed: pinned agents are never moved, and of others the ones of the lowest
//! priority first; (2) worth it: each move that levels pays its price; (3) it ends, even within the
//! bound below; (4) minimal: where agents are alike, and so are nodes, none of these both gives and
//! takes to level, so that fewer moves lead nowhere as even, and it stops once all are even enough.
//!
//! It ends: no move raises the sum of the squared counts of fleets under labels, a move that
//! spreads lowers it, and every other move lowers the sum of the squared loads. When no move is
//! left that is worth its price, no two nodes that suit one another's agents differ by more than
//! two agents' shares, or the price if that is more.

use alloc::{collections::BTreeMap, vec::Vec};

use fleet_types::{AgentClass, AgentId, NodeId, Timestamp, limits::EVICTIONS_MAX};

use crate::{
    command::{EvictAgents, Eviction},
    event::Cause,
    index::open,
    plan::{self, Planner},
    record::{Agent, AgentSpec, Desired, Lifecycle, Node, NodeStatus, Schedulable},
    room::{Load, Room},
    spread::Fleets,
    state::State,
};

/// By how much two nodes' loads must differ for a move, in hundredths of the mean load.
pub const COST_PERCENT: Load = 10;

/// Pairs of nodes one plan looks at in vain.
const VAIN_MAX: usize = 10_000;

/// An agent that would have more room elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The agent.
    pub agent: AgentId,
    /// Where it is.
    pub from: NodeId,
    /// Where it would go.
    pub to: NodeId,
}

fn leaving(agent: &Agent) -> bool {
    agent.placement.as_ref().is_some_and(|placement| placement.evicting)
}

fn eviction(agent: &Agent, to: Option<NodeId>) -> Eviction {
    Eviction { agent: agent.id.clone(), generation: agent.generation, to }
}

/// How many agents that left each node, for a drain or for balance, are not up elsewhere yet.
pub type Arriving = BTreeMap<NodeId, usize>;

/// The agents that are asked to leave nodes that are drained, now.
pub fn drains(state: &State, now: Timestamp, arriving: &Arriving) -> Vec<EvictAgents> {
    // Of one that is down nobody says that an agent has left it.
    let draining = state.nodes().values().filter(|node| {
        node.schedulable == Schedulable::Draining && node.status == NodeStatus::Active
    });
    let draining: Vec<&Node> = draining.collect();
    if draining.is_empty() {
        return Vec::new();
    }
    let mut planner = Planner::beside_moves(state);
    let evictions = draining.into_iter().map(|node| {
        let arriving = arriving.get(&node.id).copied().unwrap_or(0);
        drain(&mut planner, node, now, arriving)
    });
    evictions.filter(|evict| !evict.agents.is_empty()).collect()
}

fn drain(planner: &mut Planner<'_>, node: &Node, now: Timestamp, arriving: usize) -> EvictAgents {
    let state = planner.state();
    let pace = node.drain.unwrap_or_default();
    let agents = state.placed_on(node.id).filter_map(|id| state.agent(id));
    let (going, staying): (Vec<&Agent>, Vec<&Agent>) =
        agents.filter(|a| a.lifecycle == Lifecycle::Live).partition(|agent| leaving(agent));
    let late = pace.deadline.is_some_and(|deadline| deadline <= now);
    if late {
        let agents = staying.into_iter().map(|agent| eviction(agent, None));
        return EvictAgents {
            agents: agents.take(EVICTIONS_MAX).collect(),
            cause: Cause::DrainOverdue,
        };
    }
    let most = if pace.moves_max == 0 { usize::MAX } else { pace.moves_max as usize };
    let free = most.saturating_sub(going.len() + arriving).min(EVICTIONS_MAX);
    let agents = plan::first_come(staying.into_iter())
        .filter_map(|agent| Some((agent, planner.choose(&agent.id.fleet, &agent.spec)?)))
        .take(free)
        .map(|(agent, to)| eviction(agent, Some(to)))
        .collect();
    EvictAgents { agents, cause: Cause::Drain }
}

/// The difference between the fullest and the emptiest node that takes agents.
pub fn imbalance(state: &State) -> Load {
    difference(state.index().listed().values().map(|listed| listed.load))
}

fn difference(loads: impl Iterator<Item = Load> + Clone) -> Load {
    loads.clone().max().unwrap_or(0) - loads.min().unwrap_or(0)
}

/// The moves of a rebalance that starts now; at most `limit`.
pub fn moves(state: &State, limit: usize) -> Vec<Move> {
    plan(state, limit).0
}

/// The moves of a rebalance that starts now, at most `limit`, and the difference between the fullest
/// and the emptiest node once they are made, and those that are under way.
pub fn plan(state: &State, limit: usize) -> (Vec<Move>, Load) {
    let mut plan = Rebalance::new(state);
    let moves = core::iter::from_fn(|| plan.next()).take(limit).collect();
    (moves, difference(plan.rooms.values().map(Room::load)))
}

/// The first moves of a rebalance, as the policy allows; none when it is off.
pub fn automatic(state: &State, arriving: &Arriving) -> Option<EvictAgents> {
    let policy = state.placement_policy();
    if !policy.rebalance {
        return None;
    }
    let moving = state.on_the_move().count() + arriving.values().sum::<usize>();
    let free = usize::from(policy.moves_max).checked_sub(moving).filter(|free| *free > 0)?;
    let moves = moves(state, free);
    (!moves.is_empty()).then(|| carry_out(state, &moves, Cause::Rebalance))
}

/// The command that makes moves.
pub fn carry_out(state: &State, moves: &[Move], cause: Cause) -> EvictAgents {
    let agents = moves
        .iter()
        .filter_map(|Move { agent, to, .. }| Some(eviction(state.agent(agent)?, Some(*to))));
    EvictAgents { agents: agents.collect(), cause }
}

/// Whether an agent may be moved for a rebalance.
pub(crate) fn movable(agent: &Agent) -> bool {
    agent.lifecycle == Lifecycle::Live
        && agent.desired == Desired::Running
        && agent.spec.class != AgentClass::Pinned
        && !leaving(agent)
}

/// A rebalance in the making, on copies of the nodes' rooms.
struct Rebalance<'a> {
    state: &'a State,
    rooms: BTreeMap<NodeId, Room>,
    /// The agents that may be moved off a node, the best to move last.
    movable: BTreeMap<NodeId, Vec<&'a Agent>>,
    fleets: Fleets<'a>,
    price: Load,
    /// Whether it is not levelling yet.
    spreading: bool,
    vain: usize,
}

impl<'a> Rebalance<'a> {
    fn new(state: &'a State) -> Self {
        let nodes = state.nodes().values().filter(|node| open(node));
        let rooms: BTreeMap<NodeId, Room> =
            nodes.filter_map(|node| Some((node.id, state.room(node.id)?.clone()))).collect();
        let sum: Load = rooms.values().map(Room::load).sum();
        let mean = sum / (rooms.len() as u64).max(1);
        let (movable, price) = (BTreeMap::new(), mean * COST_PERCENT / 100);
        let fleets = Fleets::new(state);
        let mut plan = Self { state, rooms, movable, fleets, price, spreading: true, vain: 0 };
        for agent in state.on_the_move() {
            let placement = agent.placement.as_ref();
            if let Some((from, to)) = placement.and_then(|p| Some((p.node, p.next?))) {
                plan.take(agent, from, to);
            }
        }
        plan
    }

    fn movable(&mut self, node: NodeId) -> &mut Vec<&'a Agent> {
        let state = self.state;
        self.movable.entry(node).or_insert_with(|| {
            let agents = state.placed_on(node).filter_map(|id| state.agent(id));
            plan::first_come(agents.filter(|agent| movable(agent))).collect()
        })
    }

    /// The next move that is worth its price.
    fn next(&mut self) -> Option<Move> {
        if self.spreading {
            if let Some(found) = self.spread() {
                return Some(found);
            }
            (self.spreading, self.vain) = (false, 0);
        }
        self.level()
    }

    /// A move that spreads a fleet.
    fn spread(&mut self) -> Option<Move> {
        let mut vain = self.vain;
        let found = self.fleets.uneven().find_map(|uneven| {
            let nodes = self.state.index().having(uneven.key, uneven.to).nodes();
            let rooms = nodes.filter_map(|id| self.rooms.get_key_value(&id));
            let mut nodes: Vec<_> = rooms.map(|(id, room)| (room.load(), *id)).collect();
            nodes.sort_unstable();
            let agents = uneven.agents().filter(|(_, from)| self.rooms.contains_key(from));
            let pairs = agents.flat_map(|it| nodes.iter().map(move |(_, to)| (it, *to)));
            let mut pairs = pairs.take_while(|_| {
                vain += 1;
                vain <= VAIN_MAX
            });
            pairs.find(|((agent, from), to)| self.suits(agent, *from, *to))
        });
        let ((agent, from), to) = found?;
        self.movable(from).retain(|other| other.id != agent.id);
        self.vain = vain - 1;
        self.take(agent, from, to)
    }

    /// A move from a fuller to an emptier node.
    fn level(&mut self) -> Option<Move> {
        let mut nodes: Vec<(Load, NodeId)> =
            self.rooms.iter().map(|(id, room)| (room.load(), *id)).collect();
        nodes.sort_unstable();
        for (full, from) in nodes.iter().rev().copied() {
            for (empty, to) in nodes.iter().copied() {
                if full.saturating_sub(empty) <= self.price || self.vain == VAIN_MAX {
                    break;
                }
                self.vain += 1;
                if let Some(agent) = self.pick(from, to) {
                    self.vain -= 1;
                    return self.take(agent, from, to);
                }
            }
        }
        None
    }

    /// Whether an agent of `from` could be on `to` as well as it is where it is.
    fn suits(&self, agent: &Agent, from: NodeId, to: NodeId) -> bool {
        let node = self.state.nodes().get(&to);
        node.is_some_and(|node| plan::matches(node, (&*agent.spec).into()))
            && self.rooms.get(&to).is_some_and(|room| room.lacks(&agent.spec).is_none())
            && self.fleets.allow(agent, from, to)
    }

    /// The best agent of `from` to move to `to`, if one is worth it.
    fn pick(&mut self, from: NodeId, to: NodeId) -> Option<&'a Agent> {
        let (source, goal) = (self.rooms.get(&from)?.clone(), self.rooms.get(&to)?.clone());
        let better = |spec: &AgentSpec| source.load_without(spec) >= goal.load_with(spec);
        self.movable(from);
        let agents = self.movable.get(&from)?;
        let worth = |agent: &&Agent| better(&agent.spec) && self.suits(agent, from, to);
        let found = agents.iter().rposition(worth)?;
        Some(self.movable(from).remove(found))
    }

    /// Notes a move.
    fn take(&mut self, agent: &'a Agent, from: NodeId, to: NodeId) -> Option<Move> {
        let block = agent.placement.as_ref()?.block;
        if let Some(room) = self.rooms.get_mut(&from) {
            room.disown(&agent.spec, block);
        }
        self.rooms.get_mut(&to)?.take(&agent.spec)?;
        self.fleets.note(agent, from, to);
        Some(Move { agent: agent.id.clone(), from, to })
    }
}
