//! The voters, as far as leases depend on them: whom they voted for, and when they last answered
//! somebody before.

use rand::{Rng, seq::index::sample};
use rand_chacha::ChaCha8Rng;

/// Voters, and how many of them are a quorum.
const VOTERS: usize = 3;
const QUORUM: usize = 2;

#[derive(Clone, Copy, Default)]
struct Voter {
    /// The term it voted in last.
    term: u64,
    /// True time of its last answer to a leader.
    answered_ms: u64,
}

/// The voters.
#[derive(Default)]
pub(crate) struct Quorum {
    voters: [Voter; VOTERS],
}

/// What those that elected a leader say of its predecessors: when one was last answered.
pub(crate) struct Elected {
    pub(crate) newest_ms: u64,
    pub(crate) oldest_ms: u64,
}

impl Quorum {
    /// Elects the leader of `term` with the votes of a random quorum.
    pub(crate) fn elect(&mut self, term: u64, rng: &mut ChaCha8Rng) -> Elected {
        let chosen = sample(rng, VOTERS, QUORUM).into_vec();
        let answers = || chosen.iter().map(|voter| self.voters[*voter].answered_ms);
        let elected = Elected {
            newest_ms: answers().max().unwrap_or(0),
            oldest_ms: answers().min().unwrap_or(0),
        };
        for voter in chosen {
            self.voters[voter].term = term;
        }
        elected
    }

    /// A round of the leader of `term`, answered now by whoever voted for nobody newer, but for one
    /// that may be slow; whether that is a quorum.
    pub(crate) fn confirms(&mut self, term: u64, now_ms: u64, rng: &mut ChaCha8Rng) -> bool {
        let slow = rng.random_range(0..2 * VOTERS);
        let voters = self.voters.iter_mut().enumerate();
        let answering = voters.filter(|(number, v)| *number != slow && v.term <= term);
        let answered = answering.map(|(_, voter)| voter.answered_ms = now_ms).count();
        answered >= QUORUM
    }
}
