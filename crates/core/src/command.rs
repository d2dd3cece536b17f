//! What can be asked of the state machine.

use alloc::{string::String, vec::Vec};

use fleet_types::{
    AgentClass, AgentId, AgentName, ClusterId, Epoch, FleetName, Generation, Labels, LeaseProfile,
    NodeId, NodeName, PortBlock, RequestId, Revision, Timestamp, TokenId,
};

use crate::{
    event::{Cause, RoleCause},
    record::{
        AgentSpec, Desired, Drain, Evidence, MovePolicy, NodeAddress, NodeReport, PlacementPolicy,
        Role, Schedulable, Wants,
    },
};

/// The newest rules this build applies commands by. One more for every change of what a command
/// does to a state: what is of rules before stays applied by those, so that nodes of two builds make
/// the same state of the same entries.
pub const RULES: u32 = 3;
/// The first by which [`Operation::ReportParked`] is read.
pub const RULES_OF_PARKED: u32 = 2;
/// The first by which the placement that a create ends in is an event.
pub(crate) const RULES_OF_FIRST_PLACEMENTS: u32 = 3;
/// The first by which no node is removed that agents wait for.
pub(crate) const RULES_OF_AWAITED: u32 = 3;

/// One command: an operation, the leader's time, and the caller's idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The leader's calendar time when it proposed the command.
    pub at: Timestamp,
    /// The caller's key, if it gave one.
    pub request: Option<Request>,
    /// What to do.
    pub operation: Operation,
}

/// An idempotency key and what it was used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The key.
    pub id: RequestId,
    /// Fingerprint of the request's content; the same key with another content is refused.
    pub fingerprint: u64,
}

/// The operations, one file each under `commands/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Make the cluster and its first node.
    InitCluster(InitCluster),
    /// Make a join token.
    CreateToken(CreateToken),
    /// End a join token.
    RevokeToken(RevokeToken),
    /// Admit a node that holds a token.
    AdmitNode(AdmitNode),
    /// Grant a node a new epoch.
    RegisterNode(RegisterNode),
    /// End a node's epoch and re-place its agents.
    FenceNode(FenceNode),
    /// Cordon, drain or reopen a node.
    SetSchedulable(SetSchedulable),
    /// Say when the agents of lost nodes are placed elsewhere.
    SetMovePolicy(SetMovePolicy),
    /// Say how agents are placed.
    SetPlacementPolicy(SetPlacementPolicy),
    /// Give a node a vote, or take it.
    SetRole(SetRole),
    /// Change how long a node's leases are.
    HoldNode(HoldNode),
    /// Forget a node for good.
    RemoveNode(RemoveNode),
    /// Make a fleet.
    CreateFleet(CreateFleet),
    /// Delete an empty fleet.
    DeleteFleet(DeleteFleet),
    /// Make agents and place them.
    CreateAgents(CreateAgents),
    /// Start or stop an agent.
    SetAgentDesired(SetAgentDesired),
    /// Restart an agent where it is.
    RestartAgent(RestartAgent),
    /// Delete an agent.
    DeleteAgent(DeleteAgent),
    /// Place agents that have no placement.
    PlaceAgents(PlaceAgents),
    /// Record that nothing of an agent runs on its node any more.
    ConfirmStopped(ConfirmStopped),
    /// Ask agents to leave their nodes.
    EvictAgents(EvictAgents),
    /// Keep ports from agents that something else listens on, and give their agent others.
    QuarantinePorts(QuarantinePorts),
    /// Let agents have ports again that nothing uses any more.
    ReleasePorts(ReleasePorts),
    /// Keep that an agent says that another copy of its session is live.
    ReportDoubleRun(ReportDoubleRun),
    /// Keep that agents ended too often and are not started again.
    ReportParked(ReportParked),
}

/// See [`Operation::InitCluster`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitCluster {
    /// The cluster's random id.
    pub cluster: ClusterId,
    /// Timings.
    pub profile: LeaseProfile,
    /// The first node's number.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its addresses.
    pub address: NodeAddress,
    /// The id of its data directory.
    pub storage: String,
}

/// See [`Operation::CreateToken`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateToken {
    /// The token's public id.
    pub token: TokenId,
    /// SHA-256 of its secret.
    pub secret_sha256: [u8; 32],
    /// The best role it gives.
    pub role: Role,
    /// How long it lives, in milliseconds.
    pub ttl_ms: u64,
    /// How many nodes it admits.
    pub uses: u32,
}

/// See [`Operation::RevokeToken`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeToken {
    /// The token.
    pub token: TokenId,
}

/// See [`Operation::AdmitNode`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmitNode {
    /// The token shown.
    pub token: TokenId,
    /// SHA-256 of the secret shown.
    pub secret_sha256: [u8; 32],
    /// The name the node wants.
    pub name: NodeName,
    /// Where it is reached.
    pub address: NodeAddress,
    /// The id of its data directory.
    pub storage: String,
}

/// See [`Operation::RegisterNode`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterNode {
    /// The node.
    pub node: NodeId,
    /// The id of its data directory.
    pub storage: String,
    /// The epoch under which agents still run there; none when nothing does.
    pub held: Option<Epoch>,
    /// What it says of itself.
    pub report: NodeReport,
}

/// See [`Operation::FenceNode`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceNode {
    /// The node.
    pub node: NodeId,
    /// The epoch that ends; another one is refused.
    pub epoch: Epoch,
    /// Why nothing of it runs any more.
    pub evidence: Evidence,
    /// Where its agents go.
    pub moves: Vec<(AgentId, NodeId)>,
    /// Whether those without a move wait because agents are not moved now.
    pub paused: bool,
    /// Agents of this class and those before it are gone; later ones stay placed there.
    pub reach: AgentClass,
}

/// See [`Operation::HoldNode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldNode {
    /// The node.
    pub node: NodeId,
    /// What happens to its hold.
    pub change: HoldChange,
}

/// What happens to a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldChange {
    /// Its leases become this long.
    Set {
        /// Milliseconds.
        lease_ms: u64,
    },
    /// No more long ones are granted.
    Release,
    /// The last long one is over.
    End {
        /// The revision the hold was set at; another one is refused.
        since: Revision,
    },
}

/// See [`Operation::SetMovePolicy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetMovePolicy {
    /// What it becomes.
    pub policy: MovePolicy,
}

/// See [`Operation::SetPlacementPolicy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetPlacementPolicy {
    /// What it becomes.
    pub policy: PlacementPolicy,
}

/// See [`Operation::SetRole`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetRole {
    /// The node.
    pub node: NodeId,
    /// What it becomes.
    pub role: Role,
    /// Why.
    pub cause: RoleCause,
}

/// See [`Operation::SetSchedulable`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetSchedulable {
    /// The node.
    pub node: NodeId,
    /// What it becomes.
    pub schedulable: Schedulable,
    /// How its agents leave, when they shall; none for all at once.
    pub drain: Option<Drain>,
}

/// See [`Operation::RemoveNode`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveNode {
    /// The node.
    pub node: NodeId,
}

/// See [`Operation::CreateFleet`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateFleet {
    /// Its name.
    pub fleet: FleetName,
    /// Configuration its agents start from.
    pub config: String,
    /// Its labels.
    pub labels: Labels,
    /// Where its agents may be placed, where they state nothing else.
    pub wants: Wants,
    /// Ports in a block of an agent that states none; 0 for its runtime's.
    pub ports: u16,
    /// The priority of an agent that states none, or 0.
    pub priority: i32,
}

/// See [`Operation::DeleteFleet`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteFleet {
    /// The fleet.
    pub fleet: FleetName,
}

/// One agent to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentDraft {
    /// Its name within the fleet.
    pub name: AgentName,
    /// What it is.
    pub spec: AgentSpec,
    /// Whether it starts at once.
    pub desired: Desired,
    /// The node the leader chose; none when none was eligible.
    pub node: Option<NodeId>,
}

/// What agents that are made must fit into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admission {
    /// Nothing: what the log has from before there was a rule.
    Unchecked,
    /// What the nodes have: an agent that could run on none of them is refused.
    Overcommit,
    /// What is left after the loss of the largest node.
    #[default]
    SurviveLoss,
}

/// See [`Operation::CreateAgents`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateAgents {
    /// Their fleet.
    pub fleet: FleetName,
    /// The agents; all are made, or none.
    pub agents: Vec<AgentDraft>,
    /// What they must fit into.
    pub admission: Admission,
}

/// See [`Operation::SetAgentDesired`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAgentDesired {
    /// The agent.
    pub agent: AgentId,
    /// What is wanted now.
    pub desired: Desired,
}

/// See [`Operation::RestartAgent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartAgent {
    /// The agent.
    pub agent: AgentId,
}

/// See [`Operation::DeleteAgent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteAgent {
    /// The agent.
    pub agent: AgentId,
}

/// See [`Operation::PlaceAgents`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceAgents {
    /// Agents and the nodes chosen. One that is placed by now, or does not fit, is passed over.
    pub moves: Vec<(AgentId, NodeId)>,
}

/// See [`Operation::ConfirmStopped`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmStopped {
    /// The agent.
    pub agent: AgentId,
    /// The generation that was stopped.
    pub generation: Generation,
    /// The node that says so.
    pub node: NodeId,
    /// The epoch it says so under.
    pub epoch: Epoch,
    /// Where the agent goes next, if it is to move.
    pub next: Option<NodeId>,
}

/// An agent that is asked to leave its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// The agent.
    pub agent: AgentId,
    /// Its generation; at another one it is passed over.
    pub generation: Generation,
    /// Where it should go, if there is room when it has stopped.
    pub to: Option<NodeId>,
}

/// See [`Operation::EvictAgents`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvictAgents {
    /// The agents. One that has moved, leaves already or is being deleted is passed over.
    pub agents: Vec<Eviction>,
    /// Why.
    pub cause: Cause,
}

/// See [`Operation::QuarantinePorts`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantinePorts {
    /// The agent that cannot have its ports.
    pub agent: AgentId,
    /// Its generation.
    pub generation: Generation,
    /// The node that says so.
    pub node: NodeId,
    /// The epoch it says so under.
    pub epoch: Epoch,
    /// Who listens there, in words.
    pub by: String,
}

/// See [`Operation::ReportDoubleRun`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportDoubleRun {
    /// The agent.
    pub agent: AgentId,
    /// Its generation.
    pub generation: Generation,
    /// Which of its starts since it was placed; each is kept once.
    pub start: u32,
    /// The node that says so.
    pub node: NodeId,
    /// The epoch it says so under.
    pub epoch: Epoch,
    /// What the agent logged.
    pub line: String,
}

/// See [`Operation::ReportParked`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportParked {
    /// The node that says so.
    pub node: NodeId,
    /// The epoch it says so under.
    pub epoch: Epoch,
    /// The agents; those that changed since, or are known to be parked, are passed over.
    pub agents: Vec<Parked>,
}

/// An agent that is not started again until someone asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The agent.
    pub agent: AgentId,
    /// The revision of it that its host carried out.
    pub revision: Revision,
    /// In which of its starts since it was placed.
    pub start: u32,
    /// Why, in words.
    pub why: String,
}

/// See [`Operation::ReleasePorts`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleasePorts {
    /// The node.
    pub node: NodeId,
    /// The epoch it says so under.
    pub epoch: Epoch,
    /// The blocks; those not kept from agents are passed over.
    pub blocks: Vec<PortBlock>,
}
