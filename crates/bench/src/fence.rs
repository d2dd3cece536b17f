//! A lease that is not renewed ends: how long after its deadline agents still execute, with every
//! core busy.

use std::{fs, path::Path, time::Duration};

use anyhow::Result;
use cluster_tests::{Cluster, oracle, until};

/// How long starting so many agents may take, in seconds.
const STARTING: u64 = 900;
/// How long the cores are busy before the lease is let go.
const BUSY: Duration = Duration::from_secs(3);
/// How long a lease of the default profile may still last, in seconds.
const LEASE: u64 = 10;

/// Milliseconds that each of `agents` executed past the deadline.
fn turn(agents: u32) -> Result<Vec<f64>> {
    let mut cluster = Cluster::formed(1, "default");
    cluster.ok(&["fleet", "create", "f"]);
    let (stamping, go) = (cluster.stamping(), cluster.shared().join("go"));
    for number in 0..agents {
        let name = format!("f/a{number}");
        let create = ["agent", "create", &name, "--runtime", "exec", "--ports", "1", "--no-wait"];
        let command = ["--", &stamping[0], &stamping[1], &go.to_string_lossy()];
        cluster.ok(&[&create[..], &command[..]].concat());
    }
    let stamps = cluster.stamps();
    until(STARTING, "every agent stamping", || {
        (oracle::runs(&stamps).len() >= agents as usize).then_some(())
    });
    fs::write(&go, "")?;
    // From here on there is work for many times the cores there are; let it spread.
    std::thread::sleep(BUSY);
    cluster.signal(1, "STOP");
    let deadline_ms = until(LEASE, "a lease", || cluster.lease_deadline(1));
    until(LEASE, "the end of the lease", || (!cluster.populated(1)).then_some(()));
    cluster.signal(1, "CONT");
    let past = |run: &oracle::Run| run.last_ns as f64 / 1e6 - deadline_ms as f64;
    Ok(oracle::runs(&stamps).iter().map(past).collect())
}

pub(crate) fn run(binary: &Path, agents: u32, turns: u32) -> Result<()> {
    println!(
        "\nlast instruction after the deadline, {agents} agents that stamp every millisecond\n"
    );
    println!("| agents | turns | p50 ms | p99.9 ms | max ms |");
    println!("|---|---|---|---|---|");
    cluster_tests::use_binary(binary);
    let mut past = Vec::new();
    for _ in 0..turns {
        past.extend(turn(agents)?);
    }
    past.sort_by(f64::total_cmp);
    let at = |permille: usize| past.get(past.len() * permille / 1_000).copied().unwrap_or(f64::NAN);
    let most = past.last().copied().unwrap_or(f64::NAN);
    println!("| {agents} | {turns} | {:.1} | {:.1} | {most:.1} |", at(500), at(999));
    Ok(())
}
