//! Mistakes kept in the tree, to see that a test catches each. Without the feature of the same
//! name, which only tests turn on, [`planted`] is `false` and the compiler removes what it guards.
//!
//! Mistakes that need time, clocks or quorums out of step are the simulator's.
#![forbid(unsafe_code)]

/// A mistake, by the name `FLEET_MUTANT` has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// `new-leader-does-not-wait`: a new leader gives nodes it never heard time for two renewals
    /// and no more.
    NewLeaderDoesNotWait,
    /// `grants-without-quorum`: who leads, or did, grants without asking anyone.
    GrantsWithoutQuorum,
    /// `no-pid-namespace`: the guard's init is an ordinary process, so its end ends nobody else's.
    NoPidNamespace,
    /// `no-realtime-priority`: the guard waits for the processor as anybody does.
    NoRealtimePriority,
    /// `killed-is-not-silent`: what killed agents had queued is sent for as long as the kernel likes.
    KilledIsNotSilent,
}

impl Mutant {
    const fn name(self) -> &'static str {
        match self {
            Self::NewLeaderDoesNotWait => "new-leader-does-not-wait",
            Self::GrantsWithoutQuorum => "grants-without-quorum",
            Self::NoPidNamespace => "no-pid-namespace",
            Self::NoRealtimePriority => "no-realtime-priority",
            Self::KilledIsNotSilent => "killed-is-not-silent",
        }
    }
}

/// Whether this process has the mistake.
pub fn planted(mutant: Mutant) -> bool {
    cfg!(feature = "planted") && std::env::var("FLEET_MUTANT").is_ok_and(|it| it == mutant.name())
}
