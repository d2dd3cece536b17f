//! The clocks, and which is for what.
//!
//! A lease holder counts on [`boot_ms`], which keeps counting while the machine sleeps: waking
//! late, it finds its lease over. A lease waiter counts on [`raw_ms`], which no time service slews
//! and which stands still during sleep: it waits longer, never shorter. The calendar is for people
//! and for the life of tokens.

use fleet_types::Timestamp;
use nix::time::{ClockId, clock_gettime};

fn milliseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock).expect("Linux has this clock");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    seconds * 1_000 + u64::try_from(now.tv_nsec()).unwrap_or(0) / 1_000_000
}

/// Milliseconds since boot, sleep included (`CLOCK_BOOTTIME`). For lease holders.
pub fn boot_ms() -> u64 {
    milliseconds(ClockId::CLOCK_BOOTTIME)
}

/// Milliseconds since some moment, neither slewed nor stepped (`CLOCK_MONOTONIC_RAW`). For lease
/// waiters.
pub fn raw_ms() -> u64 {
    milliseconds(ClockId::CLOCK_MONOTONIC_RAW)
}

/// The calendar.
pub fn now() -> Timestamp {
    Timestamp(milliseconds(ClockId::CLOCK_REALTIME))
}
