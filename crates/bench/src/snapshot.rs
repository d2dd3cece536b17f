//! A new follower that needs a snapshot joins while agents are made: what the writers notice. It
//! runs when a core is idle and has its data in memory, for on the cores and the disk of the others
//! it would take what a machine of its own has. The others and the writers run in real time then:
//! the kernel gives an ordinary process with the idle policy a whole slice (2.8 ms) before ordinary
//! ones that wait, which is as long as several writes. They may have all of each second, and take
//! turns quickly: by default the kernel keeps a twentieth of it from what runs in real time, and
//! lets one go on for 100 ms before another.

use std::{
    fmt, fs,
    path::Path,
    process::{self, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    batch, fleet,
    restart::{Used, cpu_seconds},
};

/// Agents there are when the follower joins.
const SIZES: [usize; 3] = [10_000, 20_000, 40_000];
/// What an agent's configuration is taken to take, in bytes.
const CONFIGURED: usize = 1_000;
/// Writers at once.
const CLIENTS: [usize; 2] = [1, 4];
/// How long the writers are alone.
const BEFORE: Duration = Duration::from_secs(4);
/// Clusters for each row; the one in the middle is shown.
const TURNS: usize = 3;
/// Where it has its data.
const MEMORY: &str = "/dev/shm";
/// Pause between looks whether it follows.
const LOOK: Duration = Duration::from_millis(50);

/// How much of a second may be real time, in microseconds, and for how long one goes on before its turn
/// is over, in milliseconds: where that is set, and what to. All of it, and the least there is.
const REAL_TIME: [(&str, &str); 2] = [
    ("/proc/sys/kernel/sched_rt_runtime_us", "-1"),
    ("/proc/sys/kernel/sched_rr_timeslice_ms", "1"),
];

/// While it lives, this process, and what it starts, run before all ordinary ones.
struct RealTime {
    /// What was set before.
    before: [String; REAL_TIME.len()],
}

/// Runs all threads of this process by a policy, and answers whether that was allowed.
fn run_as(policy: &str, priority: &str) -> Result<bool> {
    let this = process::id().to_string();
    let done =
        Command::new("chrt").args(["--all-tasks", policy, "--pid", priority, &this]).status();
    Ok(done?.success())
}

impl RealTime {
    fn begin() -> Result<Self> {
        let [runtime, slice] = REAL_TIME.map(|(path, _)| fs::read_to_string(path).context(path));
        let begun = Self { before: [runtime?, slice?] };
        for (path, value) in REAL_TIME {
            fs::write(path, value).context(path)?;
        }
        ensure!(run_as("--rr", "1")?, "running in real time was refused: run as root");
        Ok(begun)
    }
}

impl Drop for RealTime {
    fn drop(&mut self) {
        if !run_as("--other", "0").unwrap_or(false) {
            eprintln!("this process stays in real time");
        }
        for ((path, value), before) in REAL_TIME.iter().zip(&self.before) {
            if let Err(error) = fs::write(path, before) {
                eprintln!("{path} stays {value}, was {}: {error}", before.trim());
            }
        }
    }
}

/// When a write was answered, and after how many milliseconds.
type Sample = (Instant, f64);

/// The newest snapshot of a node, in bytes.
fn snapshot(data: &Path) -> Option<u64> {
    let files = fs::read_dir(data.join("raft/snapshots")).ok()?.flatten();
    let whole = files.filter(|file| file.path().extension().is_some_and(|e| e == "snapshot"));
    whole.filter_map(|file| Some(file.metadata().ok()?.len())).max()
}

async fn write(api: fleet::Writer, name: String, stop: Arc<AtomicBool>) -> Result<Vec<Sample>> {
    let (mut api, mut took) = (api, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let before = Instant::now();
        api.create(format!("{name}-{}", took.len())).await?;
        took.push((Instant::now(), before.elapsed().as_secs_f64() * 1_000.0));
    }
    Ok(took)
}

/// Runs writers until `stop` is done.
async fn under_load(
    api: &fleet::Api,
    clients: usize,
    name: &str,
    stop: impl Future<Output = Result<()>>,
) -> Result<Vec<Sample>> {
    let flag = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..clients)
        .map(|n| tokio::spawn(write(api.writer(n), format!("{name}{n}"), flag.clone())))
        .collect();
    let stopped = stop.await;
    flag.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for writer in writers {
        all.extend(writer.await??);
    }
    stopped.map(|()| all)
}

/// What writes took, in milliseconds.
struct Figures {
    writes: usize,
    p50: f64,
    p99: f64,
    max: f64,
}

impl Figures {
    /// Of the writes answered from `from` to `to`.
    fn of(all: &[Sample], from: Instant, to: Instant) -> Self {
        let within = all.iter().filter(|(at, _)| (from..to).contains(at));
        let mut took: Vec<f64> = within.map(|(_, ms)| *ms).collect();
        took.sort_by(f64::total_cmp);
        let at = |permille: usize| took.get(took.len() * permille / 1_000).copied();
        let (p50, p99) = (at(500).unwrap_or(f64::NAN), at(990).unwrap_or(f64::NAN));
        Self { writes: took.len(), p50, p99, max: took.last().copied().unwrap_or(f64::NAN) }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} | {:.2} | {:.1}", self.p50, self.p99, self.max)
    }
}

/// Prints what writers notice of a follower that joins.
pub(crate) async fn run(binary: &Path) -> Result<()> {
    let _real_time = RealTime::begin()?;
    println!("\na new follower is sent a snapshot while agents are made, fsync on\n");
    println!(
        "| agents | snapshot MiB | clients | alone p50 ms | p99 ms | max ms \
         | follows after ms | its use of a core | writes | meanwhile p50 ms | p99 ms | max ms \
         | p99 to alone, all turns |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for agents in SIZES {
        for clients in CLIENTS {
            let mut turns = Vec::new();
            for _ in 0..TURNS {
                turns.push(turn(binary, agents, clients).await?);
            }
            turns.sort_by(|(one, _), (other, _)| one.total_cmp(other));
            let ratios: Vec<String> =
                turns.iter().map(|(ratio, _)| format!("{ratio:.2}")).collect();
            println!("{} {} |", turns[TURNS / 2].1, ratios.join(", "));
        }
    }
    Ok(())
}

/// The ratio of the 99th percentiles, and a row.
async fn turn(binary: &Path, agents: usize, clients: usize) -> Result<(f64, String)> {
    let mut cluster = fleet::Cluster::start_of(binary, 2).await?;
    let api = cluster.leader().await?;
    let calls = stream::iter(batch::batches(agents, CONFIGURED).enumerate()).map(|(n, batch)| {
        let mut client = api.agents(n);
        async move { client.batch_create_agents(batch).await }
    });
    calls.buffer_unordered(4).try_collect::<Vec<_>>().await?;
    // One entry a write, until the log is cut: then a follower needs the snapshot.
    let leader = cluster.data(cluster.leader_node().await?);
    while snapshot(&leader).is_none() {
        api.writer(0).stop("a0-0").await?;
    }

    let (first, data) = (cluster.channel(0)?, tempfile::tempdir_in(MEMORY)?);
    let began = Instant::now();
    let (mut joined, mut follows, mut used) = (began, began, 0.0);
    let join = async {
        tokio::time::sleep(BEFORE).await;
        let node = cluster.add_aside(data.path()).await?;
        joined = Instant::now();
        while cluster.voters(&first).await != Some(3) {
            tokio::time::sleep(LOOK).await;
        }
        follows = Instant::now();
        used = cpu_seconds(&[cluster.pid(node)?], &Used::new())?;
        Ok(())
    };
    let all = under_load(&api, clients, "w", join).await?;
    let bytes = snapshot(&leader).context("a snapshot")?;
    let (alone, meanwhile) =
        (Figures::of(&all, began, began + BEFORE), Figures::of(&all, joined, follows));
    let took = (follows - joined).as_secs_f64();
    let row = format!(
        "| {agents} | {:.1} | {clients} | {alone} | {:.0} | {:.2} | {} | {meanwhile} |",
        bytes as f64 / f64::from(1 << 20),
        took * 1_000.0,
        used / took,
        meanwhile.writes,
    );
    Ok((meanwhile.p99 / alone.p99, row))
}
