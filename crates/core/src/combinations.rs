//! The nodes that have what agents ask for together: several labels, or a label and any value of
//! another one that the agents are spread by. A list by one label leads there past nodes that have
//! it and the room, and lack another.

use alloc::{collections::BTreeMap, string::String};
use core::mem;

use fleet_types::Labels;

use crate::{by_value::ByValue, record::AgentSpec};

/// Of more combinations than this the last, in their order, have no list: a change of a node looks at
/// each that has.
const LISTS_MAX: usize = if cfg!(test) { 3 } else { 32 };
/// Of a combination that fewer agents ask for there is no list: making it looks at each node that
/// has the rarest of the labels.
const AGENTS_MIN: usize = if cfg!(test) { 2 } else { 16 };

/// What is asked for together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Combination {
    pub(crate) labels: Labels,
    /// The key of the label that the agents are spread by.
    pub(crate) spread_by: Option<String>,
}

/// What agents ask for together, and the nodes that have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Combinations {
    /// How many agents ask for each.
    agents: BTreeMap<Combination, usize>,
    /// By the value of the label that is spread by; without one under no name.
    lists: BTreeMap<Combination, ByValue>,
}

/// What a list is made of.
pub(crate) trait Source {
    /// Whether many nodes have each of the labels: else a list by the rarest is as good.
    fn are_common(&self, labels: &Labels) -> bool;
    /// The nodes that have what is asked for.
    fn list(&self, combination: &Combination) -> ByValue;
}

impl Combination {
    /// What an agent asks for together.
    fn all_of(spec: &AgentSpec) -> impl Iterator<Item = Self> {
        let labels = &spec.wants.node_labels;
        let count = labels.iter().count();
        let alone = (count > 1).then_some(None);
        let spread = spec.wants.spread_by.as_ref().filter(|_| count > 0).map(Some);
        let keys = alone.into_iter().chain(spread);
        keys.map(|key| Self { labels: labels.clone(), spread_by: key.cloned() })
    }

    /// The value that a node with these labels is listed under, if it is.
    pub(crate) fn value<'a>(&self, has: &'a Labels) -> Option<&'a str> {
        self.spread_by.as_ref().map_or(Some(""), |key| has.get(key))
    }

    /// Whether a node with these labels has what is asked for.
    pub(crate) fn is_met(&self, has: &Labels) -> bool {
        has.have(&self.labels)
    }
}

impl Combinations {
    /// The nodes with some labels, by the value of another if agents are spread by that, if there is
    /// a list of them.
    pub(crate) fn get(&self, labels: &Labels, spread_by: Option<&str>) -> Option<&ByValue> {
        let is_it = |it: &Combination| it.labels == *labels && it.spread_by.as_deref() == spread_by;
        self.lists.iter().find(|(combination, _)| is_it(combination)).map(|(_, nodes)| nodes)
    }

    /// The lists.
    pub(crate) fn lists_mut(&mut self) -> impl Iterator<Item = (&Combination, &mut ByValue)> {
        self.lists.iter_mut()
    }

    /// Takes in a new agent.
    pub(crate) fn add(&mut self, spec: &AgentSpec, nodes: &impl Source) {
        for combination in Combination::all_of(spec) {
            let are_common = nodes.are_common(&combination.labels);
            let agents = self.agents.entry(combination).or_default();
            *agents += 1;
            if *agents == AGENTS_MIN && are_common {
                self.relist(nodes);
            }
        }
    }

    /// Forgets an agent.
    pub(crate) fn remove(&mut self, spec: &AgentSpec, nodes: &impl Source) {
        for combination in Combination::all_of(spec) {
            let Some(agents) = self.agents.get_mut(&combination) else { continue };
            *agents -= 1;
            let was_enough = *agents + 1 == AGENTS_MIN;
            if *agents == 0 {
                self.agents.remove(&combination);
            }
            if was_enough && self.lists.contains_key(&combination) {
                self.relist(nodes);
            }
        }
    }

    /// Makes the lists that there are to be, and drops others.
    pub(crate) fn relist(&mut self, nodes: &impl Source) {
        let asked = self.agents.iter().filter(|(_, agents)| **agents >= AGENTS_MIN);
        let asked = asked.map(|(it, _)| it).filter(|it| nodes.are_common(&it.labels));
        let mut before = mem::take(&mut self.lists);
        for combination in asked.take(LISTS_MAX) {
            let known = before.remove_entry(combination);
            let list = known.unwrap_or_else(|| (combination.clone(), nodes.list(combination)));
            self.lists.extend([list]);
        }
    }
}
