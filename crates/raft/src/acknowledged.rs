//! When voters last acknowledged a leader, so that its successor knows how old a lease may be.
//!
//! A leader grants only what a quorum answered for after the request came. The quorum that elects
//! its successor shares a voter with that one: it answered first and voted after, for it answers no
//! older leader once it voted. So nothing was granted later than the last answer of any voter that
//! elected the new leader, and each of them says with its vote how long ago that was.

use std::{
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

struct Times {
    /// The newest term of a leader that was heard, and when last.
    newest: (u64, Instant),
    /// When a leader of an earlier term was last heard.
    earlier: Instant,
    /// The term this node was voted for in, and the latest that one of its voters answered another.
    elected: Option<(u64, Instant)>,
}

/// What one voter knows of it.
pub(crate) struct Acknowledged(Mutex<Times>);

impl Acknowledged {
    /// Nothing is remembered across a restart: it counts as an answer.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Times { newest: (0, now), earlier: now, elected: None }))
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.0.lock().expect("no holder panics")
    }

    /// The leader of `term` may be about to be answered. Call it before the answer can be made.
    pub(crate) fn answering(&self, term: u64) {
        let (now, mut times) = (Instant::now(), self.times());
        if term < times.newest.0 {
            times.earlier = now;
            return;
        }
        if term > times.newest.0 {
            times.earlier = times.earlier.max(times.newest.1);
        }
        times.newest = (term, now);
    }

    /// The latest that this node may have answered a leader of a term before `term`.
    pub(crate) fn before(&self, term: u64) -> Instant {
        let times = self.times();
        if times.newest.0 < term { times.earlier.max(times.newest.1) } else { times.earlier }
    }

    /// A voter voted for this node in `term`, and last answered an earlier leader `ago`.
    pub(crate) fn voted(&self, term: u64, ago: Duration) {
        let now = Instant::now();
        let at = now.checked_sub(ago).unwrap_or(now);
        let mut times = self.times();
        match &mut times.elected {
            Some((stood, _)) if *stood > term => {}
            Some((stood, latest)) if *stood == term => *latest = at.max(*latest),
            elected => *elected = Some((term, at)),
        }
    }

    /// The latest that any voter that elected this node in `term`, itself among them, may have
    /// answered an earlier leader.
    pub(crate) fn before_elected(&self, term: u64) -> Instant {
        let own = self.before(term);
        match self.times().elected {
            Some((stood, latest)) if stood == term => latest.max(own),
            _ => own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_restarted_voter_may_have_answered_just_now() {
        let before = Instant::now();
        assert!(Acknowledged::new().before(1) >= before);
    }

    #[test]
    fn only_earlier_leaders_count() {
        let voter = Acknowledged::new();
        voter.answering(3);
        let third = voter.before(4);
        voter.answering(4);
        assert_eq!(voter.before(4), third);
        assert!(voter.before(5) >= third);
        // One of an earlier term that is late.
        let now = Instant::now();
        voter.answering(3);
        assert!(voter.before(4) >= now);
    }

    #[test]
    fn the_latest_answer_of_any_voter_counts() {
        let candidate = Acknowledged::new();
        let own = candidate.before(7);
        candidate.voted(7, 9 * SECOND);
        assert_eq!(candidate.before_elected(7), own, "its own is later");
        let now = Instant::now();
        candidate.voted(7, Duration::ZERO);
        candidate.voted(7, SECOND);
        assert!(candidate.before_elected(7) >= now);
        // Votes of another term say nothing of this one.
        assert_eq!(candidate.before_elected(8), own);
    }
}
