//! Ten thousand agents made and placed through the API, in batches, at once.

use std::{path::Path, time::Instant};

use anyhow::{Result, ensure};
use fleet_proto::v1::{
    Agent, AgentSpec, BatchCreateAgentsRequest, CreateAgentRequest, agent::DesiredState,
};
use fleet_types::limits::AGENTS_PER_CALL_MAX;

use crate::{fleet, median};

/// Agents of a turn.
const AGENTS: usize = 10_000;

fn batch(number: usize) -> BatchCreateAgentsRequest {
    let one = |n: usize| {
        let spec = AgentSpec {
            runtime: "exec".into(),
            command: vec!["/bin/true".into()],
            ports: 4,
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
    BatchCreateAgentsRequest {
        parent: "fleets/bench".into(),
        requests: (0..AGENTS_PER_CALL_MAX).map(one).collect(),
        ..BatchCreateAgentsRequest::default()
    }
}

/// Prints how long it takes until all are committed and placed.
pub(crate) async fn run(binary: &Path, turns: usize) -> Result<()> {
    println!("\n{AGENTS} agents in batches of {AGENTS_PER_CALL_MAX}, three nodes, fsync on\n");
    println!("| turns | p50 ms | max ms |\n|---|---|---|");
    let mut all = Vec::new();
    for _ in 0..turns {
        let cluster = fleet::Cluster::start(binary).await?;
        let api = cluster.leader().await?;
        let batches: Vec<_> = (0..AGENTS / AGENTS_PER_CALL_MAX).map(batch).collect();
        let began = Instant::now();
        let calls = batches.into_iter().enumerate().map(|(n, batch)| {
            let mut client = api.agents(n);
            async move { client.batch_create_agents(batch).await }
        });
        let answers = futures::future::try_join_all(calls).await?;
        all.push(began.elapsed().as_secs_f64() * 1_000.0);
        let made: Vec<Agent> = answers.into_iter().flat_map(|a| a.into_inner().agents).collect();
        ensure!(made.len() == AGENTS, "{} agents were made", made.len());
        ensure!(made.iter().all(|agent| agent.placement.is_some()), "not all were placed");
    }
    let max = all.iter().copied().fold(0.0, f64::max);
    println!("| {turns} | {:.0} | {max:.0} |", median(all));
    Ok(())
}
