//! Takeovers of one lease, and every mistake in it caught.

#![allow(clippy::unwrap_used, reason = "a test may")]

use fleet_sim::{
    Mistake,
    lease::{AgentClass, Outcome, run},
};

/// Runs seeds until an overlap, or all of them; fences and the first overlap.
fn fences(
    seeds: std::ops::Range<u64>,
    class: AgentClass,
    mistake: Option<Mistake>,
) -> (u64, Option<(u64, i64)>) {
    let mut fenced = 0;
    for seed in seeds {
        match run(seed, class, mistake) {
            Outcome::Kept => {}
            Outcome::Fenced => fenced += 1,
            Outcome::Overlap(by_us) => return (fenced, Some((seed, by_us))),
        }
    }
    (fenced, None)
}

#[test]
fn nothing_of_a_fenced_holder_executes() {
    for (class, runs) in [(AgentClass::Strict, 30_000), (AgentClass::Sticky, 600)] {
        let (fenced, overlap) = fences(0..runs, class, None);
        assert_eq!(overlap, None, "{class}: seed and microseconds");
        assert!(fenced > runs / 2, "{class}: only {fenced} of {runs} runs reached a takeover");
    }
}

#[test]
fn a_seed_determines_its_run() {
    for seed in 0..100 {
        let once = || run(seed, AgentClass::Strict, None);
        assert_eq!(once(), once());
    }
}

#[test]
fn every_mistake_in_the_lease_is_caught() {
    // What is applied to an old epoch shows in a whole cluster only.
    for mistake in Mistake::ALL.into_iter().filter(|m| *m != Mistake::AcceptsOldEpochs) {
        let (fenced, overlap) = fences(0..100_000, AgentClass::Strict, Some(mistake));
        assert!(overlap.is_some(), "{mistake:?} went unnoticed in {fenced} takeovers");
    }
}
