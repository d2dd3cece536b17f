//! Choosing nodes. Runs on the leader, outside `apply`, on a view of the state.
//!
//! The problem: each agent needs a node that is registered, open, has the agent's runtime in the
//! version it asks for, the labels it asks for, room for what it asks for (a port block, memory,
//! processor time) and, for a strict agent, all it takes to end it in time; two of a fleet
//! that stand apart share no node. A node's *load* is the largest share of anything it has that is
//! taken. The choice: of the nodes that suit, the one with the least load, the smallest number
//! winning a tie; for an agent that is spread by a label, first the value with the fewest agents of
//! its fleet.
//!
//! Properties: (1) feasible: every choice suits in the view; (2) balanced: after a plan of agents
//! that all nodes suit, two nodes' loads differ by no more than before, or by the share of one
//! agent; (3) stable: nothing is moved that has a place; (4) deterministic: the same view and
//! requests give the same plan; (5) where room is short, no agent is left out for one of lower
//! priority of its shape.
//!
//! The cost: nodes are listed by load for each runtime and each label. Agents of one shape, that is
//! equal in all the choice depends on, share one walk over the shortest list that holds all nodes
//! that could suit. In a plan room only shrinks, so a node that does not suit is passed once for a
//! shape, and one agent more costs the logarithm of the nodes. What is not logarithmic: the first
//! agent of a shape that few of the listed nodes suit.
//!
//! Not done here: moving what runs, see [`crate::rebalance`].

use alloc::{
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    string::String,
    vec::Vec,
};
use core::{cmp::Reverse, ops::Bound};

use fleet_types::{AgentClass, AgentId, Epoch, FleetName, NodeId};

use crate::{
    command::FenceNode,
    index::{ByLoad, open},
    record::{
        Agent, AgentSpec, Evidence, Lifecycle, MovePolicy, MoveRule, Node, NodeStatus,
        PendingReason,
    },
    room::{Lack, Load, Room},
    state::State,
};

/// Chooses nodes for a batch of agents, counting its own choices.
pub struct Planner<'a> {
    state: &'a State,
    without: Option<NodeId>,
    /// The room of the nodes chosen so far, less what this plan takes.
    rooms: BTreeMap<NodeId, Room>,
    /// Where this plan puts agents that stand apart.
    apart: BTreeSet<(FleetName, NodeId)>,
    /// How many agents of each fleet this plan puts on each node.
    planned: BTreeMap<FleetName, BTreeMap<NodeId, usize>>,
    /// How many agents of a fleet are under each value of a label, this plan's too.
    spread: BTreeMap<FleetName, BTreeMap<String, Counts>>,
    shapes: Vec<Shape>,
    /// The shape of the last agent, for the next is often like it.
    last: usize,
}

/// How many agents are under each value of a label.
type Counts = BTreeMap<String, usize>;

/// Agents that are equal in all the choice depends on, and how far the nodes were walked for them.
struct Shape {
    fleet: Option<FleetName>,
    spec: AgentSpec,
    /// The value of the label they are spread by.
    value: Option<String>,
    /// The last listed node that was looked at.
    passed: Option<(Load, NodeId)>,
    /// Those of the nodes passed that may suit, the least full first; loads may be too low.
    suiting: BinaryHeap<Reverse<(Load, NodeId)>>,
}

impl Shape {
    fn is_of(&self, fleet: &FleetName, spec: &AgentSpec, value: Option<&str>) -> bool {
        let strict = |spec: &AgentSpec| spec.class == AgentClass::Strict;
        self.spec.ports == spec.ports
            && self.spec.runtime == spec.runtime
            && self.spec.wants == spec.wants
            && strict(&self.spec) == strict(spec)
            && self.value.as_deref() == value
            && self.fleet.as_ref().is_none_or(|of| of == fleet)
    }
}

fn labelled(node: &Node, spec: &AgentSpec) -> bool {
    node.report.as_ref().is_some_and(|report| report.labels.have(&spec.wants.node_labels))
}

/// Whether a node ends what runs there in time.
fn keeps(node: &Node, spec: &AgentSpec) -> bool {
    let fit = node.report.as_ref().is_some_and(|report| report.unfit.is_empty());
    fit || spec.class != AgentClass::Strict
}

/// Why a node is not one for an agent, whatever else is there.
pub(crate) fn mismatches(node: &Node, spec: &AgentSpec) -> impl Iterator<Item = PendingReason> {
    let found = node.report.as_ref().and_then(|report| report.runtimes.get(&spec.runtime));
    let wanted = spec.wants.runtime_version.as_ref().zip(found);
    let is_old = wanted.is_some_and(|(wanted, found)| !wanted.is_reached_by(found));
    [
        (found.is_none(), PendingReason::NoRuntime),
        (!labelled(node, spec), PendingReason::NoLabels),
        (is_old, PendingReason::OldRuntime),
        (!keeps(node, spec), PendingReason::NoFitNode),
    ]
    .into_iter()
    .filter_map(|(hinders, reason)| hinders.then_some(reason))
}

/// Whether a node is one for an agent, if nothing else were there.
pub(crate) fn matches(node: &Node, spec: &AgentSpec) -> bool {
    mismatches(node, spec).next().is_none()
}

/// Whether an agent stands apart from one that a node has.
pub(crate) fn too_close(state: &State, node: NodeId, fleet: &FleetName, spec: &AgentSpec) -> bool {
    spec.wants.apart && state.index().stands_apart(fleet, node)
}

/// Why a registered, open node cannot have an agent now; none when it can.
pub(crate) fn obstacle(
    state: &State,
    node: &Node,
    fleet: &FleetName,
    spec: &AgentSpec,
) -> Option<PendingReason> {
    let close = || too_close(state, node.id, fleet, spec).then_some(PendingReason::NotApart);
    let lack = || match state.room(node.id).map(|room| room.lacks(spec)) {
        Some(None) => None,
        Some(Some(Lack::Memory(_))) => Some(PendingReason::NoMemory),
        Some(Some(Lack::Cpu(_))) => Some(PendingReason::NoCpu),
        Some(Some(Lack::Ports(_))) | None => Some(PendingReason::NoPorts),
    };
    mismatches(node, spec).next().or_else(close).or_else(lack)
}

impl<'a> Planner<'a> {
    /// A planner over `state`.
    pub fn new(state: &'a State) -> Self {
        Self {
            state,
            without: None,
            rooms: BTreeMap::new(),
            apart: BTreeSet::new(),
            planned: BTreeMap::new(),
            spread: BTreeMap::new(),
            shapes: Vec::new(),
            last: 0,
        }
    }

    /// What it plans on.
    pub fn state(&self) -> &'a State {
        self.state
    }

    /// A planner that leaves `node` out.
    pub fn without(state: &'a State, node: NodeId) -> Self {
        Self { without: Some(node), ..Self::new(state) }
    }

    fn room(&self, node: NodeId) -> Option<&Room> {
        self.rooms.get(&node).or_else(|| self.state.room(node))
    }

    fn suits(&self, id: NodeId, fleet: &FleetName, spec: &AgentSpec, value: Option<&str>) -> bool {
        let Some(node) = self.state.nodes().get(&id).filter(|node| open(node)) else {
            return false;
        };
        let labels = node.report.as_ref().map(|report| &report.labels);
        let valued = match (&spec.wants.spread_by, value) {
            (Some(key), Some(value)) => labels.is_some_and(|l| l.get(key) == Some(value)),
            _ => true,
        };
        let alone = || {
            let planned = self.apart.contains(&(fleet.clone(), id));
            !planned && !self.state.index().stands_apart(fleet, id)
        };
        self.without != Some(id)
            && valued
            && matches(node, spec)
            && (!spec.wants.apart || alone())
            && self.room(id).is_some_and(|room| room.lacks(spec).is_none())
    }

    /// Notes that an agent goes to a node.
    fn take(&mut self, id: NodeId, fleet: &FleetName, spec: &AgentSpec) {
        let room = match self.rooms.get_mut(&id) {
            Some(room) => room,
            None => match self.state.room(id) {
                Some(room) => self.rooms.entry(id).or_insert_with(|| room.clone()),
                None => return,
            },
        };
        room.take(spec);
        if spec.wants.apart {
            self.apart.insert((fleet.clone(), id));
        }
        if !self.planned.contains_key(fleet) {
            self.planned.insert(fleet.clone(), BTreeMap::new());
        }
        if let Some(nodes) = self.planned.get_mut(fleet) {
            *nodes.entry(id).or_default() += 1;
        }
        let report = self.state.nodes().get(&id).and_then(|node| node.report.as_ref());
        for (key, counts) in self.spread.get_mut(fleet).into_iter().flatten() {
            let value = report.and_then(|report| report.labels.get(key));
            if let Some(count) = value.and_then(|value| counts.get_mut(value)) {
                *count += 1;
            }
        }
    }

    /// The node for one more agent, or none when no open node suits it and has the room.
    pub fn choose(&mut self, fleet: &FleetName, spec: &AgentSpec) -> Option<NodeId> {
        let Some(key) = &spec.wants.spread_by else { return self.walk(fleet, spec, None) };
        let counts = self.counts(fleet, key);
        let mut values: Vec<_> = counts.iter().map(|(value, n)| (*n, value.clone())).collect();
        values.sort_unstable();
        for (_, value) in values {
            if let Some(node) = self.walk(fleet, spec, Some(&value)) {
                return Some(node);
            }
        }
        // No node with the label has room: better somewhere than nowhere.
        self.walk(fleet, spec, None)
    }

    /// The node for an agent that should go to `wanted`, if it suits; else another.
    pub fn choose_towards(
        &mut self,
        wanted: Option<NodeId>,
        fleet: &FleetName,
        spec: &AgentSpec,
    ) -> Option<NodeId> {
        match wanted {
            Some(id) if self.take_if_suits(id, fleet, spec) => Some(id),
            _ => self.choose(fleet, spec),
        }
    }

    /// Whether an agent can go to a node, and then does.
    fn take_if_suits(&mut self, id: NodeId, fleet: &FleetName, spec: &AgentSpec) -> bool {
        let suits = self.suits(id, fleet, spec, None);
        if suits {
            self.take(id, fleet, spec);
        }
        suits
    }

    /// How many agents of a fleet are under each value of a label that open nodes have.
    fn counts(&mut self, fleet: &FleetName, key: &str) -> &Counts {
        let (state, index, without) = (self.state, self.state.index(), self.without);
        let planned = self.planned.get(fleet);
        self.spread.entry(fleet.clone()).or_default().entry(key.into()).or_insert_with(|| {
            let values = index.with_label(key).into_iter().flat_map(BTreeMap::keys);
            let mut counts: Counts = values.map(|value| (value.clone(), 0)).collect();
            let placed = index.fleets.get(fleet).into_iter().flatten();
            let placed = placed.map(|(node, count)| (*node, count.all));
            let placed = placed.filter(|(node, _)| without != Some(*node));
            let planned = planned.into_iter().flatten().map(|(node, count)| (*node, *count));
            for (node, agents) in placed.chain(planned) {
                let report = state.nodes().get(&node).and_then(|node| node.report.as_ref());
                let value = report.and_then(|report| report.labels.get(key));
                if let Some(count) = value.and_then(|value| counts.get_mut(value)) {
                    *count += agents;
                }
            }
            counts
        })
    }

    /// The shortest list that holds every open node that could suit.
    fn list(&self, spec: &AgentSpec, value: Option<&str>) -> Option<&'a ByLoad> {
        let index = self.state.index();
        let wanted = spec.wants.node_labels.iter();
        let spread = spec.wants.spread_by.as_deref().zip(value);
        let labels = wanted.chain(spread).map(|(key, value)| index.with_label(key)?.get(value));
        let lists = core::iter::once(index.with_runtime(&spec.runtime)).chain(labels);
        // One that is missing is the shortest: no node could suit.
        lists.min_by_key(|list| list.map_or(0, BTreeSet::len)).flatten()
    }

    /// The shape of an agent.
    fn shape(&mut self, fleet: &FleetName, spec: &AgentSpec, value: Option<&str>) -> usize {
        let is = |shape: &Shape| shape.is_of(fleet, spec, value);
        if !self.shapes.get(self.last).is_some_and(is) {
            self.last = self.shapes.iter().position(is).unwrap_or_else(|| {
                self.shapes.push(Shape {
                    fleet: spec.wants.apart.then(|| fleet.clone()),
                    spec: spec.clone(),
                    value: value.map(Into::into),
                    passed: None,
                    suiting: BinaryHeap::new(),
                });
                self.shapes.len() - 1
            });
        }
        self.last
    }

    /// The least full node that suits.
    fn walk(&mut self, fleet: &FleetName, spec: &AgentSpec, value: Option<&str>) -> Option<NodeId> {
        let list = self.list(spec, value)?;
        let shape = self.shape(fleet, spec, value);
        loop {
            let (load, id) = self.least(shape, list)?;
            let now = self.room(id).map_or(load, Room::load);
            if now > load {
                // This plan filled it meanwhile: others may be before it.
                self.shapes[shape].suiting.push(Reverse((now, id)));
            } else if self.suits(id, fleet, spec, value) {
                self.take(id, fleet, spec);
                let now = self.room(id).map_or(load, Room::load);
                self.shapes[shape].suiting.push(Reverse((now, id)));
                return Some(id);
            }
        }
    }

    /// Takes the first node off what a shape has passed or the list has next.
    fn least(&mut self, shape: usize, list: &ByLoad) -> Option<(Load, NodeId)> {
        let shape = &mut self.shapes[shape];
        let after = shape.passed.map_or(Bound::Unbounded, Bound::Excluded);
        let next = list.range((after, Bound::Unbounded)).next().copied();
        let kept = shape.suiting.peek().map(|Reverse(kept)| *kept);
        match (kept, next) {
            (Some(kept), Some(next)) if next < kept => shape.passed = Some(next),
            (None, Some(next)) => shape.passed = Some(next),
            (Some(_), _) => drop(shape.suiting.pop()),
            (None, None) => return None,
        }
        kept.into_iter().chain(next).min()
    }
}

/// The order agents get what room there is in: the highest priority first, of equal ones the oldest.
pub(crate) fn first_come<'a>(
    agents: impl Iterator<Item = &'a Agent>,
) -> impl Iterator<Item = &'a Agent> {
    let mut agents: Vec<&Agent> = agents.collect();
    agents.sort_unstable_by_key(|agent| (Reverse(agent.spec.priority), agent.uid));
    agents.into_iter()
}

/// Whether the agents of lost nodes are placed elsewhere now. `silent` counts the registered nodes
/// that are feared to be lost: nodes that go at the same time are not fenced at the same time.
pub fn moves(state: &State, silent: usize) -> bool {
    let policy = state.cluster().map_or_else(MovePolicy::default, |cluster| cluster.moves);
    match policy.rule {
        MoveRule::Always => true,
        MoveRule::Never => false,
        MoveRule::Automatic => {
            let known = state.nodes().values().filter(|node| node.status != NodeStatus::Joining);
            let (all, fenced) = known.fold((0, 0), |(all, fenced), node| {
                (all + 1, fenced + usize::from(node.status == NodeStatus::Fenced))
            });
            (fenced + silent) * 100 <= all * usize::from(policy.lost_percent_max)
        }
    }
}

/// The fence of a node up to class `reach`, `silent` of all being feared to be lost.
pub fn fence(
    state: &State,
    node: NodeId,
    epoch: Epoch,
    evidence: Evidence,
    reach: AgentClass,
    silent: usize,
) -> FenceNode {
    let paused = !moves(state, silent);
    let moves = if paused { Vec::new() } else { replacements(state, node, reach) };
    FenceNode { node, epoch, evidence, moves, paused, reach }
}

/// Where the agents of `node` up to class `reach` would go if it were lost now. Those that fit
/// nowhere are left out.
pub fn replacements(state: &State, node: NodeId, reach: AgentClass) -> Vec<(AgentId, NodeId)> {
    let losses = losses(state, node, reach).into_iter();
    losses.filter_map(|(agent, to)| Some((agent.id.clone(), to?))).collect()
}

/// All agents of `node` that are not being deleted, in the order they are placed if it is lost, each
/// with where it would go; nowhere when it fits nowhere, or is of a class after `reach`.
pub(crate) fn losses(
    state: &State,
    node: NodeId,
    reach: AgentClass,
) -> Vec<(&Agent, Option<NodeId>)> {
    let mut planner = Planner::without(state, node);
    let agents = state.placed_on(node).filter_map(|id| state.agents().get(id));
    let agents = agents.filter(|agent| agent.lifecycle == Lifecycle::Live);
    let mut place = |agent: &Agent| {
        (agent.spec.class <= reach).then(|| planner.choose(&agent.id.fleet, &agent.spec))
    };
    first_come(agents).map(|agent| (agent, place(agent).flatten())).collect()
}

/// Where agents without a placement can go now; at most `limit` of them. `silent` as for [`moves`].
/// While agents are not moved, those of a lost node go back there once it is up.
pub fn placements(state: &State, limit: usize, silent: usize) -> Vec<(AgentId, NodeId)> {
    let mut planner = Planner::new(state);
    let paused = !moves(state, silent);
    first_come(state.unplaced().filter_map(|id| state.agents().get(id)))
        .filter_map(|agent| {
            let (id, fleet, spec) = (&agent.id, &agent.id.fleet, &agent.spec);
            if paused && agent.pending == Some(PendingReason::MovesPaused) {
                let (former, _) = agent.former?;
                return planner.take_if_suits(former, fleet, spec).then(|| (id.clone(), former));
            }
            Some((id.clone(), planner.choose(fleet, spec)?))
        })
        .take(limit)
        .collect()
}

/// Why no node can take an agent: what the nodes that come closest lack.
pub fn why_pending(state: &State, fleet: &FleetName, spec: &AgentSpec) -> PendingReason {
    let nodes = state.nodes().values().filter(|node| open(node));
    let obstacles = nodes.map(|node| obstacle(state, node, fleet, spec));
    let obstacles = obstacles.map(|obstacle| obstacle.unwrap_or(PendingReason::NoNode));
    obstacles.max_by_key(|reason| closeness(*reason)).unwrap_or(PendingReason::NoNode)
}

/// How close a node with this obstacle comes to taking an agent.
fn closeness(obstacle: PendingReason) -> u8 {
    match obstacle {
        PendingReason::NoRuntime => 0,
        PendingReason::NoLabels => 1,
        PendingReason::OldRuntime => 2,
        PendingReason::NoFitNode => 3,
        PendingReason::NotApart => 4,
        PendingReason::NoMemory | PendingReason::NoCpu | PendingReason::NoPorts => 5,
        // Nothing stands in the way: the choice was made on an older view.
        PendingReason::NoNode | PendingReason::MovesPaused => 6,
    }
}
