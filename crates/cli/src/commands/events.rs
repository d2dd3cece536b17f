//! `events`.

use std::process::ExitCode;

use anyhow::Result;
use fleet_client::Client;
use fleet_proto::v1::{
    Event, ListEventsRequest, ListEventsResponse, event_service_client::EventServiceClient,
};

use crate::{
    args::{Events, Global},
    commands::agent::display,
    output::{age, columns, print},
    session::client,
};

fn table(events: &[Event]) -> String {
    let rows = events.iter().rev().map(|event| {
        vec![
            age(event.event_time.as_ref()),
            event.reason.clone(),
            display(&event.agent),
            event.node_display_name.clone(),
            event.message.clone(),
        ]
    });
    columns(&["AGO", "WHAT", "AGENT", "NODE", "WHY"], rows)
}

/// Shows the latest events that a request asks for, the latest last.
pub async fn show(
    global: &Global,
    client: &Client,
    request: ListEventsRequest,
    limit: u32,
) -> Result<()> {
    let mut all = ListEventsResponse::default();
    loop {
        let left = limit.saturating_sub(u32::try_from(all.events.len())?);
        if left == 0 {
            break;
        }
        let request = ListEventsRequest {
            page_size: i32::try_from(left).unwrap_or(i32::MAX),
            page_token: all.next_page_token.clone(),
            ..request.clone()
        };
        let page = client
            .call(|channel| {
                let request = request.clone();
                async move { EventServiceClient::new(channel).list_events(request).await }
            })
            .await?;
        all.events.extend(page.events);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            break;
        }
    }
    print(global.output, "ListEventsResponse", &all, |_| table(&all.events))
}

/// Shows the latest events.
pub async fn run(global: &Global, command: Events) -> Result<ExitCode> {
    let client = client(global)?;
    let agent = match command.agent {
        Some(agent) => fleet_proto::resource::agent(&agent.parse()?),
        None => String::new(),
    };
    let request = ListEventsRequest {
        agent,
        node: command.node.map(|node| format!("nodes/{node}")).unwrap_or_default(),
        fleet: command.fleet.map(|fleet| format!("fleets/{fleet}")).unwrap_or_default(),
        ..ListEventsRequest::default()
    };
    show(global, &client, request, command.limit).await?;
    Ok(ExitCode::SUCCESS)
}
