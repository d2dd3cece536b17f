//! When to give up, wait and try again.

use alloc::vec::Vec;

/// An agent's timings, from its runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long it may take from launch to ready, in milliseconds.
    pub start_timeout_ms: u64,
    /// How long it may drain after SIGTERM before it is killed, in milliseconds.
    pub stop_timeout_ms: u64,
    /// First pause after it ended by itself, in milliseconds; doubled each time.
    pub backoff_min_ms: u64,
    /// Longest pause, in milliseconds.
    pub backoff_max_ms: u64,
    /// A run of this many milliseconds counts as healthy: the next pause is the first again.
    pub healthy_after_ms: u64,
    /// Ends within the window after which it is parked.
    pub crashes_max: u32,
    /// The window, in milliseconds.
    pub crash_window_ms: u64,
    /// Failed probes in a row after which a ready agent counts as unready.
    pub probe_failures: u32,
    /// Failed liveness probes in a row after which an agent that was ready is started again.
    pub liveness_failures: u32,
    /// Exit codes after which its repair is run, once, and it is started again; parked when it ends
    /// so once more.
    pub repair_exit_codes: Vec<i32>,
    /// How long a repair may take, in milliseconds.
    pub repair_timeout_ms: u64,
    /// Exit codes that a restart cannot cure: parked at once.
    pub fatal_exit_codes: Vec<i32>,
}

impl Policy {
    /// The pause before try number `tries` (from 0), with up to a quarter of it as jitter. The
    /// first is made at once: what was well until now, most likely is again.
    pub(crate) fn pause_ms(&self, tries: u32, jitter: u32) -> u64 {
        let Some(doublings) = tries.checked_sub(1) else { return 0 };
        let doubled = self.backoff_min_ms.saturating_mul(1_u64 << doublings.min(32));
        let pause = doubled.min(self.backoff_max_ms);
        pause + pause / 4 * u64::from(jitter) / u64::from(u32::MAX)
    }
}
