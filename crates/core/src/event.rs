//! What happened, with its cause: kept in the state, so that it survives its leader, and bounded.

use alloc::string::String;

use fleet_types::{AgentId, Epoch, Generation, NodeId, PortBlock, Revision, Timestamp};

use crate::record::{Evidence, PendingReason, Role, Schedulable};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place among all; the smallest is forgotten first.
    pub serial: u64,
    /// When, by the leader's calendar.
    pub at: Timestamp,
    /// The revision that made it.
    pub revision: Revision,
    /// The node it is about.
    pub node: Option<NodeId>,
    /// The agent it is about.
    pub agent: Option<AgentId>,
    /// What.
    pub what: What,
}

/// Why an agent is asked to leave its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An operator moves it.
    Operator,
    /// Its node is drained.
    Drain,
    /// Other nodes have more room.
    Rebalance,
    /// It is strict, and its node cannot keep that.
    UnfitNode,
    /// Something else listens on its ports, and its node has no others or takes no agents.
    PortsTaken,
    /// Its node is drained, and the time that agents had to leave it is over.
    DrainOverdue,
}

/// Why a vote is given or taken. All but the first are the leader's own reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleCause {
    /// An operator says so.
    Operator,
    /// A voter is gone for long: another node votes instead.
    VoterGone,
    /// The node itself is gone for long, or cannot vote, and enough others do.
    Gone,
    /// Fewer nodes vote than should.
    TooFew,
    /// More nodes vote than should.
    TooMany,
    /// Voters are to be spread over the values of a label.
    Spread,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The agent was placed on the node.
    AgentPlaced {
        /// At this generation.
        generation: Generation,
        /// What proved that no older copy ran.
        evidence: Evidence,
    },
    /// The agent has no place.
    AgentPending {
        /// Why.
        reason: PendingReason,
    },
    /// The agent is asked to leave the node.
    AgentEvicted {
        /// Why.
        cause: Cause,
    },
    /// The agent stays on the node after all.
    AgentKept,
    /// The agent was deleted.
    AgentDeleted,
    /// The node was admitted.
    NodeAdmitted {
        /// As this.
        role: Role,
    },
    /// The node registered.
    NodeRegistered {
        /// Under this epoch.
        epoch: Epoch,
    },
    /// The node's epoch ended, or what outlasted it did.
    NodeFenced {
        /// What proved that nothing of it runs.
        evidence: Evidence,
        /// Agents that left it.
        agents: u64,
    },
    /// The node takes agents, takes none, or is left by them.
    NodeScheduling {
        /// What it became.
        schedulable: Schedulable,
    },
    /// The node was removed.
    NodeRemoved {
        /// What it was called; empty where that was not kept yet.
        name: String,
    },
    /// The node's vote was given or taken.
    RoleChanged {
        /// What it became.
        role: Role,
        /// Why.
        cause: RoleCause,
    },
    /// The node's leases are long for a time, so that its daemon may be away.
    NodeHeld {
        /// How long each lasts, in milliseconds.
        lease_ms: u64,
    },
    /// The node's leases are of the usual length again.
    HoldEnded,
    /// The agent logged that another copy of its session is live.
    AgentRunsTwice {
        /// At this generation.
        generation: Generation,
        /// In which of its starts since it was placed.
        start: u32,
        /// Where it was placed before, if anywhere, and at which generation.
        former: Option<(NodeId, Generation)>,
        /// What it logged.
        line: String,
    },
    /// The agent is not started again until someone asks for it.
    AgentParked {
        /// In which of its starts since it was placed.
        start: u32,
        /// Why, in words.
        why: String,
    },
    /// Ports of the node are kept from agents because something else listens there.
    PortsQuarantined {
        /// Which.
        block: PortBlock,
        /// Who listens, in words.
        by: String,
    },
    /// Agents may have ports of the node again that something else listened on.
    PortsReleased {
        /// Which.
        block: PortBlock,
    },
}
