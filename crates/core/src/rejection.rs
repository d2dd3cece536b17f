//! Deterministic refusals.

use alloc::string::{String, ToString};
use core::fmt;

use fleet_types::{
    AgentId, AgentName, Epoch, FleetName, Generation, InvalidLimit, NodeId, NodeName, TokenId,
    limits,
};

/// The class of a refusal, after the gRPC status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request can never be right.
    InvalidArgument,
    /// The record does not exist.
    NotFound,
    /// The record exists already.
    AlreadyExists,
    /// The record is in a state that does not allow it.
    FailedPrecondition,
    /// A limit is reached.
    ResourceExhausted,
    /// It was decided on a state that has changed; decide again.
    Aborted,
    /// The credential does not allow it.
    PermissionDenied,
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The cluster was made before.
    ClusterExists,
    /// No cluster was made yet.
    NoCluster,
    /// A limit of [`limits`] is reached.
    LimitReached {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A token's life or use count is out of bounds.
    TokenTerms,
    /// A token of this id exists.
    TokenExists(TokenId),
    /// No such token: never made, revoked, or the secret is wrong.
    TokenUnknown,
    /// The token's time is over.
    TokenExpired,
    /// The token admitted all the nodes it may.
    TokenUsedUp,
    /// Another node has the name.
    NodeNameTaken(NodeName),
    /// Another node was admitted by the same entry of the log, and has the number.
    NodeNumberTaken(NodeId),
    /// No such node.
    NodeUnknown(NodeId),
    /// The data directory is not the one the node was admitted with.
    StorageMismatch(NodeId),
    /// Not a share of nodes, in hundredths.
    LostPercent(u8),
    /// Not a share of what a node has, in hundredths.
    OvercommitPercent(u16),
    /// Not a number of agents to move at once.
    RebalanceMoves(u16),
    /// Not a number of voters.
    VoterCount(u8),
    /// No node could ever run such an agent.
    NoNodeEver {
        /// Its name in its fleet.
        agent: AgentName,
        /// What it asks for.
        what: &'static str,
        /// How much.
        asked: u64,
        /// The most any node has.
        most: u64,
    },
    /// The agents would not fit after the loss of the largest node.
    NoRoomAfterLoss {
        /// What there is not enough of.
        what: &'static str,
        /// How much they ask for.
        asked: u64,
        /// How much would be left.
        left: u64,
        /// The node that has most.
        largest: NodeId,
    },
    /// With the agents of the call, not all agents would find a place after the loss of a node.
    NoPlaceAfterLoss {
        /// One that would not.
        agent: AgentId,
        /// The node.
        lost: NodeId,
    },
    /// What is asked for contradicts itself.
    Contradiction(String),
    /// The node's agents have no other node to go to.
    NowhereToGo(NodeId),
    /// Too few voters that are up would be left.
    QuorumAtRisk {
        /// The node.
        node: NodeId,
        /// Voters left that are up.
        up: usize,
        /// Voters left.
        voters: usize,
    },
    /// Its build knows no rules that voters apply commands by.
    TooOld(NodeId),
    /// As many nodes that are up vote as may.
    EnoughVoters {
        /// The node that was to vote too.
        node: NodeId,
        /// How many vote.
        voters: usize,
        /// How many may.
        limit: u8,
    },
    /// The epoch is not the node's current one.
    StaleEpoch {
        /// The node.
        node: NodeId,
        /// Its current epoch.
        current: Epoch,
    },
    /// The new port range leaves out ports that agents on the node own.
    PortsInUse(NodeId),
    /// The node still has agents.
    NodeNotEmpty {
        /// The node.
        node: NodeId,
        /// How many.
        agents: usize,
    },
    /// Agents wait for the node, which was lost.
    NodeAwaited {
        /// The node.
        node: NodeId,
        /// How many.
        agents: usize,
    },
    /// The node still has a lease.
    NodeActive(NodeId),
    /// The node has no lease.
    NodeNotActive(NodeId),
    /// No length of a held node's leases, in milliseconds.
    HoldLength(u64),
    /// The node is not held.
    NotHeld(NodeId),
    /// The node's hold is another one by now.
    StaleHold(NodeId),
    /// It is the only node, or the only voter, left.
    LastNode(NodeId),
    /// A fleet of the name exists.
    FleetExists(FleetName),
    /// No such fleet.
    FleetUnknown(FleetName),
    /// The fleet still has agents.
    FleetNotEmpty(FleetName),
    /// The call names no agent.
    NoAgents,
    /// An agent of the name exists, or the call names it twice.
    AgentExists(AgentId),
    /// No such agent.
    AgentUnknown(AgentId),
    /// The agent is being deleted.
    AgentDeleting(AgentId),
    /// A port block size is not a power of two within the limit.
    BlockSize(u16),
    /// A limit nothing could run under.
    Limits(InvalidLimit),
    /// The generation is not the agent's current one.
    StaleGeneration {
        /// The agent.
        agent: AgentId,
        /// Its current generation.
        current: Generation,
    },
    /// Nothing was waiting for this confirmation.
    NotStopping(AgentId),
    /// The idempotency key was used for another request.
    RequestIdReused,
}

impl Rejection {
    /// Its class.
    pub fn kind(&self) -> Kind {
        use Rejection as R;
        match self {
            R::TokenTerms
            | R::LostPercent(_)
            | R::OvercommitPercent(_)
            | R::RebalanceMoves(_)
            | R::VoterCount(_)
            | R::NoNodeEver { .. }
            | R::Contradiction(_)
            | R::HoldLength(_)
            | R::NoAgents
            | R::BlockSize(_)
            | R::Limits(_)
            | R::RequestIdReused => Kind::InvalidArgument,
            R::NodeUnknown(_) | R::FleetUnknown(_) | R::AgentUnknown(_) => Kind::NotFound,
            R::ClusterExists
            | R::TokenExists(_)
            | R::NodeNameTaken(_)
            | R::FleetExists(_)
            | R::AgentExists(_) => Kind::AlreadyExists,
            R::NoCluster
            | R::StorageMismatch(_)
            | R::PortsInUse(_)
            | R::NodeNotEmpty { .. }
            | R::NodeAwaited { .. }
            | R::NodeActive(_)
            | R::NodeNotActive(_)
            | R::NotHeld(_)
            | R::LastNode(_)
            | R::NowhereToGo(_)
            | R::QuorumAtRisk { .. }
            | R::EnoughVoters { .. }
            | R::TooOld(_)
            | R::FleetNotEmpty(_)
            | R::AgentDeleting(_)
            | R::NotStopping(_) => Kind::FailedPrecondition,
            R::LimitReached { .. } | R::NoRoomAfterLoss { .. } | R::NoPlaceAfterLoss { .. } => {
                Kind::ResourceExhausted
            }
            R::StaleEpoch { .. }
            | R::StaleGeneration { .. }
            | R::StaleHold(_)
            | R::NodeNumberTaken(_) => Kind::Aborted,
            R::TokenUnknown | R::TokenExpired | R::TokenUsedUp => Kind::PermissionDenied,
        }
    }

    /// A stable code for programs: upper case, never changed once released.
    pub fn reason(&self) -> &'static str {
        use Rejection as R;
        match self {
            R::ClusterExists => "CLUSTER_EXISTS",
            R::NoCluster => "NO_CLUSTER",
            R::LimitReached { .. } => "LIMIT_REACHED",
            R::TokenTerms => "TOKEN_TERMS_INVALID",
            R::LostPercent(_) => "LOST_PERCENT_INVALID",
            R::OvercommitPercent(_) => "OVERCOMMIT_PERCENT_INVALID",
            R::RebalanceMoves(_) => "REBALANCE_MOVES_INVALID",
            R::VoterCount(_) => "VOTER_COUNT_INVALID",
            R::NoNodeEver { .. } => "REQUEST_TOO_LARGE",
            R::NoRoomAfterLoss { .. } | R::NoPlaceAfterLoss { .. } => "N_MINUS_ONE_VIOLATION",
            R::Contradiction(_) => "CONSTRAINTS_CONTRADICT",
            R::NowhereToGo(_) => "NOWHERE_TO_GO",
            R::QuorumAtRisk { .. } => "QUORUM_AT_RISK",
            R::EnoughVoters { .. } => "ENOUGH_VOTERS",
            R::TooOld(_) => "BUILD_TOO_OLD",
            R::TokenExists(_) => "TOKEN_EXISTS",
            R::TokenUnknown => "TOKEN_UNKNOWN",
            R::TokenExpired => "TOKEN_EXPIRED",
            R::TokenUsedUp => "TOKEN_USED_UP",
            R::NodeNameTaken(_) => "NODE_NAME_TAKEN",
            R::NodeNumberTaken(_) => "NODE_NUMBER_TAKEN",
            R::NodeUnknown(_) => "NODE_NOT_FOUND",
            R::StorageMismatch(_) => "STORAGE_MISMATCH",
            R::StaleEpoch { .. } => "STALE_EPOCH",
            R::PortsInUse(_) => "PORTS_IN_USE",
            R::NodeNotEmpty { .. } => "NODE_NOT_EMPTY",
            R::NodeAwaited { .. } => "NODE_AWAITED",
            R::NodeActive(_) => "NODE_ACTIVE",
            R::NodeNotActive(_) => "NODE_NOT_ACTIVE",
            R::HoldLength(_) => "HOLD_LENGTH_INVALID",
            R::NotHeld(_) => "NODE_NOT_HELD",
            R::StaleHold(_) => "STALE_HOLD",
            R::LastNode(_) => "LAST_NODE",
            R::FleetExists(_) => "FLEET_EXISTS",
            R::FleetUnknown(_) => "FLEET_NOT_FOUND",
            R::FleetNotEmpty(_) => "FLEET_NOT_EMPTY",
            R::NoAgents => "NO_AGENTS",
            R::AgentExists(_) => "AGENT_EXISTS",
            R::AgentUnknown(_) => "AGENT_NOT_FOUND",
            R::AgentDeleting(_) => "AGENT_DELETING",
            R::BlockSize(_) => "PORT_BLOCK_SIZE_INVALID",
            R::Limits(_) => "LIMITS_INVALID",
            R::StaleGeneration { .. } => "STALE_GENERATION",
            R::NotStopping(_) => "NOT_STOPPING",
            R::RequestIdReused => "REQUEST_ID_REUSED",
        }
    }

    /// The record the refusal is about, as people write it; empty when there is none.
    pub fn subject(&self) -> String {
        use Rejection as R;
        match self {
            R::TokenExists(token) => token.to_string(),
            R::NodeNameTaken(name) => name.to_string(),
            R::NodeNumberTaken(n)
            | R::NodeUnknown(n)
            | R::StorageMismatch(n)
            | R::PortsInUse(n)
            | R::NodeActive(n) => n.to_string(),
            R::NodeNotActive(n) | R::TooOld(n) | R::NotHeld(n) | R::StaleHold(n) => n.to_string(),
            R::HoldLength(ms) => ms.to_string(),
            R::LastNode(node)
            | R::NowhereToGo(node)
            | R::QuorumAtRisk { node, .. }
            | R::EnoughVoters { node, .. }
            | R::NodeNotEmpty { node, .. }
            | R::NodeAwaited { node, .. }
            | R::StaleEpoch { node, .. } => node.to_string(),
            R::NoNodeEver { what, .. } | R::NoRoomAfterLoss { what, .. } => (*what).to_string(),
            R::OvercommitPercent(percent) => percent.to_string(),
            R::RebalanceMoves(moves) => moves.to_string(),
            R::VoterCount(voters) => voters.to_string(),
            R::FleetExists(f) | R::FleetUnknown(f) | R::FleetNotEmpty(f) => f.to_string(),
            R::AgentExists(a) | R::AgentUnknown(a) | R::AgentDeleting(a) | R::NotStopping(a) => {
                a.to_string()
            }
            R::StaleGeneration { agent, .. } | R::NoPlaceAfterLoss { agent, .. } => {
                agent.to_string()
            }
            R::BlockSize(size) => size.to_string(),
            R::Limits(limit) => limit.what.to_string(),
            R::LimitReached { what, .. } => (*what).to_string(),
            _ => String::new(),
        }
    }
}

impl fmt::Display for Rejection {
    #[expect(clippy::too_many_lines, reason = "one line of prose a variant")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Rejection as R;
        match self {
            R::ClusterExists => f.write_str("the cluster exists already"),
            R::NoCluster => f.write_str("the cluster is not initialised"),
            R::LimitReached { what, limit } => write!(f, "at most {limit} {what} are possible"),
            R::TokenTerms => write!(
                f,
                "a token lives from 1 s to {} days and admits 1 to {} nodes",
                limits::TOKEN_TTL_MS_MAX / 86_400_000,
                limits::TOKEN_USES_MAX
            ),
            R::LostPercent(percent) => {
                write!(f, "{percent} % of the nodes is no share: use 0 to 100")
            }
            R::OvercommitPercent(percent) => write!(
                f,
                "{percent} % of what a node has cannot be promised: use {} to {}",
                limits::OVERCOMMIT_PERCENT.start(),
                limits::OVERCOMMIT_PERCENT.end()
            ),
            R::RebalanceMoves(moves) => write!(
                f,
                "{moves} agents cannot be on the move at once: use {} to {}",
                limits::REBALANCE_MOVES.start(),
                limits::REBALANCE_MOVES.end()
            ),
            R::VoterCount(voters) => write!(f, "{voters} nodes cannot vote: use 3, 5 or 7"),
            R::NoNodeEver { agent, what, asked, most } => write!(
                f,
                "agent {agent} asks for {asked} {what}, and no node that suits it has more than {most} to \
                 promise: ask for less, add a larger node, or raise the overcommit factor with \
                 `fleet-cluster placement set`"
            ),
            R::NoRoomAfterLoss { what, asked, left, largest } => write!(
                f,
                "the call asks for {asked} {what}, and {left} would be left for it if node \
                 {largest} were lost: add a node, delete agents, or call with --allow-overcommit \
                 (allow_overcommit)"
            ),
            R::NoPlaceAfterLoss { agent, lost } => write!(
                f,
                "with the agents of the call, no node that suits {agent} would have room for it if \
                 node {lost} were lost: add a node, delete agents, or call with \
                 --allow-overcommit (allow_overcommit)"
            ),
            R::Contradiction(why) => write!(f, "no node can ever suit that: {why}"),
            R::NowhereToGo(node) => write!(
                f,
                "no other node is up and takes agents, so those of node {node} have nowhere to go; \
                 add or uncordon a node first"
            ),
            R::QuorumAtRisk { node, up, voters } => write!(
                f,
                "without the vote of node {node}, {up} of {voters} voters would be up, which is no \
                 majority; bring one back first"
            ),
            R::TooOld(node) => write!(
                f,
                "node {node} has an older version than the cluster's voters: upgrade it first"
            ),
            R::EnoughVoters { node, voters, limit } => write!(
                f,
                "{voters} nodes that are up vote, and {limit} may: take another's vote with \
                 `fleet-cluster node demote` before node {node} gets one, or allow more with \
                 `fleet-cluster placement set --voters`"
            ),
            R::TokenExists(id) => write!(f, "token {id} exists already"),
            R::TokenUnknown => f.write_str(
                "the join token is not known here: it was revoked, mistyped or made by another \
                 cluster; make one with `fleet-cluster token create`",
            ),
            R::TokenExpired => f.write_str(
                "the join token has expired; make another with `fleet-cluster token create`",
            ),
            R::TokenUsedUp => f.write_str(
                "the join token has admitted all the nodes it may; make another with \
                 `fleet-cluster token create`",
            ),
            R::NodeNameTaken(name) => {
                write!(
                    f,
                    "a node named {name} exists; join with another --name, or remove that one"
                )
            }
            R::NodeNumberTaken(id) => {
                write!(f, "another node was admitted at the same time as number {id}; try again")
            }
            R::NodeUnknown(id) => write!(f, "no node {id}"),
            R::StorageMismatch(id) => write!(
                f,
                "the data directory is not the one node {id} was admitted with: it was wiped or \
                 belongs to another node; remove node {id} and join again"
            ),
            R::StaleEpoch { node, current } => {
                write!(f, "node {node} is at epoch {current}, not at the one named")
            }
            R::PortsInUse(node) => write!(
                f,
                "agents on node {node} own ports outside the new range; give it the old range \
                 back, `fleet-cluster node drain` it, and change the range then"
            ),
            R::NodeNotEmpty { node, agents } => {
                write!(
                    f,
                    "node {node} still has {agents} agents; `fleet-cluster node drain` it first, \
                     or if its machine has no power, `fleet-cluster node confirm-dead` it"
                )
            }
            R::NodeAwaited { node, agents } => {
                write!(
                    f,
                    "{agents} agents wait for node {node}, which was lost: bring it back, have them \
                     placed elsewhere by `fleet-cluster moves always`, or if its machine has no \
                     power, `fleet-cluster node confirm-dead` it"
                )
            }
            R::NodeActive(node) => write!(f, "node {node} is alive; stop its daemon first"),
            R::NodeNotActive(node) => {
                write!(f, "node {node} has no lease: its daemon must run first")
            }
            R::HoldLength(ms) => {
                let (least, most) =
                    (limits::HOLD_MS.start() / 1_000, limits::HOLD_MS.end() / 60_000);
                write!(f, "leases of {ms} ms are not possible: use {least} s to {most} min")
            }
            R::NotHeld(node) => write!(f, "node {node} is not held"),
            R::StaleHold(node) => write!(f, "the hold of node {node} is another one by now"),
            R::LastNode(node) => write!(f, "node {node} is the last one that can vote"),
            R::FleetExists(fleet) => write!(f, "fleet {fleet} exists already"),
            R::FleetUnknown(fleet) => {
                write!(f, "no fleet {fleet}; make it with `fleet-cluster fleet create {fleet}`")
            }
            R::FleetNotEmpty(fleet) => {
                write!(f, "fleet {fleet} still has agents; delete them first")
            }
            R::NoAgents => f.write_str("the call names no agent"),
            R::AgentExists(agent) => write!(f, "agent {agent} exists already"),
            R::AgentUnknown(agent) => write!(f, "no agent {agent}"),
            R::AgentDeleting(agent) => write!(f, "agent {agent} is being deleted"),
            R::Limits(limit) => write!(f, "{limit}"),
            R::BlockSize(size) => write!(
                f,
                "a port block of {size} is not possible: use a power of two up to {}",
                limits::PORT_BLOCK_MAX
            ),
            R::StaleGeneration { agent, current } => {
                write!(f, "agent {agent} is at generation {current}, not at the one named")
            }
            R::NotStopping(agent) => write!(f, "agent {agent} is neither moving nor being deleted"),
            R::RequestIdReused => {
                f.write_str("the request id was used for a different request; choose a new one")
            }
        }
    }
}

impl core::error::Error for Rejection {}
