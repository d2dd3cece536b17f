//! `moves`.

use std::process::ExitCode;

use anyhow::Result;
use fleet_proto::v1::{
    MovePolicy, SetMovePolicyRequest, cluster_service_client::ClusterServiceClient,
    move_policy::Rule,
};

use crate::{
    args::{Global, MoveRule, Moves},
    commands::status,
    output::{print, short},
    session::{client, request_id},
};

fn text(policy: &MovePolicy) -> String {
    let rule = short(policy.rule().as_str_name());
    match policy.rule() {
        Rule::Automatic => format!("{rule}, up to {} % of the nodes lost", policy.lost_percent_max),
        _ => rule,
    }
}

/// Shows or sets when the agents of lost nodes are placed elsewhere.
pub async fn run(global: &Global, command: Moves) -> Result<ExitCode> {
    let client = client(global)?;
    let status = status::get(&client).await?.status.unwrap_or_default();
    let policy = status.move_policy.unwrap_or_default();
    let Some(rule) = command.rule else {
        let paused = if status.moves_paused { "\npaused now" } else { "" };
        print(global.output, "MovePolicy", &policy, |_| format!("{}{paused}", text(&policy)))?;
        return Ok(ExitCode::SUCCESS);
    };
    let rule = match rule {
        MoveRule::Automatic => Rule::Automatic,
        MoveRule::Always => Rule::Always,
        MoveRule::Never => Rule::Never,
    };
    let lost_percent_max = command.lost_max.unwrap_or(policy.lost_percent_max);
    let request = SetMovePolicyRequest {
        move_policy: Some(MovePolicy { rule: rule.into(), lost_percent_max }),
        request_id: request_id(),
    };
    let answer = client
        .call(|channel| {
            let request = request.clone();
            async move { ClusterServiceClient::new(channel).set_move_policy(request).await }
        })
        .await?;
    print(global.output, "SetMovePolicyResponse", &answer, |_| {
        text(&answer.move_policy.unwrap_or_default())
    })?;
    Ok(ExitCode::SUCCESS)
}
