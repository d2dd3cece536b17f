//! The records of the state machine. Each carries the revision of its last change.

use alloc::{boxed::Box, collections::BTreeMap, string::String, sync::Arc, vec::Vec};

use fleet_types::{
    AgentClass, AgentId, ClusterId, Epoch, FleetName, Generation, Labels, LeaseProfile, NodeId,
    NodeName, PortBlock, PortRange, RequestId, ResourceLimits, Resources, Revision, RuntimeName,
    Timestamp, TokenId, Version,
};

use crate::event::Event;

/// The cluster itself: one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Random id; certificates and every internal call carry it.
    pub id: ClusterId,
    /// Timings in force on every node.
    pub profile: LeaseProfile,
    /// The uid the next agent gets. Uids are never reused.
    pub next_uid: u32,
    /// When the agents of lost nodes are placed elsewhere.
    pub moves: MovePolicy,
    /// How agents are placed.
    pub placement: PlacementPolicy,
    /// When `init` ran.
    pub created: Timestamp,
    /// Last change.
    pub revision: Revision,
}

/// Whether the agents of lost nodes are placed elsewhere by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MoveRule {
    /// Unless too many nodes are lost at once: that is more likely a fault of the network, and the
    /// rest may not carry all.
    #[default]
    Automatic,
    /// However many are lost.
    Always,
    /// They wait for their node, or for another rule.
    Never,
}

/// When the agents of lost nodes are placed elsewhere by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovePolicy {
    /// The rule.
    pub rule: MoveRule,
    /// How many nodes in a hundred may be lost under [`MoveRule::Automatic`].
    pub lost_percent_max: u8,
}

impl Default for MovePolicy {
    /// Half of the nodes. Kubernetes slows evictions of a zone down past 55 %.
    fn default() -> Self {
        Self { rule: MoveRule::Automatic, lost_percent_max: 50 }
    }
}

/// How agents are placed and moved, and how many nodes vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacementPolicy {
    /// How much of a node's memory may be promised to agents, in hundredths.
    pub memory_percent: u16,
    /// How much of a node's processor time, in hundredths.
    pub cpu_percent: u16,
    /// Whether agents are moved to nodes that have more room.
    pub rebalance: bool,
    /// How many agents may be on the move at once for that.
    pub moves_max: u16,
    /// How many nodes vote, once there are as many.
    pub voters: u8,
    /// A label, such as rack: nodes are chosen to vote so that they have many values of it.
    pub voters_spread_by: Option<String>,
}

impl Default for PlacementPolicy {
    /// Nothing is promised twice; few agents move at a time, for each is away while it does.
    fn default() -> Self {
        Self {
            memory_percent: 100,
            cpu_percent: 100,
            rebalance: true,
            moves_max: 2,
            voters: 3,
            voters_spread_by: None,
        }
    }
}

/// Whether a node votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Votes in Raft and hosts agents.
    Voter,
    /// Only hosts agents.
    Worker,
}

/// Where a node's three listeners are reached, each `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// The public API.
    pub api: String,
    /// Raft and the agent host.
    pub peer: String,
    /// Lease renewals.
    pub lease: String,
}

/// Whether a node may run agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeStatus {
    /// Admitted, not yet registered.
    Joining,
    /// Registered under the current epoch.
    Active,
    /// Its lease was ended; nothing of it may run until it registers again, but for agents of
    /// classes that outlast the lease.
    Fenced,
}

/// Whether new agents may be placed on a node, and whether the present ones must leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedulable {
    /// Placements welcome.
    Open,
    /// No new placements.
    Cordoned,
    /// No new placements, and the present ones move off.
    Draining,
}

/// What a node says of itself when it registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    /// Ports it hands to agents.
    pub port_range: PortRange,
    /// Runtimes it can start, with the version found.
    pub runtimes: BTreeMap<RuntimeName, String>,
    /// Memory and processor time it has; 0 is unknown, and no bound.
    pub capacity: Resources,
    /// What the file system of its agents' HOMEs holds, in bytes; 0 is unknown.
    pub disk_bytes: u64,
    /// Labels from its configuration.
    pub labels: Labels,
    /// Version of its `fleet-cluster` binary.
    pub version: String,
    /// The newest [`RULES`](crate::RULES) it can apply commands by; 0 of builds that had none.
    pub rules: u32,
    /// The kernel's boot id: changes when the machine restarts.
    pub boot: String,
    /// What it lacks to keep every promise; empty when nothing.
    pub degraded: Vec<String>,
    /// Why agents of the strict class are not to be kept here; empty when they are.
    pub unfit: Vec<String>,
}

/// Long leases for a node whose daemon may be away for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// How long they last, in milliseconds; or lasted, while it ends.
    pub lease_ms: u64,
    /// The revision it was set at.
    pub since: Revision,
    /// Set once no more are granted.
    pub ending: bool,
}

/// How agents leave a node that is drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// How many may be on the move at once; 0 for all.
    pub moves_max: u32,
    /// Until then an agent leaves only for a place that is free; at it all leave. None for never.
    pub deadline: Option<Timestamp>,
}

/// Why ports that no agent owns are kept from agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuarantineCause {
    /// An agent owned them; sockets of it may be left.
    Freed,
    /// Something else listens there, in words: who, and on which port.
    Foreign(String),
}

/// Ports of a node that are kept from agents until the node says that nothing uses them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// The node.
    pub node: NodeId,
    /// The ports.
    pub block: PortBlock,
    /// Why.
    pub cause: QuarantineCause,
    /// Since when.
    pub since: Timestamp,
    /// Last change.
    pub revision: Revision,
}

/// A machine of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Where it is reached.
    pub address: NodeAddress,
    /// Whether it votes.
    pub role: Role,
    /// Whether it may be given a vote: its token allowed it, or an operator did.
    pub may_vote: bool,
    /// Random id of its data directory; a wiped directory has another.
    pub storage: String,
    /// The token that admitted it; none for the first node.
    pub token: Option<TokenId>,
    /// Whether it may run agents.
    pub status: NodeStatus,
    /// Whether agents may be placed on it.
    pub schedulable: Schedulable,
    /// Its fencing token.
    pub epoch: Epoch,
    /// Long leases it may have, if it may.
    pub hold: Option<Hold>,
    /// How its agents leave, while they do.
    pub drain: Option<Drain>,
    /// What it last said of itself; none before it registered.
    pub report: Option<NodeReport>,
    /// When it was admitted.
    pub joined: Timestamp,
    /// Last change.
    pub revision: Revision,
}

impl Node {
    /// The value of its label by a key.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.report.as_ref()?.labels.get(key)
    }
}

/// A named set of agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// Its name.
    pub name: FleetName,
    /// Configuration overlay (a JSON object, or empty) that its agents start from.
    pub config: String,
    /// Its labels.
    pub labels: Labels,
    /// Where its agents may be placed, where they state nothing else when they are made.
    pub wants: Wants,
    /// Ports in a block of an agent that states none; 0 for its runtime's.
    pub ports: u16,
    /// The priority of an agent that states none, or 0.
    pub priority: i32,
    /// When it was created.
    pub created: Timestamp,
    /// Last change.
    pub revision: Revision,
}

/// Where an agent may be placed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// What is kept free for it.
    pub requests: Resources,
    /// Labels a node must have for it.
    pub node_labels: Labels,
    /// The least version of its runtime: a HOME that a newer one wrote cannot be read by an older.
    pub runtime_version: Option<Version>,
    /// Whether it shares no node with another agent of its fleet that stands apart.
    pub apart: bool,
    /// A label, such as rack: agents of its fleet are spread over its values.
    pub spread_by: Option<String>,
}

impl Wants {
    /// These, with `others` for what is not stated.
    #[must_use]
    pub fn or(self, others: &Self) -> Self {
        let pick = |own: u64, other: u64| if own == 0 { other } else { own };
        let (own, other) = (self.requests, others.requests);
        let stated = self.node_labels.iter().next().is_some();
        Self {
            requests: Resources {
                memory_bytes: pick(own.memory_bytes, other.memory_bytes),
                cpu_millis: pick(own.cpu_millis, other.cpu_millis),
            },
            node_labels: if stated { self.node_labels } else { others.node_labels.clone() },
            runtime_version: self.runtime_version.or_else(|| others.runtime_version.clone()),
            apart: self.apart || others.apart,
            spread_by: self.spread_by.or_else(|| others.spread_by.clone()),
        }
    }
}

/// What an agent is, as its owner stated it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSpec {
    /// Which runtime configures, starts and probes it.
    pub runtime: RuntimeName,
    /// Configuration overlay: a JSON object, or empty.
    pub config: String,
    /// Command line, for runtimes that take one.
    pub command: Vec<String>,
    /// Extra environment.
    pub environment: BTreeMap<String, String>,
    /// Size of its port block; a power of two.
    pub ports: u16,
    /// Its labels.
    pub labels: Labels,
    /// What it may use of its machine; what is not set is the runtime's.
    pub limits: ResourceLimits,
    /// What becomes of it when its node is out of reach.
    pub class: AgentClass,
    /// The higher, the sooner it is placed and started when many wait.
    pub priority: i32,
    /// Where it may be placed.
    pub wants: Wants,
}

/// What the owner wants of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Desired {
    /// It should run.
    Running,
    /// It should not.
    Stopped,
}

/// Where an agent's record is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// Present.
    Live,
    /// Deleted; the record goes when its host has confirmed that nothing of it runs.
    Deleting,
}

/// What proved that the old copy of an agent was gone before a new one was placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Placed for the first time: there was no old copy.
    First,
    /// The node was silent for this long, which is longer than it may run on a lease.
    LeaseExpired {
        /// Milliseconds the leader had waited since it last heard the node.
        waited_ms: u64,
    },
    /// The host reported the agent's control group empty.
    ConfirmedEmpty,
    /// An operator stated that the machine is powered off.
    Asserted {
        /// Who, as far as they said.
        by: String,
    },
}

/// The stored decision where an agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The node.
    pub node: NodeId,
    /// Its ports there.
    pub block: PortBlock,
    /// Set when it must stop there so that it can move.
    pub evicting: bool,
    /// Where it should go then, if there is room.
    pub next: Option<NodeId>,
    /// Who else listens on its ports, in words, if that is why.
    pub taken_by: Option<Box<str>>,
    /// The agent's revision and the node's epoch that it was last told parked under, if it was.
    pub parked: Option<Box<(Revision, Epoch)>>,
    /// What allowed this placement.
    pub evidence: Evidence,
    /// When it was placed.
    pub placed: Timestamp,
}

/// Why an agent has no placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingReason {
    /// No node is registered and open.
    NoNode,
    /// No open node has the runtime.
    NoRuntime,
    /// No open node has a free block of the size.
    NoPorts,
    /// No open node has the memory.
    NoMemory,
    /// No open node has the processor time.
    NoCpu,
    /// No open node has its runtime in the version it asks for.
    OldRuntime,
    /// Every open node has an agent of its fleet that stands apart too.
    NotApart,
    /// No open node with its runtime has the labels it asks for.
    NoLabels,
    /// It is strict, and the open nodes with its runtime cannot keep that.
    NoFitNode,
    /// Its node was lost while agents are not moved: see [`MovePolicy`].
    MovesPaused,
    /// Open nodes have room for it, and it was to go to none of them: that is kept for agents on their
    /// way there, or was not there when it was looked for.
    RoomKept,
}

/// A supervised workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its full name.
    pub id: AgentId,
    /// What it is, for its life: shared, so that an agent is small to move and to copy.
    pub spec: Arc<AgentSpec>,
    /// What its owner wants.
    pub desired: Desired,
    /// Whether it is being deleted.
    pub lifecycle: Lifecycle,
    /// Raised by each restart its owner asks for.
    pub restarts: u64,
    /// Its uid on every node.
    pub uid: u32,
    /// Its fencing token: raised by each placement.
    pub generation: Generation,
    /// Where it runs.
    pub placement: Option<Placement>,
    /// Why it has no placement, if it has none.
    pub pending: Option<PendingReason>,
    /// What proved the last copy gone, while it has no placement.
    pub evidence: Evidence,
    /// The node it was placed on before, and its generation there.
    pub former: Option<(NodeId, Generation)>,
    /// When it was created.
    pub created: Timestamp,
    /// Last change.
    pub revision: Revision,
}

/// A right to join, known by the hash of its secret only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Its public id.
    pub id: TokenId,
    /// SHA-256 of the secret. The secret has 256 random bits, so a plain hash cannot be searched.
    pub secret_sha256: [u8; 32],
    /// The best role a node it admits may have.
    pub role: Role,
    /// When it stops admitting.
    pub expires: Timestamp,
    /// Joins it may still serve.
    pub uses_left: u32,
    /// When it was created.
    pub created: Timestamp,
    /// Last change.
    pub revision: Revision,
}

/// A remembered request, so that a retry is answered rather than carried out again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// The caller's key.
    pub id: RequestId,
    /// Fingerprint of the request's content.
    pub fingerprint: u64,
    /// Order of arrival; the smallest is forgotten first.
    pub serial: u64,
    /// The revision it made.
    pub revision: Revision,
}

/// Names a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The cluster.
    Cluster,
    /// A node.
    Node(NodeId),
    /// A fleet.
    Fleet(FleetName),
    /// An agent.
    Agent(AgentId),
    /// A join token.
    Token(TokenId),
    /// A remembered request.
    Request(RequestId),
    /// Ports that are kept from agents: of a node, from a port on.
    Quarantine(NodeId, u16),
    /// An event, by its serial number.
    Event(u64),
}

/// Any record: the unit of storage and of snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "records of nodes are few and passed one by one")]
pub enum Record {
    /// The cluster.
    Cluster(Cluster),
    /// A node.
    Node(Node),
    /// A fleet.
    Fleet(Fleet),
    /// An agent.
    Agent(Box<Agent>),
    /// A join token.
    Token(JoinToken),
    /// A remembered request.
    Request(RequestRecord),
    /// Ports that are kept from agents.
    Quarantine(Quarantine),
    /// An event.
    Event(Box<Event>),
}

impl Record {
    /// Its name.
    pub fn key(&self) -> Key {
        match self {
            Self::Cluster(_) => Key::Cluster,
            Self::Node(node) => Key::Node(node.id),
            Self::Fleet(fleet) => Key::Fleet(fleet.name.clone()),
            Self::Agent(agent) => Key::Agent(agent.id.clone()),
            Self::Token(token) => Key::Token(token.id.clone()),
            Self::Request(request) => Key::Request(request.id.clone()),
            Self::Quarantine(quarantine) => Key::Quarantine(quarantine.node, quarantine.block.base),
            Self::Event(event) => Key::Event(event.serial),
        }
    }
}
