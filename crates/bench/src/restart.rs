//! A daemon is killed and comes back: how many agents notice, and how long adopting them takes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use cluster_tests::{Cluster, until};
use serde_json::Value;

/// How long starting so many agents may take, in seconds.
const STARTING: u64 = 600;

/// What a guard may take, which keeps all of it in memory.
const GUARD_KIB_MAX: f64 = 4_096.0;

/// How long doing nothing is looked at.
const IDLE: Duration = Duration::from_secs(20);

/// The pid of every agent that is ready.
fn ready(cluster: &Cluster) -> BTreeMap<String, u64> {
    let said = cluster.cli(&["agent", "list", "-o", "json", "--patience", "5"]);
    let list: Value = serde_json::from_str(&said.out).unwrap_or_default();
    let agents = list["agents"].as_array().cloned().unwrap_or_default();
    let ready = agents.into_iter().filter(|agent| agent["state"] == "STATE_READY");
    ready
        .filter_map(|agent| Some((agent["name"].as_str()?.to_owned(), agent["pid"].as_u64()?)))
        .collect()
}

/// Kibibytes of memory a process has for itself.
fn resident_kib(pid: u32) -> Result<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}

/// Processor time by thread, in seconds.
pub(crate) type Used = BTreeMap<PathBuf, f64>;

/// What the threads of processes have used so far. Not what `stat` says: that counts by the clock's
/// tick, and who wakes by timers is there when it ticks, or never.
pub(crate) fn cpu_used(pids: &[u32]) -> Result<Used> {
    let mut used = Used::new();
    for pid in pids {
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?.path();
            // Nanoseconds first, see proc_pid_schedstat(5); one that has just ended has none.
            let stat = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
            let first = stat.split_whitespace().next().and_then(|first| first.parse::<f64>().ok());
            used.insert(thread, first.unwrap_or(0.0) / 1e9);
        }
    }
    Ok(used)
}

/// What the threads that are there now have used since `before`, in seconds.
pub(crate) fn cpu_seconds(pids: &[u32], before: &Used) -> Result<f64> {
    let since = |(thread, now): (&PathBuf, &f64)| now - before.get(thread).unwrap_or(&0.0);
    Ok(cpu_used(pids)?.iter().map(since).sum())
}

/// Milliseconds from the first to the last line of `log` that holds `what`.
fn between(log: &str, what: &str) -> Result<f64> {
    let stamp = |line: &str| -> Option<f64> {
        let line: Value = serde_json::from_str(line).ok()?;
        let time = line["timestamp"].as_str()?.split('T').nth(1)?.trim_end_matches('Z').to_owned();
        let parts: Vec<f64> = time.split(':').filter_map(|part| part.parse().ok()).collect();
        Some((parts.first()? * 60.0 + parts.get(1)?) * 60.0 + parts.get(2)?)
    };
    let first = log.lines().find_map(stamp).context("an empty log")?;
    let last = log.lines().rev().find(|line| line.contains(what)).and_then(stamp);
    Ok((last.context("nothing adopted")? - first) * 1_000.0)
}

pub(crate) fn run(binary: &Path, agents: u32) -> Result<()> {
    println!("\ndaemon killed and started again with {agents} agents on one node\n");
    println!(
        "| agents | restarted | all adopted after ms | daemon KiB an agent | a guard KiB \
         | idle % of a core |"
    );
    println!("|---|---|---|---|---|---|");
    cluster_tests::use_binary(binary);
    let mut cluster = Cluster::formed(1, "default");
    cluster.ok(&["fleet", "create", "f"]);
    let empty = resident_kib(cluster.daemon_pid(1))?;
    for number in 0..agents {
        let name = format!("f/a{number}");
        let create = ["agent", "create", &name, "--runtime", "exec", "--ports", "1", "--no-wait"];
        cluster.ok(&[&create[..], &["--", "/bin/sleep", "infinity"]].concat());
    }
    let before = until(STARTING, "every agent ready", || {
        let ready = ready(&cluster);
        (ready.len() == agents as usize).then_some(ready)
    });
    let each = (resident_kib(cluster.daemon_pid(1))? - empty) / f64::from(agents);
    let mut pids = cluster.guard_pids(1);
    let guards = pids.iter().map(|pid| resident_kib(*pid)).collect::<Result<Vec<_>>>()?;
    let guard = guards.into_iter().fold(0.0, f64::max);
    ensure!(guard <= GUARD_KIB_MAX, "a guard has {guard} KiB");
    pids.push(cluster.daemon_pid(1));
    let before_idle = cpu_used(&pids)?;
    sleep(IDLE);
    let idle = cpu_seconds(&pids, &before_idle)? / IDLE.as_secs_f64() * 100.0;
    let old = cluster.log(1).len();
    cluster.end(1, "KILL");
    cluster.start(1);
    let after = until(60, "every agent ready again", || {
        let ready = ready(&cluster);
        (ready.len() == agents as usize).then_some(ready)
    });
    let restarted = before.iter().filter(|(name, pid)| after.get(*name) != Some(*pid)).count();
    let took = between(&cluster.log(1)[old..], "\"adopted\"")?;
    println!("| {agents} | {restarted} | {took:.0} | {each:.0} | {guard:.0} | {idle:.1} |");
    Ok(())
}
