//! Conversions: [`storage`] to and from disk, [`api`] to and from the public API, [`host`] to and
//! from the agent hosts.

pub mod api;
pub mod host;
pub mod placement;
pub mod storage;
