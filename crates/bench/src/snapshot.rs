//! A new follower that needs a snapshot joins while agents are made: what the writers notice. It
//! runs when a core is idle and has its data in memory: on the cores and the disk of the others it
//! would take what a machine of its own has. A core that is never idle is felt all the same, so
//! the writers are also timed beside a loop that runs when a core is idle and does nothing.

use std::{
    fmt, fs, io,
    path::Path,
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
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
/// How long the writers are alone, and how long they are beside the loop.
const BEFORE: Duration = Duration::from_secs(4);

/// Where it has its data.
const MEMORY: &str = "/dev/shm";
/// Pause between looks whether it follows.
const LOOK: Duration = Duration::from_millis(50);

/// A loop that runs when a core is idle.
struct Loop(Child);

impl Loop {
    fn start() -> io::Result<Self> {
        let mut command = Command::new("chrt");
        command.args(["--idle", "0", "sh", "-c", "while :; do :; done"]).spawn().map(Self)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // What is gone cannot be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
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

/// Median, 99th percentile and most, in milliseconds.
struct Figures(f64, f64, f64);

impl Figures {
    /// Of the writes answered from `from` to `to`.
    fn of(all: &[Sample], from: Instant, to: Instant) -> Self {
        let within = all.iter().filter(|(at, _)| (from..to).contains(at));
        let mut took: Vec<f64> = within.map(|(_, ms)| *ms).collect();
        took.sort_by(f64::total_cmp);
        let at = |permille: usize| took.get(took.len() * permille / 1_000).copied();
        let last = took.last().copied();
        Self(at(500).unwrap_or(f64::NAN), at(990).unwrap_or(f64::NAN), last.unwrap_or(f64::NAN))
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} | {:.2} | {:.1}", self.0, self.1, self.2)
    }
}

/// Prints what writers notice of a follower that joins.
pub(crate) async fn run(binary: &Path) -> Result<()> {
    println!("\na new follower is sent a snapshot while agents are made, fsync on\n");
    println!(
        "| agents | snapshot MiB | clients | alone p50 ms | p99 ms | max ms \
         | beside a loop p50 ms | p99 ms | max ms | its use of a core \
         | follows after ms | its use of a core \
         | meanwhile p50 ms | p99 ms | max ms | p99 to beside a loop | p99 to alone |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for agents in SIZES {
        for clients in CLIENTS {
            one(binary, agents, clients).await?;
        }
    }
    Ok(())
}

async fn one(binary: &Path, agents: usize, clients: usize) -> Result<()> {
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
    let (mut beside, mut after, mut joined, mut follows) = (began, began, began, began);
    let (mut looped, mut used) = (0.0, 0.0);
    let join = async {
        tokio::time::sleep(BEFORE).await;
        beside = Instant::now();
        let idle = Loop::start()?;
        tokio::time::sleep(BEFORE).await;
        after = Instant::now();
        looped = cpu_seconds(&[idle.0.id()], &Used::new())?;
        drop(idle);
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
    let (alone, looping) = (Figures::of(&all, began, beside), Figures::of(&all, beside, after));
    let meanwhile = Figures::of(&all, joined, follows);
    let took = (follows - joined).as_secs_f64();
    println!(
        "| {agents} | {:.1} | {clients} | {alone} | {looping} | {:.2} | {:.0} | {:.2} \
         | {meanwhile} | {:.2} | {:.2} |",
        bytes as f64 / f64::from(1 << 20),
        looped / (after - beside).as_secs_f64(),
        took * 1_000.0,
        used / took,
        meanwhile.1 / looping.1,
        meanwhile.1 / alone.1,
    );
    Ok(())
}
