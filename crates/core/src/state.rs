//! All records, the indexes derived from them, and the list of what the last commands changed.

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec::Vec,
};

use fleet_types::{
    AgentId, Epoch, FleetName, Generation, NodeId, PortBlock, PortRange, RequestId, Revision,
    Timestamp, TokenId,
    limits::{EVENTS_MAX, REQUESTS_REMEMBERED_MAX},
};

use crate::{
    admission::Totals,
    command::RULES,
    event::{Event, What},
    index::Index,
    ports::BuddyAllocator,
    record::{
        Agent, Cluster, Evidence, Fleet, JoinToken, Key, Lifecycle, Node, NodeStatus,
        PendingReason, Placement, PlacementPolicy, Quarantine, QuarantineCause, Record,
        RequestRecord, Role,
    },
    rejection::Rejection,
    room::Room,
};

/// The replicated state. Read it through the accessors; only commands change it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    cluster: Option<Cluster>,
    nodes: BTreeMap<NodeId, Node>,
    fleets: BTreeMap<FleetName, Fleet>,
    // Boxed, as the leaves of a map that grows at its end stay half full.
    agents: BTreeMap<AgentId, Box<Agent>>,
    tokens: BTreeMap<TokenId, JoinToken>,
    requests: BTreeMap<RequestId, RequestRecord>,
    quarantine: BTreeMap<(NodeId, u16), Quarantine>,
    events: BTreeMap<u64, Box<Event>>,
    // Derived from the records; never stored.
    request_order: BTreeMap<u64, RequestId>,
    index: Index,
    changed: BTreeSet<Key>,
    #[cfg(feature = "planted")]
    accepts_stale_epochs: bool,
}

/// The time and revision of a command, which what it changes carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Timestamp,
    pub(crate) revision: Revision,
}

impl State {
    /// Rebuilds a state from its records, in any order.
    pub fn restore(records: impl IntoIterator<Item = Record>) -> Self {
        let mut state = Self::default();
        for record in records {
            match record {
                Record::Cluster(cluster) => state.cluster = Some(cluster),
                Record::Node(node) => drop(state.nodes.insert(node.id, node)),
                Record::Fleet(fleet) => drop(state.fleets.insert(fleet.name.clone(), fleet)),
                Record::Agent(agent) => drop(state.agents.insert(agent.id.clone(), agent)),
                Record::Token(token) => drop(state.tokens.insert(token.id.clone(), token)),
                Record::Request(request) => {
                    state.request_order.insert(request.serial, request.id.clone());
                    state.requests.insert(request.id.clone(), request);
                }
                Record::Quarantine(kept) => {
                    state.quarantine.insert((kept.node, kept.block.base), kept);
                }
                Record::Event(event) => drop(state.events.insert(event.serial, event)),
            }
        }
        let policy = state.placement_policy();
        for node in state.nodes.values() {
            state.index.put_node(node, &policy);
        }
        for agent in state.agents.values() {
            state.index.add_agent(&agent.id.fleet, &agent.spec, &state.nodes);
            let Some(placement) = &agent.placement else {
                state.index.unplaced.insert(agent.id.clone());
                continue;
            };
            if placement.evicting {
                state.index.leaving.insert(agent.id.clone());
            }
            if let Some(room) = state.index.rooms.get_mut(&placement.node) {
                room.take_exactly(&agent.spec, placement.block);
            }
            if let Some(node) = state.nodes.get(&placement.node) {
                state.index.settle(&agent.id, &agent.spec, node);
            }
        }
        for kept in state.quarantine.values() {
            if let Some(room) = state.index.rooms.get_mut(&kept.node) {
                room.keep_block(kept.block);
            }
        }
        for node in state.nodes.values() {
            state.index.relist(node);
        }
        state.catch_up();
        state
    }

    /// Every record.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        self.records_but_events().chain(self.events.values().cloned().map(Record::Event))
    }

    /// Every record of what is, not of what was.
    pub(crate) fn records_but_events(&self) -> impl Iterator<Item = Record> {
        let cluster = self.cluster.iter().cloned().map(Record::Cluster);
        let nodes = self.nodes.values().cloned().map(Record::Node);
        let fleets = self.fleets.values().cloned().map(Record::Fleet);
        let agents = self.agents.values().cloned().map(Record::Agent);
        let tokens = self.tokens.values().cloned().map(Record::Token);
        let requests = self.requests.values().cloned().map(Record::Request);
        let quarantine = self.quarantine.values().cloned().map(Record::Quarantine);
        let firsts = cluster.chain(nodes).chain(fleets).chain(agents);
        firsts.chain(tokens).chain(requests).chain(quarantine)
    }

    /// The record of a name, if there is one.
    pub fn record(&self, key: &Key) -> Option<Record> {
        match key {
            Key::Cluster => self.cluster.clone().map(Record::Cluster),
            Key::Node(id) => self.nodes.get(id).cloned().map(Record::Node),
            Key::Fleet(name) => self.fleets.get(name).cloned().map(Record::Fleet),
            Key::Agent(id) => self.agents.get(id).cloned().map(Record::Agent),
            Key::Token(id) => self.tokens.get(id).cloned().map(Record::Token),
            Key::Request(id) => self.requests.get(id).cloned().map(Record::Request),
            Key::Quarantine(node, base) => {
                self.quarantine.get(&(*node, *base)).cloned().map(Record::Quarantine)
            }
            Key::Event(serial) => self.events.get(serial).cloned().map(Record::Event),
        }
    }

    /// Names of the records changed since the last call: present ones are to be stored, absent
    /// ones to be deleted.
    pub fn take_changed(&mut self) -> BTreeSet<Key> {
        core::mem::take(&mut self.changed)
    }

    /// The cluster record.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// The nodes, by number.
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// The fleets, by name.
    pub fn fleets(&self) -> &BTreeMap<FleetName, Fleet> {
        &self.fleets
    }

    /// The agents, by name.
    pub fn agents(&self) -> &BTreeMap<AgentId, Box<Agent>> {
        &self.agents
    }

    /// The agent of a name, if there is one.
    pub fn agent(&self, id: &AgentId) -> Option<&Agent> {
        self.agents.get(id).map(Box::as_ref)
    }

    /// The agents of a fleet, by name.
    pub fn fleet_agents(&self, fleet: &FleetName) -> impl Iterator<Item = &Agent> {
        let first = "0".parse().expect("the smallest text that is a name");
        let start = AgentId { fleet: fleet.clone(), agent: first };
        let of_fleet = fleet.clone();
        self.agents
            .range(start..)
            .map(|(_, agent)| agent.as_ref())
            .take_while(move |a| a.id.fleet == of_fleet)
    }

    /// The join tokens, by id.
    pub fn tokens(&self) -> &BTreeMap<TokenId, JoinToken> {
        &self.tokens
    }

    /// The remembered requests, by key.
    pub fn requests(&self) -> &BTreeMap<RequestId, RequestRecord> {
        &self.requests
    }

    /// What room a registered node has.
    pub fn room(&self, node: NodeId) -> Option<&Room> {
        self.index.rooms.get(&node)
    }

    /// The free ports of a registered node.
    pub fn ports(&self, node: NodeId) -> Option<&BuddyAllocator> {
        self.room(node).map(Room::ports)
    }

    /// The agents placed on a node, by name.
    pub fn placed_on(&self, node: NodeId) -> impl ExactSizeIterator<Item = &AgentId> {
        static NONE: BTreeSet<AgentId> = BTreeSet::new();
        self.index.placed.get(&node).unwrap_or(&NONE).iter()
    }

    /// The agents without a placement, by name.
    pub fn unplaced(&self) -> impl Iterator<Item = &AgentId> {
        self.index.unplaced.iter()
    }

    /// The agents that go elsewhere once the node they were asked to leave says that they left; that
    /// node is up.
    pub fn on_the_move(&self) -> impl Iterator<Item = &Agent> {
        self.index.leaving.iter().filter_map(|id| self.agent(id)).filter(|agent| {
            let node = agent.placement.as_ref().and_then(|p| self.nodes.get(&p.node));
            let is_up = node.is_some_and(|node| node.status == NodeStatus::Active);
            is_up && agent.lifecycle == Lifecycle::Live
        })
    }

    /// The agents that wait for their node, which was lost, or for agents to be moved again.
    pub(crate) fn held_for(&self, node: NodeId) -> impl Iterator<Item = &Agent> {
        self.unplaced().filter_map(|id| self.agent(id)).filter(move |agent| {
            let former = agent.former.is_some_and(|(former, _)| former == node);
            former && agent.pending == Some(PendingReason::MovesPaused)
        })
    }

    /// The ports of a node that are kept from agents, by number.
    pub fn quarantined(&self, node: NodeId) -> impl Iterator<Item = &Quarantine> {
        self.quarantine.range((node, 0)..=(node, u16::MAX)).map(|(_, kept)| kept)
    }

    /// What happened, the latest last.
    pub fn events(&self) -> &BTreeMap<u64, Box<Event>> {
        &self.events
    }

    /// Whether it is known that an agent, in one of its starts, said that it runs twice.
    pub fn told_of_double_run(&self, agent: &AgentId, generation: Generation, start: u32) -> bool {
        let of_agent = self.events.values().rev().filter(|it| it.agent.as_ref() == Some(agent));
        // What comes before a deletion is of another one of that name.
        let mut since =
            of_agent.map(|event| &event.what).take_while(|it| **it != What::AgentDeleted);
        since.any(|what| match what {
            What::AgentRunsTwice { generation: of, start: in_start, .. } => {
                (*of, *in_start) == (generation, start)
            }
            _ => false,
        })
    }

    /// The newest rules that all voters can apply commands by, those there are and those to be.
    pub fn rules(&self) -> u32 {
        self.rules_of(|node| node.role == Role::Voter)
    }

    /// The newest rules that some nodes, as far as they said, can apply commands by.
    pub fn rules_of(&self, are_meant: impl Fn(&Node) -> bool) -> u32 {
        let nodes = self.nodes.values().filter(|node| are_meant(node));
        let rules = nodes.filter_map(|node| Some(node.report.as_ref()?.rules));
        rules.min().unwrap_or(RULES).min(RULES)
    }

    /// How agents are placed.
    pub fn placement_policy(&self) -> PlacementPolicy {
        self.cluster.as_ref().map(|cluster| cluster.placement.clone()).unwrap_or_default()
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    pub(crate) fn totals(&self) -> &Totals {
        &self.index.totals
    }

    pub(crate) fn require_node(&self, id: NodeId) -> Result<&Node, Rejection> {
        self.nodes.get(&id).ok_or(Rejection::NodeUnknown(id))
    }

    /// The node, if `epoch` is its current one: what comes late of an earlier one is refused.
    pub(crate) fn require_epoch(&self, id: NodeId, epoch: Epoch) -> Result<&Node, Rejection> {
        let node = self.require_node(id)?;
        #[cfg(feature = "planted")]
        if self.accepts_stale_epochs {
            return Ok(node);
        }
        if node.epoch == epoch {
            return Ok(node);
        }
        Err(Rejection::StaleEpoch { node: id, current: node.epoch })
    }

    /// Plants a mistake, to see that a test catches it: any epoch is taken for the current one.
    #[cfg(feature = "planted")]
    pub fn plant_stale_epochs(&mut self) {
        self.accepts_stale_epochs = true;
    }

    pub(crate) fn require_agent(&self, id: &AgentId) -> Result<&Agent, Rejection> {
        self.agent(id).ok_or_else(|| Rejection::AgentUnknown(id.clone()))
    }

    /// Keeps an event, forgetting the oldest past the limit.
    pub(crate) fn tell(
        &mut self,
        now: Moment,
        node: Option<NodeId>,
        agent: Option<AgentId>,
        what: What,
    ) {
        let serial = self.events.last_key_value().map_or(0, |(last, _)| last + 1);
        let Moment { at, revision } = now;
        self.changed.insert(Key::Event(serial));
        let event = Event { serial, at, revision, node, agent, what };
        self.events.insert(serial, Box::new(event));
        while self.events.len() > EVENTS_MAX {
            let Some((oldest, _)) = self.events.pop_first() else { break };
            self.changed.insert(Key::Event(oldest));
        }
    }

    /// Brings up to date what a command leaves for its end.
    pub(crate) fn catch_up(&mut self) {
        self.index.catch_up(&self.nodes);
    }

    pub(crate) fn put_cluster(&mut self, cluster: Cluster) {
        let shares = |policy: &PlacementPolicy| (policy.memory_percent, policy.cpu_percent);
        let before = shares(&self.placement_policy());
        self.changed.insert(Key::Cluster);
        let policy = cluster.placement.clone();
        self.cluster = Some(cluster);
        if shares(&policy) != before {
            for node in self.nodes.values() {
                self.index.unlist(node);
                self.index.put_node(node, &policy);
            }
        }
    }

    pub(crate) fn put_node(&mut self, node: Node) {
        let policy = self.placement_policy();
        self.changed.insert(Key::Node(node.id));
        if let Some(before) = self.nodes.get(&node.id) {
            self.index.unlist(before);
            self.index.relabel(before, &node);
        }
        self.index.put_node(&node, &policy);
        self.nodes.insert(node.id, node);
    }

    pub(crate) fn remove_node(&mut self, id: NodeId) {
        let Some(node) = self.nodes.remove(&id) else { return };
        self.changed.insert(Key::Node(id));
        self.index.remove_node(&node);
        let kept: Vec<u16> = self.quarantined(id).map(|kept| kept.block.base).collect();
        for base in kept {
            self.forget_quarantine(id, base);
        }
    }

    pub(crate) fn put_fleet(&mut self, fleet: Fleet) {
        self.changed.insert(Key::Fleet(fleet.name.clone()));
        self.fleets.insert(fleet.name.clone(), fleet);
    }

    pub(crate) fn remove_fleet(&mut self, name: &FleetName) {
        self.changed.insert(Key::Fleet(name.clone()));
        self.fleets.remove(name);
    }

    pub(crate) fn put_token(&mut self, token: JoinToken) {
        self.changed.insert(Key::Token(token.id.clone()));
        self.tokens.insert(token.id.clone(), token);
    }

    pub(crate) fn remove_token(&mut self, id: &TokenId) {
        self.changed.insert(Key::Token(id.clone()));
        self.tokens.remove(id);
    }

    /// Remembers a request, forgetting the oldest past the limit.
    pub(crate) fn remember(&mut self, id: RequestId, fingerprint: u64, revision: Revision) {
        let serial = self.request_order.last_key_value().map_or(0, |(last, _)| last + 1);
        self.changed.insert(Key::Request(id.clone()));
        self.request_order.insert(serial, id.clone());
        self.requests.insert(id.clone(), RequestRecord { id, fingerprint, serial, revision });
        while self.requests.len() > REQUESTS_REMEMBERED_MAX {
            let Some((_, oldest)) = self.request_order.pop_first() else { break };
            self.requests.remove(&oldest);
            self.changed.insert(Key::Request(oldest));
        }
    }

    /// Gives a node the port range it reported, keeping what is taken. False, and nothing changed,
    /// when an agent's block would lie outside.
    pub(crate) fn set_port_range(&mut self, node: NodeId, range: PortRange) -> bool {
        if self.ports(node).is_none_or(|ports| ports.range() == range) {
            return true;
        }
        let placed = self.index.placed.get(&node).into_iter().flatten();
        let owned: Vec<&Agent> =
            placed.filter_map(|id| self.agents.get(id)).map(Box::as_ref).collect();
        let holds = |block: PortBlock| range.first() <= block.base && block.last() <= range.last();
        let kept = self.quarantine.range((node, 0)..=(node, u16::MAX)).map(|(_, kept)| kept.block);
        let (kept, outside): (Vec<_>, Vec<_>) = kept.partition(|block| holds(*block));
        if !self.index.set_port_range(node, range, owned.into_iter(), kept.into_iter()) {
            return false;
        }
        for block in outside {
            self.forget_quarantine(node, block.base);
        }
        true
    }

    fn forget_quarantine(&mut self, node: NodeId, base: u16) {
        self.changed.insert(Key::Quarantine(node, base));
        self.quarantine.remove(&(node, base));
    }

    /// Keeps a block that is taken, and owned by nobody any more, from agents.
    fn quarantine(&mut self, node: NodeId, block: PortBlock, cause: QuarantineCause, now: Moment) {
        let Moment { at: since, revision } = now;
        self.changed.insert(Key::Quarantine(node, block.base));
        self.quarantine
            .insert((node, block.base), Quarantine { node, block, cause, since, revision });
    }

    /// Lets agents have a quarantined block again, saying why it was kept from them; nothing when
    /// it was not.
    pub(crate) fn release_block(
        &mut self,
        node: NodeId,
        block: PortBlock,
    ) -> Option<QuarantineCause> {
        let kept = self.quarantine.get(&(node, block.base)).filter(|kept| kept.block == block)?;
        let cause = kept.cause.clone();
        self.forget_quarantine(node, block.base);
        if let Some(node) = self.nodes.get(&node) {
            self.index.free_block(node, block);
        }
        Some(cause)
    }

    /// Stores an agent that is known, without touching its placement.
    pub(crate) fn put_agent(&mut self, agent: Agent) {
        self.changed.insert(Key::Agent(agent.id.clone()));
        if agent.placement.as_ref().is_some_and(|placement| placement.evicting) {
            self.index.leaving.insert(agent.id.clone());
        } else {
            self.index.leaving.remove(&agent.id);
        }
        self.agents.insert(agent.id.clone(), Box::new(agent));
    }

    /// Stores a new agent, placed on `node` if it may go there and there is room; else it records
    /// why not. `told` says whether a placement is an event.
    pub(crate) fn add_agent(
        &mut self,
        mut agent: Agent,
        node: Option<NodeId>,
        told: bool,
        now: Moment,
    ) {
        self.index.add_agent(&agent.id.fleet, &agent.spec, &self.nodes);
        match self.settle(&mut agent, node, now) {
            Ok((node, what)) if told => self.tell(now, Some(node), Some(agent.id.clone()), what),
            Ok(_) => {}
            Err(reason) => {
                agent.pending = Some(reason);
                self.index.unplaced.insert(agent.id.clone());
                let what = What::AgentPending { reason };
                self.tell(now, None, Some(agent.id.clone()), what);
            }
        }
        self.put_agent(agent);
    }

    /// Places an unplaced agent on `node` if it may go there and has room; else records why not.
    pub(crate) fn place(&mut self, id: &AgentId, node: Option<NodeId>, now: Moment) {
        let Some((id, mut agent)) = self.agents.remove_entry(id) else { return };
        let news = match self.settle(&mut agent, node, now) {
            Ok((node, what)) => {
                self.index.unplaced.remove(&id);
                Some((Some(node), what))
            }
            Err(reason) if agent.pending == Some(reason) => None,
            Err(reason) => {
                agent.pending = Some(reason);
                Some((None, What::AgentPending { reason }))
            }
        };
        if let Some((node, what)) = news {
            agent.revision = now.revision;
            self.changed.insert(Key::Agent(id.clone()));
            self.tell(now, node, Some(id.clone()), what);
        }
        self.agents.insert(id, agent);
    }

    /// Gives an agent that is not among `agents` its placement on `node`, if it may go there and
    /// fits, and what there is to tell of it; else says why not.
    fn settle(
        &mut self,
        agent: &mut Agent,
        node: Option<NodeId>,
        now: Moment,
    ) -> Result<(NodeId, What), PendingReason> {
        let (node, block) = self.find_place(node, agent)?;
        agent.generation = agent.generation.next();
        let evidence = core::mem::replace(&mut agent.evidence, Evidence::First);
        let (evicting, next, taken_by, parked) = (false, None, None, None);
        let placed = now.at;
        let what = What::AgentPlaced { generation: agent.generation, evidence: evidence.clone() };
        agent.placement =
            Some(Placement { node, block, evicting, next, taken_by, parked, evidence, placed });
        agent.pending = None;
        if let Some(node) = self.nodes.get(&node) {
            self.index.place(&agent.id, &agent.spec, node);
        }
        Ok((node, what))
    }

    /// Lets an agent that was just unplaced wait until agents are moved again.
    pub(crate) fn hold(&mut self, id: &AgentId, now: Moment) {
        let Some(agent) = self.agents.get_mut(id) else { return };
        let reason = PendingReason::MovesPaused;
        agent.pending = Some(reason);
        self.tell(now, None, Some(id.clone()), What::AgentPending { reason });
    }

    /// Takes what an agent asks for on a node, if it may go there and it fits.
    fn find_place(
        &mut self,
        node: Option<NodeId>,
        agent: &Agent,
    ) -> Result<(NodeId, PortBlock), PendingReason> {
        let chosen = node.and_then(|id| self.nodes.get(&id)).filter(|n| crate::index::open(n));
        let Some(node) = chosen else {
            return Err(crate::plan::why_pending(self, &agent.id.fleet, &agent.spec));
        };
        if let Some(reason) = crate::plan::obstacle(self, node, &agent.id.fleet, &agent.spec) {
            return Err(reason);
        }
        let id = node.id;
        let room = self.index.rooms.get_mut(&id);
        let block = room.and_then(|room| room.take(&agent.spec)).ok_or(PendingReason::NoPorts)?;
        Ok((id, block))
    }

    /// Takes an agent's placement away, recording why nothing of it runs. Its ports are kept from
    /// others until its node says that nothing uses them.
    pub(crate) fn unplace(&mut self, id: &AgentId, evidence: Evidence, now: Moment) {
        let Some(agent) = self.agents.get_mut(id) else { return };
        let Some(placement) = agent.placement.take() else { return };
        agent.evidence = evidence;
        agent.former = Some((placement.node, agent.generation));
        agent.revision = now.revision;
        if let Some(node) = self.nodes.get(&placement.node) {
            self.index.unplace(agent, node, placement.block);
        }
        self.changed.insert(Key::Agent(id.clone()));
        let cause = match placement.taken_by {
            None => QuarantineCause::Freed,
            Some(by) => {
                let (block, by) = (placement.block, String::from(by));
                let what = What::PortsQuarantined { block, by: by.clone() };
                self.tell(now, Some(placement.node), Some(id.clone()), what);
                QuarantineCause::Foreign(by)
            }
        };
        self.quarantine(placement.node, placement.block, cause, now);
    }

    /// Forgets an agent that has no placement.
    pub(crate) fn remove_agent(&mut self, id: &AgentId, now: Moment) {
        self.changed.insert(Key::Agent(id.clone()));
        self.index.unplaced.remove(id);
        if let Some(agent) = self.agents.remove(id) {
            self.index.remove_agent(&id.fleet, &agent.spec, &self.nodes);
            self.tell(now, None, Some(id.clone()), What::AgentDeleted);
        }
    }
}
