//! What can go wrong, by operation.

use std::{io, path::PathBuf};

use fleet_types::NodeId;

/// Why the Raft storage of a node could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database does not open.
    #[error("the database in {} does not open", path.display())]
    Database {
        /// Its directory.
        path: PathBuf,
        /// Why.
        source: rocksdb::Error,
    },
    /// Entries that were acknowledged are gone, so the node may not vote any more.
    #[error(
        "the log in {} ends at {found} although entries up to {acknowledged} were acknowledged: \
         the disk lost data. This node must not vote again: remove it and join under a new id",
        path.display()
    )]
    LostEntries {
        /// The database directory.
        path: PathBuf,
        /// Last index that was acknowledged.
        acknowledged: u64,
        /// Last index found.
        found: u64,
    },
    /// Reading it failed.
    #[error("reading the stored state failed")]
    Io(#[from] io::Error),
    /// Raft does not start.
    #[error("raft does not start: {0}")]
    Raft(String),
}

/// Why a proposal has no result. A proposal without one may still take effect.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// This node does not lead.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader, if it is known.
        leader: Option<NodeId>,
    },
    /// The proposal was made, and leadership was lost or the node is stopping: unknown outcome.
    #[error("the outcome is not known: {0}")]
    Unknown(String),
}

/// Why a linearizable read is not possible here and now.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// This node does not lead.
    #[error("this node does not lead")]
    NotLeader {
        /// The leader, if it is known.
        leader: Option<NodeId>,
    },
    /// No quorum answered.
    #[error("no quorum answered: {0}")]
    NoQuorum(String),
}
