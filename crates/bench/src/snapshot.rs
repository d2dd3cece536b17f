//! A new follower that needs a snapshot joins while agents are made: what the writers notice. It
//! runs when a core is idle and has its data in memory: on the cores and the disk of the others it
//! would take what a machine of its own has.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures::{StreamExt, TryStreamExt, stream};

use crate::{batch, fleet};

/// Agents there are when the follower joins.
const SIZES: [usize; 3] = [10_000, 25_000, 45_000];
/// What an agent's configuration is taken to take, in bytes.
const CONFIGURED: usize = 1_000;
/// Writers at once.
const CLIENTS: [usize; 2] = [1, 4];
/// How long is looked before it joins.
const BEFORE: Duration = Duration::from_secs(4);

/// Where it has its data.
const MEMORY: &str = "/dev/shm";
/// Pause between looks whether it follows.
const LOOK: Duration = Duration::from_millis(50);

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

/// Of the writes answered from `from` to `to`: median, 99th percentile and most, in milliseconds.
fn figures(all: &[Sample], from: Instant, to: Instant) -> (f64, f64, f64) {
    let within = all.iter().filter(|(at, _)| (from..to).contains(at));
    let mut took: Vec<f64> = within.map(|(_, ms)| *ms).collect();
    took.sort_by(f64::total_cmp);
    let at = |permille: usize| took.get(took.len() * permille / 1_000).copied();
    let last = took.last().copied();
    (at(500).unwrap_or(f64::NAN), at(990).unwrap_or(f64::NAN), last.unwrap_or(f64::NAN))
}

/// Prints what writers notice of a follower that joins.
pub(crate) async fn run(binary: &Path) -> Result<()> {
    println!("\na new follower is sent a snapshot while agents are made, fsync on\n");
    println!(
        "| agents | snapshot MiB | clients | before p50 ms | p99 ms | max ms | follows after ms \
         | meanwhile p50 ms | p99 ms | max ms | p99 ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
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
    let (mut joined, mut follows) = (began, began);
    let join = async {
        tokio::time::sleep(BEFORE).await;
        cluster.add_aside(data.path()).await?;
        joined = Instant::now();
        while cluster.voters(&first).await != Some(3) {
            tokio::time::sleep(LOOK).await;
        }
        follows = Instant::now();
        Ok(())
    };
    let all = under_load(&api, clients, "w", join).await?;
    let bytes = snapshot(&leader).context("a snapshot")?;
    let (before, meanwhile) = (figures(&all, began, joined), figures(&all, joined, follows));
    println!(
        "| {agents} | {:.1} | {clients} | {:.2} | {:.2} | {:.1} | {:.0} | {:.2} | {:.2} | {:.1} \
         | {:.2} |",
        bytes as f64 / f64::from(1 << 20),
        before.0,
        before.1,
        before.2,
        (follows - joined).as_secs_f64() * 1_000.0,
        meanwhile.0,
        meanwhile.1,
        meanwhile.2,
        meanwhile.1 / before.1,
    );
    Ok(())
}
