//! `cargo xtask sim`.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Parser;
use fleet_sim::Options;

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
}

/// Runs worlds until one breaks a promise or the time is over.
pub fn run(args: &Args) -> Result<()> {
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
