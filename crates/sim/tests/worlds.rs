//! Worlds of fixed seeds, and proof that the invariants can fail.

use fleet_sim::{Options, run};

fn options(seed: u64) -> Options {
    Options { seed, steps: 1_500, machines: 4, wait_permille: 1_000 }
}

#[test]
fn every_world_keeps_its_promises() {
    let mut fences = 0;
    for seed in 0..24 {
        let report = run(options(seed)).unwrap_or_else(|broken| panic!("seed {seed}: {broken:?}"));
        fences += report.fences;
    }
    assert!(fences > 60, "only {fences} nodes were fenced: the worlds are too kind");
}

#[test]
fn a_seed_replays_exactly() {
    let (one, other) = (run(options(7)).unwrap(), run(options(7)).unwrap());
    assert_eq!((one.digest, one.entries), (other.digest, other.entries));
}

/// A leader that waits too short is caught.
#[test]
fn a_leader_that_does_not_wait_is_caught() {
    let caught =
        (0..40).find_map(|seed| run(Options { wait_permille: 500, ..options(seed) }).err());
    assert_eq!(caught.map(|broken| broken.promise), Some("agents run once"));
}
