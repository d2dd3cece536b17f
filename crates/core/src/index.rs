//! What is derived from the records so that no question walks over all of them: where agents are,
//! what room nodes have, and which nodes come first for an agent. Never stored; the same records
//! give the same index, whatever the history.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec::Vec,
};
use core::borrow::Borrow;

use fleet_types::{AgentId, FleetName, NodeId, PortBlock, PortRange, RuntimeName};

use crate::{
    admission::Totals,
    candidates::Candidates,
    plan,
    provision::Slots,
    record::{Agent, AgentSpec, Node, NodeStatus, PlacementPolicy, Schedulable},
    room::{Load, Room, limit},
};

/// Nodes, the least full first.
pub(crate) type ByLoad = BTreeSet<(Load, NodeId)>;

/// How many agents of a fleet are on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OfFleet {
    pub(crate) all: usize,
    /// Those that stand apart.
    pub(crate) apart: usize,
}

/// The index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) rooms: BTreeMap<NodeId, Room>,
    pub(crate) placed: BTreeMap<NodeId, BTreeSet<AgentId>>,
    pub(crate) unplaced: BTreeSet<AgentId>,
    pub(crate) totals: Totals,
    /// The agents of fleets on nodes.
    pub(crate) fleets: BTreeMap<FleetName, BTreeMap<NodeId, OfFleet>>,
    /// Of nodes that take agents, the load they are listed under.
    listed: BTreeMap<NodeId, Load>,
    /// How many of these are unfit for strict agents.
    unfit: usize,
    slots: Slots,
    candidates: Candidates,
    /// By version, as nodes state it.
    by_runtime: BTreeMap<RuntimeName, BTreeMap<String, ByLoad>>,
    by_label: BTreeMap<String, BTreeMap<String, ByLoad>>,
}

/// Whether a node takes agents.
pub fn open(node: &Node) -> bool {
    node.status == NodeStatus::Active && node.schedulable == Schedulable::Open
}

/// Takes a node off a list, and what is empty then with it.
fn take_off<K, Q>(
    lists: &mut BTreeMap<K, BTreeMap<String, ByLoad>>,
    key: &Q,
    value: &str,
    node: (Load, NodeId),
) where
    K: Ord + Borrow<Q>,
    Q: Ord + ?Sized,
{
    let Some(values) = lists.get_mut(key) else { return };
    let Some(nodes) = values.get_mut(value) else { return };
    nodes.remove(&node);
    if nodes.is_empty() {
        values.remove(value);
    }
    if values.is_empty() {
        lists.remove(key);
    }
}

impl Index {
    /// The nodes with a runtime that take agents, by its version.
    pub(crate) fn with_runtime(&self, runtime: &RuntimeName) -> Option<&BTreeMap<String, ByLoad>> {
        self.by_runtime.get(runtime)
    }

    /// The nodes with a label that take agents, by its value.
    pub(crate) fn with_label(&self, key: &str) -> Option<&BTreeMap<String, ByLoad>> {
        self.by_label.get(key)
    }

    /// The nodes that take agents, with their load.
    pub(crate) fn listed(&self) -> &BTreeMap<NodeId, Load> {
        &self.listed
    }

    /// How many agents surely fit on the nodes that take agents.
    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// The nodes that have room for one agent more of a kind.
    pub(crate) fn candidates(&self) -> &Candidates {
        &self.candidates
    }

    /// Whether the nodes that take agents are ones for the same agents, but for labels and versions.
    pub(crate) fn nodes_are_alike(&self) -> bool {
        let all = self.listed.len();
        let have = |versions: &BTreeMap<String, ByLoad>| versions.values().map(BTreeSet::len).sum();
        self.unfit == 0 && self.by_runtime.values().map(have).all(|nodes: usize| nodes == all)
    }

    /// Takes in that a node's room is another.
    fn refit(&mut self, id: NodeId) {
        self.count_slots(id);
        if let Some((load, room)) = self.listed.get(&id).zip(self.rooms.get(&id)) {
            self.candidates.refit(id, *load, room);
        }
    }

    /// Counts how many agents surely fit on a node that takes agents.
    fn count_slots(&mut self, id: NodeId) {
        let Some(room) = self.rooms.get(&id).filter(|_| self.listed.contains_key(&id)) else {
            return;
        };
        let agents = self.placed.get(&id).map_or(0, BTreeSet::len);
        self.slots.put(id, Some((room.slots(self.slots.largest), agents)));
    }

    /// Takes in what a new agent asks for.
    pub(crate) fn add_agent(&mut self, spec: &AgentSpec) {
        self.totals.add_agent(spec);
        self.candidates.add_agent(spec);
    }

    /// Forgets what an agent asked for.
    pub(crate) fn remove_agent(&mut self, spec: &AgentSpec) {
        self.totals.remove_agent(spec);
        self.candidates.remove_agent(spec);
    }

    /// Brings what depends on the sizes and the kinds of all agents up to date.
    pub(crate) fn catch_up(&mut self, nodes: &BTreeMap<NodeId, Node>) {
        let largest = self.totals.largest_asked();
        if self.slots.largest != largest {
            self.slots.largest = largest;
            let listed: Vec<NodeId> = self.listed.keys().copied().collect();
            listed.into_iter().for_each(|id| self.count_slots(id));
        }
        for demand in self.candidates.drop_lists() {
            let meeting: Vec<&Node> = plan::listed(self, nodes, demand.needs()).collect();
            let rooms = meeting.into_iter().map(|node| (node, self.rooms.get(&node.id)));
            self.candidates.add_list(demand, rooms);
        }
    }

    fn list(&mut self, node: &Node, load: Load) {
        let Some(report) = &node.report else { return };
        self.unfit += usize::from(!report.unfit.is_empty());
        self.candidates.add_node(node, |needs| plan::matches(node, needs));
        self.enlist(node, load);
        self.refit(node.id);
    }

    /// Puts a node on the lists of its runtimes and labels.
    fn enlist(&mut self, node: &Node, load: Load) {
        let Some(report) = &node.report else { return };
        self.listed.insert(node.id, load);
        for (runtime, version) in &report.runtimes {
            match self.by_runtime.get_mut(runtime).and_then(|found| found.get_mut(version)) {
                Some(nodes) => drop(nodes.insert((load, node.id))),
                None => {
                    let versions = self.by_runtime.entry(runtime.clone()).or_default();
                    versions.insert(version.clone(), BTreeSet::from([(load, node.id)]));
                }
            }
        }
        for (key, value) in report.labels.iter() {
            match self.by_label.get_mut(key).and_then(|values| values.get_mut(value)) {
                Some(nodes) => drop(nodes.insert((load, node.id))),
                None => {
                    let values = self.by_label.entry(key.into()).or_default();
                    values.insert(value.into(), BTreeSet::from([(load, node.id)]));
                }
            }
        }
    }

    /// Takes a node, as it was, off the lists.
    pub(crate) fn unlist(&mut self, node: &Node) {
        if self.delist(node) {
            let unfit = node.report.as_ref().is_some_and(|report| !report.unfit.is_empty());
            self.unfit -= usize::from(unfit);
            self.slots.put(node.id, None);
            self.candidates.remove_node(node.id);
        }
    }

    /// Takes a node off the lists of its runtimes and labels; whether it was on them.
    fn delist(&mut self, node: &Node) -> bool {
        let Some(load) = self.listed.remove(&node.id) else { return false };
        let Some(report) = &node.report else { return true };
        for (runtime, version) in &report.runtimes {
            take_off(&mut self.by_runtime, runtime, version, (load, node.id));
        }
        for (key, value) in report.labels.iter() {
            take_off(&mut self.by_label, key, value, (load, node.id));
        }
        true
    }

    /// Takes in a node that is new or changed; it was taken off the lists before.
    pub(crate) fn put_node(&mut self, node: &Node, policy: &PlacementPolicy) {
        self.totals.put_node(node, policy);
        let Some(report) = &node.report else { return };
        let bound = limit(report, policy);
        let room = self.rooms.entry(node.id).or_insert_with(|| Room::new(report.port_range, bound));
        room.set_limit(bound);
        let load = room.load();
        if open(node) {
            self.list(node, load);
        }
    }

    /// Gives the room of a node, which is put anew then, another port range: false, and nothing
    /// changed, when something of `owned` lies outside. What is only `kept` from agents is left out
    /// then.
    pub(crate) fn set_port_range<'a>(
        &mut self,
        node: NodeId,
        range: PortRange,
        owned: impl Iterator<Item = &'a Agent>,
        kept: impl Iterator<Item = PortBlock>,
    ) -> bool {
        let limit = self.rooms.get(&node).map(Room::limit).unwrap_or_default();
        let mut room = Room::new(range, limit);
        let mut owned = owned.filter_map(|agent| Some((agent, agent.placement.as_ref()?.block)));
        let fits = owned.all(|(agent, block)| room.take_exactly(&agent.spec, block));
        if fits {
            for block in kept {
                room.keep_block(block);
            }
            self.rooms.insert(node, room);
        }
        fits
    }

    /// Lets agents have a block of a node.
    pub(crate) fn free_block(&mut self, node: NodeId, block: PortBlock) {
        if let Some(room) = self.rooms.get_mut(&node) {
            room.free_block(block);
            self.refit(node);
        }
    }

    pub(crate) fn remove_node(&mut self, node: &Node) {
        self.unlist(node);
        self.totals.remove_node(node.id);
        self.rooms.remove(&node.id);
        self.placed.remove(&node.id);
    }

    /// Moves a node to where its load puts it.
    pub(crate) fn relist(&mut self, node: &Node) {
        let load = self.rooms.get(&node.id).map_or(0, Room::load);
        if self.listed.get(&node.id).is_some_and(|listed| *listed != load) {
            self.delist(node);
            self.enlist(node, load);
        }
        self.refit(node.id);
    }

    /// Takes in that an agent is placed on a node.
    pub(crate) fn place(&mut self, id: &AgentId, spec: &AgentSpec, node: &Node) {
        self.settle(id, spec, node.id);
        self.relist(node);
    }

    /// Takes in that an agent is on a node, which is listed anew later.
    pub(crate) fn settle(&mut self, id: &AgentId, spec: &AgentSpec, node: NodeId) {
        self.placed.entry(node).or_default().insert(id.clone());
        if !self.fleets.contains_key(&id.fleet) {
            self.fleets.insert(id.fleet.clone(), BTreeMap::new());
        }
        if let Some(nodes) = self.fleets.get_mut(&id.fleet) {
            let count = nodes.entry(node).or_default();
            count.all += 1;
            count.apart += usize::from(spec.wants.apart);
        }
    }

    /// Takes in that an agent left a node. Its block stays taken.
    pub(crate) fn unplace(&mut self, agent: &Agent, node: NodeId, block: PortBlock) {
        if let Some(room) = self.rooms.get_mut(&node) {
            room.disown(&agent.spec, block);
        }
        if let Some(placed) = self.placed.get_mut(&node) {
            placed.remove(&agent.id);
            if placed.is_empty() {
                self.placed.remove(&node);
            }
        }
        if let Some(nodes) = self.fleets.get_mut(&agent.id.fleet) {
            if let Some(count) = nodes.get_mut(&node) {
                count.all -= 1;
                count.apart -= usize::from(agent.spec.wants.apart);
                if count.all == 0 {
                    nodes.remove(&node);
                }
            }
            if nodes.is_empty() {
                self.fleets.remove(&agent.id.fleet);
            }
        }
        self.unplaced.insert(agent.id.clone());
    }

    /// Whether an agent of a fleet that stands apart is on a node.
    pub(crate) fn stands_apart(&self, fleet: &FleetName, node: NodeId) -> bool {
        let nodes = self.fleets.get(fleet);
        nodes.and_then(|nodes| nodes.get(&node)).is_some_and(|count| count.apart > 0)
    }
}
