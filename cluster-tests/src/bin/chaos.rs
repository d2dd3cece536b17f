//! Real daemons under random faults: `cargo xtask chaos`. The agents themselves say whether two
//! copies of one ever executed at once. A seed determines the faults and their times, not what the
//! machine makes of them.
#![allow(clippy::print_stdout, reason = "the verdict goes to standard output")]

use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use cluster_tests::{Cluster, oracle, until};
use nix::{
    sys::time::{TimeSpec, TimeValLike},
    time::{ClockId, clock_gettime, clock_settime},
};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

const HOSTS: u32 = 4;
/// Of agents, in turn: most are of the class that is placed elsewhere.
const CLASSES: [&str; 4] = ["strict", "sticky", "strict", "pinned"];
/// Pace of looking whether a fault is due.
const STEP: Duration = Duration::from_millis(20);
/// How long everything may take to be ready again once the faults end.
const HEALING: u64 = 120;

/// Runs real daemons under random faults
#[derive(Parser)]
#[command(name = "cargo xtask chaos")]
struct Args {
    /// How long faults go on
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Determines which faults come when; random when not given
    #[arg(long)]
    seed: Option<u64>,
    /// Agents
    #[arg(long, default_value_t = 12)]
    agents: u32,
    /// How long leases are; faults last and come as they do
    #[arg(long, default_value = "fast")]
    profile: Profile,
    /// Plants a mistake, to see that it is noticed; see fleet-mutants
    #[arg(long)]
    mutant: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Profile {
    Default,
    Fast,
    Aggressive,
}

impl Profile {
    /// Its name, and its W: how long a node is silent before it is fenced.
    fn of_cluster(self) -> (&'static str, Duration) {
        let (name, w_ms) = match self {
            Self::Default => ("default", 6_700),
            Self::Fast => ("fast", 3_550),
            Self::Aggressive => ("aggressive", 1_150),
        };
        (name, Duration::from_millis(w_ms))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillDaemon,
    PauseDaemon,
    PauseEverything,
    KillGuard,
    ReplaceGuard,
    PowerOff,
    Cut,
    Part,
    Silence,
    Starve,
    SetClock,
}

const FAULTS: [Fault; 11] = [
    Fault::KillDaemon,
    Fault::PauseDaemon,
    Fault::PauseEverything,
    Fault::KillGuard,
    Fault::ReplaceGuard,
    Fault::PowerOff,
    Fault::Cut,
    Fault::Part,
    Fault::Silence,
    Fault::Starve,
    Fault::SetClock,
];

/// A fault that goes on.
struct Going {
    fault: Fault,
    host: u32,
    other: u32,
    until: Instant,
    spinners: Vec<Child>,
}

/// By how much the clock that people read is set forward, and back again; leases are counted on
/// others. Hosts share it: they have one kernel.
const SET: i64 = 1_800;

fn set_clock(seconds: i64) -> Result<()> {
    let now = clock_gettime(ClockId::CLOCK_REALTIME)?;
    Ok(clock_settime(ClockId::CLOCK_REALTIME, now + TimeSpec::seconds(seconds))?)
}

fn spinner() -> Result<Child> {
    let mut command = Command::new("sh");
    Ok(command.args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn()?)
}

fn begin(cluster: &mut Cluster, fault: Fault, host: u32, other: u32) -> Result<Vec<Child>> {
    match fault {
        Fault::KillDaemon => drop(cluster.end(host, "KILL")),
        Fault::PauseDaemon => cluster.signal(host, "STOP"),
        Fault::PauseEverything => {
            cluster.signal_keepers(host, "STOP");
            cluster.signal(host, "STOP");
            cluster.signal_guards(host, "STOP");
        }
        Fault::KillGuard => cluster.signal_guards(host, "KILL"),
        Fault::ReplaceGuard => cluster.signal_guards(host, "HUP"),
        Fault::PowerOff => cluster.power_off(host),
        Fault::Cut => cluster.cut(host),
        Fault::Part => cluster.part(host, other),
        Fault::Silence => cluster.silence(host, other),
        Fault::SetClock => set_clock(SET)?,
        Fault::Starve => return (0..40).map(|_| spinner()).collect(),
    }
    Ok(Vec::new())
}

fn end(cluster: &mut Cluster, mut going: Going) -> Result<()> {
    let (host, other) = (going.host, going.other);
    match going.fault {
        Fault::KillDaemon => cluster.start(host),
        Fault::PauseDaemon => cluster.signal(host, "CONT"),
        Fault::PauseEverything => {
            cluster.signal_keepers(host, "CONT");
            cluster.signal(host, "CONT");
            cluster.signal_guards(host, "CONT");
        }
        Fault::PowerOff => {
            cluster.mend(host);
            cluster.start(host);
        }
        Fault::Cut => cluster.mend(host),
        Fault::Part => cluster.unpart(host, other),
        Fault::Silence => cluster.unsilence(host, other),
        Fault::SetClock => set_clock(-SET)?,
        Fault::KillGuard | Fault::ReplaceGuard | Fault::Starve => {}
    }
    for spinner in &mut going.spinners {
        spinner.kill()?;
        spinner.wait()?;
    }
    Ok(())
}

/// Lets faults come and go until `end_of_faults`; how many there were of each.
fn torment(
    cluster: &mut Cluster,
    rng: &mut ChaCha8Rng,
    w: Duration,
    end_of_faults: Instant,
) -> Result<BTreeMap<Fault, u32>> {
    let (mut counts, mut going, started) = (BTreeMap::new(), Vec::<Going>::new(), Instant::now());
    let mut next = started;
    while Instant::now() < end_of_faults || !going.is_empty() {
        thread::sleep(STEP);
        let now = Instant::now();
        while let Some(over) = going.iter().position(|going| going.until <= now) {
            end(cluster, going.swap_remove(over))?;
        }
        if now < next || now >= end_of_faults {
            continue;
        }
        let fault = *FAULTS.choose(rng).expect("there are faults");
        let (host, apart) = (rng.random_range(1..=HOSTS), rng.random_range(1..HOSTS));
        let other = (host + apart - 1) % HOSTS + 1;
        let lasts = w.mul_f64(rng.random_range(0.05..2.5));
        next = now + w.mul_f64(rng.random_range(0.1..1.5));
        let twice = fault == Fault::SetClock && going.iter().any(|g| g.fault == fault);
        // One at a time on a host, and two at once; the clock is one for all.
        if !twice && going.len() < 2 && going.iter().all(|g| g.host != host && g.other != host) {
            eprintln!(
                "{:7.2} s  {fault:?} on host {host} for {:.2} s",
                started.elapsed().as_secs_f64(),
                lasts.as_secs_f64()
            );
            let spinners = begin(cluster, fault, host, other)?;
            going.push(Going { fault, host, other, until: now + lasts, spinners });
            *counts.entry(fault).or_default() += 1;
        }
    }
    Ok(counts)
}

fn main() -> Result<()> {
    let args = Args::parse();
    cluster_tests::use_binary(&std::env::current_exe()?.with_file_name("fleet-cluster"));
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mutant = args.mutant.map(|mutant| &*mutant.leak());
    let (profile, w) = args.profile.of_cluster();
    let mut cluster = Cluster::hosts(HOSTS).plant(mutant).form(HOSTS, profile);
    cluster.ok(&["fleet", "create", "f"]);
    let stamping = cluster.stamping();
    for number in 1..=args.agents {
        let name = format!("f/a{number}");
        let class = CLASSES[number as usize % CLASSES.len()];
        let create = ["agent", "create", &name, "--runtime", "exec", "--class", class, "--"];
        cluster
            .ok(&create.into_iter().chain(stamping.each_ref().map(|s| &**s)).collect::<Vec<_>>());
    }
    let end_of_faults = Instant::now() + Duration::from_secs(60 * args.minutes);
    let counts = torment(&mut cluster, &mut rng, w, end_of_faults)?;
    let stamps = cluster.stamps();
    let overlaps = oracle::overlaps(&oracle::runs(&stamps));
    ensure!(overlaps.is_empty(), "two copies at once: {}; seed {seed}", overlaps[0]);

    cluster.point_at(&(1..=HOSTS).collect::<Vec<_>>());
    let mut takeovers = 0;
    for number in 1..=args.agents {
        let name = format!("f/a{number}");
        takeovers += until(HEALING, &format!("{name} ready"), || {
            let said = cluster.cli(&["agent", "get", &name, "-o", "json", "--patience", "2"]);
            let agent = &serde_json::from_str::<Value>(&said.out).ok()?["agent"];
            let generation = agent["generation"].as_str()?.parse::<u64>().ok()?;
            (agent["state"] == "STATE_READY").then_some(generation - 1)
        });
    }
    let runs = oracle::runs(&stamps);
    let overlaps = oracle::overlaps(&runs);
    println!("\n| fault | times |\n|---|---|");
    counts.iter().for_each(|(fault, times)| println!("| {fault:?} | {times} |"));
    println!(
        "\n{takeovers} placements elsewhere, {} processes, {} overlaps",
        runs.len(),
        overlaps.len()
    );
    ensure!(overlaps.is_empty(), "two copies at once: {}; seed {seed}", overlaps[0]);
    Ok(())
}
