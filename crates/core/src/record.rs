//! The records of the state machine. Each carries the revision of its last change.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use fleet_types::{
    AgentClass, AgentId, ClusterId, Epoch, FleetName, Generation, Labels, LeaseProfile, NodeId,
    NodeName, PortBlock, PortRange, RequestId, ResourceLimits, Revision, RuntimeName, Timestamp,
    TokenId,
};

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
    /// Labels from its configuration.
    pub labels: Labels,
    /// Version of its `fleet-cluster` binary.
    pub version: String,
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
    /// What it last said of itself; none before it registered.
    pub report: Option<NodeReport>,
    /// When it was admitted.
    pub joined: Timestamp,
    /// Last change.
    pub revision: Revision,
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
    /// When it was created.
    pub created: Timestamp,
    /// Last change.
    pub revision: Revision,
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
    /// Labels a node must have for it.
    pub node_labels: Labels,
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
    Asserted,
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
    /// No open node with its runtime has the labels it asks for.
    NoLabels,
    /// It is strict, and the open nodes with its runtime cannot keep that.
    NoFitNode,
    /// Its node was lost while agents are not moved: see [`MovePolicy`].
    MovesPaused,
}

/// A supervised workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its full name.
    pub id: AgentId,
    /// What it is.
    pub spec: AgentSpec,
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
}

/// Any record: the unit of storage and of snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The cluster.
    Cluster(Cluster),
    /// A node.
    Node(Node),
    /// A fleet.
    Fleet(Fleet),
    /// An agent.
    Agent(Agent),
    /// A join token.
    Token(JoinToken),
    /// A remembered request.
    Request(RequestRecord),
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
        }
    }
}
