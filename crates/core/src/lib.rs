//! The replicated state machine: what the cluster has decided, and how a command changes it.
//!
//! Every replica applies the same commands in the same order through [`apply()`] and must end
//! with the same [`State`]; so nothing here reads a clock, draws a random number, iterates in hash
//! order, allocates by chance or does I/O. Time enters with the command. Choosing a node is the
//! leader's business ([`plan`]), done outside `apply` and carried in the command; `apply` checks
//! the choice, allocates the port block and raises the generation. A better planner in a later
//! release therefore cannot make two replicas differ.
//!
//! A command ends in an [`Outcome`] or in a [`Rejection`]. Both are replicated facts. A local
//! failure (disk, decoding) is neither and never appears here: the adapter stops the process.
//!
//! What this crate does not do: leases (they live in the leader's memory), observed state of
//! agents (reported by hosts, never logged), encoding (see `fleet-proto`).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod admission;
mod apply;
mod audit;
mod by_load;
mod by_value;
mod command;
mod commands;
mod crowd;
mod demands;
mod digest;
mod event;
pub mod explain;
mod index;
mod nested;
mod offer;
pub mod plan;
mod planner;
mod ports;
pub mod provision;
pub mod rebalance;
mod record;
mod rejection;
mod room;
mod spread;
mod state;
mod together;
pub mod voters;
mod whereabouts;

pub use apply::{
    Outcome, apply, apply_by, check_create, check_drafts, check_register, check_wants,
    is_helped_by_other_ports, is_parked_anew,
};
pub use audit::{Violation, audit};
pub use command::{
    Admission, AdmitNode, AgentDraft, Command, ConfirmStopped, CreateAgents, CreateFleet,
    CreateToken, DeleteAgent, DeleteFleet, EvictAgents, Eviction, FenceNode, HoldChange, HoldNode,
    InitCluster, Operation, Parked, PlaceAgents, QuarantinePorts, RULES, RULES_OF_PARKED,
    RegisterNode, ReleasePorts, RemoveNode, ReportDoubleRun, ReportParked, Request, RestartAgent,
    RevokeToken, SetAgentDesired, SetMovePolicy, SetPlacementPolicy, SetRole, SetSchedulable,
};
pub use event::{Cause, Event, RoleCause, What};
pub use index::open;
pub use ports::BuddyAllocator;
pub use record::{
    Agent, AgentSpec, Cluster, Desired, Drain, Evidence, Fleet, Hold, JoinToken, Key, Lifecycle,
    MovePolicy, MoveRule, Node, NodeAddress, NodeReport, NodeStatus, PendingReason, Placement,
    PlacementPolicy, Quarantine, QuarantineCause, Record, RequestRecord, Role, Schedulable, Wants,
};
pub use rejection::{Kind, Rejection};
pub use room::{FULL, Lack, Load, Room};
pub use state::State;

#[cfg(test)]
mod drain_tests;
#[cfg(test)]
mod explain_tests;
#[cfg(test)]
mod placement_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod rebalance_tests;
#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod search_tests;
