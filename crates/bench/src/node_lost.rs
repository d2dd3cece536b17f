//! Node killed → the processes of its agents started elsewhere.

use std::{fs, path::Path, time::Instant};

use anyhow::Result;
use cluster_tests::{Cluster, host_of, until};

use crate::median;

/// W of the default profile, in milliseconds.
const W_MS: f64 = 6_700.0;

pub(crate) fn run(binary: &Path, kills: u32) -> Result<()> {
    println!(
        "\nnode killed to its agent's process started elsewhere, {kills} kills, default profile\n"
    );
    println!("| node killed | kills | p50 ms | max ms | W + 500 ms |");
    println!("|---|---|---|---|---|");
    cluster_tests::use_binary(binary);
    let mut cluster = Cluster::formed(3, "default");
    cluster.ok(&["fleet", "create", "f"]);
    let shared = cluster.shared();
    let script = format!(": > {}/$FLEET_GENERATION; exec sleep infinity", shared.display());
    cluster.ok(&["agent", "create", "f/a", "--runtime", "exec", "--", "/bin/sh", "-c", &script]);
    // A new leader counts W from its own start, so the two are different figures.
    let (mut took, mut with_leader) = (Vec::new(), Vec::new());
    for kill in 0..kills {
        let agent = cluster.agent("f/a");
        let lost = host_of(&agent);
        let generation: u64 = agent["generation"].as_str().unwrap_or_default().parse()?;
        let led = cluster.leader() == lost;
        let alive: Vec<u32> = (1..=3).filter(|n| *n != lost).collect();
        cluster.point_at(&alive);
        let mark = shared.join((generation + 1).to_string());
        let killed = Instant::now();
        cluster.power_off(lost);
        until(60, &format!("start number {kill}"), || fs::exists(&mark).ok()?.then_some(()));
        let ms = killed.elapsed().as_secs_f64() * 1_000.0;
        if led { &mut with_leader } else { &mut took }.push(ms);
        cluster.mend(lost);
        cluster.start(lost);
        cluster.wait_active(3);
    }
    for (what, took) in [("any but the leader", took), ("the leader", with_leader)] {
        let most = took.iter().copied().fold(0.0, f64::max);
        let kills = took.len();
        println!("| {what} | {kills} | {:.0} | {most:.0} | {:.0} |", median(took), W_MS + 500.0);
    }
    Ok(())
}
