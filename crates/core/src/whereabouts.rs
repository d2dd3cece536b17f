//! Where the agents of each fleet are: on which nodes and, for the labels that some of them are
//! spread by, under which values.

use alloc::{
    collections::{BTreeMap, btree_map::Entry},
    string::String,
};

use fleet_types::{FleetName, Labels, NodeId};

use crate::record::{AgentSpec, Node};

/// Of all fleets that have agents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Whereabouts(BTreeMap<FleetName, OfFleet>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfFleet {
    on: BTreeMap<NodeId, Count>,
    /// By the keys of the labels that its agents are spread by.
    under: BTreeMap<String, Under>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    all: usize,
    /// Those that stand apart.
    apart: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Under {
    /// How many agents are spread by this label, placed or not.
    spread: usize,
    counts: Counts,
}

/// How many agents, spread or not, are under each value of a label, where there are any.
pub(crate) type Counts = BTreeMap<String, usize>;

impl OfFleet {
    /// The counts an agent on a node is in.
    fn counts<'a>(&'a mut self, node: &'a Node) -> impl Iterator<Item = (&'a mut Counts, &'a str)> {
        let labels = labels(node);
        let under = self.under.iter_mut();
        under.filter_map(move |(key, under)| Some((&mut under.counts, labels?.get(key)?)))
    }

    fn count(&mut self, node: &Node) {
        for (counts, value) in self.counts(node) {
            add(counts, value, 1);
        }
    }

    fn discount(&mut self, node: &Node) {
        for (counts, value) in self.counts(node) {
            if let Some(count) = counts.get_mut(value) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(value);
                }
            }
        }
    }
}

fn labels(node: &Node) -> Option<&Labels> {
    node.report.as_ref().map(|report| &report.labels)
}

fn add(counts: &mut Counts, value: &str, agents: usize) {
    match counts.get_mut(value) {
        Some(count) => *count += agents,
        None => drop(counts.insert(value.into(), agents)),
    }
}

impl Whereabouts {
    /// How many agents of a fleet are on each node that has any.
    pub(crate) fn on(&self, fleet: &FleetName) -> impl Iterator<Item = (NodeId, usize)> {
        let nodes = self.0.get(fleet).into_iter().flat_map(|fleet| &fleet.on);
        nodes.map(|(id, count)| (*id, count.all))
    }

    /// How many agents of a fleet are on a node.
    pub(crate) fn count(&self, fleet: &FleetName, node: NodeId) -> usize {
        self.get(fleet, node).all
    }

    /// Whether an agent of a fleet that stands apart is on a node.
    pub(crate) fn stands_apart(&self, fleet: &FleetName, node: NodeId) -> bool {
        self.get(fleet, node).apart > 0
    }

    fn get(&self, fleet: &FleetName, node: NodeId) -> Count {
        let fleet = self.0.get(fleet);
        fleet.and_then(|fleet| fleet.on.get(&node)).copied().unwrap_or_default()
    }

    /// How many agents of a fleet are under each value of a label, if one is spread by it.
    pub(crate) fn under(&self, fleet: &FleetName, key: &str) -> Option<&Counts> {
        self.0.get(fleet)?.under.get(key).map(|under| &under.counts)
    }

    /// Takes in a new agent, on no node yet.
    pub(crate) fn add(
        &mut self,
        fleet: &FleetName,
        spec: &AgentSpec,
        nodes: &BTreeMap<NodeId, Node>,
    ) {
        let Some(key) = &spec.wants.spread_by else { return };
        let of_fleet = self.0.entry(fleet.clone()).or_default();
        let under = match of_fleet.under.entry(key.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let mut counts = Counts::new();
                for (id, count) in &of_fleet.on {
                    let labels = nodes.get(id).and_then(labels);
                    if let Some(value) = labels.and_then(|labels| labels.get(key)) {
                        add(&mut counts, value, count.all);
                    }
                }
                new.insert(Under { spread: 0, counts })
            }
        };
        under.spread += 1;
    }

    /// Forgets an agent that is on no node.
    pub(crate) fn remove(&mut self, fleet: &FleetName, spec: &AgentSpec) {
        let Some(key) = &spec.wants.spread_by else { return };
        let Some(of_fleet) = self.0.get_mut(fleet) else { return };
        if let Some(under) = of_fleet.under.get_mut(key) {
            under.spread -= 1;
            if under.spread == 0 {
                of_fleet.under.remove(key);
            }
        }
        self.tidy(fleet);
    }

    /// Takes in that an agent is on a node.
    pub(crate) fn come(&mut self, fleet: &FleetName, spec: &AgentSpec, node: &Node) {
        if !self.0.contains_key(fleet) {
            self.0.insert(fleet.clone(), OfFleet::default());
        }
        let Some(of_fleet) = self.0.get_mut(fleet) else { return };
        let count = of_fleet.on.entry(node.id).or_default();
        count.all += 1;
        count.apart += usize::from(spec.wants.apart);
        of_fleet.count(node);
    }

    /// Takes in that an agent left a node.
    pub(crate) fn leave(&mut self, fleet: &FleetName, spec: &AgentSpec, node: &Node) {
        let Some(of_fleet) = self.0.get_mut(fleet) else { return };
        let Some(count) = of_fleet.on.get_mut(&node.id) else { return };
        count.all -= 1;
        count.apart -= usize::from(spec.wants.apart);
        if count.all == 0 {
            of_fleet.on.remove(&node.id);
        }
        of_fleet.discount(node);
        self.tidy(fleet);
    }

    /// Takes in that a node may have other labels now; the fleets of the agents that are there.
    pub(crate) fn relabel<'a>(
        &mut self,
        before: &Node,
        now: &Node,
        fleets: impl Iterator<Item = &'a FleetName>,
    ) {
        if labels(before) == labels(now) {
            return;
        }
        for fleet in fleets {
            if let Some(of_fleet) = self.0.get_mut(fleet) {
                of_fleet.discount(before);
                of_fleet.count(now);
            }
        }
    }

    fn tidy(&mut self, fleet: &FleetName) {
        if self.0.get(fleet).is_some_and(|fleet| fleet.on.is_empty() && fleet.under.is_empty()) {
            self.0.remove(fleet);
        }
    }
}
