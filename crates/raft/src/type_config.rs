//! The concrete types this project runs openraft with.

use std::fmt;

use fleet_core::{Outcome, Rejection};
use prost::bytes::Bytes;

/// The encoded commands of one entry. Kept encoded, so that an entry is encoded once, however many
/// followers it goes to, and decoded once, when it is applied; clones share the bytes.
#[derive(Clone, Debug)]
pub(crate) struct Batch(pub Bytes);

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What each command of a batch ended in; empty for entries that hold none.
pub(crate) type Results = Vec<Result<Outcome, Rejection>>;

/// Where a member is reached: the `host:port` of its peer listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Address(pub String);

openraft::declare_raft_types!(
    /// openraft with this project's commands, results and addresses.
    pub(crate) TypeConfig:
        D = Batch,
        R = Results,
        NodeId = u64,
        Node = Address,
);

pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, Address>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, crate::snapshot::SnapshotFile>;
