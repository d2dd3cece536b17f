//! The built release binary beside its alternative, in one run on one machine: `cargo xtask bench`.
//! What `docs/benchmarks.md` shows comes from here.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "figures go to standard output")]

mod batch;
mod etcd;
mod failover;
mod false_fences;
mod fence;
mod fleet;
mod growth;
mod imbalance;
mod leases;
mod load;
mod node_lost;
mod restart;
mod snapshot;
mod supervisors;
mod tls;

use std::path::Path;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use fleet_types::LeaseProfile;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Create-and-place a second, against etcd's puts a second
    Throughput,
    /// Leader killed to next acknowledged write, against etcd's
    Failover,
    /// Node killed to its agents started elsewhere
    NodeLost,
    /// On cables that lose and delay: how often a node that is up is fenced
    FalseFences,
    /// Lease not renewed: how long agents execute past its end
    Fence,
    /// Thousands of agents made and placed in batches
    Batch,
    /// Thousands of workers on leases: what they cost their leader
    Leases,
    /// A follower joins and is sent a snapshot: how much longer writes take meanwhile
    Snapshot,
    /// Planning and state at growing sizes, without log or network
    Growth,
    /// How even a thousand random changes leave the nodes
    Imbalance,
    /// Daemon killed and started again: agents restarted, time to adopt them
    Restart,
    /// Beside supervisord, PM2, s6 and runit; see docs/benchmarks.md for what it needs
    Supervisors,
}

/// Measures the built release binary, beside the alternatives
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Args {
    /// What to measure; everything when nothing is named
    what: Vec<What>,
    /// Seconds of load at each width
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Numbers of clients at once
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    clients: Vec<usize>,
    /// Turns of throughput, of which the median counts: ours, then the others, then ours again
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// Kills for failover; node-lost does two fewer
    #[arg(long, default_value_t = 12)]
    kills: u32,
    /// Lease profiles for node-lost
    #[arg(long, value_delimiter = ',', default_values_t = [LeaseProfile::Default])]
    profiles: Vec<LeaseProfile>,
    /// How long false-fences waits for one
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Numbers of workers for leases
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 2_500, 5_000])]
    workers: Vec<usize>,
    /// Agents for restart and fence
    #[arg(long, default_value_t = 500)]
    agents: u32,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let binary = target.join("release/fleet-cluster");
    let all = [What::Throughput, What::Failover, What::NodeLost, What::Restart, What::Fence];
    let what = if args.what.is_empty() { &all[..] } else { &args.what };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for what in what {
        match what {
            What::Throughput => runtime.block_on(throughput(&binary, &args))?,
            What::Failover => runtime.block_on(failover::run(&binary, args.kills))?,
            What::FalseFences => false_fences::run(&binary, args.minutes)?,
            What::Fence => fence::run(&binary, args.agents, 3)?,
            What::Batch => runtime.block_on(batch::run(&binary, args.turns))?,
            What::Leases => runtime.block_on(leases::run(&binary, &args.workers))?,
            What::Snapshot => runtime.block_on(snapshot::run(&binary))?,
            What::Growth => growth::run()?,
            What::Imbalance => imbalance::run()?,
            What::Restart => restart::run(&binary, args.agents)?,
            What::Supervisors => supervisors::run(&binary, args.agents)?,
            What::NodeLost => {
                node_lost::run(&binary, args.kills.saturating_sub(2).max(1), &args.profiles)?;
            }
        }
    }
    Ok(())
}

async fn throughput(binary: &Path, args: &Args) -> Result<()> {
    let &Args { seconds, turns, .. } = args;
    println!(
        "\ncreate-and-place against etcd puts of 256 bytes; fsync on, mutual TLS but where plain; \
         medians of {turns}\n"
    );
    println!(
        "| clients | fleet-cluster /s | p50 ms | p99 ms | etcd /s | p50 ms | p99 ms | ratio \
         | plain etcd /s | p50 ms | p99 ms | ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for &clients in &args.clients {
        let (mut ours, mut etcd, mut plain) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..turns {
            let cluster = fleet::Cluster::start(binary).await.context("our cluster")?;
            let client = cluster.leader().await?;
            ours.push(load::run(clients, seconds, |k| client.writer(k)).await?);
            drop(cluster);
            etcd.push(etcd_puts(clients, seconds, Some(tls::Tls::new()?)).await?);
            plain.push(etcd_puts(clients, seconds, None).await?);
        }
        print!("| {clients} | {}", load::median(&ours));
        for other in [etcd, plain] {
            // Neighbours in time had the same machine.
            let ratios = ours.iter().zip(&other).map(|(ours, other)| ours.rate / other.rate);
            print!(" | {} | {:.2}", load::median(&other), median(ratios.collect()));
        }
        println!(" |");
    }
    Ok(())
}

async fn etcd_puts(clients: usize, seconds: u64, tls: Option<tls::Tls>) -> Result<load::Figures> {
    let cluster = etcd::Cluster::start(tls).await.context("the etcd cluster")?;
    let client = cluster.leader().await?;
    load::run(clients, seconds, |k| client.writer(k)).await
}

/// The median of some milliseconds.
fn median(mut ms: Vec<f64>) -> f64 {
    ms.sort_by(f64::total_cmp);
    ms.get(ms.len() / 2).copied().unwrap_or(f64::NAN)
}
