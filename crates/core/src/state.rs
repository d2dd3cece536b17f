//! All records, the indexes derived from them, and the list of what the last commands changed.

use alloc::collections::{BTreeMap, BTreeSet};

use fleet_types::{
    AgentId, FleetName, NodeId, RequestId, Revision, Timestamp, TokenId,
    limits::REQUESTS_REMEMBERED_MAX,
};

use crate::{
    ports::BuddyAllocator,
    record::{
        Agent, Cluster, Evidence, Fleet, JoinToken, Key, Node, NodeStatus, PendingReason,
        Placement, Record, RequestRecord, Schedulable,
    },
    rejection::Rejection,
};

/// The replicated state. Read it through the accessors; only commands change it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    cluster: Option<Cluster>,
    nodes: BTreeMap<NodeId, Node>,
    fleets: BTreeMap<FleetName, Fleet>,
    agents: BTreeMap<AgentId, Agent>,
    tokens: BTreeMap<TokenId, JoinToken>,
    requests: BTreeMap<RequestId, RequestRecord>,
    // Derived from the records; never stored.
    request_order: BTreeMap<u64, RequestId>,
    ports: BTreeMap<NodeId, BuddyAllocator>,
    placed: BTreeMap<NodeId, BTreeSet<AgentId>>,
    unplaced: BTreeSet<AgentId>,
    changed: BTreeSet<Key>,
}

impl State {
    /// Rebuilds a state from its records, in any order.
    pub fn restore(records: impl IntoIterator<Item = Record>) -> Self {
        let mut state = Self::default();
        for record in records {
            match record {
                Record::Cluster(cluster) => state.cluster = Some(cluster),
                Record::Node(node) => {
                    state.nodes.insert(node.id, node);
                }
                Record::Fleet(fleet) => {
                    state.fleets.insert(fleet.name.clone(), fleet);
                }
                Record::Agent(agent) => {
                    state.agents.insert(agent.id.clone(), agent);
                }
                Record::Token(token) => {
                    state.tokens.insert(token.id.clone(), token);
                }
                Record::Request(request) => {
                    state.request_order.insert(request.serial, request.id.clone());
                    state.requests.insert(request.id.clone(), request);
                }
            }
        }
        let ranges = state.nodes.values().filter_map(|n| Some((n.id, n.report.as_ref()?)));
        state.ports = ranges.map(|(id, r)| (id, BuddyAllocator::new(r.port_range))).collect();
        for agent in state.agents.values() {
            match &agent.placement {
                Some(placement) => {
                    if let Some(ports) = state.ports.get_mut(&placement.node) {
                        ports.take_exactly(placement.block);
                    }
                    state.placed.entry(placement.node).or_default().insert(agent.id.clone());
                }
                None => {
                    state.unplaced.insert(agent.id.clone());
                }
            }
        }
        state
    }

    /// Every record.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        let cluster = self.cluster.iter().cloned().map(Record::Cluster);
        let nodes = self.nodes.values().cloned().map(Record::Node);
        let fleets = self.fleets.values().cloned().map(Record::Fleet);
        let agents = self.agents.values().cloned().map(Record::Agent);
        let tokens = self.tokens.values().cloned().map(Record::Token);
        let requests = self.requests.values().cloned().map(Record::Request);
        cluster.chain(nodes).chain(fleets).chain(agents).chain(tokens).chain(requests)
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
    pub fn agents(&self) -> &BTreeMap<AgentId, Agent> {
        &self.agents
    }

    /// The agents of a fleet, by name.
    pub fn fleet_agents(&self, fleet: &FleetName) -> impl Iterator<Item = &Agent> {
        let first = "0".parse().expect("the smallest text that is a name");
        let start = AgentId { fleet: fleet.clone(), agent: first };
        let of_fleet = fleet.clone();
        self.agents
            .range(start..)
            .map(|(_, agent)| agent)
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

    /// The free ports of a registered node.
    pub fn ports(&self, node: NodeId) -> Option<&BuddyAllocator> {
        self.ports.get(&node)
    }

    /// The agents placed on a node, by name.
    pub fn placed_on(&self, node: NodeId) -> impl ExactSizeIterator<Item = &AgentId> {
        static NONE: BTreeSet<AgentId> = BTreeSet::new();
        self.placed.get(&node).unwrap_or(&NONE).iter()
    }

    /// The agents without a placement, by name.
    pub fn unplaced(&self) -> impl Iterator<Item = &AgentId> {
        self.unplaced.iter()
    }

    pub(crate) fn require_node(&self, id: NodeId) -> Result<&Node, Rejection> {
        self.nodes.get(&id).ok_or(Rejection::NodeUnknown(id))
    }

    pub(crate) fn require_agent(&self, id: &AgentId) -> Result<&Agent, Rejection> {
        self.agents.get(id).ok_or_else(|| Rejection::AgentUnknown(id.clone()))
    }

    pub(crate) fn put_cluster(&mut self, cluster: Cluster) {
        self.changed.insert(Key::Cluster);
        self.cluster = Some(cluster);
    }

    pub(crate) fn put_node(&mut self, node: Node) {
        self.changed.insert(Key::Node(node.id));
        self.nodes.insert(node.id, node);
    }

    pub(crate) fn remove_node(&mut self, id: NodeId) {
        self.changed.insert(Key::Node(id));
        self.nodes.remove(&id);
        self.ports.remove(&id);
        self.placed.remove(&id);
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
    pub(crate) fn set_port_range(&mut self, node: NodeId, range: fleet_types::PortRange) -> bool {
        if self.ports.get(&node).is_some_and(|ports| ports.range() == range) {
            return true;
        }
        let mut ports = BuddyAllocator::new(range);
        let blocks = self.placed_on(node).filter_map(|id| self.agents.get(id));
        let fits = blocks
            .filter_map(|agent| agent.placement.as_ref())
            .all(|placement| ports.take_exactly(placement.block));
        if fits {
            self.ports.insert(node, ports);
        }
        fits
    }

    /// Stores an agent without touching its placement.
    pub(crate) fn put_agent(&mut self, agent: Agent) {
        self.changed.insert(Key::Agent(agent.id.clone()));
        if agent.placement.is_none() {
            self.unplaced.insert(agent.id.clone());
        }
        self.agents.insert(agent.id.clone(), agent);
    }

    /// Stores a new agent, placed on `node` if it may go there and there is room; else it records
    /// why not.
    pub(crate) fn add_agent(&mut self, mut agent: Agent, node: Option<NodeId>, at: Timestamp) {
        self.find_place(&mut agent, node, at);
        self.put_agent(agent);
    }

    /// Places an unplaced agent on `node` if it may go there and has room; else records why not.
    pub(crate) fn place(
        &mut self,
        id: &AgentId,
        node: Option<NodeId>,
        at: Timestamp,
        revision: Revision,
    ) {
        let Some((id, mut agent)) = self.agents.remove_entry(id) else { return };
        if self.find_place(&mut agent, node, at) {
            agent.revision = revision;
            self.changed.insert(Key::Agent(id.clone()));
            if agent.placement.is_some() {
                self.unplaced.remove(&id);
            }
        }
        self.agents.insert(id, agent);
    }

    /// Lets an agent that was just unplaced wait until agents are moved again.
    pub(crate) fn hold(&mut self, id: &AgentId) {
        if let Some(agent) = self.agents.get_mut(id) {
            agent.pending = Some(PendingReason::MovesPaused);
        }
    }

    /// Gives an agent that is not among `agents` its placement, or the reason it has none. Whether
    /// that changed it.
    fn find_place(&mut self, agent: &mut Agent, node: Option<NodeId>, at: Timestamp) -> bool {
        let block = match self.eligible(node, agent) {
            Ok(node) => self
                .ports
                .get_mut(&node)
                .and_then(|ports| ports.take(agent.spec.ports))
                .map(|block| (node, block))
                .ok_or(PendingReason::NoPorts),
            Err(reason) => Err(reason),
        };
        match block {
            Ok((node, block)) => {
                agent.generation = agent.generation.next();
                let evidence = core::mem::replace(&mut agent.evidence, Evidence::First);
                agent.placement =
                    Some(Placement { node, block, evicting: false, evidence, placed: at });
                agent.pending = None;
                self.placed.entry(node).or_default().insert(agent.id.clone());
            }
            Err(reason) if agent.pending == Some(reason) => return false,
            Err(reason) => agent.pending = Some(reason),
        }
        true
    }

    fn eligible(&self, node: Option<NodeId>, agent: &Agent) -> Result<NodeId, PendingReason> {
        let node = node.and_then(|id| self.nodes.get(&id));
        let Some(node) = node.filter(|n| n.status == NodeStatus::Active) else {
            return Err(crate::plan::why_pending(self, &agent.spec));
        };
        if node.schedulable != Schedulable::Open {
            return Err(PendingReason::NoNode);
        }
        crate::plan::obstacle(node, &agent.spec).map_or(Ok(node.id), Err)
    }

    /// Takes an agent's placement away and frees its ports, recording why nothing of it runs.
    pub(crate) fn unplace(&mut self, id: &AgentId, evidence: Evidence, revision: Revision) {
        let Some(agent) = self.agents.get_mut(id) else { return };
        let Some(placement) = agent.placement.take() else { return };
        agent.evidence = evidence;
        agent.former = Some((placement.node, agent.generation));
        agent.revision = revision;
        if let Some(ports) = self.ports.get_mut(&placement.node) {
            ports.release(placement.block);
        }
        if let Some(placed) = self.placed.get_mut(&placement.node) {
            placed.remove(id);
            if placed.is_empty() {
                self.placed.remove(&placement.node);
            }
        }
        self.unplaced.insert(id.clone());
        self.changed.insert(Key::Agent(id.clone()));
    }

    /// Forgets an agent that has no placement.
    pub(crate) fn remove_agent(&mut self, id: &AgentId) {
        self.changed.insert(Key::Agent(id.clone()));
        self.unplaced.remove(id);
        self.agents.remove(id);
    }
}
