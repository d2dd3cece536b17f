//! The nodes that have room for one more agent of a kind now, the least full first, kept as rooms
//! change: to choose a node is to take the first.
//!
//! A [`Demand`] is all that decides whether a node suits an agent, but for where others of its
//! fleet are. Its sizes are rounded down to two binary digits, so that few lists serve agents of
//! many sizes; a node on a list may thus lack a part of what an agent asks for. There is a list for
//! each demand that agents make, as far as [`LISTS_MAX`] allows: the first of a kind walks the
//! nodes.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    sync::Arc,
    vec::Vec,
};

use fleet_types::{AgentClass, Labels, NodeId, RuntimeName, Version};

use crate::{
    admission::{self, Amounts, Dimension},
    index::ByLoad,
    record::{AgentSpec, Node},
    room::{Load, Room},
};

/// The most lists: a change of a node's load moves it in each. Of more demands the first in order
/// have one. Tests go past it.
const LISTS_MAX: usize = if cfg!(test) { 8 } else { 128 };

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
    /// As much of each as they ask for, or less.
    least: Amounts,
}

/// Rounds down to two binary digits: less than a third.
fn down(amount: u64) -> u64 {
    let dropped = (u64::BITS - amount.leading_zeros()).saturating_sub(2);
    amount >> dropped << dropped
}

impl From<&AgentSpec> for Demand {
    fn from(spec: &AgentSpec) -> Self {
        let Needs { runtime, version, labels, strict } = spec.into();
        let mut least = admission::asked(spec).map(down);
        least[Dimension::Ports as usize] = spec.ports.into();
        let spread_by = spec.wants.spread_by.clone();
        let (runtime, version, labels) = (runtime.clone(), version.cloned(), labels.clone());
        Self { runtime, version, labels, strict, spread_by, least }
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
    /// The demands with a list that it meets if it has room, with the value of the label these
    /// agents are spread by.
    meets: BTreeMap<Arc<Demand>, Option<String>>,
}

/// The lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Candidates {
    /// How many agents make each demand.
    made: BTreeMap<Arc<Demand>, usize>,
    lists: BTreeMap<Arc<Demand>, List>,
    nodes: BTreeMap<NodeId, Listed>,
}

impl Candidates {
    /// The nodes for an agent, if there is a list for its kind.
    pub(crate) fn list(&self, spec: &AgentSpec) -> Option<&List> {
        self.lists.get(&Demand::from(spec))
    }

    /// Counts an agent; whether it is the first of its kind.
    pub(crate) fn add_agent(&mut self, spec: &AgentSpec) -> bool {
        let demand = Demand::from(spec);
        if let Some(agents) = self.made.get_mut(&demand) {
            *agents += 1;
            return false;
        }
        self.made.insert(Arc::new(demand), 1);
        true
    }

    /// Forgets an agent; whether it was the last of its kind.
    pub(crate) fn remove_agent(&mut self, spec: &AgentSpec) -> bool {
        let demand = Demand::from(spec);
        let Some(agents) = self.made.get_mut(&demand) else { return false };
        *agents -= 1;
        let last = *agents == 0;
        if last {
            self.made.remove(&demand);
        }
        last
    }

    /// Drops the lists that are not kept any more. Answers the demands that are to have one and
    /// have none yet.
    pub(crate) fn drop_lists(&mut self) -> Vec<Arc<Demand>> {
        let kept: BTreeSet<Arc<Demand>> = self.made.keys().take(LISTS_MAX).cloned().collect();
        let nodes = &mut self.nodes;
        self.lists.retain(|demand, _| {
            let keep = kept.contains(demand);
            if !keep {
                nodes.values_mut().for_each(|node| drop(node.meets.remove(demand)));
            }
            keep
        });
        kept.into_iter().filter(|demand| !self.lists.contains_key(demand)).collect()
    }

    /// Begins a list with the nodes that meet its demand if they have room.
    pub(crate) fn add_list<'a>(
        &mut self,
        demand: Arc<Demand>,
        nodes: impl Iterator<Item = (&'a Node, Option<&'a Room>)>,
    ) {
        let mut list = List::default();
        for (node, room) in nodes {
            let Some(listed) = self.nodes.get_mut(&node.id) else { continue };
            let value = value(node, &demand);
            let fits = room.is_some_and(|room| room.has(demand.least));
            list.put(node.id, value.as_deref(), listed.load, fits.then_some(listed.load));
            listed.meets.insert(demand.clone(), value);
        }
        self.lists.insert(demand, list);
    }

    /// Takes in a node that takes agents now and is on no list; its room comes with
    /// [`Candidates::refit`].
    pub(crate) fn add_node(&mut self, node: &Node, meets: impl Fn(Needs<'_>) -> bool) {
        let met = self.lists.keys().filter(|demand| meets(demand.needs()));
        let meets = met.map(|demand| (demand.clone(), value(node, demand))).collect();
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
        for (demand, value) in meets {
            let Some(list) = self.lists.get_mut(demand) else { continue };
            let now = now.filter(|(_, room)| room.has(demand.least)).map(|(load, _)| load);
            list.put(id, value.as_deref(), *load, now);
        }
        *load = now.map_or(*load, |(load, _)| load);
    }
}

/// The value of a node's label by which agents of a kind are spread.
fn value(node: &Node, demand: &Demand) -> Option<String> {
    let labels = &node.report.as_ref()?.labels;
    labels.get(demand.spread_by.as_ref()?).map(String::from)
}
