//! Choosing nodes. Runs on the leader, outside `apply`, on a view of the state.
//!
//! The problem: each agent needs a node that is registered, open, has the agent's runtime in the
//! version it asks for, the labels it asks for, room for what it asks for (a port block, memory,
//! processor time) and, for a strict agent, all it takes to end it in time; two of a fleet that
//! stand apart share no node. A node's *load* is the largest share of anything it has that is
//! taken. The choice: of the nodes that suit, the one with the least load, the smallest number
//! winning a tie; for an agent that is spread by a label, of those under the values with the fewest
//! agents of its fleet.
//!
//! Properties: (1) feasible: every choice suits in the view; (2) balanced: after a plan of agents
//! that all nodes suit, two nodes' loads differ by no more than before, or by the share of one
//! agent; (3) stable: nothing is moved that has a place; (4) deterministic: the same view and
//! requests give the same plan; (5) where room is short, no agent is left out for one of lower
//! priority of its kind. What runs is moved by a rebalance only, which has properties of its own,
//! see [`crate::rebalance`].
//!
//! The cost: a choice is a search of a tree of nodes by load, see [`crate::by_load`]: of all, or of
//! those with a label that is asked for. For an agent that is spread the values of the label are in
//! such a tree, with the agents of its fleet under each. What many agents ask for alike is known of
//! every node, see [`crate::demands`], and so of every branch: the search goes straight to the
//! first, at the logarithm of the nodes. For anything else marks lead to nodes with the version,
//! the fitness and the labels, what is left of each sort of room, and of two together, to those
//! that have it, and the agents of each fleet that are there to those without one that stands
//! apart: so it passes nodes one by one only where they have parts of it and hardly any has the
//! whole. The first agent of a fleet that is spread has the fleet's agents counted.
//!
//! In a plan room only shrinks, so what does not suit is passed once for all agents of a kind. What
//! suits the kind and not a fleet, for its agents there, is passed for each fleet, as far as the
//! plan came to it for others.

use alloc::{
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    string::String,
    sync::Arc,
    vec::Vec,
};
use core::{cmp::Reverse, ops::Bound};

use fleet_types::{AgentId, FleetName, NodeId};

use crate::{
    by_load::Place,
    index::{Search, open},
    offer::{Demand, Needs},
    plan::{listed, matches},
    record::{Agent, AgentSpec},
    room::Room,
    state::State,
};

/// Chooses nodes for a batch of agents, counting its own choices.
pub struct Planner<'a> {
    state: &'a State,
    without: Option<NodeId>,
    /// The room of the nodes chosen so far, less what this plan takes.
    rooms: BTreeMap<NodeId, Room>,
    /// Where this plan puts agents that stand apart.
    apart: BTreeMap<FleetName, BTreeSet<NodeId>>,
    /// Whether room is to be kept for agents on the move, but for one, and is not yet.
    keep: Option<Option<AgentId>>,
    /// The agents on the move that room is kept for, each with where.
    expected: BTreeMap<AgentId, NodeId>,
    /// How many agents of each fleet this plan puts on each node.
    planned: BTreeMap<FleetName, BTreeMap<NodeId, usize>>,
    /// How many agents of a fleet are under each value of a label: those of this plan, and those
    /// there if the index does not count them.
    counts: BTreeMap<FleetName, BTreeMap<String, Counts<'a>>>,
    kinds: Vec<Kind<'a>>,
    kinds_of: BTreeMap<Arc<Demand>, usize>,
    /// The kind of the last agent, for the next is often like it.
    last: usize,
}

/// How many agents are under each value of a label, where there are any.
type Counts<'a> = BTreeMap<&'a str, usize>;

/// A label's key and value.
type Label<'a> = (&'a str, &'a str);

/// Agents that the same nodes suit, but for where others of their fleets are.
struct Kind<'a> {
    demand: Arc<Demand>,
    walks: BTreeMap<Over<'a>, Walk<'a>>,
    /// Of fleets whose agents are placed by where others are.
    among: BTreeMap<FleetName, Vec<Among<'a>>>,
}

/// What is walked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Over<'a> {
    /// All nodes, or those with a label.
    Nodes(Option<Label<'a>>),
    /// The values of a label, each as the first node under it that suits.
    Values(&'a str),
}

/// How far a walk came for a kind.
#[derive(Default)]
struct Walk<'a> {
    search: Search<'a>,
    /// The last that was looked at, and the next.
    last: Option<Place>,
    next: Option<Place>,
    /// What may suit of those up to the last, and of those that fleets came to; loads may be too
    /// low.
    suiting: BTreeSet<Place>,
}

/// How far a walk came for a fleet that cannot have all of it.
#[derive(Default)]
struct Own<'a> {
    /// What it can have, as far as the index knows.
    search: Search<'a>,
    /// The last that was looked at for it.
    last: Option<Place>,
    /// It can have none up to here.
    passed: Option<Place>,
}

/// Whether a fleet cannot have what is at a node.
type Rejects<'r, 'a> = &'r dyn Fn(&Planner<'a>, NodeId) -> bool;

/// How agents of a fleet are placed among others of it.
struct Among<'a> {
    /// The label they are to be spread by, and its values if there are any.
    spread_by: Option<String>,
    spread: Option<Spread<'a>>,
    apart: Option<Apart<'a>>,
}

/// Of agents that stand apart: how far all nodes, and those with a label, were walked.
type Apart<'a> = BTreeMap<Option<Label<'a>>, Own<'a>>;

/// Values of a label, those with the fewest agents of the fleet first.
struct Spread<'a> {
    key: &'a str,
    /// How many agents, and the place of the first node that may suit; too few or too early, maybe.
    values: BinaryHeap<Reverse<(usize, Place, Label<'a>)>>,
    /// All values that came so far.
    met: BTreeSet<&'a str>,
    /// The others have no fewer agents and come no earlier, if there are any.
    others: Option<(usize, Place)>,
    /// How far those are walked that have as many.
    own: Own<'a>,
}

impl<'a> Planner<'a> {
    /// A planner over `state`.
    pub fn new(state: &'a State) -> Self {
        Self {
            state,
            without: None,
            rooms: BTreeMap::new(),
            apart: BTreeMap::new(),
            keep: None,
            expected: BTreeMap::new(),
            planned: BTreeMap::new(),
            counts: BTreeMap::new(),
            kinds: Vec::new(),
            kinds_of: BTreeMap::new(),
            last: 0,
        }
    }

    /// A planner over `state` that keeps for agents on the move what they were to go to: they stop
    /// because there was room. A loss is planned without: its agents run nowhere already.
    pub fn beside_moves(state: &'a State) -> Self {
        Self { keep: Some(None), ..Self::new(state) }
    }

    /// Keeps for agents on the move what they are to go to, once that counts.
    fn keep_for_moves(&mut self) {
        let Some(but_for) = self.keep.take() else { return };
        for agent in self.state.on_the_move().filter(|agent| Some(&agent.id) != but_for.as_ref()) {
            let next = agent.placement.as_ref().and_then(|placement| placement.next);
            if let Some(to) =
                next.filter(|to| self.take_if_suits(*to, &agent.id.fleet, &agent.spec))
            {
                self.expected.insert(agent.id.clone(), to);
            }
        }
    }

    /// The node for an agent that has left the one it was on: what was kept for it, or another.
    pub fn arrive(&mut self, agent: &Agent) -> Option<NodeId> {
        self.keep_for_moves();
        let kept = self.expected.remove(&agent.id);
        kept.or_else(|| self.choose(&agent.id.fleet, &agent.spec))
    }

    /// What it plans on.
    pub fn state(&self) -> &'a State {
        self.state
    }

    /// As [`Planner::beside_moves`], for `agent` to move: it leaves out the node that one is on.
    pub fn away_from(state: &'a State, node: NodeId, agent: &AgentId) -> Self {
        Self { keep: Some(Some(agent.clone())), ..Self::without(state, node) }
    }

    /// A planner that leaves `node` out.
    pub(crate) fn without(state: &'a State, node: NodeId) -> Self {
        Self { without: Some(node), ..Self::new(state) }
    }

    /// The node for one more agent, or none when no open node suits it and has the room.
    pub fn choose(&mut self, fleet: &FleetName, spec: &AgentSpec) -> Option<NodeId> {
        self.keep_for_moves();
        let kind = self.kind(spec);
        let id = if spec.wants.apart || spec.wants.spread_by.is_some() {
            let mut among = self.take_among(kind, fleet, spec);
            let id = self.choose_among(kind, fleet, &mut among);
            self.kinds[kind].among.entry(fleet.clone()).or_default().push(among);
            id
        } else {
            self.first(kind, None, fleet, &mut None).map(|(_, id)| id)
        };
        self.take(id?, fleet, spec);
        id
    }

    /// Whether an agent that can go nowhere could go somewhere if there were room.
    pub(crate) fn lacks_only_room(&self, fleet: &FleetName, spec: &AgentSpec) -> bool {
        listed(self.state, spec.into(), spec.wants.apart.then_some(fleet))
            .filter(|node| Some(node.id) != self.without)
            .any(|node| !(spec.wants.apart && self.is_close(node.id, fleet)))
    }

    /// Whether an agent can go to a node, and then does.
    pub fn take_if_suits(&mut self, id: NodeId, fleet: &FleetName, spec: &AgentSpec) -> bool {
        self.keep_for_moves();
        let suits = self.is_one_for(id, spec.into())
            && !(spec.wants.apart && self.is_close(id, fleet))
            && self.room(id).is_some_and(|room| room.lacks(spec).is_none());
        if suits {
            self.take(id, fleet, spec);
        }
        suits
    }

    fn room(&self, node: NodeId) -> Option<&Room> {
        self.rooms.get(&node).or_else(|| self.state.room(node))
    }

    /// Whether a node is one for an agent, if nothing else were there.
    fn is_one_for(&self, id: NodeId, needs: Needs<'_>) -> bool {
        let node = self.state.nodes().get(&id).filter(|node| open(node));
        self.without != Some(id) && node.is_some_and(|node| matches(node, needs))
    }

    /// Whether an agent that stands apart is on a node, or is put there by this plan.
    fn is_close(&self, id: NodeId, fleet: &FleetName) -> bool {
        let planned = self.apart.get(fleet).is_some_and(|nodes| nodes.contains(&id));
        planned || self.state.index().whereabouts.stands_apart(fleet, id)
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
            self.apart.entry(fleet.clone()).or_default().insert(id);
        }
        if !self.planned.contains_key(fleet) {
            self.planned.insert(fleet.clone(), BTreeMap::new());
        }
        if let Some(nodes) = self.planned.get_mut(fleet) {
            *nodes.entry(id).or_default() += 1;
        }
        let node = self.state.nodes().get(&id);
        for (key, counts) in self.counts.get_mut(fleet).into_iter().flatten() {
            if let Some(value) = node.and_then(|node| node.label(key)) {
                *counts.entry(value).or_default() += 1;
            }
        }
    }

    /// The kind of an agent.
    fn kind(&mut self, spec: &AgentSpec) -> usize {
        if !self.kinds.get(self.last).is_some_and(|kind| kind.demand.is_of(spec)) {
            let demand = Arc::new(Demand::from(spec));
            let next = self.kinds.len();
            self.last = *self.kinds_of.entry(demand.clone()).or_insert(next);
            if self.last == next {
                let (walks, among) = (BTreeMap::new(), BTreeMap::new());
                self.kinds.push(Kind { demand, walks, among });
            }
        }
        self.last
    }

    /// The first node that suits a kind, of those with a label if given, and where no agent of a fleet
    /// is that stands apart, if its agents do.
    fn first(
        &mut self,
        kind: usize,
        label: Option<Label<'a>>,
        fleet: &FleetName,
        apart: &mut Option<Apart<'a>>,
    ) -> Option<Place> {
        let over = Over::Nodes(label);
        let own = apart.as_mut().map(|apart| {
            let search = || self.search_nodes(kind, label, Some(fleet));
            apart.entry(label).or_insert_with(|| Own { search: search(), ..Own::default() })
        });
        let is_close = |plan: &Self, id| plan.is_close(id, fleet);
        self.walk(kind, over, own.map(|own| (own, &is_close as Rejects<'_, 'a>)))
    }

    fn search(&self, kind: usize, over: Over<'a>) -> Search<'a> {
        match over {
            Over::Nodes(label) => self.search_nodes(kind, label, None),
            Over::Values(key) => self.search_values(kind, key, None),
        }
    }

    fn search_nodes(
        &self,
        kind: usize,
        label: Option<Label<'a>>,
        apart_from: Option<&FleetName>,
    ) -> Search<'a> {
        let demand = &self.kinds[kind].demand;
        self.state.index().search(demand.needs(), Some(demand.size), label, apart_from)
    }

    fn search_values(&self, kind: usize, key: &str, of: Option<(&FleetName, bool)>) -> Search<'a> {
        let demand = &self.kinds[kind].demand;
        self.state.index().search_values(demand.needs(), demand.size, key, of)
    }

    /// The first of what is walked that suits a kind and, if it is for a fleet of its own, is not
    /// rejected.
    fn walk(
        &mut self,
        kind: usize,
        over: Over<'a>,
        mut own: Option<(&mut Own<'a>, Rejects<'_, 'a>)>,
    ) -> Option<Place> {
        let mut walk = match self.kinds[kind].walks.get_mut(&over) {
            Some(known) => core::mem::take(known),
            None => {
                let search = self.search(kind, over);
                Walk { next: search.first_after(None), search, ..Walk::default() }
            }
        };
        let next_of = |walk: &Walk<'a>, own: &Option<(&mut Own<'a>, _)>| match own {
            Some((own, _)) => own.search.first_after(own.last.max(walk.last)),
            None => walk.next,
        };
        let mut next = next_of(&walk, &own);
        let found = loop {
            let passed = own.as_ref().and_then(|(own, _)| own.passed);
            let from = (passed.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
            let known = walk.suiting.range(from).next().copied();
            if let Some(place) = next.filter(|next| known.is_none_or(|known| *next < known)) {
                if self.is_over(kind, over, place.1) {
                    walk.suiting.insert(place);
                }
                if walk.next == next {
                    walk.last = next;
                    walk.next = walk.search.first_after(next);
                } else if let Some((own, _)) = &mut own {
                    own.last = next;
                }
                next = next_of(&walk, &own);
                continue;
            }
            let Some(place) = known else { break None };
            match self.now(kind, over, place.1) {
                Some(now) if now == place => match &mut own {
                    Some((own, rejects)) if rejects(self, place.1) => own.passed = known,
                    _ => break known,
                },
                // This plan filled it meanwhile.
                now => {
                    walk.suiting.remove(&place);
                    walk.suiting.extend(now);
                }
            }
        };
        self.kinds[kind].walks.insert(over, walk);
        found
    }

    /// Whether a node is one for a kind if there is room, and under the label if it has to be.
    fn is_over(&self, kind: usize, over: Over<'a>, id: NodeId) -> bool {
        let Over::Nodes(label) = over else { return true };
        let labelled = label.is_none_or(|label| self.label(id, label.0) == Some(label));
        labelled && self.is_one_for(id, self.kinds[kind].demand.needs())
    }

    /// Where a node is in this plan, if there is room; or the first under its value.
    fn now(&mut self, kind: usize, over: Over<'a>, id: NodeId) -> Option<Place> {
        match over {
            Over::Nodes(_) => {
                let size = self.kinds[kind].demand.size;
                self.room(id).filter(|room| room.has(size)).map(|room| (room.load(), id))
            }
            Over::Values(key) => {
                let label = self.label(id, key)?;
                self.walk(kind, Over::Nodes(Some(label)), None)
            }
        }
    }

    /// How agents of a fleet are placed among others of it; to be put back.
    fn take_among(&mut self, kind: usize, fleet: &FleetName, spec: &AgentSpec) -> Among<'a> {
        let (apart, by) = (spec.wants.apart, &spec.wants.spread_by);
        let is_it = |among: &Among<'_>| among.apart.is_some() == apart && among.spread_by == *by;
        let known = self.kinds[kind].among.get_mut(fleet);
        let known = known.and_then(|all| Some(all.swap_remove(all.iter().position(is_it)?)));
        known.unwrap_or_else(|| {
            let spread = by.as_ref().and_then(|key| self.spread(kind, fleet, key, apart));
            Among { spread_by: by.clone(), spread, apart: apart.then(BTreeMap::new) }
        })
    }

    /// The values of a label for a fleet, if there are any.
    fn spread(
        &mut self,
        kind: usize,
        fleet: &FleetName,
        key: &str,
        apart: bool,
    ) -> Option<Spread<'a>> {
        let (key, _) = self.state.index().with_label(key)?;
        self.count(fleet, key);
        let nodes = self.search(kind, Over::Nodes(None));
        let is_short = nodes.is_short();
        let first: BTreeSet<Label<'a>> = if is_short {
            nodes.nodes().filter_map(|id| self.label(id, key)).collect()
        } else {
            // Where one node is left out fewer agents may be.
            self.without.and_then(|id| self.label(id, key)).into_iter().collect()
        };
        let met = first.iter().map(|(_, value)| *value).collect();
        let values = first.into_iter().map(|label| Reverse((0, (0, NodeId(0)), label))).collect();
        let search = self.search_values(kind, key, Some((fleet, apart)));
        let own = Own { search, ..Own::default() };
        let others = (!is_short).then_some((0, (0, NodeId(0))));
        Some(Spread { key, values, met, others, own })
    }

    /// Takes the next of the values that did not come yet.
    fn meet(
        &mut self,
        kind: usize,
        fleet: &FleetName,
        Spread { key, values, met, others, own }: &mut Spread<'a>,
    ) {
        let whereabouts = &self.state.index().whereabouts;
        while let Some((level, _)) = *others {
            let rejects = |plan: &Self, id: NodeId| {
                plan.label(id, key).is_none_or(|label| {
                    met.contains(label.1) || whereabouts.count_under(fleet, label) > level
                })
            };
            let found = self.walk(kind, Over::Values(key), Some((own, &rejects)));
            if let Some((place, label)) = found.and_then(|it| Some((it, self.label(it.1, key)?))) {
                met.insert(label.1);
                values.push(Reverse((level, place, label)));
                *others = Some((level, place));
                return;
            }
            let more = whereabouts.next_level(fleet, key, level);
            *others = more.map(|more| (more, (0, NodeId(0))));
            let search = core::mem::take(&mut own.search).at_most(more.unwrap_or(level));
            *own = Own { search, ..Own::default() };
        }
    }

    /// Counts the agents of a fleet under each value of a label, once.
    fn count(&mut self, fleet: &FleetName, key: &str) {
        let known = self.counts.get(fleet).is_some_and(|keys| keys.contains_key(key));
        if known {
            return;
        }
        let whereabouts = &self.state.index().whereabouts;
        let is_counted = whereabouts.is_spread(fleet, key);
        let placed = whereabouts.on(fleet).take_while(|_| !is_counted);
        let placed = placed.filter(|(node, _)| self.without != Some(*node));
        let planned = self.planned.get(fleet).into_iter().flatten();
        let planned = planned.map(|(node, count)| (*node, *count));
        let mut counts = Counts::new();
        for (node, agents) in placed.chain(planned) {
            if let Some(value) = self.state.nodes().get(&node).and_then(|node| node.label(key)) {
                *counts.entry(value).or_default() += agents;
            }
        }
        self.counts.entry(fleet.clone()).or_default().insert(key.into(), counts);
    }

    /// The node for one more of a fleet that is spread or stands apart.
    fn choose_among(
        &mut self,
        kind: usize,
        fleet: &FleetName,
        Among { spread, apart, .. }: &mut Among<'a>,
    ) -> Option<NodeId> {
        let spread = spread.as_mut();
        let found = spread.and_then(|spread| self.choose_spread(kind, fleet, spread, apart));
        // No node with the label has room: better somewhere than nowhere.
        found.or_else(|| self.first(kind, None, fleet, apart).map(|(_, id)| id))
    }

    /// The least full node under the values that have the fewest agents of a fleet.
    fn choose_spread(
        &mut self,
        kind: usize,
        fleet: &FleetName,
        spread: &mut Spread<'a>,
        apart: &mut Option<Apart<'a>>,
    ) -> Option<NodeId> {
        loop {
            let first = spread.values.peek().map(|Reverse((agents, place, _))| (*agents, *place));
            if spread.others.is_some_and(|others| first.is_none_or(|first| others < first)) {
                self.meet(kind, fleet, spread);
                continue;
            }
            let values = &mut spread.values;
            let Reverse((agents, place, label)) = values.pop()?;
            let now = self.of_fleet(fleet, label);
            if now > agents {
                values.push(Reverse((now, place, label)));
                continue;
            }
            match self.first(kind, Some(label), fleet, apart) {
                Some(found) if found > place => values.push(Reverse((agents, found, label))),
                Some((_, id)) => {
                    values.push(Reverse((agents + 1, place, label)));
                    return Some(id);
                }
                None => {}
            }
        }
    }

    /// How many agents of a fleet are under a label, once they were counted.
    fn of_fleet(&self, fleet: &FleetName, (key, value): Label<'_>) -> usize {
        let counts = self.counts.get(fleet).and_then(|keys| keys.get(key));
        let counted = counts.and_then(|counts| counts.get(value)).copied().unwrap_or(0);
        let whereabouts = &self.state.index().whereabouts;
        if !whereabouts.is_spread(fleet, key) {
            return counted;
        }
        let there = whereabouts.count_under(fleet, (key, value));
        let left_out = self.without.filter(|id| self.label(*id, key) == Some((key, value)));
        counted + there - left_out.map_or(0, |id| whereabouts.count(fleet, id))
    }

    /// The label of a node by a key.
    fn label(&self, id: NodeId, key: &str) -> Option<Label<'a>> {
        let report = self.state.nodes().get(&id)?.report.as_ref()?;
        report.labels.pair(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Admission,
        placement_tests::{Ask, PLAIN, Size, asking, cluster, create},
        property_tests::fleet,
    };

    /// A fleet has an agent on each node but the fullest: beside that, one at most is looked at.
    #[test]
    fn nodes_with_agents_of_the_fleet_are_not_looked_at() {
        let size = |n: u16| Size { ports: 300 + n, memory_gib: 4, rack: 0, version: 1 };
        let (hosts, all) = (Over::Values("host"), Over::Nodes(None));
        for (apart, spread, looked_at) in
            [(true, None, all), (false, Some("host"), hosts), (true, Some("host"), hosts)]
        {
            let (mut state, nodes) = cluster(&(0..40).map(size).collect::<Vec<_>>());
            let (last, others) = nodes.split_last().unwrap();
            let large = asking(Ask { memory: 8, fleet: 1, ..PLAIN });
            let spec = asking(Ask { apart, spread, ..PLAIN });
            let placed = others.iter().map(|node| (0, node, &spec)).chain([(1, last, &large)]);
            for (index, (name, node, spec)) in (2_000..).zip(placed) {
                let (id, node, spec) = (format!("a{index}"), Some(*node), spec.clone());
                create(&mut state, index, fleet(name), &id, node, spec, Admission::Unchecked)
                    .unwrap();
            }
            let mut plan = Planner::new(&state);
            assert_eq!(plan.choose(&fleet(0), &spec), Some(*last));
            assert!(plan.kinds[0].walks[&looked_at].suiting.len() <= 2);
        }
    }
}
