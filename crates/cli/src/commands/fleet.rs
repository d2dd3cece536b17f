//! `fleet …`.

use std::process::ExitCode;

use anyhow::Result;
use fleet_client::Client;
use fleet_proto::v1::{
    self, CreateFleetRequest, DeleteFleetRequest, GetFleetRequest, ListFleetsRequest,
    ListFleetsResponse, fleet_service_client::FleetServiceClient,
};

use crate::{
    args::{Fleet, Global},
    commands::placement::requests,
    output::{age, columns, last, print},
    session::{client, read_text, request_id},
    unique::unique,
};

fn table(fleets: &[v1::Fleet]) -> String {
    let rows = fleets.iter().map(|fleet| {
        let labels: Vec<_> = fleet.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        vec![
            last(&fleet.name).to_owned(),
            fleet.agents.to_string(),
            labels.join(","),
            age(fleet.create_time.as_ref()),
        ]
    });
    columns(&["FLEET", "AGENTS", "LABELS", "AGE"], rows)
}

async fn create(global: &Global, client: &Client, name: String, fleet: v1::Fleet) -> Result<()> {
    let (fleet_id, fleet) = (name.clone(), Some(fleet));
    let request = CreateFleetRequest { fleet_id, fleet, request_id: request_id() };
    let call = client.call(|channel| {
        let request = request.clone();
        async move { FleetServiceClient::new(channel).create_fleet(request).await }
    });
    let answer = call.await?;
    print(global.output, "CreateFleetResponse", &answer, |_| format!("fleet {name} made"))
}

/// Carries out a `fleet` command.
pub async fn run(global: &Global, command: Fleet) -> Result<ExitCode> {
    let client = client(global)?;
    match command {
        Fleet::Create { name, config_file, labels, wants, ports, priority } => {
            let config_json = config_file.map(|path| read_text(&path)).transpose()?;
            let fleet = v1::Fleet {
                config_json: config_json.unwrap_or_default(),
                labels: unique("--label", labels)?,
                requests: requests(&wants),
                node_labels: unique("--on", wants.node_labels)?,
                runtime_version: wants.runtime_version,
                apart: wants.apart,
                spread_by: wants.spread_by,
                ports,
                priority,
                ..v1::Fleet::default()
            };
            create(global, &client, name, fleet).await?;
        }
        Fleet::List => {
            let mut all = ListFleetsResponse::default();
            loop {
                let page_token = all.next_page_token.clone();
                let request = ListFleetsRequest { page_token, page_size: 0 };
                let page = client
                    .call(|channel| {
                        let request = request.clone();
                        async move { FleetServiceClient::new(channel).list_fleets(request).await }
                    })
                    .await?;
                all.fleets.extend(page.fleets);
                all.next_page_token = page.next_page_token;
                if all.next_page_token.is_empty() {
                    break;
                }
            }
            print(global.output, "ListFleetsResponse", &all, |_| table(&all.fleets))?;
        }
        Fleet::Get { name } => {
            let request = GetFleetRequest { name: format!("fleets/{name}") };
            let answer = client
                .call(|channel| {
                    let request = request.clone();
                    async move { FleetServiceClient::new(channel).get_fleet(request).await }
                })
                .await?;
            let shown: Vec<_> = answer.fleet.clone().into_iter().collect();
            print(global.output, "GetFleetResponse", &answer, |_| table(&shown))?;
        }
        Fleet::Delete { name } => {
            let request =
                DeleteFleetRequest { name: format!("fleets/{name}"), request_id: request_id() };
            client
                .call(|channel| {
                    let request = request.clone();
                    async move { FleetServiceClient::new(channel).delete_fleet(request).await }
                })
                .await?;
            eprintln!("fleet {name} deleted");
        }
    }
    Ok(ExitCode::SUCCESS)
}
