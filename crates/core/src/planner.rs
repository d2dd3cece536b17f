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
//! priority of its kind.
//!
//! The cost: a choice is a search of a tree of nodes by load, see [`crate::by_load`]: of all, or of
//! those with the rarest label that is asked for. Of that tree's nodes marks lead to those with
//! another label, the version or the fitness, and what is left of each sort of room to those that
//! have it. So a choice costs the logarithm of the nodes, except where two things the tree is not
//! made by are each to be had widely, and together hardly anywhere, memory on some nodes and
//! processor time on the others, say: there it passes nodes that have one of them. For an agent
//! that is spread, nodes are passed under values that have some of its fleet, and in the end each
//! value is tried; one that stands apart passes nodes that have one of its fleet.
//!
//! In a plan room only shrinks, so a node that does not suit is passed once for all agents of a
//! kind, whatever their fleets are.

use alloc::{
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    string::String,
    sync::Arc,
    vec::Vec,
};
use core::{cmp::Reverse, ops::Bound};

use fleet_types::{FleetName, NodeId};

use crate::{
    by_load::Place,
    index::{Search, open},
    offer::{Demand, Needs},
    plan::{listed, matches},
    record::{AgentSpec, Node},
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
    /// Over all nodes, and over those with a label.
    walks: BTreeMap<Option<Label<'a>>, Walk<'a>>,
    /// Of fleets whose agents are placed by where others are.
    among: BTreeMap<FleetName, Vec<Among<'a>>>,
}

/// How far the nodes for a kind were walked.
#[derive(Default)]
struct Walk<'a> {
    search: Search<'a>,
    /// The next that was not looked at.
    next: Option<Place>,
    /// Those of the others that may suit; loads may be too low.
    suiting: BTreeSet<Place>,
}

/// How agents of a fleet are placed among others of it.
struct Among<'a> {
    apart: bool,
    spread: Option<Spread<'a>>,
    /// The nodes up to here do not suit, if not for their labels.
    passed: Walked,
}

/// Values of a label, those with the fewest agents of the fleet first.
struct Spread<'a> {
    key: String,
    /// How many agents, and the place of the first node that may suit; too few or too early, maybe.
    values: BinaryHeap<Reverse<(usize, Place, Label<'a>)>>,
    /// How far nodes are walked for values with none of the fleet, and how many more are.
    walked: Walked,
    steps: usize,
    /// The values met on that way.
    met: BTreeSet<&'a str>,
}

/// How far nodes are walked.
#[derive(Clone, Copy)]
enum Walked {
    /// To the node at a place, or not yet.
    To(Option<Place>),
    /// To the last, or it was given up.
    All,
}

impl<'a> Planner<'a> {
    /// A planner over `state`.
    pub fn new(state: &'a State) -> Self {
        Self {
            state,
            without: None,
            rooms: BTreeMap::new(),
            apart: BTreeMap::new(),
            planned: BTreeMap::new(),
            counts: BTreeMap::new(),
            kinds: Vec::new(),
            kinds_of: BTreeMap::new(),
            last: 0,
        }
    }

    /// What it plans on.
    pub fn state(&self) -> &'a State {
        self.state
    }

    /// A planner that leaves `node` out.
    pub fn without(state: &'a State, node: NodeId) -> Self {
        Self { without: Some(node), ..Self::new(state) }
    }

    /// The node for one more agent, or none when no open node suits it and has the room.
    pub fn choose(&mut self, fleet: &FleetName, spec: &AgentSpec) -> Option<NodeId> {
        let kind = self.kind(spec);
        let id = if spec.wants.apart || spec.wants.spread_by.is_some() {
            let mut among = self.take_among(kind, fleet, spec);
            let id = self.choose_among(kind, fleet, &mut among);
            self.kinds[kind].among.get_mut(fleet)?.push(among);
            id
        } else {
            self.first(kind, None, None, |_, _| true).map(|(_, id)| id)
        };
        self.take(id?, fleet, spec);
        id
    }

    /// The node for an agent that should go to `wanted`, if it suits; else another.
    pub fn choose_towards(
        &mut self,
        wanted: Option<NodeId>,
        fleet: &FleetName,
        spec: &AgentSpec,
    ) -> Option<NodeId> {
        match wanted {
            Some(id) if self.take_if_suits(id, fleet, spec) => Some(id),
            _ => self.choose(fleet, spec),
        }
    }

    /// Whether an agent that can go nowhere could go somewhere if there were room.
    pub(crate) fn lacks_only_room(&self, fleet: &FleetName, spec: &AgentSpec) -> bool {
        listed(self.state.index(), self.state.nodes(), spec.into())
            .filter(|node| Some(node.id) != self.without)
            .any(|node| !(spec.wants.apart && self.is_close(node.id, fleet)))
    }

    /// Whether an agent can go to a node, and then does.
    pub(crate) fn take_if_suits(
        &mut self,
        id: NodeId,
        fleet: &FleetName,
        spec: &AgentSpec,
    ) -> bool {
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
            if let Some(value) = node.and_then(|node| value(node, key)) {
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

    /// The first node after a place, or of all, that suits a kind and is accepted, of those with a
    /// label if given.
    fn first(
        &mut self,
        kind: usize,
        label: Option<Label<'a>>,
        after: Option<Place>,
        accepts: impl Fn(&Self, NodeId) -> bool,
    ) -> Option<Place> {
        let Kind { demand, walks, .. } = &mut self.kinds[kind];
        let walk = walks.entry(label).or_insert_with(|| {
            let search = self.state.index().search(demand.needs(), demand.size, label);
            Walk { next: search.first_after(None), search, suiting: BTreeSet::new() }
        });
        let mut walk = core::mem::take(walk);
        let found = self.walk(&mut walk, kind, label, after, accepts);
        self.kinds[kind].walks.insert(label, walk);
        found
    }

    fn walk(
        &self,
        walk: &mut Walk<'a>,
        kind: usize,
        label: Option<Label<'a>>,
        mut after: Option<Place>,
        accepts: impl Fn(&Self, NodeId) -> bool,
    ) -> Option<Place> {
        let demand = &self.kinds[kind].demand;
        loop {
            let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
            let known = walk.suiting.range(from).next().copied();
            if let Some(next) = walk.next.filter(|next| known.is_none_or(|known| *next < known)) {
                let node = self.state.nodes().get(&next.1);
                let labelled = label.is_none_or(|(key, wanted)| {
                    node.and_then(|node| value(node, key)) == Some(wanted)
                });
                if labelled && self.is_one_for(next.1, demand.needs()) {
                    walk.suiting.insert(next);
                }
                walk.next = walk.search.first_after(Some(next));
                continue;
            }
            let (load, id) = known?;
            let room = self.room(id).filter(|room| room.has(demand.size));
            match room.map(Room::load) {
                Some(now) if now == load => {
                    if accepts(self, id) {
                        return known;
                    }
                    after = known;
                }
                // This plan filled it meanwhile.
                now => {
                    walk.suiting.remove(&(load, id));
                    walk.suiting.extend(now.map(|now| (now, id)));
                }
            }
        }
    }

    /// How agents of a fleet are placed among others of it; to be put back.
    fn take_among(&mut self, kind: usize, fleet: &FleetName, spec: &AgentSpec) -> Among<'a> {
        let (apart, by) = (spec.wants.apart, spec.wants.spread_by.as_deref());
        if !self.kinds[kind].among.contains_key(fleet) {
            self.kinds[kind].among.insert(fleet.clone(), Vec::new());
        }
        let known = self.kinds[kind].among.get_mut(fleet);
        let found = known.and_then(|known| {
            let is_it = |among: &Among<'_>| {
                among.apart == apart && among.spread.as_ref().map(|spread| &*spread.key) == by
            };
            let place = known.iter().position(is_it)?;
            Some(known.swap_remove(place))
        });
        found.unwrap_or_else(|| {
            let spread = by.map(|key| self.spread(fleet, key));
            Among { apart, spread, passed: Walked::To(None) }
        })
    }

    /// The values of a label for a fleet.
    fn spread(&mut self, fleet: &FleetName, key: &str) -> Spread<'a> {
        self.count(fleet, key);
        let steps = self.state.index().with_label(key).map_or(0, |(_, values)| values.len());
        let (key, values, met) = (key.into(), BinaryHeap::new(), BTreeSet::new());
        Spread { key, values, walked: Walked::To(None), steps, met }
    }

    /// Counts the agents of a fleet under each value of a label, once.
    fn count(&mut self, fleet: &FleetName, key: &str) {
        let known = self.counts.get(fleet).is_some_and(|keys| keys.contains_key(key));
        if known {
            return;
        }
        let whereabouts = &self.state.index().whereabouts;
        let is_counted = whereabouts.under(fleet, key).is_some();
        let placed = whereabouts.on(fleet).take_while(|_| !is_counted);
        let placed = placed.filter(|(node, _)| self.without != Some(*node));
        let planned = self.planned.get(fleet).into_iter().flatten();
        let planned = planned.map(|(node, count)| (*node, *count));
        let mut counts = Counts::new();
        for (node, agents) in placed.chain(planned) {
            if let Some(value) = self.state.nodes().get(&node).and_then(|node| value(node, key)) {
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
        among: &mut Among<'a>,
    ) -> Option<NodeId> {
        let apart = among.apart;
        let accepts = |plan: &Self, id: NodeId| !(apart && plan.is_close(id, fleet));
        if let Some(spread) = &mut among.spread {
            let found = self.choose_spread(kind, fleet, spread, accepts);
            if found.is_some() {
                return found;
            }
        }
        // No node with the label has room: better somewhere than nowhere.
        let Walked::To(passed) = among.passed else { return None };
        let found = self.first(kind, None, passed.filter(|_| apart), accepts);
        among.passed = found.map_or(Walked::All, |place| Walked::To(Some(place)));
        found.map(|(_, id)| id)
    }

    /// The least full node under the values that have the fewest agents of a fleet.
    fn choose_spread(
        &mut self,
        kind: usize,
        fleet: &FleetName,
        spread: &mut Spread<'a>,
        accepts: impl Fn(&Self, NodeId) -> bool + Copy,
    ) -> Option<NodeId> {
        loop {
            // One that is met and has no agents is taken at once: what comes later has more, or is
            // fuller.
            let least = spread.values.peek().map(|Reverse((agents, ..))| *agents);
            if let Walked::To(after) = spread.walked
                && least != Some(0)
            {
                self.meet(kind, fleet, spread, after, accepts);
                continue;
            }
            let values = &mut spread.values;
            let Reverse((agents, place, label)) = values.pop()?;
            let now = self.of_fleet(fleet, label);
            if now > agents {
                values.push(Reverse((now, place, label)));
                continue;
            }
            match self.first(kind, Some(label), None, accepts) {
                Some(found) if found > place => values.push(Reverse((agents, found, label))),
                Some((_, id)) => {
                    values.push(Reverse((agents + 1, place, label)));
                    return Some(id);
                }
                None => {}
            }
        }
    }

    /// Goes on to the next node under a value that was not met; to all such values after as many
    /// nodes as there are.
    fn meet(
        &mut self,
        kind: usize,
        fleet: &FleetName,
        Spread { key, values, walked, steps, met }: &mut Spread<'a>,
        after: Option<Place>,
        accepts: impl Fn(&Self, NodeId) -> bool,
    ) {
        if *steps == 0 {
            *walked = Walked::All;
            let labels = self.state.index().with_label(key).into_iter();
            let labels =
                labels.flat_map(|(key, values)| values.keys().map(move |v| (&**key, &**v)));
            let unmet = labels.filter(|(_, value)| !met.contains(value));
            values.extend(unmet.map(|label| Reverse((0, (0, NodeId(0)), label))));
            return;
        }
        *steps -= 1;
        let Some(place) = self.first(kind, None, after, accepts) else {
            *walked = Walked::All;
            return;
        };
        *walked = Walked::To(Some(place));
        if let Some(label) = self.label(place.1, key)
            && met.insert(label.1)
        {
            values.push(Reverse((self.of_fleet(fleet, label), place, label)));
        }
    }

    /// How many agents of a fleet are under a label, once they were counted.
    fn of_fleet(&self, fleet: &FleetName, (key, value): Label<'_>) -> usize {
        let counts = self.counts.get(fleet).and_then(|keys| keys.get(key));
        let counted = counts.and_then(|counts| counts.get(value)).copied().unwrap_or(0);
        let whereabouts = &self.state.index().whereabouts;
        let Some(counts) = whereabouts.under(fleet, key) else { return counted };
        let there = counts.get(value).copied().unwrap_or(0);
        let left_out = self.without.filter(|id| self.label(*id, key) == Some((key, value)));
        counted + there - left_out.map_or(0, |id| whereabouts.count(fleet, id))
    }

    /// The label of a node by a key.
    fn label(&self, id: NodeId, key: &str) -> Option<Label<'a>> {
        let report = self.state.nodes().get(&id)?.report.as_ref()?;
        report.labels.pair(key)
    }
}

/// The value of a node's label.
fn value<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.report.as_ref()?.labels.get(key)
}
