//! Three nodes that are up, on cables that lose and delay: is any of them taken for dead?

use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use cluster_tests::{Cluster, cable::Quality};
use serde_json::Value;

/// Of each host's cable; a frame from one host to another takes two.
const CABLES: Quality = Quality { lost_permille: 5, delay_max: Duration::from_millis(25) };
const AGENTS: u32 = 12;
/// Pause between looks; what is looked at counts, so none is missed.
const LOOK: Duration = Duration::from_secs(10);

/// What only grows: the term of the leader, and the epochs of the nodes, which fences raise.
fn counts(cluster: &Cluster) -> Option<(u64, Vec<String>)> {
    let said = cluster.cli(&["status", "-o", "json", "--patience", "10"]);
    let status = serde_json::from_str::<Value>(&said.out).ok()?["status"].take();
    let nodes = status["nodes"].as_array()?.iter();
    let epochs = nodes.map(|node| node["epoch"].as_str().map(str::to_owned));
    Some((status["term"].as_str()?.parse().ok()?, epochs.collect::<Option<_>>()?))
}

pub(crate) fn run(binary: &Path, minutes: u64) -> Result<()> {
    cluster_tests::use_binary(binary);
    let cluster = Cluster::wired(3, Some(CABLES)).form(3, "default");
    cluster.ok(&["fleet", "create", "f"]);
    for number in 0..AGENTS {
        let name = format!("f/a{number}");
        let create = ["agent", "create", &name, "--runtime", "exec", "--"];
        cluster.ok(&[&create[..], &["/bin/sleep", "infinity"]].concat());
    }
    let before = counts(&cluster).context("no status before")?;
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let (mut looks, mut answered, mut last) = (0, 0, before.clone());
    while Instant::now() < end {
        sleep(LOOK);
        looks += 1;
        if let Some(now) = counts(&cluster) {
            answered += 1;
            last = now;
        }
    }
    let changed = before.1.iter().zip(&last.1).filter(|(before, last)| before != last).count();
    let Quality { lost_permille, delay_max } = CABLES;
    let (lost, late_ms) = (2 * lost_permille, 2 * delay_max.as_millis());
    println!("\nof 1,000 frames {lost} are lost; each is 0 to {late_ms} ms late\n");
    println!("| minutes | changes of leader | nodes fenced | status answered |");
    println!("|---|---|---|---|");
    println!("| {minutes} | {} | {changed} | {answered} of {looks} |", last.0 - before.0);
    Ok(())
}
