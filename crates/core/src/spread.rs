//! How fleets are spread and what stands apart, while a rebalance moves agents in thought.

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    vec::Vec,
};

use fleet_types::{FleetName, NodeId};

use crate::{plan, rebalance::movable, record::Agent, state::State};

/// The value of a label, or none where a node has not the label.
type Value<'a> = Option<&'a str>;

fn value<'a>(state: &'a State, node: NodeId, key: &str) -> Value<'a> {
    state.nodes().get(&node)?.label(key)
}

/// A fleet that is spread by a label.
#[derive(Default)]
struct Spread<'a> {
    /// How many of all its agents are under each value.
    counts: BTreeMap<Value<'a>, usize>,
    /// Those that are spread and may be moved, the best to move last.
    agents: Vec<&'a Agent>,
}

/// The fleets, as they would be after the moves noted.
pub(crate) struct Fleets<'a> {
    state: &'a State,
    spread: BTreeMap<&'a FleetName, BTreeMap<&'a str, Spread<'a>>>,
    /// On which nodes agents of a fleet stand apart.
    apart: BTreeMap<&'a FleetName, BTreeSet<NodeId>>,
}

/// Two values of a label, of which the second has at least two agents of a fleet fewer.
pub(crate) struct Uneven<'a, 'b> {
    pub(crate) key: &'a str,
    from: Value<'a>,
    pub(crate) to: &'a str,
    spread: &'b Spread<'a>,
    state: &'a State,
}

impl<'a> Uneven<'a, '_> {
    /// The agents under the first, the best to move first, with their nodes.
    pub(crate) fn agents(&self) -> impl Iterator<Item = (&'a Agent, NodeId)> {
        let placed = |agent: &&'a Agent| Some((*agent, agent.placement.as_ref()?.node));
        let all = self.spread.agents.iter().rev().filter_map(placed);
        all.filter(|(_, node)| value(self.state, *node, self.key) == self.from)
    }
}

impl<'a> Fleets<'a> {
    pub(crate) fn new(state: &'a State) -> Self {
        let mut spread: BTreeMap<_, BTreeMap<_, Spread<'a>>> = BTreeMap::new();
        let mut apart: BTreeMap<_, BTreeSet<NodeId>> = BTreeMap::new();
        for agent in state.agents().values().map(Box::as_ref) {
            let Some(placement) = &agent.placement else { continue };
            if agent.spec.wants.apart {
                apart.entry(&agent.id.fleet).or_default().insert(placement.node);
            }
            if let Some(key) = &agent.spec.wants.spread_by {
                let of_fleet = spread.entry(&agent.id.fleet).or_default();
                let agents = &mut of_fleet.entry(key.as_str()).or_default().agents;
                agents.extend(movable(agent).then_some(agent));
            }
        }
        for (fleet, keys) in &mut spread {
            for (key, spread) in keys {
                let values =
                    state.index().with_label(key).into_iter().flat_map(|(_, nodes)| nodes.names());
                spread.counts = values.map(|value| (Some(value.as_str()), 0)).collect();
                for (node, agents) in state.index().whereabouts.on(fleet) {
                    *spread.counts.entry(value(state, node, key)).or_default() += agents;
                }
                spread.agents = plan::first_come(spread.agents.drain(..)).collect();
            }
        }
        Self { state, spread, apart }
    }

    /// Where fleets could be spread better, the most uneven values of each fleet first.
    pub(crate) fn uneven(&self) -> impl Iterator<Item = Uneven<'a, '_>> {
        let keys = self.spread.values().flatten();
        keys.flat_map(|(key, spread)| {
            let mut counts: Vec<_> = spread.counts.iter().map(|(v, n)| (*n, *v)).collect();
            counts.sort_unstable();
            // One by one: of ten thousand values there may be millions of pairs.
            let counts: Rc<[(usize, Value<'_>)]> = counts.into();
            let pairs = (0..counts.len()).rev().flat_map(move |at| {
                let (counts, (most, from)) = (counts.clone(), counts[at]);
                let less = (0..at).map(move |at| counts[at]);
                let less = less.take_while(move |(least, _)| least + 2 <= most);
                less.filter_map(move |(_, to)| Some((from, to?)))
            });
            let state = self.state;
            pairs.map(move |(from, to)| Uneven { key, from, to, spread, state })
        })
    }

    /// Whether a move would bring no two together that stand apart, nor spread a fleet less.
    pub(crate) fn allow(&self, agent: &Agent, from: NodeId, to: NodeId) -> bool {
        let fleet = &agent.id.fleet;
        let close = self.apart.get(fleet).is_some_and(|nodes| nodes.contains(&to));
        let as_spread = |(key, spread): (&&str, &Spread<'_>)| {
            let (before, after) = (value(self.state, from, key), value(self.state, to, key));
            let count = |of: Value<'_>| spread.counts.get(&of).copied().unwrap_or(0);
            let leaves = after.is_none() && agent.spec.wants.spread_by.as_deref() == Some(key);
            before == after || (count(after) < count(before) && !leaves)
        };
        let mut keys = self.spread.get(fleet).into_iter().flatten();
        !(agent.spec.wants.apart && close) && keys.all(as_spread)
    }

    /// Takes in that an agent is to be moved, which happens once.
    pub(crate) fn note(&mut self, agent: &Agent, from: NodeId, to: NodeId) {
        let state = self.state;
        for (key, spread) in self.spread.get_mut(&agent.id.fleet).into_iter().flatten() {
            *spread.counts.entry(value(state, from, key)).or_default() -= 1;
            *spread.counts.entry(value(state, to, key)).or_default() += 1;
            spread.agents.retain(|other| other.id != agent.id);
        }
        if agent.spec.wants.apart
            && let Some(nodes) = self.apart.get_mut(&agent.id.fleet)
        {
            // The other place is not free before it has left.
            nodes.insert(to);
        }
    }
}
