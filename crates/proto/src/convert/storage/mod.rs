//! Records and commands to and from their stored form.
//!
//! Encoding cannot fail. Decoding fails only on bytes this software did not write; the caller
//! stops the process then, for a replica that skips an entry is no replica.

mod commands;
mod events;
mod records;

use fleet_core as core;
use fleet_types::{AgentClass, Labels, NodeId, PortBlock};

pub use commands::{decode_batch, encode_batch};
pub use records::{decode_record, encode_record};

/// Stored bytes that are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Not a protobuf message of the type.
    #[error("stored bytes are not a message")]
    Bytes(#[from] prost::DecodeError),
    /// A field holds an impossible value.
    #[error("stored {0} is not valid")]
    Field(&'static str),
}

type Result<T> = std::result::Result<T, Malformed>;

fn parse<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T> {
    text.parse().map_err(|_| Malformed::Field(what))
}

fn need<T>(what: &'static str, value: Option<T>) -> Result<T> {
    value.ok_or(Malformed::Field(what))
}

fn port(what: &'static str, value: u32) -> Result<u16> {
    u16::try_from(value).map_err(|_| Malformed::Field(what))
}

fn hash(bytes: &[u8]) -> Result<[u8; 32]> {
    bytes.try_into().map_err(|_| Malformed::Field("hash"))
}

fn pairs(labels: &Labels) -> std::collections::BTreeMap<String, String> {
    labels.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn labels(pairs: std::collections::BTreeMap<String, String>) -> Result<Labels> {
    Labels::new(pairs).map_err(|_| Malformed::Field("labels"))
}

fn some_node(id: u64) -> Option<NodeId> {
    (id != 0).then_some(NodeId(id))
}

fn block(base: u32, size: u32) -> Result<PortBlock> {
    Ok(PortBlock { base: port("port", base)?, size: port("block size", size)? })
}

macro_rules! coded {
    ($encode:ident, $decode:ident, $type:ty, $what:literal, $($code:literal => $value:path),+) => {
        fn $encode(value: $type) -> u32 {
            match value { $($value => $code),+ }
        }
        fn $decode(code: u32) -> Result<$type> {
            match code { $($code => Ok($value),)+ _ => Err(Malformed::Field($what)) }
        }
    };
}

coded!(put_role, get_role, core::Role, "role", 1 => core::Role::Voter, 2 => core::Role::Worker);
coded!(put_status, get_status, core::NodeStatus, "node status",
    1 => core::NodeStatus::Joining, 2 => core::NodeStatus::Active, 3 => core::NodeStatus::Fenced);
coded!(put_schedulable, get_schedulable, core::Schedulable, "schedulable",
    1 => core::Schedulable::Open, 2 => core::Schedulable::Cordoned,
    3 => core::Schedulable::Draining);
coded!(put_desired, get_desired, core::Desired, "desired state",
    1 => core::Desired::Running, 2 => core::Desired::Stopped);
coded!(put_lifecycle, get_lifecycle, core::Lifecycle, "lifecycle",
    1 => core::Lifecycle::Live, 2 => core::Lifecycle::Deleting);
coded!(put_pending, get_pending, core::PendingReason, "pending reason",
    1 => core::PendingReason::NoNode, 2 => core::PendingReason::NoRuntime,
    3 => core::PendingReason::NoPorts, 4 => core::PendingReason::MovesPaused,
    5 => core::PendingReason::NoFitNode, 6 => core::PendingReason::NoLabels,
    7 => core::PendingReason::NoMemory, 8 => core::PendingReason::NoCpu,
    9 => core::PendingReason::OldRuntime, 10 => core::PendingReason::NotApart,
    11 => core::PendingReason::RoomKept);
coded!(put_cause, get_cause, core::Cause, "cause",
    1 => core::Cause::Operator, 2 => core::Cause::Drain, 3 => core::Cause::Rebalance,
    4 => core::Cause::UnfitNode, 5 => core::Cause::PortsTaken,
    6 => core::Cause::DrainOverdue);
coded!(put_role_cause, get_role_cause, core::RoleCause, "role cause",
    1 => core::RoleCause::Operator, 2 => core::RoleCause::VoterGone, 3 => core::RoleCause::Gone,
    4 => core::RoleCause::TooFew, 5 => core::RoleCause::TooMany, 6 => core::RoleCause::Spread);

/// Why a role changed; `automatic` is all that was stored once.
fn role_cause(cause: u32, role: core::Role, automatic: bool) -> Result<core::RoleCause> {
    match (cause, role) {
        (0, core::Role::Voter) if automatic => Ok(core::RoleCause::TooFew),
        (0, core::Role::Worker) if automatic => Ok(core::RoleCause::TooMany),
        (0, _) => Ok(core::RoleCause::Operator),
        _ => get_role_cause(cause),
    }
}

coded!(put_admission, get_admission, core::Admission, "admission",
    0 => core::Admission::Unchecked, 1 => core::Admission::Overcommit,
    2 => core::Admission::SurviveLoss);
coded!(put_class, get_class, AgentClass, "class",
    0 => AgentClass::Strict, 1 => AgentClass::Sticky, 2 => AgentClass::Pinned);
coded!(put_rule, get_rule, core::MoveRule, "move rule",
    1 => core::MoveRule::Automatic, 2 => core::MoveRule::Always, 3 => core::MoveRule::Never);
