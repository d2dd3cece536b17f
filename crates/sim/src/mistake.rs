//! Mistakes that can be planted, to see that the invariants catch each.

/// A way to get the lease wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The leader waits half a lease, and no time for what is killed to be gone.
    WaitsTooShort,
    /// A new leader takes nodes it never heard for long silent.
    NewLeaderDoesNotWait,
    /// A new leader counts from the oldest answer of its voters instead of the newest.
    CountsFromTheOldestAnswer,
    /// A grant asks no quorum, so a deposed leader grants, too.
    GrantsWithoutQuorum,
    /// The quorum's round began before the request came: its answer is as old as a message may be.
    RoundBeforeReceipt,
    /// The holder counts from when the grant came instead of when it asked.
    CountsFromTheGrant,
    /// The holder keeps its deadline on a clock that is set back.
    WallClock,
    /// A deposed leader's fence is applied to whatever epoch the node is in by then. Takes the feature
    /// `planted`: the mistake is in the state.
    AcceptsOldEpochs,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::WaitsTooShort,
        Self::NewLeaderDoesNotWait,
        Self::CountsFromTheOldestAnswer,
        Self::GrantsWithoutQuorum,
        Self::RoundBeforeReceipt,
        Self::CountsFromTheGrant,
        Self::WallClock,
        Self::AcceptsOldEpochs,
    ];
}
