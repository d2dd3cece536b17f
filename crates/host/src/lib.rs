//! The agent host: what a node runs, and for how long it may.
//!
//! The leader says what should run ([`Host`], over [`service`]); a lease says until when
//! ([`lease`], renewed by [`renewal`]); one task an agent ([`agent`]) carries out its life. A host
//! starts nothing by itself: after a start or a lapse it first makes sure nothing runs, then
//! registers for a new epoch, then waits to be told.
#![forbid(unsafe_code)]

mod agent;
pub mod guard;
mod host;
pub mod lease;
mod ledger;
pub mod overlay;
mod probe;
mod provision;
pub mod renewal;
pub mod runtimes;
pub mod service;
mod template;

pub use host::{AssignError, Host, HostOptions, Observed};
