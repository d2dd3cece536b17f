//! Consensus and its disk: the only crate that knows openraft and RocksDB.
//!
//! Inward it offers a [`Node`]: propose commands, read the state behind a linearizable barrier,
//! follow who leads, change who votes. Everything else is private: [`log_store`] writes votes and
//! entries to one RocksDB with one synced WAL, [`state_machine`] applies committed entries to the
//! typed state in memory and mirrors what changed to disk, [`snapshot`] moves all of it at once,
//! [`network`] and [`Service`] carry the protocol over gRPC.
//!
//! Duties openraft leaves to its user, and where they are met: votes and entries are on disk
//! before they are acknowledged, in order (`log_store`); applied state never runs ahead of the log
//! on disk (one WAL); a node id is never reused (ids come from the log); the node addressed is the
//! node reached (`Service` checks the target and the certificate of the caller).
#![forbid(unsafe_code)]

mod acknowledged;
mod codec;
mod error;
mod high_water;
mod log_store;
mod network;
mod node;
mod service;
mod snapshot;
mod state_machine;
mod store;
#[cfg(test)]
mod suite;
mod tail;
mod thread;
mod type_config;

pub use error::{OpenError, ProposeError, ReadError};
pub use network::Dial;
pub use node::{Changes, LogLimits, Node, RaftConfig, RaftStatus};
pub use service::Service;
