//! The agent host: what a node runs, and for how long it may.
//!
//! The leader says what should run ([`Host`], over [`service`]); a lease says until when (held by
//! the [`guard`], renewed by [`renewal`]); one task an agent ([`agent`]) carries out its life. A
//! daemon that comes back while the lease lasts adopts what runs and keeps its epoch. Otherwise the
//! guard has seen to it that nothing runs: the host registers for a new epoch and waits to be told.
#![forbid(unsafe_code)]

mod adoption;
mod agent;
pub mod disk;
pub mod egress;
mod governor;
pub mod guard;
mod history;
mod home_size;
mod host;
pub mod lease;
mod ledger;
mod log_watch;
mod old_logs;
pub mod overlay;
mod probe;
mod provision;
mod quarantine;
pub mod renewal;
pub mod reserve;
pub mod runtimes;
pub mod service;
mod start;
mod start_key;
mod template;
mod told;

pub use host::{AssignError, Host, HostOptions, Kept, Observed};
