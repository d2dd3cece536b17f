//! Leader killed → next acknowledged write.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use futures::future::{BoxFuture, select_ok};

use crate::{etcd, fleet, median};

/// How long one try may take.
const TRY: Duration = Duration::from_millis(100);
/// Pause between tries.
const PAUSE: Duration = Duration::from_millis(2);
/// A survivor is given this long to settle before the next kill.
const SETTLE: Duration = Duration::from_secs(3);

pub(crate) async fn run(binary: &Path, kills: u32) -> Result<()> {
    println!("\nleader killed to next acknowledged write, {kills} kills each\n");
    println!("| system | p50 ms | max ms |");
    println!("|---|---|---|");
    let mut cluster = fleet::Cluster::start(binary).await?;
    let mut took = Vec::new();
    for kill in 0..kills {
        tokio::time::sleep(SETTLE).await;
        let leader = cluster.leader_node().await?;
        cluster.kill(leader)?;
        let killed = Instant::now();
        let mut writers: Vec<BoxFuture<'_, Result<()>>> = Vec::new();
        for node in cluster.nodes().filter(|node| *node != leader) {
            let writer = cluster.api(node)?.writer(0);
            writers.push(Box::pin(until_written(format!("k{kill}-{node}"), move |name| {
                let mut writer = writer.clone();
                async move { writer.create(name).await }
            })));
        }
        select_ok(writers).await?;
        took.push(killed.elapsed().as_secs_f64() * 1_000.0);
        cluster.restart(leader)?;
    }
    report("fleet-cluster, default profile", took);
    drop(cluster);
    etcd(kills).await
}

async fn etcd(kills: u32) -> Result<()> {
    let mut cluster = etcd::Cluster::start(None).await?;
    let mut took = Vec::new();
    for kill in 0..kills {
        tokio::time::sleep(SETTLE).await;
        let leader = cluster.leader_node().await?;
        cluster.kill(leader)?;
        let killed = Instant::now();
        let mut writers: Vec<BoxFuture<'_, Result<()>>> = Vec::new();
        for node in cluster.nodes().filter(|node| *node != leader) {
            let writer = cluster.api(node)?.writer(0);
            writers.push(Box::pin(until_written(format!("k{kill}-{node}"), move |key| {
                let writer = writer.clone();
                async move { writer.put(key).await }
            })));
        }
        select_ok(writers).await?;
        took.push(killed.elapsed().as_secs_f64() * 1_000.0);
        cluster.restart(leader)?;
    }
    report("etcd, its defaults", took);
    Ok(())
}

/// Tries one new name after the other until a write is acknowledged.
async fn until_written<F>(prefix: String, write: impl Fn(String) -> F) -> Result<()>
where
    F: Future<Output = Result<(), tonic::Status>>,
{
    for n in 0.. {
        let tried = tokio::time::timeout(TRY, write(format!("{prefix}-{n}"))).await;
        if matches!(tried, Ok(Ok(()))) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

fn report(system: &str, took: Vec<f64>) {
    let most = took.iter().copied().fold(0.0, f64::max);
    println!("| {system} | {:.0} | {most:.0} |", median(took));
}
