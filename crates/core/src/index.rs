//! What is derived from the records so that no question walks over all of them: where agents are,
//! what room nodes have, and which nodes come first for an agent. Never stored; the same records
//! give the same index, whatever the history.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    sync::Arc,
    vec::Vec,
};
use core::mem;

use fleet_types::{AgentId, FleetName, NodeId, PortBlock, PortRange, RuntimeName};

use crate::{
    admission::{Amounts, Totals},
    by_load::{ByLoad, Place},
    by_value::{AgentsUnder, ByValue, Posting},
    demands::{Beside, Bits, Demands, Numbers, Suits},
    nested::{entry, forget},
    offer::{Ask, Counted, Marked, Marks, Needs, Offer},
    provision::Slots,
    record::{Agent, AgentSpec, Node, NodeReport, NodeStatus, PlacementPolicy, Schedulable},
    room::{Load, Room, limit},
    whereabouts::Whereabouts,
};

/// How many nodes have a label or version that has a mark of its own. Fewer in tests.
const COMMON: usize = if cfg!(test) { 4 } else { 64 };

impl Posting {
    /// Adds the mark of these nodes, which have a label, to others, and takes the shorter list.
    fn narrow<'a>(
        &'a self,
        marks: Marks,
        list: &'a ByLoad,
        key: &str,
        value: &str,
    ) -> (Marks, &'a ByLoad) {
        let mark = if self.marked { Marks::label(key, value) } else { Marks::default() };
        (marks.and(mark), if self.nodes.len() < list.len() { &self.nodes } else { list })
    }
}

/// How many nodes that take agents have a version of a runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Having {
    nodes: usize,
    /// Whether they have a mark for it of its own.
    marked: bool,
}

/// A node that takes agents: where it is listed, and with what offer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) load: Load,
    traits: Traits,
    offer: Arc<Offer>,
}

/// What is so of a node whatever runs there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Traits {
    marked: Marked,
    /// What of the known demands it is one for.
    is_one_for: Bits,
}

/// A list that holds every node that is one for an agent, if there is any, and what those have to
/// offer. What no mark stands for is to be looked at.
#[derive(Debug, Default)]
pub(crate) struct Search<'a> {
    list: Option<&'a ByLoad>,
    ask: Ask,
}

impl Search<'_> {
    /// Leaves out values that have more agents of the fleet it is for, which is spread by the label.
    pub(crate) fn at_most(mut self, agents: usize) -> Self {
        self.ask.at_most = self.ask.at_most.map(|(spread, _)| (spread, agents));
        self
    }

    /// Whether they are so few that each may be looked at.
    pub(crate) fn is_short(&self) -> bool {
        self.list.is_none_or(|list| list.len() < COMMON)
    }

    /// The least full node after a place, or of all.
    pub(crate) fn first_after(&self, place: Option<Place>) -> Option<Place> {
        self.list?.first_after(place, &self.ask)
    }

    /// Whether it is for what is known.
    #[cfg(test)]
    pub(crate) fn is_of_known(&self) -> bool {
        let of_fleet = matches!(&self.ask.at_most, Some((Counted::Fleet(_), _)));
        self.ask.suits != Suits::default() && self.ask.apart_from.is_none() && !of_fleet
    }

    /// Whether it leads straight to the first.
    #[cfg(test)]
    pub(crate) fn leads(&self) -> bool {
        self.list.is_none_or(|list| list.leads(&self.ask))
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
    /// Those that are asked to leave the node they are placed on.
    pub(crate) leaving: BTreeSet<AgentId>,
    pub(crate) totals: Totals,
    pub(crate) whereabouts: Whereabouts,
    /// The nodes that take agents.
    listed: BTreeMap<NodeId, Listed>,
    /// Those that registered once and take none now.
    pub(crate) closed: BTreeSet<NodeId>,
    /// How many of these are unfit for strict agents.
    unfit: usize,
    slots: Slots,
    by_load: ByLoad,
    by_label: BTreeMap<String, ByValue>,
    demands: Demands,
    /// By version, as nodes state it.
    runtimes: BTreeMap<RuntimeName, BTreeMap<String, Having>>,
    /// What is common and has no mark, or the reverse.
    unsettled: BTreeSet<Fact>,
}

/// Something that may be true of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fact {
    Version(RuntimeName, String),
    Label(String, String),
}

impl Having {
    /// What nodes with this version are marked with: those of versions that few have alike.
    fn mark(self, runtime: &RuntimeName, version: &str) -> Marks {
        if self.marked { Marks::version(runtime, version) } else { Marks::rare_version(runtime) }
    }
}

/// Whether a node takes agents.
pub fn open(node: &Node) -> bool {
    node.status == NodeStatus::Active && node.schedulable == Schedulable::Open
}

impl Index {
    /// Whether a node that takes agents has a runtime.
    pub(crate) fn has_runtime(&self, runtime: &RuntimeName) -> bool {
        self.runtimes.contains_key(runtime)
    }

    /// Whether each value of a label may be tried.
    pub(crate) fn has_few_values(&self, key: &str) -> bool {
        self.by_label.get(key).is_none_or(|values| values.len() < COMMON)
    }

    /// The nodes with a label that take agents, by its value.
    pub(crate) fn with_label(&self, key: &str) -> Option<(&String, &ByValue)> {
        self.by_label.get_key_value(key)
    }

    /// The nodes with a label that take agents.
    pub(crate) fn having(&self, key: &str, value: &str) -> Search<'_> {
        let posting = self.posting(key, value);
        Search { list: posting.map(|posting| &posting.nodes), ask: Ask::default() }
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
        let have = |versions: &BTreeMap<_, Having>| versions.values().map(|it| it.nodes).sum();
        self.unfit == 0 && self.runtimes.values().map(have).all(|nodes: usize| nodes == all)
    }

    /// The nodes that take agents, are ones for an agent and have room of a size if one is given, of
    /// those with a label if given, but for those with agents of a fleet that stand apart.
    pub(crate) fn search(
        &self,
        needs: Needs<'_>,
        size: Option<Amounts>,
        label: Option<(&str, &str)>,
        apart_from: Option<&FleetName>,
    ) -> Search<'_> {
        let Some((mut ask, mut list)) = self.ask(needs, size) else { return Search::default() };
        let beside = |fleet| Beside { fleet, apart: true, spread_by: None };
        self.suit(&mut ask, needs, size, apart_from.map(beside));
        if let Some((key, value)) = label {
            let Some(posting) = self.posting(key, value) else { return Search::default() };
            (ask.all, list) = posting.narrow(ask.all, list, key, value);
            if ask.suits != Suits::default() {
                // All but this label is known of its nodes.
                list = &posting.nodes;
            }
        }
        Search { list: Some(list), ask }
    }

    /// The values of a label under which such nodes may be, each as the place of its least full
    /// node, that of the least full first: all, or those for a fleet without agents of it.
    pub(crate) fn search_values(
        &self,
        needs: Needs<'_>,
        size: Amounts,
        key: &str,
        of: Option<(&FleetName, bool)>,
    ) -> Search<'_> {
        let ask = self.ask(needs, Some(size)).map(|(ask, _)| ask);
        let Some((by_value, mut ask)) = self.by_label.get(key).zip(ask) else {
            return Search::default();
        };
        let beside = |(fleet, apart), spread_by| Beside { fleet, apart, spread_by };
        self.suit(&mut ask, needs, Some(size), of.filter(|it| it.1).map(|it| beside(it, None)));
        ask.at_most = of.map(|of| {
            // Of few values it is not known how many agents are under each.
            let listed = self.demands.number(Some(beside(of, Some(key))), needs, Some(size));
            let listed = listed.filter(|_| !self.has_few_values(key)).map(Counted::Known);
            (listed.unwrap_or_else(|| Counted::Fleet(of.0.clone())), 0)
        });
        Search { list: Some(by_value.values()), ask }
    }

    /// Asks for nodes that suit an agent as it is listed, if it is, and for those without agents
    /// that stand apart.
    fn suit(
        &self,
        ask: &mut Ask,
        needs: Needs<'_>,
        size: Option<Amounts>,
        apart: Option<Beside<'_>>,
    ) {
        let suits = if size.is_some() { Suits::room_for } else { Suits::one_for };
        let number = |beside| self.demands.number(beside, needs, size);
        let own = apart.and_then(|apart| number(Some(apart)));
        if own.is_none() {
            ask.apart_from = apart.map(|it| it.fleet.clone());
        }
        ask.suits = own.or_else(|| number(None)).map(suits).unwrap_or_default();
    }

    /// What is asked of nodes, if any could be one for the agent, and the shortest list of them.
    fn ask(
        &self,
        Needs { runtime, version, labels, strict }: Needs<'_>,
        size: Option<Amounts>,
    ) -> Option<(Ask, &ByLoad)> {
        let fit = if strict { Marks::FIT } else { Marks::default() };
        let (all, room) = (fit.and(Marks::runtime(runtime)), size.unwrap_or_default());
        let mut ask = Ask { room, shape: (&room).into(), all, ..Ask::default() };
        if let Some(version) = version {
            let versions = self.runtimes.get(runtime)?.iter();
            let reached = versions.filter(|(found, _)| version.is_reached_by(found));
            let marks = reached.map(|(found, having)| having.mark(runtime, found));
            ask.any = marks.fold(ask.any, Marks::and);
            if ask.any == Marks::default() {
                return None;
            }
        }
        let mut list = &self.by_load;
        for (key, value) in labels.iter() {
            (ask.all, list) = self.posting(key, value)?.narrow(ask.all, list, key, value);
        }
        Some((ask, list))
    }

    fn posting(&self, key: &str, value: &str) -> Option<&Posting> {
        self.by_label.get(key)?.get(value)
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
        self.demands.add(fleet, spec);
        let values = self.whereabouts.add(fleet, spec, nodes);
        self.relist_spread(spec, &values);
    }

    /// Forgets an agent that is on no node.
    pub(crate) fn remove_agent(
        &mut self,
        fleet: &FleetName,
        spec: &AgentSpec,
        nodes: &BTreeMap<NodeId, Node>,
    ) {
        self.totals.remove_agent(spec);
        self.demands.remove(fleet, spec);
        let values = self.whereabouts.remove(fleet, spec, nodes);
        self.relist_spread(spec, &values);
    }

    /// The agents under a value, of the fleets that are spread by the label. Of none, where values
    /// are few: each is tried then, and agents of many fleets are under each.
    fn under(&self, key: &str, value: &str) -> AgentsUnder {
        if self.has_few_values(key) {
            return AgentsUnder::default();
        }
        let agents = self.whereabouts.under(key, value);
        AgentsUnder { crowd: agents.into(), known: self.demands.count(key, agents) }
    }

    /// Lists values of the label that an agent is spread by anew.
    fn relist_spread(&mut self, spec: &AgentSpec, values: &[String]) {
        if let Some(key) = &spec.wants.spread_by {
            values.iter().for_each(|value| self.relist_value(key, value));
        }
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
        for fact in mem::take(&mut self.unsettled) {
            let having = match &fact {
                Fact::Version(name, version) => {
                    let versions = self.runtimes.get_mut(name);
                    let Some(having) = versions.and_then(|it| it.get_mut(version)) else {
                        continue;
                    };
                    let (before, common) = (having.mark(name, version), having.nodes >= COMMON);
                    if mem::replace(&mut having.marked, common) == common {
                        continue;
                    }
                    Search { list: Some(&self.by_load), ask: Ask { all: before, ..Ask::default() } }
                }
                Fact::Label(key, value) => {
                    let values = self.by_label.get_mut(key);
                    let Some(posting) = values.and_then(|it| it.get_mut(value)) else { continue };
                    let common = posting.nodes.len() >= COMMON;
                    if mem::replace(&mut posting.marked, common) == common {
                        continue;
                    }
                    self.having(key, value)
                }
            };
            marked_anew.extend(having.nodes());
        }
        for node in marked_anew.into_iter().filter_map(|id| nodes.get(&id)) {
            self.put(node, Some(self.listing(node.id, self.traits(node))));
        }
        if let Some(numbers) = self.demands.settle() {
            self.offer_all(nodes, &numbers);
        }
    }

    /// Says of all nodes which of the known demands they suit, which have other numbers now.
    fn offer_all(&mut self, nodes: &BTreeMap<NodeId, Node>, numbers: &Numbers) {
        let all = self.listed.iter().filter_map(|(id, Listed { traits, .. })| {
            let (node, before) = (nodes.get(id)?, traits.is_one_for);
            let is_one_for = self.demands.is_one_for_now(node, numbers, before);
            Some((*id, self.listing(*id, Traits { is_one_for, ..*traits })))
        });
        let listed: BTreeMap<NodeId, Listed> = all.collect();
        let now = |id| listed.get(&id).map(|it| it.offer.clone()).unwrap_or_default();
        self.by_load.offer(&now);
        let keys: Vec<String> = self.by_label.keys().cloned().collect();
        for key in keys {
            let values = self.by_label.get(&key).into_iter().flat_map(ByValue::names);
            let under = values.map(|value| (value.clone(), self.under(&key, value))).collect();
            if let Some(by_value) = self.by_label.get_mut(&key) {
                by_value.offer(&now, under);
            }
        }
        self.listed = listed;
    }

    /// What is so of a node whatever runs there.
    fn traits(&self, node: &Node) -> Traits {
        let Some(report) = &node.report else { return Traits::default() };
        let fit = if report.unfit.is_empty() { Marks::FIT } else { Marks::default() };
        let runtimes = report.runtimes.iter().map(|(name, version)| {
            let having = self.runtimes.get(name).and_then(|versions| versions.get(version));
            Marks::runtime(name).and(having.copied().unwrap_or_default().mark(name, version))
        });
        let is_marked =
            |label: &(_, _)| self.posting(label.0, label.1).is_some_and(|posting| posting.marked);
        let labels = report.labels.iter().filter(is_marked);
        let marked = Marked {
            model: runtimes.fold(fit, Marks::and),
            labels: labels.map(|it| Marks::label(it.0, it.1)).fold(Marks::default(), Marks::and),
        };
        Traits { marked, is_one_for: self.demands.is_one_for(node) }
    }

    /// Lists a node, which is as it was when it was listed last, anew or no more.
    fn put(&mut self, node: &Node, now: Option<Listed>) {
        let before = self.listed.get(&node.id);
        let from = before.map(|before| (before.load, node.id));
        let Some(report) = node.report.as_ref().filter(|_| before != now.as_ref()) else {
            return self.relist_values(node);
        };
        let to = now.as_ref().map(|now| ((now.load, node.id), now.offer.clone()));
        self.by_load.put(from, to.clone());
        for (key, value) in report.labels.iter() {
            let (had_few, under) = (self.has_few_values(key), self.under(key, value));
            if !self.by_label.contains_key(key) {
                self.by_label.insert(key.into(), ByValue::default());
            }
            let Some(by_value) = self.by_label.get_mut(key) else { continue };
            by_value.put(value, from, to.clone(), under);
            let posting = by_value.get(value);
            if posting.is_some_and(|it| (it.nodes.len() >= COMMON) != it.marked) {
                self.unsettled.insert(Fact::Label(key.into(), value.into()));
            }
            if by_value.len() == 0 {
                self.by_label.remove(key);
            }
            if had_few != self.has_few_values(key) {
                let values = self.by_label.get(key).into_iter().flat_map(ByValue::names);
                let values: Vec<String> = values.cloned().collect();
                values.iter().for_each(|value| self.relist_value(key, value));
            }
        }
        if from.is_none() || to.is_none() {
            self.count_runtimes(report, to.is_some());
        }
        match now {
            Some(now) => drop(self.listed.insert(node.id, now)),
            None => drop(self.listed.remove(&node.id)),
        }
    }

    /// Takes in that other agents are under a value.
    fn relist_value(&mut self, key: &str, value: &str) {
        let under = self.under(key, value);
        if let Some(by_value) = self.by_label.get_mut(key) {
            by_value.relist(value, under);
        }
    }

    /// Takes in that other agents are under the values of a node's labels.
    fn relist_values(&mut self, node: &Node) {
        for (key, value) in node.report.iter().flat_map(|report| report.labels.iter()) {
            self.relist_value(key, value);
        }
    }

    /// Counts the runtimes of a node that takes agents now, or no more.
    fn count_runtimes(&mut self, report: &NodeReport, takes: bool) {
        for (name, version) in &report.runtimes {
            let having = entry(&mut self.runtimes, name, version);
            having.nodes = if takes { having.nodes + 1 } else { having.nodes - 1 };
            if having.nodes == 0 {
                forget(&mut self.runtimes, name, version);
            } else if (having.nodes >= COMMON) != having.marked {
                self.unsettled.insert(Fact::Version(name.clone(), version.clone()));
            }
        }
    }

    /// What a node with these traits is listed with now.
    fn listing(&self, id: NodeId, traits: Traits) -> Listed {
        let room = self.rooms.get(&id);
        let (load, left) = room.map(|room| (room.load(), room.left())).unwrap_or_default();
        let apart = self.whereabouts.apart(id);
        let suits = self.demands.suiting(traits.is_one_for, left, apart);
        let offer = Offer::of_node(traits.marked, left, apart.into(), suits);
        Listed { load, traits, offer: Arc::new(offer) }
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
            self.closed.remove(&node.id);
            self.unfit += usize::from(!report.unfit.is_empty());
            self.put(node, Some(self.listing(node.id, self.traits(node))));
            self.count_slots(node.id);
        } else {
            self.closed.insert(node.id);
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
        self.closed.remove(&node.id);
        self.totals.remove_node(node.id);
        self.rooms.remove(&node.id);
        self.placed.remove(&node.id);
    }

    /// Takes in that a node's room is another, or its agents are.
    pub(crate) fn relist(&mut self, node: &Node) {
        match self.listed.get(&node.id) {
            Some(listed) => {
                self.put(node, Some(self.listing(node.id, listed.traits)));
                self.count_slots(node.id);
            }
            None => self.relist_values(node),
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
        self.leaving.remove(&agent.id);
        self.relist(node);
    }

    /// Takes in that a node, which is put anew then, may have other labels.
    pub(crate) fn relabel(&mut self, before: &Node, now: &Node) {
        let labels = [before, now].map(|node| node.report.as_ref().map(|report| &report.labels));
        if labels[0] == labels[1] {
            return;
        }
        let placed = self.placed.get(&now.id).into_iter().flatten();
        self.whereabouts.relabel(before, now, placed.map(|id| &id.fleet));
        self.relist_values(before);
        self.relist_values(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Admission, Operation, SetSchedulable, State, apply,
        placement_tests::{Ask, PLAIN, Size, asking, cluster, create, delete},
        property_tests::{command, fleet},
        search_tests::leads,
    };

    /// Some nodes lack the rack, some the disk, some the memory, and some have an agent of the fleet.
    /// With the second agent that asks for it all, a search goes by all of it at once.
    #[test]
    fn what_agents_ask_for_alike_is_found_past_what_has_a_part_of_it() {
        let host = |n: usize| {
            let parts = [(0, 8), (1, 7), (1, 2), (1, 8)];
            let (rack, memory_gib) = parts[n % parts.len()];
            Size { ports: 300 + u16::try_from(n).unwrap(), memory_gib, rack, version: 1 }
        };
        let sizes: Vec<Size> = (0..20).map(host).collect();
        let asked = Ask { memory: 3 << 2, rack: Some(1), disk: true, ..PLAIN };
        for (apart, spread) in
            [(false, None), (true, None), (false, Some("host")), (true, Some("host"))]
        {
            let asked = Ask { apart, spread, ..asked };
            let (mut state, nodes) = cluster(&sizes);
            let create = |state: &mut State, name: &str, to: Option<usize>, asked| {
                let (to, spec) = (to.map(|to| nodes[to]), asking(asked));
                create(state, 2_000, fleet(0), name, to, spec, Admission::Unchecked).unwrap();
            };
            for (memory, to) in (0..4).zip([3, 7, 11, 15]) {
                create(&mut state, &format!("other{memory}"), Some(to), Ask { memory, ..asked });
            }
            let leads = |state: &State| leads(state, &fleet(0), &asking(asked));
            for name in ["a", "b"] {
                assert!(!leads(&state), "{asked:?}: {name}");
                create(&mut state, name, None, asked);
            }
            assert!(leads(&state), "{asked:?}");
            for schedulable in [Schedulable::Cordoned, Schedulable::Open] {
                let set = SetSchedulable { node: nodes[19], schedulable, drain: None };
                apply(&mut state, 2_001, &command(Operation::SetSchedulable(set))).unwrap();
                state.take_changed();
                assert_eq!(State::restore(state.records()), state);
                assert!(leads(&state), "{asked:?} {schedulable:?}");
            }
            delete(&mut state, 0);
            assert!(!leads(&state), "{asked:?}, of one");
            state.take_changed();
            assert_eq!(State::restore(state.records()), state);
        }
    }

    /// Agents of the fleet come and go under values of nodes that have what is asked for, on others
    /// that have not: while those take agents, and while they do not.
    #[test]
    fn agents_on_other_nodes_count_under_a_value_too() {
        let size = |n: u16| {
            let (ports, memory_gib) = (300 + n / 2, u64::from(n % 2) + 1);
            Size { ports, memory_gib, rack: 0, version: 1 }
        };
        let (mut state, nodes) = cluster(&(0..12).map(size).collect::<Vec<_>>());
        let spread = asking(Ask { disk: true, spread: Some("host"), ..PLAIN });
        let agents = [("y", 1, &spread), ("z", 3, &spread), ("a", 0, &asking(PLAIN))];
        let place = |state: &mut State, (name, on, spec): (&str, usize, &AgentSpec)| {
            let (to, spec) = (Some(nodes[on]), spec.clone());
            create(state, 2_000, fleet(0), name, to, spec, Admission::Unchecked).unwrap();
        };
        let same = |state: &mut State| {
            state.take_changed();
            State::restore(state.records()) == *state
        };
        for agent in agents {
            place(&mut state, agent);
            assert!(same(&mut state), "{} came", agent.0);
        }
        delete(&mut state, 0);
        assert!(same(&mut state), "it left");
        place(&mut state, agents[2]);
        let set =
            SetSchedulable { node: nodes[0], schedulable: Schedulable::Cordoned, drain: None };
        apply(&mut state, 2_001, &command(Operation::SetSchedulable(set))).unwrap();
        delete(&mut state, 0);
        assert!(same(&mut state), "it left a node that takes none");
    }
}
