//! `port`, and the ports of a node.

use std::process::ExitCode;

use anyhow::Result;
use fleet_client::Client;
use fleet_proto::v1::{
    ListNodePortsRequest, ListNodePortsResponse, node_service_client::NodeServiceClient,
};
use serde_json::json;

use crate::{
    args::{Global, Port},
    commands::{
        agent::display,
        node::{list, name},
    },
    output::{age, columns, print, print_json, short},
    session::client,
};

async fn ports(client: &Client, name: String) -> Result<ListNodePortsResponse> {
    let request = ListNodePortsRequest { name };
    let call = client.call(|channel| {
        let request = request.clone();
        async move { NodeServiceClient::new(channel).list_node_ports(request).await }
    });
    Ok(call.await?)
}

/// Shows the ports of a node.
pub async fn of_node(global: &Global, client: &Client, node: &str) -> Result<()> {
    let answer = ports(client, name(node)).await?;
    print(global.output, "ListNodePortsResponse", &answer, |_| {
        let rows = answer.ports.iter().map(|ports| {
            let block = ports.block.unwrap_or_default();
            let since = ports.since.as_ref().map_or_else(String::new, |at| age(Some(at)));
            vec![
                format!("{}-{}", block.base, block.base + block.size - 1),
                block.size.to_string(),
                short(ports.r#use().as_str_name()),
                display(&ports.agent),
                since,
                ports.message.clone(),
            ]
        });
        let table = columns(&["PORTS", "SIZE", "USE", "AGENT", "SINCE", "WHY"], rows);
        format!(
            "{table}\n\n{} owned, {} free, {} kept from agents; fragmentation {} %",
            answer.owned, answer.free, answer.quarantined, answer.fragmentation_percent
        )
    })
}

/// Shows how many ports of each node are what.
async fn of_all(global: &Global, client: &Client) -> Result<()> {
    let mut all = Vec::new();
    for node in list(client).await?.nodes {
        all.push((node.display_name, ports(client, node.name).await?));
    }
    let shown = |(node, ports): &(String, ListNodePortsResponse)| {
        json!({
            "node": node, "owned": ports.owned, "free": ports.free,
            "quarantined": ports.quarantined,
            "fragmentationPercent": ports.fragmentation_percent,
        })
    };
    let rows = all.iter().map(|(node, ports)| {
        let counts = [ports.owned, ports.free, ports.quarantined].map(|count| count.to_string());
        let [owned, free, kept] = counts;
        vec![node.clone(), owned, free, kept, format!("{}%", ports.fragmentation_percent)]
    });
    let heads = ["NODE", "OWNED", "FREE", "QUARANTINED", "FRAGMENTATION"];
    print_json(global.output, || all.iter().map(shown).collect(), || columns(&heads, rows))
}

/// Carries out a `port` command.
pub async fn run(global: &Global, command: Port) -> Result<ExitCode> {
    let client = client(global)?;
    match command {
        Port::List { node: Some(node) } => of_node(global, &client, &node).await?,
        Port::List { node: None } => of_all(global, &client).await?,
    }
    Ok(ExitCode::SUCCESS)
}
