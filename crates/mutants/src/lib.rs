//! Mistakes kept in the tree, to see that a test catches each. Without the feature of the same
//! name, which only tests turn on, [`planted`] is `false` and the compiler removes what it guards.
//!
//! The simulator has its own, of messages and clocks out of step.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

/// A mistake, by the name `FLEET_MUTANT` has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// `new-leader-does-not-wait`: a new leader gives nodes it never heard time for two renewals
    /// and no more.
    NewLeaderDoesNotWait,
    /// `grants-without-quorum`: who leads, or did, grants without asking anyone.
    GrantsWithoutQuorum,
    /// `round-before-receipt`: a grant takes a quorum's round of up to a lease before.
    RoundBeforeReceipt,
    /// `deadline-from-grant`: the guard counts a lease from when its grant came.
    DeadlineFromGrant,
    /// `wall-clock`: the guard counts on the clock that people set.
    WallClock,
    /// `no-pid-namespace`: the guard's init is an ordinary process, so its end ends nobody else's.
    NoPidNamespace,
    /// `no-realtime-priority`: the guard waits for the processor as anybody does.
    NoRealtimePriority,
    /// `killed-is-not-silent`: what killed agents had queued is sent for as long as the kernel likes.
    KilledIsNotSilent,
    /// `no-egress-lease`: no lease on what leaves the node, as where the kernel has none.
    NoEgressLease,
    /// `orphans-repeat`: what connections of killed agents had queued is repeated six times.
    OrphansRepeat,
}

impl Mutant {
    const fn name(self) -> &'static str {
        match self {
            Self::NewLeaderDoesNotWait => "new-leader-does-not-wait",
            Self::GrantsWithoutQuorum => "grants-without-quorum",
            Self::RoundBeforeReceipt => "round-before-receipt",
            Self::DeadlineFromGrant => "deadline-from-grant",
            Self::WallClock => "wall-clock",
            Self::NoPidNamespace => "no-pid-namespace",
            Self::NoRealtimePriority => "no-realtime-priority",
            Self::KilledIsNotSilent => "killed-is-not-silent",
            Self::NoEgressLease => "no-egress-lease",
            Self::OrphansRepeat => "orphans-repeat",
        }
    }
}

/// Whether this process has the mistake.
pub fn planted(mutant: Mutant) -> bool {
    cfg!(feature = "planted") && std::env::var("FLEET_MUTANT").is_ok_and(|it| it == mutant.name())
}

/// When a round ended last, of a process with [`Mutant::RoundBeforeReceipt`].
static ROUND_MS: AtomicU64 = AtomicU64::new(0);

/// Notes, with [`Mutant::RoundBeforeReceipt`], that a round ended.
pub fn note_round(now_ms: u64) {
    if planted(Mutant::RoundBeforeReceipt) {
        ROUND_MS.store(now_ms, Ordering::Relaxed);
    }
}

/// Whether, by [`Mutant::RoundBeforeReceipt`], a round of up to `window_ms` before is good enough.
pub fn takes_earlier_round(now_ms: u64, window_ms: u64) -> bool {
    let ended_ms = ROUND_MS.load(Ordering::Relaxed);
    planted(Mutant::RoundBeforeReceipt) && ended_ms > 0 && now_ms - ended_ms < window_ms
}
