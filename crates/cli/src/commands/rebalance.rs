//! `rebalance`.

use std::process::ExitCode;

use anyhow::Result;
use fleet_proto::v1::{
    AgentMove, PlanRebalanceRequest, StartRebalanceRequest,
    cluster_service_client::ClusterServiceClient,
};
use fleet_types::limits::EVICTIONS_MAX;

use crate::{
    args::{Global, Rebalance},
    commands::agent::display,
    output::{columns, print},
    session::{client, request_id},
};

fn table(moves: &[AgentMove]) -> String {
    let rows = moves.iter().map(|it| {
        vec![display(&it.agent), it.from_display_name.clone(), it.to_display_name.clone()]
    });
    columns(&["AGENT", "FROM", "TO"], rows)
}

/// Shows or starts a rebalance.
pub async fn run(global: &Global, command: Rebalance) -> Result<ExitCode> {
    let client = client(global)?;
    let moves_max = command.moves;
    if command.dry_run {
        let request = PlanRebalanceRequest { moves_max };
        let plan = client
            .call(|channel| async move {
                ClusterServiceClient::new(channel).plan_rebalance(request).await
            })
            .await?;
        print(global.output, "PlanRebalanceResponse", &plan, |_| {
            let (count, now) = (plan.moves.len(), plan.imbalance_percent);
            let most = if count == EVICTIONS_MAX { " or more" } else { "" };
            let after = plan.imbalance_after_percent;
            let summary = format!(
                "{count}{most} moves are worth it; the fullest and the emptiest node differ by {now} \
                 %, then by {after} %"
            );
            if count == 0 { summary } else { format!("{}\n\n{summary}", table(&plan.moves)) }
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let request = StartRebalanceRequest { moves_max, request_id: request_id() };
    let begun = client
        .call(|channel| {
            let request = request.clone();
            async move { ClusterServiceClient::new(channel).start_rebalance(request).await }
        })
        .await?;
    print(global.output, "StartRebalanceResponse", &begun, |_| match begun.moves.len() {
        0 => "no move is worth it".into(),
        _ => table(&begun.moves),
    })?;
    Ok(ExitCode::SUCCESS)
}
