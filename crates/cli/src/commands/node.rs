//! `node …`.

use std::process::ExitCode;

use anyhow::Result;
use fleet_client::Client;
use fleet_proto::v1::{
    self, ConfirmNodeDeadRequest, CordonNodeRequest, DrainNodeRequest, GetNodeRequest,
    GetNodeResponse, HoldNodeRequest, ListNodesRequest, ListNodesResponse, PlanNodeLossRequest,
    ReleaseNodeRequest, RemoveNodeRequest, UncordonNodeRequest,
    node_service_client::NodeServiceClient,
};

use crate::{
    args::{Global, Node, Wait},
    output::{age, columns, last, print, short},
    session::{client, request_id, wait_for},
};

fn lease(node: &v1::Node) -> String {
    let Some(age) = &node.lease_age else { return "-".into() };
    let ms = age.seconds * 1_000 + i64::from(age.nanos / 1_000_000);
    format!("{}.{}s", ms / 1_000, ms % 1_000 / 100)
}

/// Nodes as columns.
pub fn table(nodes: &[v1::Node], wide: bool) -> String {
    let mut header = vec!["NODE", "NAME", "ROLE", "STATE", "LEASE", "AGENTS", "ADDRESS"];
    if wide {
        header.extend(["EPOCH", "SCHEDULABLE", "FREE PORTS", "RUNTIMES", "VERSION", "AGE"]);
    }
    let rows = nodes.iter().map(|node| {
        let schedulable = short(node.schedulable().as_str_name());
        let mut state = short(node.state().as_str_name());
        if schedulable != "open" {
            state = format!("{state},{schedulable}");
        }
        let mut row = vec![
            last(&node.name).to_owned(),
            node.display_name.clone(),
            short(node.role().as_str_name()),
            state,
            lease(node),
            node.agents.to_string(),
            node.api_address.clone(),
        ];
        if wide {
            let runtimes: Vec<_> = node.runtimes.iter().map(|(k, v)| format!("{k} {v}")).collect();
            row.extend([
                node.epoch.to_string(),
                schedulable,
                node.free_ports.to_string(),
                runtimes.join(", "),
                node.version.clone(),
                age(node.create_time.as_ref()),
            ]);
        }
        row
    });
    columns(&header, rows)
}

fn name(node: &str) -> String {
    format!("nodes/{node}")
}

async fn list(client: &Client) -> Result<ListNodesResponse> {
    let mut all = ListNodesResponse::default();
    loop {
        let request = ListNodesRequest { page_token: all.next_page_token.clone(), page_size: 0 };
        let page = client
            .call(|channel| {
                let request = request.clone();
                async move { NodeServiceClient::new(channel).list_nodes(request).await }
            })
            .await?;
        all.nodes.extend(page.nodes);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return Ok(all);
        }
    }
}

async fn get(client: &Client, node: &str) -> Result<GetNodeResponse> {
    let request = GetNodeRequest { name: name(node) };
    let answer = client.call(|channel| {
        let request = request.clone();
        async move { NodeServiceClient::new(channel).get_node(request).await }
    });
    Ok(answer.await?)
}

async fn drain(client: &Client, node: &str, wait: Wait) -> Result<()> {
    let request = DrainNodeRequest { name: name(node), request_id: request_id() };
    client
        .call(|channel| {
            let request = request.clone();
            async move { NodeServiceClient::new(channel).drain_node(request).await }
        })
        .await?;
    if wait.no_wait {
        return Ok(());
    }
    let look = || async {
        let left = get(client, node).await?.node.unwrap_or_default().agents;
        Ok(if left == 0 { Ok(()) } else { Err(format!("{left} agents are left")) })
    };
    wait_for(wait.timeout, &format!("node {node} is not drained"), look).await
}

async fn plan_loss(global: &Global, client: &Client, node: &str) -> Result<()> {
    let request = PlanNodeLossRequest { name: name(node) };
    let call = client.call(|channel| {
        let request = request.clone();
        async move { NodeServiceClient::new(channel).plan_node_loss(request).await }
    });
    let answer = call.await?;
    print(global.output, "PlanNodeLossResponse", &answer, |_| {
        let rows = answer.losses.iter().map(|loss| {
            let agent = loss.agent.trim_start_matches("fleets/").replace("/agents/", "/");
            let after =
                loss.after.map_or_else(|| "-".into(), |after| format!("{} s", after.seconds));
            vec![agent, loss.node_display_name.clone(), after, loss.message.clone()]
        });
        let losses = columns(&["AGENT", "GOES TO", "AFTER", "WHY NOT"], rows);
        if answer.moves_paused {
            format!("{losses}\n\nnone moves: too many nodes are lost, or the rule says never")
        } else {
            losses
        }
    })
}

async fn hold(client: &Client, node: &str, seconds: u64, request_id: String) -> Result<()> {
    let lease = i64::try_from(seconds).unwrap_or(i64::MAX);
    let lease = Some(prost_types::Duration { seconds: lease, nanos: 0 });
    let request = HoldNodeRequest { name: name(node), lease, request_id };
    let call = client.call(|channel| {
        let request = request.clone();
        async move { NodeServiceClient::new(channel).hold_node(request).await }
    });
    call.await?;
    eprintln!(
        "node {node} is held: its daemon may be away for {seconds} s less a tenth; end it with \
         `fleet-cluster node release {node}`"
    );
    Ok(())
}

async fn release(client: &Client, node: &str, request_id: String) -> Result<()> {
    let request = ReleaseNodeRequest { name: name(node), request_id };
    let call = client.call(|channel| {
        let request = request.clone();
        async move { NodeServiceClient::new(channel).release_node(request).await }
    });
    call.await?;
    eprintln!("node {node} gets leases of the usual length again");
    Ok(())
}

/// Carries out a `node` command.
pub async fn run(global: &Global, command: Node) -> Result<ExitCode> {
    let client = client(global)?;
    let request_id = request_id();
    match command {
        Node::List => {
            let all = list(&client).await?;
            print(global.output, "ListNodesResponse", &all, |wide| table(&all.nodes, wide))?;
        }
        Node::Get { node } => {
            let answer = get(&client, &node).await?;
            let shown = answer.node.clone().into_iter().collect::<Vec<_>>();
            print(global.output, "GetNodeResponse", &answer, |_| table(&shown, true))?;
        }
        Node::Cordon { node } => {
            let request = CordonNodeRequest { name: name(&node), request_id };
            client
                .call(|channel| {
                    let request = request.clone();
                    async move { NodeServiceClient::new(channel).cordon_node(request).await }
                })
                .await?;
            eprintln!("node {node} takes no new agents");
        }
        Node::Uncordon { node } => {
            let request = UncordonNodeRequest { name: name(&node), request_id };
            client
                .call(|channel| {
                    let request = request.clone();
                    async move { NodeServiceClient::new(channel).uncordon_node(request).await }
                })
                .await?;
            eprintln!("node {node} takes agents again");
        }
        Node::Drain { node, wait } => {
            drain(&client, &node, wait).await?;
            let done = if wait.no_wait { "is being drained" } else { "is drained" };
            eprintln!("node {node} {done}");
        }
        Node::Remove { node } => {
            let request = RemoveNodeRequest { name: name(&node), request_id };
            client
                .call(|channel| {
                    let request = request.clone();
                    async move { NodeServiceClient::new(channel).remove_node(request).await }
                })
                .await?;
            eprintln!("node {node} is forgotten");
        }
        Node::PlanLoss { node } => plan_loss(global, &client, &node).await?,
        Node::Hold { node, seconds } => hold(&client, &node, seconds, request_id).await?,
        Node::Release { node } => release(&client, &node, request_id).await?,
        Node::ConfirmDead { node, i_have_powered_it_off } => {
            let request = ConfirmNodeDeadRequest {
                name: name(&node),
                powered_off: i_have_powered_it_off,
                request_id,
            };
            client
                .call(|channel| {
                    let request = request.clone();
                    async move { NodeServiceClient::new(channel).confirm_node_dead(request).await }
                })
                .await?;
            eprintln!("node {node} is fenced; its agents are placed elsewhere");
        }
    }
    Ok(ExitCode::SUCCESS)
}
