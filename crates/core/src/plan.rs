//! Choosing nodes. Runs on the leader, outside `apply`, on a view of the state.
//!
//! The problem: each agent needs a node that is registered, open, has the agent's runtime in the
//! version it asks for, the labels it asks for, room for what it asks for (a port block, memory,
//! processor time) and, for a strict agent, all it takes to end it in time; two of a fleet that
//! stand apart share no node. A node's *load* is the largest share of anything it has that is
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
//! The cost: for the kinds of agents that are most common the nodes with room for one more are
//! listed by load, see [`crate::candidates`], so that one agent more of such a kind costs the
//! logarithm of the nodes, whatever it needs. The first ones of a kind, and those of rare kinds
//! where there are many, walk the shortest lists that hold all nodes that could suit: those of a
//! version of a runtime or of a label. In a plan room only shrinks, so a node that does not suit is
//! passed once for a shape, that is all agents equal in what the choice depends on, and a value of
//! a label under which none suits is left once. The first of a fleet that is spread or stands apart
//! also counts or passes the nodes that have some of the fleet, as many as it has agents at most.
//!
//! Not done here: moving what runs, see [`crate::rebalance`].

use alloc::{
    collections::{BTreeMap, BTreeSet, BinaryHeap, btree_map::Keys},
    string::String,
    vec,
    vec::Vec,
};
use core::{cmp::Reverse, ops::Bound};

use fleet_types::{AgentClass, AgentId, Epoch, FleetName, NodeId, Resources};

use crate::{
    candidates::{List, Needs},
    command::FenceNode,
    index::{ByLoad, Index, open},
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
    spread: BTreeMap<FleetName, BTreeMap<String, Counts<'a>>>,
    shapes: Vec<Shape<'a>>,
    /// The shapes of a fleet, or of any, by what they ask for.
    shapes_of: BTreeMap<ShapeKey, Vec<usize>>,
    /// The shape of the last agent, for the next is often like it.
    last: usize,
}

/// How many agents are under each value of a label, where there are any.
type Counts<'a> = BTreeMap<&'a str, usize>;

/// The fleet, where it matters, ports, memory and processor time.
type ShapeKey = (Option<FleetName>, u16, u64, u64);

/// Agents that are equal in all the choice depends on, and how far the nodes were walked for them.
struct Shape<'a> {
    /// The fleet, where the choice depends on where others of it are.
    fleet: Option<FleetName>,
    spec: AgentSpec,
    /// The nodes that had room before the plan, if they are known.
    candidates: Option<&'a List>,
    /// Of agents that are spread by a label, those of its values not looked at yet.
    unseen: Option<Keys<'a, String, ByLoad>>,
    /// Those looked at under which a node may suit, the fewest agents first; too few, maybe.
    seen: BinaryHeap<Reverse<(usize, &'a str)>>,
    /// The walks over all nodes and over those with a value of the label.
    walks: BTreeMap<Option<&'a str>, Walk<'a>>,
}

/// How far the nodes of some lists were walked.
struct Walk<'a> {
    /// Each holds other nodes.
    lists: Vec<&'a ByLoad>,
    /// The last listed node that was looked at.
    passed: Option<(Load, NodeId)>,
    /// Those of the nodes passed that may suit, the least full first; loads may be too low.
    suiting: BinaryHeap<Reverse<(Load, NodeId)>>,
}

/// The fleet of an agent whose choice depends on where others of it are.
fn among<'a>(fleet: &'a FleetName, spec: &AgentSpec) -> Option<&'a FleetName> {
    (spec.wants.apart || spec.wants.spread_by.is_some()).then_some(fleet)
}

impl<'a> Shape<'a> {
    fn new(index: &'a Index, fleet: &FleetName, spec: &AgentSpec) -> Self {
        let candidates = index.candidates().list(spec);
        let values = spec.wants.spread_by.as_ref().and_then(|key| match candidates {
            Some(list) => Some(list.by_value.keys()),
            None => index.with_label(key).map(BTreeMap::keys),
        });
        Self {
            fleet: among(fleet, spec).cloned(),
            spec: spec.clone(),
            candidates,
            unseen: values,
            seen: BinaryHeap::new(),
            walks: BTreeMap::new(),
        }
    }

    fn is_of(&self, fleet: &FleetName, spec: &AgentSpec) -> bool {
        let strict = |spec: &AgentSpec| spec.class == AgentClass::Strict;
        self.spec.ports == spec.ports
            && self.spec.runtime == spec.runtime
            && self.spec.wants == spec.wants
            && strict(&self.spec) == strict(spec)
            && self.fleet.as_ref().is_none_or(|of| of == fleet)
    }

    /// The lists that hold all nodes that could suit, of those with a value of the label if given.
    fn lists(&self, index: &'a Index, value: Option<&str>) -> Vec<&'a ByLoad> {
        match (self.candidates, value) {
            (Some(list), Some(value)) => list.by_value.get(value).into_iter().collect(),
            (Some(list), None) => vec![&list.all],
            (None, value) => {
                let spread = self.spec.wants.spread_by.as_deref().zip(value);
                shortest(index, Needs::from(&self.spec), spread)
            }
        }
    }

    /// The next value to try with how many agents are under it, or more.
    fn next_value(&mut self) -> Option<(usize, &'a str)> {
        let unseen = self.unseen.as_mut().and_then(Iterator::next);
        unseen.map(|value| (0, value.as_str())).or_else(|| self.seen.pop().map(|least| least.0))
    }
}

impl<'a> Walk<'a> {
    fn new(lists: Vec<&'a ByLoad>) -> Self {
        Self { lists, passed: None, suiting: BinaryHeap::new() }
    }

    /// Takes the first node off what was passed or the lists have next.
    fn least(&mut self) -> Option<(Load, NodeId)> {
        let after = self.passed.map_or(Bound::Unbounded, Bound::Excluded);
        let after = (after, Bound::Unbounded);
        let next = self.lists.iter().filter_map(|list| list.range(after).next()).min().copied();
        let kept = self.suiting.peek().map(|Reverse(kept)| *kept);
        match (kept, next) {
            (Some(kept), Some(next)) if next < kept => self.passed = Some(next),
            (None, Some(next)) => self.passed = Some(next),
            (Some(_), _) => drop(self.suiting.pop()),
            (None, None) => return None,
        }
        kept.into_iter().chain(next).min()
    }
}

/// The shortest lists that together hold every open node that is one for an agent, of those with a
/// label if given; none when no node could be.
fn shortest<'a>(
    index: &'a Index,
    Needs { runtime, version, labels, .. }: Needs<'_>,
    label: Option<(&str, &str)>,
) -> Vec<&'a ByLoad> {
    let versions = index.with_runtime(runtime).into_iter().flatten();
    let reached = |found: &str| version.is_none_or(|version| version.is_reached_by(found));
    let of_runtime = versions.filter(|(found, _)| reached(found)).map(|(_, list)| list);
    let of_runtime: Vec<&ByLoad> = of_runtime.collect();
    let labels = labels.iter().chain(label);
    let labels = labels.map(|(key, value)| index.with_label(key)?.get(value));
    // One that is missing is the shortest.
    let label = labels.min_by_key(|list| list.map_or(0, BTreeSet::len));
    let all = of_runtime.iter().map(|list| list.len()).sum();
    match label {
        Some(list) if list.map_or(0, BTreeSet::len) < all => list.into_iter().collect(),
        _ => of_runtime,
    }
}

/// Why a node is not one for an agent, whatever else is there.
pub(crate) fn mismatches(
    node: &Node,
    Needs { runtime, version, labels, strict }: Needs<'_>,
) -> impl Iterator<Item = PendingReason> {
    let report = node.report.as_ref();
    let found = report.and_then(|report| report.runtimes.get(runtime));
    let is_old = version.zip(found).is_some_and(|(wanted, found)| !wanted.is_reached_by(found));
    let labelled = report.is_some_and(|report| report.labels.have(labels));
    // It ends what runs there in time.
    let keeps = report.is_some_and(|report| report.unfit.is_empty());
    [
        (found.is_none(), PendingReason::NoRuntime),
        (!labelled, PendingReason::NoLabels),
        (is_old, PendingReason::OldRuntime),
        (strict && !keeps, PendingReason::NoFitNode),
    ]
    .into_iter()
    .filter_map(|(hinders, reason)| hinders.then_some(reason))
}

/// Whether a node is one for an agent, if nothing else were there.
pub(crate) fn matches(node: &Node, needs: Needs<'_>) -> bool {
    mismatches(node, needs).next().is_none()
}

/// The nodes that are ones for an agent and take agents.
pub(crate) fn listed<'a>(
    index: &Index,
    nodes: &'a BTreeMap<NodeId, Node>,
    needs: Needs<'_>,
) -> impl Iterator<Item = &'a Node> {
    let listed = shortest(index, needs, None).into_iter().flatten();
    listed.filter_map(|(_, id)| nodes.get(id)).filter(move |node| matches(node, needs))
}

/// The nodes that are ones for an agent, whether they take agents now or not, those that surely
/// have room first; some twice.
pub(crate) fn suiting<'a>(state: &'a State, spec: &'a AgentSpec) -> impl Iterator<Item = &'a Node> {
    let with_room = state.index().candidates().list(spec).into_iter().flat_map(|list| &list.all);
    let with_room = with_room.filter_map(|(_, id)| state.nodes().get(id));
    // Which nodes are fit changes by itself.
    let needs = Needs { strict: false, ..spec.into() };
    let suits = move |node: &&Node| matches(node, needs);
    let listed = listed(state.index(), state.nodes(), spec.into());
    with_room.chain(listed).chain(state.nodes().values().filter(suits))
}

/// Whether some node that takes agents would have room for an agent if nothing else were there.
pub(crate) fn could_hold(state: &State, spec: &AgentSpec) -> bool {
    listed(state.index(), state.nodes(), spec.into())
        .filter_map(|node| state.room(node.id))
        .any(|room| Room::new(room.ports().range(), room.limit()).lacks(spec).is_none())
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
    mismatches(node, spec.into()).next().or_else(close).or_else(lack)
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
            shapes_of: BTreeMap::new(),
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
        self.without != Some(id)
            && valued
            && matches(node, spec.into())
            && !self.is_too_close(id, fleet, spec)
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
            if let Some(value) = report.and_then(|report| report.labels.get(key)) {
                *counts.entry(value).or_default() += 1;
            }
        }
    }

    /// The node for one more agent, or none when no open node suits it and has the room.
    pub fn choose(&mut self, fleet: &FleetName, spec: &AgentSpec) -> Option<NodeId> {
        let shape = self.shape(fleet, spec);
        if let Some(key) = &spec.wants.spread_by {
            self.count(fleet, key);
            while let Some((count, value)) = self.shapes[shape].next_value() {
                let now = self.spread[fleet][key].get(value).copied().unwrap_or(0);
                if now > count {
                    self.shapes[shape].seen.push(Reverse((now, value)));
                } else if let Some(node) = self.walk(shape, fleet, spec, Some(value)) {
                    self.shapes[shape].seen.push(Reverse((now + 1, value)));
                    return Some(node);
                }
            }
        }
        // Not spread, or no node with the label has room: better somewhere than nowhere.
        self.walk(shape, fleet, spec, None)
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

    /// Whether an agent that can go nowhere could go somewhere if there were room.
    pub(crate) fn lacks_only_room(&self, fleet: &FleetName, spec: &AgentSpec) -> bool {
        listed(self.state.index(), self.state.nodes(), spec.into())
            .filter(|node| Some(node.id) != self.without)
            .any(|node| !self.is_too_close(node.id, fleet, spec))
    }

    /// Whether an agent stands apart from one that a node has, or gets in this plan.
    fn is_too_close(&self, id: NodeId, fleet: &FleetName, spec: &AgentSpec) -> bool {
        let planned = || self.apart.contains(&(fleet.clone(), id));
        too_close(self.state, id, fleet, spec) || spec.wants.apart && planned()
    }

    /// Whether an agent can go to a node, and then does.
    pub(crate) fn take_if_suits(
        &mut self,
        id: NodeId,
        fleet: &FleetName,
        spec: &AgentSpec,
    ) -> bool {
        let suits = self.suits(id, fleet, spec, None);
        if suits {
            self.take(id, fleet, spec);
        }
        suits
    }

    /// Counts the agents of a fleet under each value of a label, once.
    fn count(&mut self, fleet: &FleetName, key: &str) {
        let known = self.spread.get(fleet).is_some_and(|keys| keys.contains_key(key));
        if known {
            return;
        }
        let placed = self.state.index().fleets.get(fleet).into_iter().flatten();
        let placed = placed.map(|(node, count)| (*node, count.all));
        let placed = placed.filter(|(node, _)| self.without != Some(*node));
        let planned = self.planned.get(fleet).into_iter().flatten();
        let planned = planned.map(|(node, count)| (*node, *count));
        let mut counts = Counts::new();
        for (node, agents) in placed.chain(planned) {
            let report = self.state.nodes().get(&node).and_then(|node| node.report.as_ref());
            if let Some(value) = report.and_then(|report| report.labels.get(key)) {
                *counts.entry(value).or_default() += agents;
            }
        }
        self.spread.entry(fleet.clone()).or_default().insert(key.into(), counts);
    }

    /// The shape of an agent.
    fn shape(&mut self, fleet: &FleetName, spec: &AgentSpec) -> usize {
        if !self.shapes.get(self.last).is_some_and(|shape| shape.is_of(fleet, spec)) {
            let Resources { memory_bytes, cpu_millis } = spec.wants.requests;
            let key = (among(fleet, spec).cloned(), spec.ports, memory_bytes, cpu_millis);
            let known = self.shapes_of.entry(key).or_default();
            let found = known.iter().copied().find(|n| self.shapes[*n].is_of(fleet, spec));
            self.last = found.unwrap_or_else(|| {
                known.push(self.shapes.len());
                self.shapes.push(Shape::new(self.state.index(), fleet, spec));
                self.shapes.len() - 1
            });
        }
        self.last
    }

    /// The least full node that suits, of those with a value of the label to spread by if given.
    fn walk(
        &mut self,
        shape: usize,
        fleet: &FleetName,
        spec: &AgentSpec,
        value: Option<&'a str>,
    ) -> Option<NodeId> {
        if !self.shapes[shape].walks.contains_key(&value) {
            let walk = Walk::new(self.shapes[shape].lists(self.state.index(), value));
            self.shapes[shape].walks.insert(value, walk);
        }
        loop {
            let (load, id) = self.shapes[shape].walks.get_mut(&value)?.least()?;
            let now = self.room(id).map_or(load, Room::load);
            // When this plan filled it meanwhile, others may be before it.
            let suits = now <= load && self.suits(id, fleet, spec, value);
            if suits {
                self.take(id, fleet, spec);
            }
            if suits || now > load {
                let now = self.room(id).map_or(load, Room::load);
                if let Some(walk) = self.shapes[shape].walks.get_mut(&value) {
                    walk.suiting.push(Reverse((now, id)));
                }
            }
            if suits {
                return Some(id);
            }
        }
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

/// Why no node can take an agent: what the nodes that come closest lack, of those the least full.
pub fn why_pending(state: &State, fleet: &FleetName, spec: &AgentSpec) -> PendingReason {
    let index = state.index();
    if index.listed().is_empty() {
        return PendingReason::NoNode;
    }
    if index.with_runtime(&spec.runtime).is_none() {
        return PendingReason::NoRuntime;
    }
    // Some node has the runtime; those that are not on the list lack a label.
    let mut closest = PendingReason::NoLabels;
    let of_any_version = Needs { version: None, ..spec.into() };
    let mut listed = Walk::new(shortest(index, of_any_version, None));
    let by_load = core::iter::from_fn(|| listed.least());
    for node in by_load.filter_map(|(_, id)| state.nodes().get(&id)) {
        let obstacle = obstacle(state, node, fleet, spec).unwrap_or(PendingReason::NoNode);
        if closeness(obstacle) > closeness(closest) {
            closest = obstacle;
        }
        if closeness(closest) >= ROOM_LACKS {
            break;
        }
    }
    closest
}

/// How close a node comes that lacks nothing but room.
const ROOM_LACKS: u8 = 5;

/// How close a node with this obstacle comes to taking an agent.
fn closeness(obstacle: PendingReason) -> u8 {
    match obstacle {
        PendingReason::NoRuntime => 0,
        PendingReason::NoLabels => 1,
        PendingReason::OldRuntime => 2,
        PendingReason::NoFitNode => 3,
        PendingReason::NotApart => 4,
        PendingReason::NoMemory | PendingReason::NoCpu | PendingReason::NoPorts => ROOM_LACKS,
        // Nothing stands in the way: the choice was made on an older view.
        PendingReason::NoNode | PendingReason::MovesPaused => 6,
    }
}
