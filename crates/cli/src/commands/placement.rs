//! `placement …`.

use std::process::ExitCode;

use anyhow::Result;
use fleet_proto::v1::{
    ClusterStatus, Headroom, PlacementPolicy, Resources, SetPlacementPolicyRequest,
    cluster_service_client::ClusterServiceClient,
};

use crate::{
    args::{Global, Placement, SetPlacement, Wants},
    commands::status,
    output::{columns, last, print},
    session::{client, request_id},
};

/// What is kept free for agents; nothing when nothing is stated.
pub fn requests(wants: &Wants) -> Option<Resources> {
    let (memory_bytes, cpu_millis) = (wants.request_memory, wants.request_cpus.into());
    (memory_bytes > 0 || cpu_millis > 0).then_some(Resources { memory_bytes, cpu_millis })
}

fn amount(what: &str, value: u64) -> String {
    match what {
        "memory_bytes" => format!("{} MiB of memory", value >> 20),
        "cpu_millis" => format!("{}.{} cores", value / 1_000, value % 1_000 / 100),
        _ => format!("{value} {what}"),
    }
}

/// What more agents may ask for of something.
pub fn left(room: &Headroom) -> String {
    amount(&room.what, room.left)
}

fn table(policy: &PlacementPolicy, status: &ClusterStatus) -> String {
    let balance = if policy.rebalance {
        format!("on, {} agents at once", policy.moves_at_once)
    } else {
        "off".into()
    };
    let rows = status.headroom.iter().map(|room| {
        let of = |value| amount(&room.what, value);
        vec![of(room.asked), of(room.has), of(room.left), last(&room.largest_node).to_owned()]
    });
    let room = if status.headroom.is_empty() {
        "nothing limits what agents may ask for".into()
    } else {
        columns(&["ASKED FOR", "WITHOUT LARGEST NODE", "LEFT", "LARGEST NODE"], rows)
    };
    let spread = match policy.voters_spread_by.as_str() {
        "" => String::new(),
        key => format!(", spread over {key}"),
    };
    format!(
        "promised at most: {} % of memory, {} % of cores\nrebalance: {balance}\n\
         voters: {}{spread}\nimbalance: {} %\n\n{room}",
        policy.memory_percent, policy.cpu_percent, policy.voters, status.imbalance_percent
    )
}

/// Shows or changes how agents are placed.
pub async fn run(global: &Global, command: Placement) -> Result<ExitCode> {
    let client = client(global)?;
    let status = status::get(&client).await?.status.unwrap_or_default();
    let policy = status.placement_policy.clone().unwrap_or_default();
    let Placement::Set(set) = command else {
        print(global.output, "PlacementPolicy", &policy, |_| table(&policy, &status))?;
        return Ok(ExitCode::SUCCESS);
    };
    let SetPlacement {
        memory_percent,
        cpu_percent,
        rebalance,
        moves_at_once,
        voters,
        voters_spread_by,
    } = set;
    let request = SetPlacementPolicyRequest {
        placement_policy: Some(PlacementPolicy {
            memory_percent: memory_percent.unwrap_or(policy.memory_percent),
            cpu_percent: cpu_percent.unwrap_or(policy.cpu_percent),
            rebalance: rebalance.unwrap_or(policy.rebalance),
            moves_at_once: moves_at_once.unwrap_or(policy.moves_at_once),
            voters: voters.unwrap_or(policy.voters),
            voters_spread_by: voters_spread_by.unwrap_or(policy.voters_spread_by),
        }),
        request_id: request_id(),
    };
    let answer = client
        .call(|channel| {
            let request = request.clone();
            async move { ClusterServiceClient::new(channel).set_placement_policy(request).await }
        })
        .await?;
    print(global.output, "SetPlacementPolicyResponse", &answer, |_| {
        table(&answer.placement_policy.clone().unwrap_or_default(), &status)
    })?;
    Ok(ExitCode::SUCCESS)
}
