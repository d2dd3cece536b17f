//! `cargo xtask sim`.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Parser;
use fleet_sim::{
    Mistake, Options,
    lease::{self, AgentClass, Outcome},
};

/// Arguments of `sim`.
#[derive(Parser)]
pub struct Args {
    /// Run this world only; a failing one is replayed exactly.
    #[arg(long)]
    seed: Option<u64>,
    /// Run fresh worlds for this many seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Steps with faults, 50 ms each.
    #[arg(long, default_value_t = 2_000)]
    steps: u32,
    /// Machines.
    #[arg(long, default_value_t = 5)]
    machines: u64,
    /// Instead of whole worlds, run so many takeovers of one lease, on every core, and a thousandth
    /// as many of a sticky one; then count what each planted mistake breaks in a hundredth as many.
    #[arg(long)]
    leases: Option<u64>,
}

/// Runs worlds until one breaks a promise or the time is over.
pub fn run(args: &Args) -> Result<()> {
    if let Some(count) = args.leases {
        return leases(args.seed.unwrap_or_else(rand::random), count);
    }
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut seed = args.seed.unwrap_or_else(rand::random);
    let (mut worlds, mut fences, mut entries) = (0_u64, 0, 0);
    loop {
        let options = Options { seed, steps: args.steps, machines: args.machines, mistake: None };
        match fleet_sim::run(options) {
            Ok(report) => {
                worlds += 1;
                fences += report.fences;
                entries += report.entries;
            }
            Err(broken) => bail!(
                "{}: {}\nreplay: cargo xtask sim --seed {seed} --steps {} --machines {}",
                broken.promise,
                broken.seen,
                args.steps,
                args.machines
            ),
        }
        if args.seed.is_some() || Instant::now() >= end {
            break;
        }
        seed = seed.wrapping_add(1);
    }
    println!("{worlds} worlds, {entries} entries, {fences} fences: every promise held");
    Ok(())
}

/// How many of some runs ended how.
#[derive(Default)]
struct Tally {
    fenced: u64,
    overlaps: u64,
    first: Option<u64>,
}

/// Runs `count` seeds from `seed` on, on every core.
fn tally(seed: u64, count: u64, class: AgentClass, mistake: Option<Mistake>) -> Tally {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let part = |core: usize| {
        let mut tally = Tally::default();
        for seed in (0..count).skip(core).step_by(cores).map(|k| seed.wrapping_add(k)) {
            match lease::run(seed, class, mistake) {
                Outcome::Kept => {}
                Outcome::Fenced => tally.fenced += 1,
                Outcome::Overlap(_) => {
                    tally.overlaps += 1;
                    tally.first.get_or_insert(seed);
                }
            }
        }
        tally
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..cores).map(|core| scope.spawn(move || part(core))).collect();
        let parts = parts.into_iter().map(|part| part.join().expect("no part panics"));
        parts.fold(Tally::default(), |a, b| Tally {
            fenced: a.fenced + b.fenced,
            overlaps: a.overlaps + b.overlaps,
            first: a.first.or(b.first),
        })
    })
}

fn leases(seed: u64, count: u64) -> Result<()> {
    // A sticky lease is a hundred times as long, and so is its run.
    for (class, count) in [(AgentClass::Strict, count), (AgentClass::Sticky, count / 1_000)] {
        let began = Instant::now();
        let design = tally(seed, count, class, None);
        if let Some(seed) = design.first {
            bail!(
                "{class}: {} overlaps in {count} runs; the first is seed {seed}",
                design.overlaps
            );
        }
        let (took, fenced) = (began.elapsed().as_secs_f64(), design.fenced);
        println!(
            "{class}: {count} runs in {took:.0} s from seed {seed}: {fenced} takeovers, 0 overlaps"
        );
    }
    // What is applied to an old epoch shows in whole worlds only.
    for mistake in Mistake::ALL.into_iter().filter(|m| *m != Mistake::AcceptsOldEpochs) {
        let Tally { fenced, overlaps, .. } =
            tally(seed, count / 100, AgentClass::Strict, Some(mistake));
        println!("{mistake:?}: {overlaps} overlaps in {} takeovers", fenced + overlaps);
    }
    Ok(())
}
