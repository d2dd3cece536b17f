//! Worlds of fixed seeds, and proof that the invariants can fail.
//!
//! One mistake is planted by a feature that `cargo xtask check` turns on.

use fleet_sim::{Mistake, Options, run};

/// Worlds a mistake may take to show.
const WORLDS: u64 = 200;

fn options(seed: u64) -> Options {
    Options { seed, steps: 1_500, machines: 4, mistake: None }
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

/// Every mistake there is to plant breaks the first promise somewhere, and soon.
#[test]
fn every_mistake_is_caught() {
    for mistake in Mistake::ALL {
        let world = |seed| run(Options { mistake: Some(mistake), ..options(seed) }).err();
        let caught = (0..WORLDS).find_map(|seed| Some((seed, world(seed)?)));
        let (seed, broken) =
            caught.unwrap_or_else(|| panic!("{mistake:?} was not caught, or never planted"));
        assert_eq!(broken.promise, "agents run once", "{mistake:?}");
        println!("{mistake:?} is caught in world {seed}: {}", broken.seen);
    }
}
