//! The nodes that have room for one more agent of a kind now, the least full first, kept as rooms
//! change: to choose a node is to take the first.
//!
//! A [`Demand`] is all that decides whether a node suits an agent, but for where others of its
//! fleet are. There is a list for each of the [`LISTS_MAX`] that most agents make, of those that
//! [`COMMON`] make at least: a node whose room changes is moved in every list it is on, and a list
//! is begun by looking at all nodes. Agents of other kinds are placed by a walk, see
//! [`crate::plan`].

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    sync::Arc,
    vec::Vec,
};
use core::cmp::Reverse;

use fleet_types::{AgentClass, Labels, NodeId, RuntimeName, Version};

use crate::{
    admission::{self, Amounts},
    index::ByLoad,
    record::{AgentSpec, Node},
    room::{Load, Room},
};

/// The most lists. Tests go past it.
const LISTS_MAX: usize = if cfg!(test) { 6 } else { 16 };
/// How many agents make a demand that is worth a list; a power of two. Fewer in tests.
const COMMON: usize = if cfg!(test) { 1 } else { 8 };

/// What a node must be for an agent, whatever else is there.
#[derive(Clone, Copy)]
pub(crate) struct Needs<'a> {
    pub(crate) runtime: &'a RuntimeName,
    pub(crate) version: Option<&'a Version>,
    pub(crate) labels: &'a Labels,
    pub(crate) strict: bool,
}

impl<'a> From<&'a AgentSpec> for Needs<'a> {
    fn from(spec: &'a AgentSpec) -> Self {
        Self {
            runtime: &spec.runtime,
            version: spec.wants.runtime_version.as_ref(),
            labels: &spec.wants.node_labels,
            strict: spec.class == AgentClass::Strict,
        }
    }
}

/// What agents of one kind ask of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Demand {
    runtime: RuntimeName,
    version: Option<Version>,
    labels: Labels,
    strict: bool,
    spread_by: Option<String>,
    size: Amounts,
}

impl From<&AgentSpec> for Demand {
    fn from(spec: &AgentSpec) -> Self {
        let Needs { runtime, version, labels, strict } = spec.into();
        let size = admission::asked(spec);
        let spread_by = spec.wants.spread_by.clone();
        let (runtime, version, labels) = (runtime.clone(), version.cloned(), labels.clone());
        Self { runtime, version, labels, strict, spread_by, size }
    }
}

impl Demand {
    /// What it needs a node to be.
    pub(crate) fn needs(&self) -> Needs<'_> {
        let Self { runtime, version, labels, strict, .. } = self;
        Needs { runtime, version: version.as_ref(), labels, strict: *strict }
    }
}

/// The nodes for one demand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct List {
    pub(crate) all: ByLoad,
    /// By the value of the label that agents are spread by.
    pub(crate) by_value: BTreeMap<String, ByLoad>,
}

impl List {
    /// Moves a node from one load to another; to none when it has no room.
    fn put(&mut self, id: NodeId, value: Option<&str>, before: Load, now: Option<Load>) {
        relist(&mut self.all, id, before, now);
        let Some(value) = value else { return };
        if let Some(nodes) = self.by_value.get_mut(value) {
            relist(nodes, id, before, now);
            if nodes.is_empty() {
                self.by_value.remove(value);
            }
        } else if let Some(load) = now {
            self.by_value.insert(value.into(), BTreeSet::from([(load, id)]));
        }
    }
}

/// Moves a node from one load to another; off the list when there is none.
fn relist(nodes: &mut ByLoad, id: NodeId, before: Load, now: Option<Load>) {
    if now != Some(before) {
        nodes.remove(&(before, id));
    }
    nodes.extend(now.map(|load| (load, id)));
}

/// A node that takes agents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Listed {
    /// The load it is listed under.
    load: Load,
    /// The lists it is on when it has room, by their place, with the value of the label these
    /// agents are spread by.
    meets: BTreeMap<usize, Option<String>>,
}

/// The lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Candidates {
    /// How many agents make each demand.
    made: BTreeMap<Arc<Demand>, usize>,
    /// Those that are worth a list, by the binary digits of that number.
    common: BTreeSet<(Reverse<u32>, Arc<Demand>)>,
    /// In the order of their demands.
    lists: Vec<(Arc<Demand>, List)>,
    nodes: BTreeMap<NodeId, Listed>,
    /// Whether other demands are worth a list now, maybe.
    stale: bool,
}

/// Binary digits: kinds change places only when the number of their agents has doubled or halved.
fn digits(number: usize) -> u32 {
    usize::BITS - number.leading_zeros()
}

impl Candidates {
    /// The nodes for an agent, if there is a list for its kind.
    pub(crate) fn list(&self, spec: &AgentSpec) -> Option<&List> {
        let demand = Demand::from(spec);
        let place = self.lists.binary_search_by(|(listed, _)| (**listed).cmp(&demand)).ok()?;
        self.lists.get(place).map(|(_, list)| list)
    }

    /// Counts an agent.
    pub(crate) fn add_agent(&mut self, spec: &AgentSpec) {
        let demand = Arc::new(Demand::from(spec));
        let agents = self.made.entry(demand.clone()).or_default();
        *agents += 1;
        let now = *agents;
        self.rank(demand, now - 1, now);
    }

    /// Forgets an agent.
    pub(crate) fn remove_agent(&mut self, spec: &AgentSpec) {
        let demand = Arc::new(Demand::from(spec));
        let Some(agents) = self.made.get_mut(&demand) else { return };
        *agents -= 1;
        let now = *agents;
        if now == 0 {
            self.made.remove(&demand);
        }
        self.rank(demand, now + 1, now);
    }

    fn rank(&mut self, demand: Arc<Demand>, before: usize, now: usize) {
        if digits(before) == digits(now) || before.max(now) < COMMON {
            return;
        }
        self.stale = true;
        self.common.remove(&(Reverse(digits(before)), demand.clone()));
        if now >= COMMON {
            self.common.insert((Reverse(digits(now)), demand));
        }
    }

    /// Drops the lists that are not kept any more. Answers the demands that are to have one and
    /// have none yet.
    pub(crate) fn drop_lists(&mut self) -> Vec<Arc<Demand>> {
        if !core::mem::take(&mut self.stale) {
            return Vec::new();
        }
        let common = self.common.iter().take(LISTS_MAX);
        let mut kept: BTreeSet<Arc<Demand>> = common.map(|(_, demand)| demand.clone()).collect();
        for place in (0..self.lists.len()).rev() {
            if kept.remove(&self.lists[place].0) {
                continue;
            }
            self.lists.remove(place);
            for node in self.nodes.values_mut() {
                node.meets.remove(&place);
                node.renumber(place, |later| later - 1);
            }
        }
        kept.into_iter().collect()
    }

    /// Begins a list with the nodes that meet its demand if they have room.
    pub(crate) fn add_list<'a>(
        &mut self,
        demand: Arc<Demand>,
        nodes: impl Iterator<Item = (&'a Node, Option<&'a Room>)>,
    ) {
        let place = self.lists.partition_point(|(listed, _)| *listed < demand);
        for node in self.nodes.values_mut() {
            node.renumber(place, |later| later + 1);
        }
        let mut list = List::default();
        for (node, room) in nodes {
            let Some(listed) = self.nodes.get_mut(&node.id) else { continue };
            let value = value(node, &demand);
            let fits = room.is_some_and(|room| room.has(demand.size));
            list.put(node.id, value.as_deref(), listed.load, fits.then_some(listed.load));
            listed.meets.insert(place, value);
        }
        self.lists.insert(place, (demand, list));
    }

    /// Takes in a node that takes agents now and is on no list; its room comes with
    /// [`Candidates::refit`].
    pub(crate) fn add_node(&mut self, node: &Node, meets: impl Fn(Needs<'_>) -> bool) {
        let lists = self.lists.iter().enumerate();
        let met = lists.filter(|(_, (demand, _))| meets(demand.needs()));
        let meets = met.map(|(place, (demand, _))| (place, value(node, demand))).collect();
        self.nodes.insert(node.id, Listed { load: 0, meets });
    }

    /// Takes a node off the lists.
    pub(crate) fn remove_node(&mut self, id: NodeId) {
        self.put(id, None);
        self.nodes.remove(&id);
    }

    /// Lists a node under another load, where it has room.
    pub(crate) fn refit(&mut self, id: NodeId, load: Load, room: &Room) {
        self.put(id, Some((load, room)));
    }

    fn put(&mut self, id: NodeId, now: Option<(Load, &Room)>) {
        let Some(Listed { load, meets }) = self.nodes.get_mut(&id) else { return };
        for (place, value) in meets {
            let Some((demand, list)) = self.lists.get_mut(*place) else { continue };
            let now = now.filter(|(_, room)| room.has(demand.size)).map(|(load, _)| load);
            list.put(id, value.as_deref(), *load, now);
        }
        *load = now.map_or(*load, |(load, _)| load);
    }
}

impl Listed {
    /// Gives the lists from `place` on another place.
    fn renumber(&mut self, place: usize, to: impl Fn(usize) -> usize) {
        let later = self.meets.split_off(&place);
        self.meets.extend(later.into_iter().map(|(place, value)| (to(place), value)));
    }
}

/// The value of a node's label by which agents of a kind are spread.
fn value(node: &Node, demand: &Demand) -> Option<String> {
    let labels = &node.report.as_ref()?.labels;
    labels.get(demand.spread_by.as_ref()?).map(String::from)
}
