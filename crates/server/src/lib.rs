//! A node's daemon: the public API, the leader's loops, and the listeners everything goes through.
//!
//! Three listeners, each with a certificate check: `api` (operators and tools; any node answers and
//! forwards to the leader), `peer` (Raft and the agent host; nodes only) and `lease` (renewals, on
//! a thread of its own; nodes only).
#![forbid(unsafe_code)]

mod api;
mod daemon;
pub mod data_dir;
mod gate;
mod leader;
mod lease_service;
mod leases;
mod listen;
mod office;
pub mod pki;
mod proposer;
mod registration;
pub mod secrets;
mod session;
pub mod setup;
#[cfg(test)]
mod testing;

pub use daemon::{Ended, run};
