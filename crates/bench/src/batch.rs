//! Many agents made and placed through the API, in batches, at once; and how long a node takes to
//! come back to them.

use std::{path::Path, time::Instant};

use anyhow::{Context as _, Result, ensure};
use fleet_proto::v1::{
    Agent, AgentSpec, BatchCreateAgentsRequest, CreateAgentRequest, GetClusterStatusRequest,
    agent::DesiredState, cluster_service_client::ClusterServiceClient,
};
use fleet_types::limits::AGENTS_PER_CALL_MAX;
use futures::{StreamExt, TryStreamExt, stream};

use crate::{fleet, median};

/// Agents of a turn. Three nodes have some 95,000 ports.
const SIZES: [usize; 3] = [1_000, 10_000, 90_000];

/// Batches under way at once.
const AT_ONCE: usize = 10;

/// Agents with an environment of `bytes`.
fn batch(number: usize, bytes: usize) -> BatchCreateAgentsRequest {
    let one = |n: usize| {
        let spec = AgentSpec {
            runtime: "exec".into(),
            command: vec!["/bin/true".into()],
            environment: [("TEXT".to_owned(), "x".repeat(bytes))].into(),
            ports: 1,
            ..AgentSpec::default()
        };
        let desired_state = DesiredState::Stopped.into();
        let agent = Agent { spec: Some(spec), desired_state, ..Agent::default() };
        CreateAgentRequest {
            agent_id: format!("a{number}-{n}"),
            agent: Some(agent),
            ..CreateAgentRequest::default()
        }
    };
    // More than would survive a loss, at the larger size.
    let allow_overcommit = true;
    BatchCreateAgentsRequest {
        parent: "fleets/bench".into(),
        requests: (0..AGENTS_PER_CALL_MAX).map(one).collect(),
        allow_overcommit,
        ..BatchCreateAgentsRequest::default()
    }
}

/// Requests that make so many agents, with an environment of `bytes` each.
pub(crate) fn batches(
    agents: usize,
    bytes: usize,
) -> impl Iterator<Item = BatchCreateAgentsRequest> {
    (0..agents / AGENTS_PER_CALL_MAX).map(move |number| batch(number, bytes))
}

/// From the start of a follower's daemon to its first answer from the API, in milliseconds.
async fn restart(cluster: &mut fleet::Cluster) -> Result<f64> {
    let leader = cluster.leader_node().await?;
    let node = cluster.nodes().find(|node| *node != leader).context("a follower")?;
    cluster.kill(node)?;
    let began = Instant::now();
    cluster.restart(node)?;
    fleet::until(|| async {
        let mut client = ClusterServiceClient::new(cluster.channel(node)?);
        Ok(client.get_cluster_status(GetClusterStatusRequest {}).await.ok())
    })
    .await?;
    Ok(began.elapsed().as_secs_f64() * 1_000.0)
}

/// Prints how long it takes until all are committed and placed.
pub(crate) async fn run(binary: &Path, turns: usize) -> Result<()> {
    println!("\nagents made in batches of {AGENTS_PER_CALL_MAX}, three nodes, fsync on\n");
    println!(
        "| agents | turns | all placed p50 ms | max ms | µs an agent | a node back after p50 ms |"
    );
    println!("|---|---|---|---|---|---|");
    for agents in SIZES {
        let (mut all, mut back) = (Vec::new(), Vec::new());
        for _ in 0..turns {
            let mut cluster = fleet::Cluster::start(binary).await?;
            let api = cluster.leader().await?;
            let batches: Vec<_> = batches(agents, 0).collect();
            let began = Instant::now();
            let calls = stream::iter(batches.into_iter().enumerate()).map(|(n, batch)| {
                let mut client = api.agents(n);
                async move { client.batch_create_agents(batch).await }
            });
            let answers: Vec<_> = calls.buffer_unordered(AT_ONCE).try_collect().await?;
            all.push(began.elapsed().as_secs_f64() * 1_000.0);
            let made: Vec<Agent> =
                answers.into_iter().flat_map(|a| a.into_inner().agents).collect();
            ensure!(made.len() == agents, "{} agents were made", made.len());
            ensure!(made.iter().all(|agent| agent.placement.is_some()), "not all were placed");
            back.push(restart(&mut cluster).await?);
        }
        let max = all.iter().copied().fold(0.0, f64::max);
        let (all, back) = (median(all), median(back));
        let each = all * 1_000.0 / agents as f64;
        println!("| {agents} | {turns} | {all:.0} | {max:.0} | {each:.0} | {back:.0} |");
    }
    Ok(())
}
