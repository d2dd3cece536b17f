//! Node killed → the processes of its agents started elsewhere.

use std::{fs, path::Path, time::Instant};

use anyhow::Result;
use cluster_tests::{Cluster, until};
use fleet_types::{LeaseProfile, LeaseTiming};

use crate::median;

pub(crate) fn run(binary: &Path, kills: u32, profiles: &[LeaseProfile]) -> Result<()> {
    println!("\nnode killed to its agent's process started elsewhere, {kills} kills a profile\n");
    println!("| profile | node killed | kills | p50 ms | max ms | W + 500 ms |");
    println!("|---|---|---|---|---|---|");
    cluster_tests::use_binary(binary);
    profiles.iter().try_for_each(|profile| losses(kills, *profile))
}

fn losses(kills: u32, profile: LeaseProfile) -> Result<()> {
    let mut cluster = Cluster::formed(3, &profile.to_string());
    cluster.ok(&["fleet", "create", "f"]);
    let shared = cluster.shared();
    let script =
        format!(": > {}/$FLEET_AGENT.$FLEET_GENERATION; exec sleep infinity", shared.display());
    let (mut took, mut with_leader) = (Vec::new(), Vec::new());
    for kill in 0..kills {
        let leader = cluster.leader();
        let lost = if kill % 2 == 0 { leader } else { leader % 3 + 1 };
        let others: Vec<u32> = (1..=3).filter(|n| *n != lost).collect();
        let agent = format!("f/a{kill}");
        others.iter().for_each(|n| drop(cluster.ok(&["node", "cordon", &format!("n{n}")])));
        let command = ["--", "/bin/sh", "-c", &script];
        cluster.ok(&[&["agent", "create", &agent, "--runtime", "exec"], &command[..]].concat());
        others.iter().for_each(|n| drop(cluster.ok(&["node", "uncordon", &format!("n{n}")])));
        cluster.point_at(&others);
        let mark = shared.join(format!("a{kill}.2"));
        let killed = Instant::now();
        cluster.power_off(lost);
        until(60, &format!("start number {kill}"), || fs::exists(&mark).ok()?.then_some(()));
        let ms = killed.elapsed().as_secs_f64() * 1_000.0;
        if lost == leader { &mut with_leader } else { &mut took }.push(ms);
        cluster.mend(lost);
        cluster.start(lost);
        cluster.wait_active(3);
    }
    for (what, took) in [("any but the leader", took), ("the leader", with_leader)] {
        let most = took.iter().copied().fold(0.0, f64::max);
        let kills = took.len();
        let bar = LeaseTiming::of(profile).fence_after_ms() + 500;
        println!("| {profile} | {what} | {kills} | {:.0} | {most:.0} | {bar} |", median(took));
    }
    Ok(())
}
