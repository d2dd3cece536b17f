//! Where the agents of each fleet are: on which nodes and, for the labels that some of them are
//! spread by, under which values.

use alloc::{
    collections::{BTreeMap, btree_map::Entry},
    string::String,
    vec::Vec,
};
use fleet_types::{FleetName, NodeId};

use crate::{
    crowd::Counts,
    nested::{entry, forget},
    record::{AgentSpec, Node},
};

/// Of all fleets that have agents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Whereabouts {
    fleets: BTreeMap<FleetName, OfFleet>,
    /// The agents of each node that stand apart.
    apart: BTreeMap<NodeId, Counts>,
    under: Under,
}

/// By key and value of labels, the agents of the fleets that are spread by the key: all of them.
type Under = BTreeMap<String, BTreeMap<String, Counts>>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfFleet {
    on: BTreeMap<NodeId, usize>,
    /// By the keys of the labels that its agents are spread by.
    spread: BTreeMap<String, Spread>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Spread {
    /// How many agents are spread by this label, placed or not.
    agents: usize,
    /// How many values have a number of the fleet's agents, but for none.
    levels: BTreeMap<usize, usize>,
}

static NOBODY: Counts = Counts::new();

fn of(counts: &Counts, fleet: &FleetName) -> usize {
    counts.get(fleet).copied().unwrap_or(0)
}

/// Notes another number of agents at a place.
fn set(counts: &mut Counts, fleet: &FleetName, agents: usize) {
    match counts.get_mut(fleet) {
        _ if agents == 0 => drop(counts.remove(fleet)),
        Some(count) => *count = agents,
        None => drop(counts.insert(fleet.clone(), agents)),
    }
}

impl Spread {
    /// Takes in that a fleet has another number of agents under a value. How many it had.
    fn recount(
        &mut self,
        under: &mut Under,
        fleet: &FleetName,
        (key, value): (&String, &str),
        change: impl FnOnce(usize) -> usize,
    ) -> usize {
        let counts = entry(under, key.as_str(), value);
        let before = of(counts, fleet);
        let now = change(before);
        set(counts, fleet, now);
        if counts.is_empty() {
            forget(under, key.as_str(), value);
        }
        if let Entry::Occupied(mut level) = self.levels.entry(before) {
            *level.get_mut() -= 1;
            if *level.get() == 0 {
                level.remove();
            }
        }
        if now > 0 {
            *self.levels.entry(now).or_default() += 1;
        }
        before
    }
}

impl OfFleet {
    /// Takes in another number of agents on a node.
    fn recount(
        &mut self,
        under: &mut Under,
        fleet: &FleetName,
        node: &Node,
        change: impl Fn(usize) -> usize,
    ) {
        for (key, spread) in &mut self.spread {
            if let Some(value) = node.label(key) {
                spread.recount(under, fleet, (key, value), &change);
            }
        }
    }
}

impl Whereabouts {
    /// How many agents of a fleet are on each node that has any.
    pub(crate) fn on(&self, fleet: &FleetName) -> impl Iterator<Item = (NodeId, usize)> {
        let nodes = self.fleets.get(fleet).into_iter().flat_map(|fleet| &fleet.on);
        nodes.map(|(id, count)| (*id, *count))
    }

    /// How many agents of a fleet are on a node.
    pub(crate) fn count(&self, fleet: &FleetName, node: NodeId) -> usize {
        self.fleets.get(fleet).and_then(|fleet| fleet.on.get(&node)).copied().unwrap_or(0)
    }

    /// The agents of a node that stand apart.
    pub(crate) fn apart(&self, node: NodeId) -> &Counts {
        self.apart.get(&node).unwrap_or(&NOBODY)
    }

    /// Whether an agent of a fleet that stands apart is on a node.
    pub(crate) fn stands_apart(&self, fleet: &FleetName, node: NodeId) -> bool {
        self.apart(node).contains_key(fleet)
    }

    /// The agents under a value of a label, of the fleets that are spread by it.
    pub(crate) fn under(&self, key: &str, value: &str) -> &Counts {
        self.under.get(key).and_then(|values| values.get(value)).unwrap_or(&NOBODY)
    }

    /// How many agents of a fleet, which is spread by a label, are under a value.
    pub(crate) fn count_under(&self, fleet: &FleetName, (key, value): (&str, &str)) -> usize {
        of(self.under(key, value), fleet)
    }

    /// Whether an agent of a fleet is spread by a label.
    pub(crate) fn is_spread(&self, fleet: &FleetName, key: &str) -> bool {
        self.fleets.get(fleet).is_some_and(|fleet| fleet.spread.contains_key(key))
    }

    /// The next larger number of agents of a fleet under a value of a label that it is spread by.
    pub(crate) fn next_level(&self, fleet: &FleetName, key: &str, agents: usize) -> Option<usize> {
        let spread = self.fleets.get(fleet)?.spread.get(key)?;
        spread.levels.range(agents + 1..).next().map(|(level, _)| *level)
    }

    /// Takes in a new agent, on no node yet. If it is the first of its fleet that is spread by its
    /// label: the values that have agents of the fleet.
    pub(crate) fn add(
        &mut self,
        fleet: &FleetName,
        spec: &AgentSpec,
        nodes: &BTreeMap<NodeId, Node>,
    ) -> Vec<String> {
        let Some(key) = &spec.wants.spread_by else { return Vec::new() };
        let of_fleet = self.fleets.entry(fleet.clone()).or_default();
        let mut values = Vec::new();
        let spread = match of_fleet.spread.entry(key.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let mut spread = Spread::default();
                for (id, agents) in &of_fleet.on {
                    let Some(value) = nodes.get(id).and_then(|node| node.label(key)) else {
                        continue;
                    };
                    let label = (key, value);
                    if spread.recount(&mut self.under, fleet, label, |n| n + agents) == 0 {
                        values.push(value.into());
                    }
                }
                new.insert(spread)
            }
        };
        spread.agents += 1;
        values
    }

    /// Forgets an agent that is on no node. If it is the last of its fleet that is spread by its
    /// label: the values that have agents of the fleet, on these nodes.
    pub(crate) fn remove(
        &mut self,
        fleet: &FleetName,
        spec: &AgentSpec,
        nodes: &BTreeMap<NodeId, Node>,
    ) -> Vec<String> {
        let mut values = Vec::new();
        let Some(key) = &spec.wants.spread_by else { return values };
        let Some(of_fleet) = self.fleets.get_mut(fleet) else { return values };
        let Some(spread) = of_fleet.spread.get_mut(key) else { return values };
        spread.agents -= 1;
        if spread.agents == 0 {
            for id in of_fleet.on.keys() {
                let Some(value) = nodes.get(id).and_then(|node| node.label(key)) else { continue };
                if spread.recount(&mut self.under, fleet, (key, value), |_| 0) > 0 {
                    values.push(value.into());
                }
            }
            of_fleet.spread.remove(key);
        }
        self.tidy(fleet);
        values
    }

    /// Takes in that an agent is on a node.
    pub(crate) fn come(&mut self, fleet: &FleetName, spec: &AgentSpec, node: &Node) {
        let of_fleet = match self.fleets.get_mut(fleet) {
            Some(known) => known,
            None => self.fleets.entry(fleet.clone()).or_default(),
        };
        *of_fleet.on.entry(node.id).or_default() += 1;
        of_fleet.recount(&mut self.under, fleet, node, |n| n + 1);
        if spec.wants.apart {
            let counts = self.apart.entry(node.id).or_default();
            set(counts, fleet, of(counts, fleet) + 1);
        }
    }

    /// Takes in that an agent left a node.
    pub(crate) fn leave(&mut self, fleet: &FleetName, spec: &AgentSpec, node: &Node) {
        let Some(of_fleet) = self.fleets.get_mut(fleet) else { return };
        let Some(count) = of_fleet.on.get_mut(&node.id) else { return };
        *count -= 1;
        if *count == 0 {
            of_fleet.on.remove(&node.id);
        }
        of_fleet.recount(&mut self.under, fleet, node, |n| n - 1);
        if spec.wants.apart
            && let Some(counts) = self.apart.get_mut(&node.id)
        {
            set(counts, fleet, of(counts, fleet) - 1);
            if counts.is_empty() {
                self.apart.remove(&node.id);
            }
        }
        self.tidy(fleet);
    }

    /// Takes in that a node has other labels now; the fleets of the agents that are there.
    pub(crate) fn relabel<'a>(
        &mut self,
        before: &Node,
        now: &Node,
        fleets: impl Iterator<Item = &'a FleetName>,
    ) {
        for fleet in fleets {
            if let Some(of_fleet) = self.fleets.get_mut(fleet) {
                of_fleet.recount(&mut self.under, fleet, before, |n| n - 1);
                of_fleet.recount(&mut self.under, fleet, now, |n| n + 1);
            }
        }
    }

    fn tidy(&mut self, fleet: &FleetName) {
        if self.fleets.get(fleet).is_some_and(|it| it.on.is_empty() && it.spread.is_empty()) {
            self.fleets.remove(fleet);
        }
    }
}
