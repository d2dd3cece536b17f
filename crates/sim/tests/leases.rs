//! Takeovers of one lease, and every mistake in it caught.

#![allow(clippy::unwrap_used, reason = "a test may")]

use fleet_sim::{
    Mistake,
    lease::{Outcome, run},
};

/// Runs seeds until an overlap, or all of them; fences and the first overlap.
fn fences(seeds: std::ops::Range<u64>, mistake: Option<Mistake>) -> (u64, Option<(u64, i64)>) {
    let mut fenced = 0;
    for seed in seeds {
        match run(seed, mistake) {
            Outcome::Kept => {}
            Outcome::Fenced => fenced += 1,
            Outcome::Overlap(by_us) => return (fenced, Some((seed, by_us))),
        }
    }
    (fenced, None)
}

#[test]
fn nothing_of_a_fenced_holder_executes() {
    let (fenced, overlap) = fences(0..30_000, None);
    assert_eq!(overlap, None, "seed and microseconds");
    assert!(fenced > 15_000, "only {fenced} of 30,000 runs reached a takeover");
}

#[test]
fn a_seed_determines_its_run() {
    for seed in 0..100 {
        assert_eq!(run(seed, None), run(seed, None));
    }
}

#[test]
fn every_mistake_in_the_lease_is_caught() {
    // What is applied to an old epoch shows in a whole cluster only.
    for mistake in Mistake::ALL.into_iter().filter(|m| *m != Mistake::AcceptsOldEpochs) {
        let (fenced, overlap) = fences(0..100_000, Some(mistake));
        assert!(overlap.is_some(), "{mistake:?} went unnoticed in {fenced} takeovers");
    }
}
