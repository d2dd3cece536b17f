//! `status`.

use std::{fmt::Write, process::ExitCode};

use anyhow::Result;
use fleet_client::Client;
use fleet_proto::v1::{
    ClusterStatus, GetClusterStatusRequest, GetClusterStatusResponse, Node,
    cluster_service_client::ClusterServiceClient,
};
use fleet_types::limits::MESSAGE_BYTES_MAX;

use crate::{
    args::Global,
    commands::{node, placement},
    exit,
    output::{age, last, print, short},
    session::client,
};

fn leader(status: &ClusterStatus) -> String {
    let node: Option<&Node> = status.nodes.iter().find(|node| node.name == status.leader);
    node.map_or_else(|| "none".into(), |n| format!("{} ({})", last(&n.name), n.display_name))
}

fn table(status: &ClusterStatus, wide: bool) -> String {
    let mut text = format!(
        "cluster {}  leader {}  term {}  profile {}  age {}\n\n{}\n",
        status.cluster_id,
        leader(status),
        status.term,
        status.profile,
        age(status.create_time.as_ref()),
        node::table(&status.nodes, wide),
    );
    let states: Vec<String> =
        status.agents_by_state.iter().map(|(state, n)| format!("{n} {}", short(state))).collect();
    let states = if states.is_empty() { String::new() } else { format!(": {}", states.join(", ")) };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\nagents: {}{states}", status.agents);
    let room: Vec<String> = status.headroom.iter().map(placement::left).collect();
    if !room.is_empty() {
        let _ = writeln!(text, "room if the largest node is lost: {}", room.join(", "));
    }
    if status.problems.is_empty() {
        text.push_str("\nnothing is wrong");
    }
    for problem in &status.problems {
        let _ = write!(text, "\n! {} [{}]\n  {}", problem.message, problem.reason, problem.action);
    }
    text
}

/// The cluster's status, of which every node is a part.
pub async fn get(client: &Client) -> Result<GetClusterStatusResponse> {
    let status = |channel| async move {
        let client = ClusterServiceClient::new(channel);
        let mut client = client.max_decoding_message_size(4 * MESSAGE_BYTES_MAX);
        client.get_cluster_status(GetClusterStatusRequest {}).await
    };
    Ok(client.call(status).await?)
}

/// Shows the cluster's status; exits with 6 when something is wrong.
pub async fn run(global: &Global) -> Result<ExitCode> {
    let answer = get(&client(global)?).await?;
    let status = answer.status.clone().unwrap_or_default();
    print(global.output, "GetClusterStatusResponse", &answer, |wide| table(&status, wide))?;
    let healthy = status.problems.is_empty();
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::from(exit::UNHEALTHY) })
}
