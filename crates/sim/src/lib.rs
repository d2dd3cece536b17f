//! The pure crates in a world where everything goes wrong and nothing is left to chance.
//!
//! One seed determines a run: who leads, which messages are late or doubled, which machines stop,
//! how fast their clocks run. Replicas apply the real [`fleet_core`]; nodes hold leases and run
//! agents through the real [`fleet_supervision`]; the leader's wait is the real
//! [`fleet_types::LeaseTiming`]. Time, network and disk are the world's.
//!
//! A run has two phases: while faults go on, every [`invariants`] file is checked after every
//! step; then the faults end and the world must settle: every agent placed and running.
//!
//! Not modelled: Raft's log (one in order is assumed; leaders overlap in belief, and only whom a
//! quorum answers may grant), lost disks, the guard's kernel timer.
#![forbid(unsafe_code)]

pub mod invariants;
mod leader;
pub mod lease;
mod mistake;
mod node;
mod quorum;
mod world;

pub use invariants::Broken;
pub use mistake::Mistake;
pub use world::{Options, Report, run};
