//! How long a node may run its agents on one grant, and how long the leader waits before it
//! re-places them.
//!
//! The holder counts from the moment it *asked*, on a clock that runs during suspend, and gives up
//! early by [`LeaseTiming::HOLDER_MARGIN_PERMILLE`]. The waiter counts from the moment it
//! *received* and gives up late by [`LeaseTiming::WAITER_MARGIN_PERMILLE`]. As long as clock rates
//! differ by less than the two margins, the holder is done before the waiter acts.

use core::{fmt, str::FromStr};

/// A named set of timings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LeaseProfile {
    /// Leaves room for two lost renewals and an election. Right for most clusters.
    #[default]
    Default,
    /// Halves the time to re-place agents, for quiet local networks.
    Fast,
    /// For a dedicated network and idle machines; expect false fences elsewhere.
    Aggressive,
}

/// A text that names no profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownProfile;

impl fmt::Display for UnknownProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a lease profile: use default, fast or aggressive")
    }
}

impl core::error::Error for UnknownProfile {}

impl FromStr for LeaseProfile {
    type Err = UnknownProfile;
    fn from_str(text: &str) -> Result<Self, UnknownProfile> {
        match text {
            "default" => Ok(Self::Default),
            "fast" => Ok(Self::Fast),
            "aggressive" => Ok(Self::Aggressive),
            _ => Err(UnknownProfile),
        }
    }
}

impl fmt::Display for LeaseProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::Fast => "fast",
            Self::Aggressive => "aggressive",
        })
    }
}

/// The timings of a profile, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTiming {
    /// How often a Raft leader is heard from.
    pub heartbeat_ms: u64,
    /// Shortest election timeout.
    pub election_min_ms: u64,
    /// Longest election timeout.
    pub election_max_ms: u64,
    /// How often a node renews.
    pub renew_ms: u64,
    /// L: how long one grant lasts, from the moment it was asked for.
    pub lease_ms: u64,
    /// K + D: the kernel's time to kill everything, and the time for what was queued to drain.
    pub kill_and_drain_ms: u64,
}

impl LeaseTiming {
    /// ρ_h: the holder gives up this much of L early. 10 % covers the largest slew chrony applies
    /// by default (83,333 ppm).
    pub const HOLDER_MARGIN_PERMILLE: u64 = 100;
    /// ρ_w: the waiter waits this much of L longer.
    pub const WAITER_MARGIN_PERMILLE: u64 = 50;

    /// The timings of `profile`.
    pub const fn of(profile: LeaseProfile) -> Self {
        match profile {
            LeaseProfile::Default => Self {
                heartbeat_ms: 60,
                election_min_ms: 200,
                election_max_ms: 350,
                renew_ms: 1_000,
                lease_ms: 6_000,
                kill_and_drain_ms: 400,
            },
            LeaseProfile::Fast => Self {
                heartbeat_ms: 60,
                election_min_ms: 200,
                election_max_ms: 350,
                renew_ms: 500,
                lease_ms: 3_000,
                kill_and_drain_ms: 400,
            },
            LeaseProfile::Aggressive => Self {
                heartbeat_ms: 30,
                election_min_ms: 100,
                election_max_ms: 200,
                renew_ms: 100,
                lease_ms: 1_000,
                kill_and_drain_ms: 100,
            },
        }
    }

    /// How long the holder may run after the moment it asked: L · (1 − ρ_h).
    pub const fn holder_ms(&self) -> u64 {
        Self::holder_ms_of(self.lease_ms)
    }

    /// As [`LeaseTiming::holder_ms`], of a lease of any length.
    pub const fn holder_ms_of(lease_ms: u64) -> u64 {
        lease_ms * (1_000 - Self::HOLDER_MARGIN_PERMILLE) / 1_000
    }

    /// W: how long a leader waits after the last receipt before it fences:
    /// L · (1 + ρ_w) + K + D.
    pub const fn fence_after_ms(&self) -> u64 {
        self.lease_ms * (1_000 + Self::WAITER_MARGIN_PERMILLE) / 1_000 + self.kill_and_drain_ms
    }

    /// How long a new leader fences nobody, however long ago its predecessor could last grant: after
    /// an outage of the quorum every node needs time to come back. Shorter than W by two elections,
    /// so that the loss of a leader takes no longer than that of another node.
    pub const fn patience_ms(&self) -> u64 {
        self.fence_after_ms() - 2 * self.election_max_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiter_outlasts_holder_at_the_clock_bound() {
        for profile in [LeaseProfile::Default, LeaseProfile::Fast, LeaseProfile::Aggressive] {
            let timing = LeaseTiming::of(profile);
            // Holder's clock 8 % slow, waiter's 5 % fast.
            let holder_true_ms = timing.holder_ms() * 1_000 / 920;
            let waiter_true_ms = timing.fence_after_ms() * 1_000 / 1_050;
            assert!(holder_true_ms + timing.kill_and_drain_ms * 9 / 10 <= waiter_true_ms);
        }
    }

    #[test]
    fn published_waits() {
        let wait = |p| LeaseTiming::of(p).fence_after_ms();
        assert_eq!(wait(LeaseProfile::Default), 6_700);
        assert_eq!(wait(LeaseProfile::Fast), 3_550);
        assert_eq!(wait(LeaseProfile::Aggressive), 1_150);
    }
}
