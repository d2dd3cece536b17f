//! What is derived from the records so that no question walks over all of them: where agents are,
//! what room nodes have, and which nodes come first for an agent. Never stored; the same records
//! give the same index, whatever the history.

use alloc::{
    borrow::ToOwned,
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec,
    vec::Vec,
};
use core::borrow::Borrow;

use fleet_types::{AgentId, FleetName, NodeId, PortBlock, PortRange, RuntimeName};

use crate::{
    admission::{Amounts, Totals},
    by_load::{ByLoad, Place},
    offer::{Ask, Marks, Needs, Offer},
    provision::Slots,
    record::{Agent, AgentSpec, Node, NodeStatus, PlacementPolicy, Schedulable},
    room::{Load, Room, limit},
    whereabouts::Whereabouts,
};

/// Of how many nodes a label or version is true that has a mark; of fewer the list is short.
/// Fewer in tests.
const COMMON: usize = if cfg!(test) { 4 } else { 64 };

/// The nodes of which something is true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Posting {
    pub(crate) nodes: ByLoad,
    /// Whether they have a mark for it.
    marked: bool,
}

/// The nodes that take agents, by the values of something.
pub(crate) type Values = BTreeMap<String, Posting>;

/// A node that takes agents: where it is listed, and with what offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) load: Load,
    offer: Offer,
}

/// The shortest lists that together hold every node that is one for an agent, and what those have
/// to offer. What no mark stands for is to be looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Search<'a> {
    lists: Vec<&'a ByLoad>,
    ask: Ask,
}

impl Search<'_> {
    /// How many nodes are listed, whatever they offer.
    pub(crate) fn len(&self) -> usize {
        self.lists.iter().map(|list| list.len()).sum()
    }

    /// The least full node after a place, or of all.
    pub(crate) fn first_after(&self, place: Option<Place>) -> Option<Place> {
        self.lists.iter().filter_map(|list| list.first_after(place, &self.ask)).min()
    }

    /// All of them, the least full first.
    pub(crate) fn nodes(self) -> impl Iterator<Item = NodeId> {
        let first = self.first_after(None);
        let places = core::iter::successors(first, move |place| self.first_after(Some(*place)));
        places.map(|(_, id)| id)
    }
}

/// The index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) rooms: BTreeMap<NodeId, Room>,
    pub(crate) placed: BTreeMap<NodeId, BTreeSet<AgentId>>,
    pub(crate) unplaced: BTreeSet<AgentId>,
    pub(crate) totals: Totals,
    pub(crate) whereabouts: Whereabouts,
    /// The nodes that take agents.
    listed: BTreeMap<NodeId, Listed>,
    /// How many of these are unfit for strict agents.
    unfit: usize,
    slots: Slots,
    /// By version, as nodes state it.
    by_runtime: BTreeMap<RuntimeName, Values>,
    by_label: BTreeMap<String, Values>,
    /// What is common and has no mark, or the reverse.
    unsettled: BTreeSet<Fact>,
}

/// Something that may be true of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fact {
    Version(RuntimeName, String),
    Label(String, String),
}

/// Whether a node takes agents.
pub fn open(node: &Node) -> bool {
    node.status == NodeStatus::Active && node.schedulable == Schedulable::Open
}

/// Moves a node in the list of a value, which there is only while it has nodes. Whether that value
/// is common and has no mark now, or the reverse.
fn put_in<K, Q>(
    lists: &mut BTreeMap<K, Values>,
    key: &Q,
    value: &str,
    from: Option<Place>,
    to: Option<(Place, Offer)>,
) -> bool
where
    K: Ord + Borrow<Q>,
    Q: Ord + ToOwned<Owned = K> + ?Sized,
{
    let Some(posting) = lists.get_mut(key).and_then(|values| values.get_mut(value)) else {
        if to.is_some() {
            let posting = lists.entry(key.to_owned()).or_default().entry(value.into()).or_default();
            posting.nodes.put(None, to);
        }
        return false;
    };
    posting.nodes.put(from, to);
    let (nodes, marked) = (posting.nodes.len(), posting.marked);
    if nodes == 0
        && let Some(values) = lists.get_mut(key)
    {
        values.remove(value);
        if values.is_empty() {
            lists.remove(key);
        }
    }
    nodes > 0 && (nodes >= COMMON) != marked
}

impl Index {
    /// The nodes with a runtime that take agents, by its version.
    pub(crate) fn with_runtime(&self, runtime: &RuntimeName) -> Option<&Values> {
        self.by_runtime.get(runtime)
    }

    /// The nodes with a label that take agents, by its value.
    pub(crate) fn with_label(&self, key: &str) -> Option<(&String, &Values)> {
        self.by_label.get_key_value(key)
    }

    /// The nodes with a label that take agents.
    pub(crate) fn having(&self, key: &str, value: &str) -> Search<'_> {
        let posting = self.by_label.get(key).and_then(|values| values.get(value));
        let lists = posting.into_iter().map(|posting| &posting.nodes).collect();
        Search { lists, ask: Ask::default() }
    }

    /// The nodes that take agents.
    pub(crate) fn listed(&self) -> &BTreeMap<NodeId, Listed> {
        &self.listed
    }

    /// How many agents surely fit on the nodes that take agents.
    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Whether the nodes that take agents are ones for the same agents, but for labels and versions.
    pub(crate) fn nodes_are_alike(&self) -> bool {
        let all = self.listed.len();
        let have = |versions: &Values| versions.values().map(|posting| posting.nodes.len()).sum();
        self.unfit == 0 && self.by_runtime.values().map(have).all(|nodes: usize| nodes == all)
    }

    /// The nodes that take agents, are ones for an agent and have so much room left, of those with
    /// a label if given.
    pub(crate) fn search(
        &self,
        Needs { runtime, version, labels, strict }: Needs<'_>,
        room: Amounts,
        label: Option<(&str, &str)>,
    ) -> Search<'_> {
        let fit = if strict { Marks::FIT } else { Marks::default() };
        let mut ask = Ask { room, all: fit.and(Marks::runtime(runtime)), any: Marks::default() };

        let versions = self.by_runtime.get(runtime).into_iter().flatten();
        let reached = |found: &str| version.is_none_or(|version| version.is_reached_by(found));
        let versions: Vec<_> = versions.filter(|(found, _)| reached(found)).collect();
        if version.is_some() && versions.iter().all(|(_, posting)| posting.marked) {
            let marks = versions.iter().map(|(found, _)| Marks::version(runtime, found));
            ask.any = marks.fold(ask.any, Marks::and);
        }
        let mut lists: Vec<&ByLoad> = versions.iter().map(|(_, posting)| &posting.nodes).collect();
        for (key, value) in labels.iter().chain(label) {
            let Some(posting) = self.by_label.get(key).and_then(|values| values.get(value)) else {
                return Search::default();
            };
            if posting.marked {
                ask.all = ask.all.and(Marks::label(key, value));
            }
            if posting.nodes.len() < lists.iter().map(|list| list.len()).sum() {
                lists = vec![&posting.nodes];
            }
        }
        Search { lists, ask }
    }

    /// Counts how many agents surely fit on a node that takes agents.
    fn count_slots(&mut self, id: NodeId) {
        let Some(room) = self.rooms.get(&id).filter(|_| self.listed.contains_key(&id)) else {
            return;
        };
        let agents = self.placed.get(&id).map_or(0, BTreeSet::len);
        self.slots.put(id, Some((room.slots(self.slots.largest), agents)));
    }

    /// Takes in a new agent, on no node yet.
    pub(crate) fn add_agent(
        &mut self,
        fleet: &FleetName,
        spec: &AgentSpec,
        nodes: &BTreeMap<NodeId, Node>,
    ) {
        self.totals.add_agent(spec);
        self.whereabouts.add(fleet, spec, nodes);
    }

    /// Forgets an agent that is on no node.
    pub(crate) fn remove_agent(&mut self, fleet: &FleetName, spec: &AgentSpec) {
        self.totals.remove_agent(spec);
        self.whereabouts.remove(fleet, spec);
    }

    /// Brings what depends on many nodes or on all agents up to date.
    pub(crate) fn catch_up(&mut self, nodes: &BTreeMap<NodeId, Node>) {
        let largest = self.totals.largest_asked();
        if self.slots.largest != largest {
            self.slots.largest = largest;
            let listed: Vec<NodeId> = self.listed.keys().copied().collect();
            listed.into_iter().for_each(|id| self.count_slots(id));
        }
        let mut marked_anew = BTreeSet::new();
        for fact in core::mem::take(&mut self.unsettled) {
            let posting = match &fact {
                Fact::Version(name, version) => {
                    self.by_runtime.get_mut(name).and_then(|versions| versions.get_mut(version))
                }
                Fact::Label(key, value) => {
                    self.by_label.get_mut(key).and_then(|values| values.get_mut(value))
                }
            };
            let Some(posting) = posting else { continue };
            posting.marked = posting.nodes.len() >= COMMON;
            let all = Search { lists: vec![&posting.nodes], ask: Ask::default() };
            marked_anew.extend(all.nodes());
        }
        for node in marked_anew.into_iter().filter_map(|id| nodes.get(&id)) {
            let marks = self.marks(node);
            let listed = self.listed.get(&node.id).copied();
            if let Some(Listed { load, offer: Offer { room, .. } }) = listed {
                self.put(node, Some(Listed { load, offer: Offer { room, marks } }));
            }
        }
    }

    /// The marks of a node.
    fn marks(&self, node: &Node) -> Marks {
        let Some(report) = &node.report else { return Marks::default() };
        let marked = |values: Option<&Values>, value: &str| {
            values.and_then(|values| values.get(value)).is_some_and(|posting| posting.marked)
        };
        let mut marks = if report.unfit.is_empty() { Marks::FIT } else { Marks::default() };
        for (name, version) in &report.runtimes {
            marks = marks.and(Marks::runtime(name));
            if marked(self.by_runtime.get(name), version) {
                marks = marks.and(Marks::version(name, version));
            }
        }
        for (key, value) in report.labels.iter() {
            if marked(self.by_label.get(key), value) {
                marks = marks.and(Marks::label(key, value));
            }
        }
        marks
    }

    /// Lists a node, which is as it was when it was listed last, anew or no more.
    fn put(&mut self, node: &Node, now: Option<Listed>) {
        let before = self.listed.get(&node.id).copied();
        let Some(report) = node.report.as_ref().filter(|_| before != now) else { return };
        let from = before.map(|before| (before.load, node.id));
        let to = now.map(|now| ((now.load, node.id), now.offer));
        for (name, version) in &report.runtimes {
            if put_in(&mut self.by_runtime, name, version, from, to) {
                self.unsettled.insert(Fact::Version(name.clone(), version.clone()));
            }
        }
        for (key, value) in report.labels.iter() {
            if put_in(&mut self.by_label, key, value, from, to) {
                self.unsettled.insert(Fact::Label(key.into(), value.into()));
            }
        }
        match now {
            Some(now) => drop(self.listed.insert(node.id, now)),
            None => drop(self.listed.remove(&node.id)),
        }
    }

    /// What a node with these marks is listed with now.
    fn listing(&self, id: NodeId, marks: Marks) -> Listed {
        let room = self.rooms.get(&id);
        let (load, room) = room.map(|room| (room.load(), room.left())).unwrap_or_default();
        Listed { load, offer: Offer { room, marks } }
    }

    /// Takes a node, as it was, off the lists.
    pub(crate) fn unlist(&mut self, node: &Node) {
        if self.listed.contains_key(&node.id) {
            let unfit = node.report.as_ref().is_some_and(|report| !report.unfit.is_empty());
            self.unfit -= usize::from(unfit);
            self.slots.put(node.id, None);
            self.put(node, None);
        }
    }

    /// Takes in a node that is new or changed; it was taken off the lists before.
    pub(crate) fn put_node(&mut self, node: &Node, policy: &PlacementPolicy) {
        self.totals.put_node(node, policy);
        let Some(report) = &node.report else { return };
        let bound = limit(report, policy);
        let room = self.rooms.entry(node.id).or_insert_with(|| Room::new(report.port_range, bound));
        room.set_limit(bound);
        if open(node) {
            self.unfit += usize::from(!report.unfit.is_empty());
            self.put(node, Some(self.listing(node.id, self.marks(node))));
            self.count_slots(node.id);
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
    pub(crate) fn free_block(&mut self, node: &Node, block: PortBlock) {
        if let Some(room) = self.rooms.get_mut(&node.id) {
            room.free_block(block);
            self.relist(node);
        }
    }

    pub(crate) fn remove_node(&mut self, node: &Node) {
        self.unlist(node);
        self.totals.remove_node(node.id);
        self.rooms.remove(&node.id);
        self.placed.remove(&node.id);
    }

    /// Takes in that a node's room is another.
    pub(crate) fn relist(&mut self, node: &Node) {
        if let Some(Listed { offer: Offer { marks, .. }, .. }) = self.listed.get(&node.id) {
            self.put(node, Some(self.listing(node.id, *marks)));
            self.count_slots(node.id);
        }
    }

    /// Takes in that an agent is placed on a node.
    pub(crate) fn place(&mut self, id: &AgentId, spec: &AgentSpec, node: &Node) {
        self.settle(id, spec, node);
        self.relist(node);
    }

    /// Takes in that an agent is on a node, which is listed anew later.
    pub(crate) fn settle(&mut self, id: &AgentId, spec: &AgentSpec, node: &Node) {
        self.placed.entry(node.id).or_default().insert(id.clone());
        self.whereabouts.come(&id.fleet, spec, node);
    }

    /// Takes in that an agent left a node. Its block stays taken.
    pub(crate) fn unplace(&mut self, agent: &Agent, node: &Node, block: PortBlock) {
        if let Some(room) = self.rooms.get_mut(&node.id) {
            room.disown(&agent.spec, block);
        }
        if let Some(placed) = self.placed.get_mut(&node.id) {
            placed.remove(&agent.id);
            if placed.is_empty() {
                self.placed.remove(&node.id);
            }
        }
        self.whereabouts.leave(&agent.id.fleet, &agent.spec, node);
        self.unplaced.insert(agent.id.clone());
        self.relist(node);
    }

    /// Takes in that a node, which is put anew then, may have other labels.
    pub(crate) fn relabel(&mut self, before: &Node, now: &Node) {
        let placed = self.placed.get(&now.id).into_iter().flatten();
        self.whereabouts.relabel(before, now, placed.map(|id| &id.fleet));
    }
}
