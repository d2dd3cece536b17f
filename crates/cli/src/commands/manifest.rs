//! `plan` and `apply`: fleets and agents from a file. What the file does not state is left alone;
//! what exists is never changed or deleted, for an agent's spec is for its life.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use fleet_client::Client;
use fleet_proto::v1::{
    Agent, AgentSpec, BatchCreateAgentsRequest, CreateAgentRequest, CreateFleetRequest, Fleet,
    GetFleetRequest, PlanAgentsRequest, PlannedFleet, ResourceLimits, Resources,
    agent_service_client::AgentServiceClient, agent_spec::Class,
    fleet_service_client::FleetServiceClient,
};
use fleet_types::limits::{AGENTS_PER_CALL_MAX, MESSAGE_BYTES_MAX};
use prost::Message as _;
use serde::Deserialize;
use serde_json::{Map, Value};
use tonic::{Code, transport::Channel};

use crate::{
    args::{Global, Manifest},
    commands::agent,
    exit,
    output::{columns, print_json},
    session::{client, read_text, request_id},
    unique,
};

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(deserialize_with = "unique::map")]
    fleets: BTreeMap<String, FleetEntry>,
}

/// Where agents may be placed.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wants {
    memory_bytes: u64,
    cpu_millis: u64,
    #[serde(deserialize_with = "unique::map")]
    node_labels: BTreeMap<String, String>,
    runtime_version: String,
    apart: bool,
    spread_by: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FleetEntry {
    config: Map<String, Value>,
    #[serde(deserialize_with = "unique::map")]
    labels: BTreeMap<String, String>,
    wants: Wants,
    ports: u32,
    priority: i32,
    #[serde(deserialize_with = "unique::map")]
    agents: BTreeMap<String, AgentEntry>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    memory_bytes: u64,
    cpu_millis: u32,
    processes: u32,
    open_files: u32,
    home_bytes: u64,
    log_bytes: u64,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentEntry {
    runtime: String,
    #[serde(default)]
    config: Map<String, Value>,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default, deserialize_with = "unique::map")]
    environment: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "unique::map")]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    ports: u32,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    class: String,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    wants: Wants,
}

fn text(config: &Map<String, Value>) -> String {
    if config.is_empty() { String::new() } else { Value::Object(config.clone()).to_string() }
}

fn requests(wants: &Wants) -> Option<Resources> {
    let Wants { memory_bytes, cpu_millis, .. } = *wants;
    (memory_bytes > 0 || cpu_millis > 0).then_some(Resources { memory_bytes, cpu_millis })
}

impl FleetEntry {
    fn fleet(&self) -> Fleet {
        Fleet {
            config_json: text(&self.config),
            labels: self.labels.clone(),
            requests: requests(&self.wants),
            node_labels: self.wants.node_labels.clone(),
            runtime_version: self.wants.runtime_version.clone(),
            apart: self.wants.apart,
            spread_by: self.wants.spread_by.clone(),
            ports: self.ports,
            priority: self.priority,
            ..Fleet::default()
        }
    }
}

impl AgentEntry {
    fn spec(&self) -> Result<AgentSpec> {
        let class = match self.class.as_str() {
            "" | "strict" => Class::Strict,
            "sticky" => Class::Sticky,
            "pinned" => Class::Pinned,
            other => bail!("class {other:?}: use strict, sticky or pinned"),
        };
        Ok(AgentSpec {
            runtime: self.runtime.clone(),
            config_json: text(&self.config),
            command: self.command.clone(),
            environment: self.environment.clone(),
            ports: self.ports,
            labels: self.labels.clone(),
            limits: Some(ResourceLimits {
                memory_bytes: self.limits.memory_bytes,
                cpu_millis: self.limits.cpu_millis,
                processes: self.limits.processes,
                open_files: self.limits.open_files,
                home_bytes: self.limits.home_bytes,
                log_bytes: self.limits.log_bytes,
            }),
            class: class.into(),
            priority: self.priority,
            node_labels: self.wants.node_labels.clone(),
            requests: requests(&self.wants),
            runtime_version: self.wants.runtime_version.clone(),
            apart: self.wants.apart,
            spread_by: self.wants.spread_by.clone(),
        })
    }
}

/// The fields in which what exists is not what is stated. What is not stated is the fleet's, the
/// runtime's or the server's to choose.
fn differences(stated: &AgentSpec, there: &AgentSpec) -> Vec<&'static str> {
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let limits = |spec: &AgentSpec| spec.limits.unwrap_or_default();
    let differ = [
        ("runtime", stated.runtime != there.runtime),
        ("config", json(&stated.config_json) != json(&there.config_json)),
        ("command", stated.command != there.command),
        ("environment", stated.environment != there.environment),
        ("ports", stated.ports != 0 && stated.ports != there.ports),
        ("labels", stated.labels != there.labels),
        ("limits", limits(stated) != limits(there)),
        ("class", stated.class != there.class),
        ("priority", stated.priority != 0 && stated.priority != there.priority),
        (
            "wants",
            (!stated.node_labels.is_empty() && stated.node_labels != there.node_labels)
                || stated.requests.is_some_and(|wanted| {
                    let has = there.requests.unwrap_or_default();
                    (wanted.memory_bytes > 0 && wanted.memory_bytes != has.memory_bytes)
                        || (wanted.cpu_millis > 0 && wanted.cpu_millis != has.cpu_millis)
                })
                || (!stated.runtime_version.is_empty()
                    && stated.runtime_version != there.runtime_version)
                || (stated.apart && !there.apart)
                || (!stated.spread_by.is_empty() && stated.spread_by != there.spread_by),
        ),
    ];
    differ.into_iter().filter_map(|(field, differs)| differs.then_some(field)).collect()
}

/// As [`differences`], of what a fleet gives its agents.
fn fleet_differences(stated: &Fleet, there: &Fleet) -> Vec<&'static str> {
    let gives = |fleet: &Fleet| AgentSpec {
        config_json: fleet.config_json.clone(),
        labels: fleet.labels.clone(),
        node_labels: fleet.node_labels.clone(),
        requests: fleet.requests,
        runtime_version: fleet.runtime_version.clone(),
        apart: fleet.apart,
        spread_by: fleet.spread_by.clone(),
        ports: fleet.ports,
        priority: fleet.priority,
        ..AgentSpec::default()
    };
    let fields = differences(&gives(stated), &gives(there)).into_iter();
    let silent = |field: &str| match field {
        "config" => stated.config_json.is_empty(),
        "labels" => stated.labels.is_empty(),
        _ => false,
    };
    fields.filter(|field| !silent(field)).collect()
}

/// Something that would change, or cannot.
struct Change {
    what: String,
    name: String,
    detail: String,
}

/// A fleet of the file, beside what exists.
struct Compared {
    name: String,
    fleet: Fleet,
    exists: bool,
    /// The fields in which the fleet there is not the one stated.
    differs: Vec<&'static str>,
    missing: Vec<(String, AgentSpec)>,
    /// Agents that exist and are not what is stated, with the fields.
    different: Vec<(String, Vec<&'static str>)>,
    /// Agents that exist and will not for long.
    deleting: Vec<String>,
}

async fn compare(client: &Client, file: &File) -> Result<Vec<Compared>> {
    let mut all = Vec::new();
    for (name, entry) in &file.fleets {
        let request = GetFleetRequest { name: format!("fleets/{name}") };
        let found = client
            .call(|channel| {
                let request = request.clone();
                async move { FleetServiceClient::new(channel).get_fleet(request).await }
            })
            .await;
        let fleet = entry.fleet();
        let (exists, differs) = match found {
            Ok(there) => (true, fleet_differences(&fleet, &there.fleet.unwrap_or_default())),
            Err(status) if status.code() == Code::NotFound => (false, Vec::new()),
            Err(status) => return Err(status.into()),
        };
        let there: BTreeMap<String, Agent> = if exists {
            let agents = agent::list(client, Some(name)).await?.agents.into_iter();
            agents.map(|agent| (agent.name.clone(), agent)).collect()
        } else {
            BTreeMap::new()
        };
        let (mut missing, mut different, mut deleting) = (Vec::new(), Vec::new(), Vec::new());
        for (id, agent) in &entry.agents {
            let spec = agent.spec().with_context(|| format!("agent {name}/{id}"))?;
            match there.get(&format!("fleets/{name}/agents/{id}")) {
                None => missing.push((id.clone(), spec)),
                Some(there) if there.deleting => deleting.push(id.clone()),
                Some(there) => {
                    let fields = differences(&spec, &there.spec.clone().unwrap_or_default());
                    if !fields.is_empty() {
                        different.push((id.clone(), fields));
                    }
                }
            }
        }
        let name = name.clone();
        all.push(Compared { name, fleet, exists, differs, missing, different, deleting });
    }
    Ok(all)
}

fn request((id, spec): &(String, AgentSpec)) -> CreateAgentRequest {
    CreateAgentRequest {
        agent_id: id.clone(),
        agent: Some(Agent { spec: Some(spec.clone()), ..Agent::default() }),
        ..CreateAgentRequest::default()
    }
}

/// The service, whose answers repeat what the agents are.
fn service(channel: Channel) -> AgentServiceClient<Channel> {
    AgentServiceClient::new(channel).max_decoding_message_size(4 * MESSAGE_BYTES_MAX)
}

/// Where agents would go that do not exist yet, of all fleets together.
async fn rehearse(client: &Client, all: &[Compared], allow_overcommit: bool) -> Result<Vec<Agent>> {
    let fleets = all.iter().map(|compared| PlannedFleet {
        fleet_id: compared.name.clone(),
        fleet: Some(compared.fleet.clone()),
        requests: compared.missing.iter().map(request).collect(),
    });
    let request = PlanAgentsRequest { fleets: fleets.collect(), allow_overcommit };
    let (bytes, most) = (request.encoded_len(), 4 * MESSAGE_BYTES_MAX);
    if bytes > most {
        bail!(
            "what the file states anew has {bytes} bytes; {most} can be planned together: split the \
             file, or apply it, which makes as many calls as it takes"
        );
    }
    let answer = client.call(|channel| {
        let request = request.clone();
        async move { service(channel).plan_agents(request).await }
    });
    Ok(answer.await?.agents)
}

/// Agents, as many in a call as it may hold.
fn calls(agents: impl Iterator<Item = CreateAgentRequest>) -> Vec<Vec<CreateAgentRequest>> {
    // What a call takes beside its agents, and each of these beside itself, at most.
    let (room, beside) = (MESSAGE_BYTES_MAX - 1_024, 8);
    let (mut calls, mut bytes): (Vec<Vec<_>>, _) = (Vec::new(), 0);
    for agent in agents {
        let more = agent.encoded_len() + beside;
        bytes += more;
        match calls.last_mut() {
            Some(call) if call.len() < AGENTS_PER_CALL_MAX && bytes <= room => call.push(agent),
            _ => {
                bytes = more;
                calls.push(vec![agent]);
            }
        }
    }
    calls
}

/// Makes agents of a fleet.
async fn create(
    client: &Client,
    fleet: &str,
    agents: &[(String, AgentSpec)],
    allow_overcommit: bool,
) -> Result<Vec<Agent>> {
    let mut made = Vec::new();
    for requests in calls(agents.iter().map(request)) {
        let request = BatchCreateAgentsRequest {
            parent: format!("fleets/{fleet}"),
            requests,
            request_id: request_id(),
            allow_overcommit,
            validate_only: false,
        };
        let answer = client
            .call(|channel| {
                let request = request.clone();
                async move { service(channel).batch_create_agents(request).await }
            })
            .await?;
        made.extend(answer.agents);
    }
    Ok(made)
}

fn placed(agent: &Agent) -> Change {
    let detail = match &agent.placement {
        Some(placement) => format!("on {}", placement.node_display_name),
        None => format!("waits: {}", agent.state_message),
    };
    Change { what: "create agent".into(), name: agent::display(&agent.name), detail }
}

fn refused(what: &str, name: String, fields: &[&str]) -> Change {
    let detail = format!("{} differ; delete and create it anew to change it", fields.join(", "));
    Change { what: format!("cannot change {what}"), name, detail }
}

impl Compared {
    /// What exists and is not what is stated.
    fn refused(&self) -> impl Iterator<Item = Change> + '_ {
        let fleet =
            (!self.differs.is_empty()).then(|| refused("fleet", self.name.clone(), &self.differs));
        let agents = self.different.iter();
        let agents = agents.map(|(id, f)| refused("agent", format!("{}/{id}", self.name), f));
        let deleting = self.deleting.iter().map(|id| Change {
            what: "cannot create agent".into(),
            name: format!("{}/{id}", self.name),
            detail: "the one there is being deleted; create it when that is gone".into(),
        });
        fleet.into_iter().chain(agents).chain(deleting)
    }
}

async fn changes(client: &Client, manifest: &Manifest) -> Result<Vec<Change>> {
    let file = load(manifest)?;
    let compared = compare(client, &file).await?;
    let agents = rehearse(client, &compared, manifest.allow_overcommit).await?;
    let new = compared.iter().filter(|it| !it.exists).map(|it| {
        let (name, detail) = (it.name.clone(), String::new());
        Change { what: "create fleet".into(), name, detail }
    });
    let refused = compared.iter().flat_map(Compared::refused);
    Ok(new.chain(agents.iter().map(placed)).chain(refused).collect())
}

fn load(manifest: &Manifest) -> Result<File> {
    let text = read_text(&manifest.file)?;
    serde_yaml_ng::from_str(&text)
        .with_context(|| format!("{} is no manifest", manifest.file.display()))
}

fn show(global: &Global, changes: &[Change]) -> Result<()> {
    let json = || {
        let one = |it: &Change| serde_json::json!({"change": it.what, "name": it.name, "detail": it.detail});
        Value::Array(changes.iter().map(one).collect())
    };
    print_json(global.output, json, || {
        let rows =
            changes.iter().map(|it| vec![it.what.clone(), it.name.clone(), it.detail.clone()]);
        if changes.is_empty() {
            "nothing would change".into()
        } else {
            columns(&["CHANGE", "NAME", "DETAIL"], rows)
        }
    })
}

/// Shows what applying a manifest would change.
pub async fn plan(global: &Global, manifest: Manifest) -> Result<ExitCode> {
    let planned = async {
        let changes = changes(&client(global)?, &manifest).await?;
        show(global, &changes)?;
        Ok(ExitCode::from(u8::from(!changes.is_empty())))
    };
    Ok(match planned.await {
        // 1 is what says that something would change.
        Err(error) if exit::code_of(&error) == 1 => {
            exit::code(Err(error));
            ExitCode::from(2)
        }
        other => exit::code(other),
    })
}

/// Makes what a manifest states and does not exist.
pub async fn apply(global: &Global, manifest: Manifest) -> Result<ExitCode> {
    let client = client(global)?;
    let file = load(&manifest)?;
    let all = compare(&client, &file).await?;
    if let Some(change) = all.iter().flat_map(Compared::refused).next() {
        bail!("{} {}: {}; nothing was made", change.what, change.name, change.detail);
    }
    for Compared { name, fleet, exists, missing, .. } in all {
        if !exists {
            let (fleet_id, fleet) = (name.clone(), Some(fleet));
            let request = CreateFleetRequest { fleet_id, fleet, request_id: request_id() };
            client
                .call(|channel| {
                    let request = request.clone();
                    async move { FleetServiceClient::new(channel).create_fleet(request).await }
                })
                .await?;
            eprintln!("fleet {name} made");
        }
        let made = create(&client, &name, &missing, manifest.allow_overcommit).await?;
        made.iter().for_each(|agent| {
            let Change { name, detail, .. } = placed(agent);
            eprintln!("agent {name} made, {detail}");
        });
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_no_more_agents_and_bytes_than_it_may() {
        let agent =
            |bytes| CreateAgentRequest { agent_id: "a".repeat(bytes), ..Default::default() };
        let lengths = |agents: Vec<CreateAgentRequest>| -> Vec<usize> {
            let calls = calls(agents.into_iter());
            for requests in calls.iter().filter(|call| call.len() > 1) {
                let parent = format!("fleets/{}", "f".repeat(63));
                let request = BatchCreateAgentsRequest {
                    parent,
                    requests: requests.clone(),
                    request_id: request_id(),
                    ..Default::default()
                };
                assert!(request.encoded_len() <= MESSAGE_BYTES_MAX);
            }
            calls.iter().map(Vec::len).collect()
        };
        assert!(lengths(vec![]).is_empty());
        assert_eq!(lengths(vec![agent(8); 2_500]), [1_000, 1_000, 500]);
        assert_eq!(lengths(vec![agent(1 << 20); 7]), [3, 3, 1]);
        let one = agent(5 << 20);
        assert_eq!(lengths(vec![agent(8), one, agent(8)]), [1, 1, 1]);
    }
}
