//! The right to run agents.

use fleet_types::Epoch;

/// A lease that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The node's epoch.
    pub epoch: Epoch,
    /// When it ends, in milliseconds of `CLOCK_BOOTTIME`.
    pub deadline_ms: u64,
}
