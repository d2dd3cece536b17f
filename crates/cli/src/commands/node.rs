//! `node …`.

use std::process::ExitCode;

use anyhow::Result;
use fleet_client::Client;
use fleet_proto::v1::{
    self, ConfirmNodeDeadRequest, CordonNodeRequest, DemoteNodeRequest, DrainNodeRequest,
    GetNodeRequest, GetNodeResponse, HoldNodeRequest, ListEventsRequest, ListNodesRequest,
    ListNodesResponse, PlanNodeLossRequest, PromoteNodeRequest, ReleaseNodeRequest,
    RemoveNodeRequest, UncordonNodeRequest, node_service_client::NodeServiceClient,
};

use crate::{
    args::{Global, Node, Wait},
    commands::{events, port},
    output::{age, columns, last, print, short},
    session::{client, request_id, wait_for},
};

fn lease(node: &v1::Node) -> String {
    let Some(age) = &node.lease_age else { return "-".into() };
    let ms = age.seconds * 1_000 + i64::from(age.nanos / 1_000_000);
    format!("{}.{}s", ms / 1_000, ms % 1_000 / 100)
}

/// How much of something is promised, for people.
fn of(promised: Option<u64>, most: Option<u64>, unit: &str) -> String {
    match (promised, most) {
        (Some(promised), Some(0)) => format!("{promised}{unit}"),
        (Some(promised), Some(most)) => format!("{promised}/{most}{unit}"),
        _ => "-".into(),
    }
}

/// Nodes as columns.
pub fn table(nodes: &[v1::Node], wide: bool) -> String {
    let mut header = vec!["NODE", "NAME", "ROLE", "STATE", "LEASE", "AGENTS", "LOAD", "ADDRESS"];
    if wide {
        header.extend(["EPOCH", "SCHEDULABLE", "FREE PORTS", "MEMORY", "CORES", "DISK", "LABELS"]);
        header.extend(["RUNTIMES", "VERSION", "AGE"]);
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
            format!("{}%", node.load_percent),
            node.api_address.clone(),
        ];
        if wide {
            let runtimes: Vec<_> = node.runtimes.iter().map(|(k, v)| format!("{k} {v}")).collect();
            let labels: Vec<_> = node.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let (promised, most) = (node.promised, node.promisable);
            row.extend([
                node.epoch.to_string(),
                schedulable,
                node.free_ports.to_string(),
                of(promised.map(|r| r.memory_bytes >> 20), most.map(|r| r.memory_bytes >> 20), "M"),
                of(promised.map(|r| r.cpu_millis), most.map(|r| r.cpu_millis), "m"),
                match node.disk_bytes >> 30 {
                    0 => "-".into(),
                    gib => format!("{gib}G"),
                },
                labels.join(","),
                runtimes.join(", "),
                node.version.clone(),
                age(node.create_time.as_ref()),
            ]);
        }
        row
    });
    columns(&header, rows)
}

pub(super) fn name(node: &str) -> String {
    format!("nodes/{node}")
}

pub(super) async fn list(client: &Client) -> Result<ListNodesResponse> {
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

async fn drain(
    client: &Client,
    node: &str,
    at_once: u32,
    deadline: Option<u64>,
    wait: Wait,
) -> Result<()> {
    let seconds = deadline.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
    let request = DrainNodeRequest {
        name: name(node),
        request_id: request_id(),
        moves_at_once: at_once,
        deadline: seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
    };
    client
        .call(|channel| {
            let request = request.clone();
            async move { NodeServiceClient::new(channel).drain_node(request).await }
        })
        .await?;
    if wait.no_wait {
        return Ok(());
    }
    let said = std::cell::Cell::new((u32::MAX, 0));
    let said = &said;
    let look = || async move {
        let shown = get(client, node).await?.node.unwrap_or_default();
        let drain = shown.drain.unwrap_or_default();
        let now = (drain.agents_left, drain.agents_leaving);
        if shown.agents == 0 {
            return Ok(Ok(()));
        }
        if said.replace(now) != now {
            eprintln!("node {node}: {} agents are left, {} of them leave", now.0, now.1);
        }
        let stuck = now.1 == 0;
        let why = match stuck {
            true => {
                "; none leaves now: no other node has room for them, see `agent explain`, or those \
                 that left are not up yet"
            }
            false => "",
        };
        Ok(Err(format!("{} agents are left{why}", now.0)))
    };
    // At a deadline the last are told to stop, which takes as long as without one.
    wait_for(wait.timeout + deadline.unwrap_or(0), &format!("node {node} is not drained"), look)
        .await
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
            let tenths = |after: prost_types::Duration| {
                format!("{:.1} s", after.seconds as f64 + f64::from(after.nanos) / 1e9)
            };
            let after = loss.after.map_or_else(|| "-".into(), tenths);
            let ready = loss.ready_after.map(|ready| format!("about {}", tenths(ready)));
            let ready = ready.unwrap_or_else(|| "-".into());
            vec![agent, loss.node_display_name.clone(), after, ready, loss.message.clone()]
        });
        let losses = columns(&["AGENT", "GOES TO", "AFTER", "READY AFTER", "WHY NOT"], rows);
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

async fn promote(client: &Client, node: &str) -> Result<()> {
    let request = PromoteNodeRequest { name: name(node), request_id: request_id() };
    let call = client.call(|channel| {
        let request = request.clone();
        async move { NodeServiceClient::new(channel).promote_node(request).await }
    });
    match call.await?.node.unwrap_or_default().role() {
        v1::Role::Voter => eprintln!("node {node} votes once it has caught up"),
        _ => eprintln!("node {node} may vote: it does once one that votes is lost or demoted"),
    }
    Ok(())
}

async fn demote(client: &Client, node: &str) -> Result<()> {
    let request = DemoteNodeRequest { name: name(node), request_id: request_id() };
    let call = client.call(|channel| {
        let request = request.clone();
        async move { NodeServiceClient::new(channel).demote_node(request).await }
    });
    call.await?;
    Ok(())
}

async fn remove(client: &Client, node: &str) -> Result<()> {
    let request = RemoveNodeRequest { name: name(node), request_id: request_id() };
    let call = client.call(|channel| {
        let request = request.clone();
        async move { NodeServiceClient::new(channel).remove_node(request).await }
    });
    call.await?;
    Ok(())
}

/// Who runs this command, as far as the machine knows: `user@machine`.
fn who() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
    let user = std::env::var("SUDO_USER").ok().or(user.map(|user| user.name));
    let host = nix::unistd::gethostname().unwrap_or_default();
    format!("{}@{}", user.unwrap_or_default(), host.to_string_lossy()).chars().take(128).collect()
}

async fn confirm_dead(client: &Client, node: &str, powered_off: bool) -> Result<()> {
    let (request_id, stated_by) = (request_id(), who());
    let request = ConfirmNodeDeadRequest { name: name(node), powered_off, request_id, stated_by };
    let call = client.call(|channel| {
        let request = request.clone();
        async move { NodeServiceClient::new(channel).confirm_node_dead(request).await }
    });
    call.await?;
    Ok(())
}

/// Says how many votes there are now, and what their cluster stands.
async fn show_votes(client: &Client) -> Result<()> {
    let nodes = list(client).await?.nodes;
    let voters = nodes.iter().filter(|node| node.role() == v1::Role::Voter).count();
    let losses = voters.saturating_sub(1) / 2;
    let nodes = if voters == 1 { "1 node votes".into() } else { format!("{voters} nodes vote") };
    match losses {
        0 => eprintln!("warning: {nodes}: the cluster stops with the loss of any of them"),
        _ => eprintln!("{nodes}: the cluster goes on with the loss of {losses} of them"),
    }
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
        Node::Ports { node } => port::of_node(global, &client, &node).await?,
        Node::Events { node, limit } => {
            let request = ListEventsRequest { node: name(&node), ..ListEventsRequest::default() };
            events::show(global, &client, request, limit).await?;
        }
        Node::Drain { node, at_once, deadline, wait } => {
            drain(&client, &node, at_once, deadline, wait).await?;
            let done = if wait.no_wait { "is being drained" } else { "is drained" };
            eprintln!("node {node} {done}");
        }
        Node::Promote { node } => {
            promote(&client, &node).await?;
            show_votes(&client).await?;
        }
        Node::Demote { node } => {
            demote(&client, &node).await?;
            eprintln!("node {node} votes no more");
            show_votes(&client).await?;
        }
        Node::Remove { node } => {
            remove(&client, &node).await?;
            eprintln!("node {node} is forgotten");
        }
        Node::PlanLoss { node } => plan_loss(global, &client, &node).await?,
        Node::Hold { node, seconds } => hold(&client, &node, seconds, request_id).await?,
        Node::Release { node } => release(&client, &node, request_id).await?,
        Node::ConfirmDead { node, i_have_powered_it_off } => {
            confirm_dead(&client, &node, i_have_powered_it_off).await?;
            eprintln!("node {node} is fenced; its agents are placed elsewhere");
        }
    }
    Ok(ExitCode::SUCCESS)
}
