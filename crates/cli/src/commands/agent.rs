//! `agent …`.

use std::{io::Write, process::ExitCode};

use anyhow::{Result, bail};
use fleet_client::Client;
use fleet_proto::v1::{
    self, AgentSpec, CreateAgentRequest, DeleteAgentRequest, ExplainAgentRequest, GetAgentRequest,
    GetAgentResponse, ListAgentsRequest, ListAgentsResponse, ListEventsRequest, MoveAgentRequest,
    RestartAgentRequest, StartAgentRequest, StopAgentRequest, TailAgentLogsRequest,
    agent::{DesiredState, State},
    agent_service_client::AgentServiceClient,
};
use fleet_types::AgentId;
use tonic::Code;

use crate::{
    args::{Agent, CreateAgent, Format, Global, Wait},
    commands::{events, placement::requests},
    output::{age, columns, print, short},
    session::{client, read_text, request_id, wait_for},
    unique::unique,
};

/// `fleets/demo/agents/a1` as `demo/a1`.
pub fn display(name: &str) -> String {
    name.trim_start_matches("fleets/").replace("/agents/", "/")
}

fn resource(agent: &str) -> Result<(AgentId, String)> {
    let id: AgentId = agent.parse()?;
    let name = fleet_proto::resource::agent(&id);
    Ok((id, name))
}

fn table(agents: &[v1::Agent], wide: bool) -> String {
    let mut header = vec!["AGENT", "STATE", "NODE", "PORTS", "GENERATION", "RUNTIME", "AGE"];
    if wide {
        header.extend(["DESIRED", "PID", "STARTS", "UID", "WHY HERE", "MESSAGE"]);
    }
    let rows = agents.iter().map(|agent| {
        let placement = agent.placement.clone().unwrap_or_default();
        let block = placement.port_block.unwrap_or_default();
        let ports = match block.size {
            0 => "-".into(),
            size => format!("{}-{}", block.base, block.base + size - 1),
        };
        let mut row = vec![
            display(&agent.name),
            short(agent.state().as_str_name()),
            placement.node_display_name,
            ports,
            agent.generation.to_string(),
            agent.spec.clone().unwrap_or_default().runtime,
            age(agent.create_time.as_ref()),
        ];
        if wide {
            row.extend([
                short(agent.desired_state().as_str_name()),
                agent.pid.to_string(),
                agent.starts.to_string(),
                agent.uid.to_string(),
                placement.evidence,
                agent.state_message.clone(),
            ]);
        }
        row
    });
    columns(&header, rows)
}

/// Everything about one agent, a line each.
fn sheet(agent: &v1::Agent) -> String {
    let spec = agent.spec.clone().unwrap_or_default();
    let placement = agent.placement.clone().unwrap_or_default();
    let block = placement.port_block.unwrap_or_default();
    let lines = [
        ("agent", display(&agent.name)),
        ("state", short(agent.state().as_str_name())),
        ("message", agent.state_message.clone()),
        ("desired", short(agent.desired_state().as_str_name())),
        ("class", short(spec.class().as_str_name())),
        ("priority", spec.priority.to_string()),
        ("runtime", spec.runtime.clone()),
        ("node", placement.node_display_name),
        ("ports", format!("{}, {} ports", block.base, block.size)),
        ("generation", agent.generation.to_string()),
        ("why here", placement.evidence),
        ("pid", agent.pid.to_string()),
        ("starts", agent.starts.to_string()),
        ("uid", agent.uid.to_string()),
        ("home", agent.home.clone()),
        ("age", age(agent.create_time.as_ref())),
    ];
    let lines = lines.iter().filter(|(_, value)| !value.is_empty());
    lines.map(|(key, value)| format!("{key:<12}{value}")).collect::<Vec<_>>().join("\n")
}

async fn get(client: &Client, name: &str) -> Result<GetAgentResponse, tonic::Status> {
    let request = GetAgentRequest { name: name.to_owned() };
    let call = client.call(|channel| {
        let request = request.clone();
        async move { AgentServiceClient::new(channel).get_agent(request).await }
    });
    call.await
}

async fn wait_until(client: &Client, name: &str, wait: Wait, wanted: State) -> Result<v1::Agent> {
    let goal = format!("agent {} is not {}", display(name), short(wanted.as_str_name()));
    let look = || async {
        let agent = get(client, name).await?.agent.unwrap_or_default();
        if agent.state() == wanted {
            return Ok(Ok(agent));
        }
        if agent.state() == State::CrashLooping {
            bail!("agent {}: {}", display(name), agent.state_message);
        }
        Ok(Err(format!("{} {}", short(agent.state().as_str_name()), agent.state_message)))
    };
    wait_for(wait.timeout, &goal, look).await
}

async fn explain(global: &Global, client: &Client, agent: &str) -> Result<()> {
    let request = ExplainAgentRequest { name: resource(agent)?.1 };
    let call = client.call(|channel| {
        let request = request.clone();
        async move { AgentServiceClient::new(channel).explain_agent(request).await }
    });
    let answer = call.await?;
    let shown = answer.agent.clone().unwrap_or_default();
    print(global.output, "ExplainAgentResponse", &answer, |_| {
        let rows = answer.verdicts.iter().map(|verdict| {
            let name = verdict.node_display_name.clone();
            vec![name, verdict.reason.clone(), verdict.message.clone()]
        });
        let nodes = columns(&["NODE", "VERDICT", "WHY"], rows);
        let (name, state) = (display(&shown.name), short(shown.state().as_str_name()));
        let ways = answer.help.iter().map(|remedy| format!("\n  {}", remedy.message));
        let help = ways.collect::<String>();
        let help = if help.is_empty() { help } else { format!("\n\nWhat would help:{help}") };
        format!("{name} is {state}. {}\n\n{nodes}{help}", shown.state_message)
    })
}

async fn create(global: &Global, client: &Client, args: CreateAgent) -> Result<()> {
    let (id, name) = resource(&args.agent)?;
    let config_json = args.config_file.map(|path| read_text(&path)).transpose()?;
    let spec = AgentSpec {
        runtime: args.runtime,
        config_json: config_json.unwrap_or_default(),
        command: args.command,
        environment: unique("--env", args.environment)?,
        ports: args.ports,
        labels: unique("--label", args.labels)?,
        limits: Some(v1::ResourceLimits {
            memory_bytes: args.memory,
            cpu_millis: args.cpus,
            processes: args.processes,
            open_files: args.open_files,
            home_bytes: args.home_size,
            log_bytes: args.log_size,
        }),
        class: fleet_proto::convert::api::class(args.class).into(),
        priority: args.priority,
        requests: requests(&args.wants),
        node_labels: unique("--on", args.wants.node_labels)?,
        runtime_version: args.wants.runtime_version,
        apart: args.wants.apart,
        spread_by: args.wants.spread_by,
    };
    let desired = if args.stopped { DesiredState::Stopped } else { DesiredState::Running };
    let agent =
        v1::Agent { spec: Some(spec), desired_state: desired.into(), ..v1::Agent::default() };
    let request = CreateAgentRequest {
        parent: fleet_proto::resource::fleet(&id.fleet),
        agent_id: id.agent.to_string(),
        agent: Some(agent),
        request_id: request_id(),
        allow_overcommit: args.allow_overcommit,
        validate_only: args.dry_run,
    };
    let mut answer = client
        .call(|channel| {
            let request = request.clone();
            async move { AgentServiceClient::new(channel).create_agent(request).await }
        })
        .await?;
    if !args.wait.no_wait && !args.stopped && !args.dry_run {
        answer.agent = Some(wait_until(client, &name, args.wait, State::Ready).await?);
    }
    let shown: Vec<_> = answer.agent.clone().into_iter().collect();
    print(global.output, "CreateAgentResponse", &answer, |wide| table(&shown, wide))
}

async fn move_to(client: &Client, agent: &str, to: Option<&str>, wait: Wait) -> Result<()> {
    let (_, name) = resource(agent)?;
    let before = get(client, &name).await?.agent.unwrap_or_default();
    let node = to.map(|node| format!("nodes/{node}")).unwrap_or_default();
    let request = MoveAgentRequest { name: name.clone(), node, request_id: request_id() };
    client
        .call(|channel| {
            let request = request.clone();
            async move { AgentServiceClient::new(channel).move_agent(request).await }
        })
        .await?;
    if wait.no_wait {
        return Ok(());
    }
    let look = || async {
        let now = get(client, &name).await?.agent.unwrap_or_default();
        if now.generation > before.generation && now.placement.is_some() {
            return Ok(Ok(now));
        }
        Ok(Err(format!("{} {}", short(now.state().as_str_name()), now.state_message)))
    };
    let now = wait_for(wait.timeout, &format!("agent {agent} has not moved"), look).await?;
    let placement = now.placement.unwrap_or_default();
    let there = placement.node_display_name;
    if let Some(to) = to.filter(|to| **to != there && placement.node != format!("nodes/{to}")) {
        bail!("agent {agent} went to {there}: {to} could not take it any more");
    }
    eprintln!("agent {agent} is on {there}");
    Ok(())
}

async fn delete(client: &Client, agent: &str, wait: Wait) -> Result<()> {
    let (_, name) = resource(agent)?;
    let request = DeleteAgentRequest { name: name.clone(), request_id: request_id() };
    client
        .call(|channel| {
            let request = request.clone();
            async move { AgentServiceClient::new(channel).delete_agent(request).await }
        })
        .await?;
    if wait.no_wait {
        return Ok(());
    }
    let look = || async {
        match get(client, &name).await {
            Ok(answer) => {
                let state = answer.agent.unwrap_or_default().state();
                Ok(Err(short(state.as_str_name())))
            }
            Err(status) if status.code() == Code::NotFound => Ok(Ok(())),
            Err(status) => Err(status.into()),
        }
    };
    wait_for(wait.timeout, &format!("agent {agent} is not gone"), look).await
}

async fn logs(client: &Client, agent: &str, follow: bool, lines: u32) -> Result<()> {
    let (_, name) = resource(agent)?;
    let request = TailAgentLogsRequest { name, lines, follow };
    let mut log = client
        .call(|channel| {
            let request = request.clone();
            async move { AgentServiceClient::new(channel).tail_agent_logs(request).await }
        })
        .await?;
    let mut out = std::io::stdout();
    while let Some(part) = log.message().await? {
        out.write_all(&part.data)?;
        out.flush()?;
    }
    Ok(())
}

/// All agents, or those of a fleet.
pub async fn list(client: &Client, fleet: Option<&str>) -> Result<ListAgentsResponse> {
    let parent = format!("fleets/{}", fleet.unwrap_or("-"));
    let mut all = ListAgentsResponse::default();
    loop {
        let page_token = all.next_page_token.clone();
        let request = ListAgentsRequest { parent: parent.clone(), page_size: 0, page_token };
        let page = client
            .call(|channel| {
                let request = request.clone();
                async move { AgentServiceClient::new(channel).list_agents(request).await }
            })
            .await?;
        all.agents.extend(page.agents);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return Ok(all);
        }
    }
}

/// Makes a call that names an agent and waits for what it should lead to.
macro_rules! act {
    ($client:expr, $agent:expr, $wait:expr, $request:ident, $method:ident, $wanted:expr) => {{
        let (_, name) = resource(&$agent)?;
        let request = $request { name: name.clone(), request_id: request_id() };
        $client
            .call(|channel| {
                let request = request.clone();
                async move { AgentServiceClient::new(channel).$method(request).await }
            })
            .await?;
        if !$wait.no_wait {
            wait_until(&$client, &name, $wait, $wanted).await?;
        }
    }};
}

/// Carries out an `agent` command.
pub async fn run(global: &Global, command: Agent) -> Result<ExitCode> {
    let client = client(global)?;
    match command {
        Agent::Create(args) => create(global, &client, *args).await?,
        Agent::List { fleet } => {
            let all = list(&client, fleet.as_deref()).await?;
            print(global.output, "ListAgentsResponse", &all, |wide| table(&all.agents, wide))?;
        }
        Agent::Get { agent } => {
            let (_, name) = resource(&agent)?;
            let answer = get(&client, &name).await?;
            let shown = answer.agent.clone().unwrap_or_default();
            print(global.output, "GetAgentResponse", &answer, |_| sheet(&shown))?;
        }
        Agent::Explain { agent } => explain(global, &client, &agent).await?,
        Agent::Move { agent, to, wait } => move_to(&client, &agent, to.as_deref(), wait).await?,
        Agent::Events { agent, limit } => {
            let (_, agent) = resource(&agent)?;
            let request = ListEventsRequest { agent, ..ListEventsRequest::default() };
            events::show(global, &client, request, limit).await?;
        }
        Agent::Start { agent, wait } => {
            act!(client, agent, wait, StartAgentRequest, start_agent, State::Ready);
        }
        Agent::Stop { agent, wait } => {
            act!(client, agent, wait, StopAgentRequest, stop_agent, State::Stopped);
        }
        Agent::Restart { agent, wait } => {
            act!(client, agent, wait, RestartAgentRequest, restart_agent, State::Ready);
        }
        Agent::Delete { agent, wait } => {
            delete(&client, &agent, wait).await?;
            if global.output == Format::Table {
                eprintln!("agent {agent} deleted; its HOME stays on disk");
            }
        }
        Agent::Logs { agent, follow, lines } => logs(&client, &agent, follow, lines).await?,
    }
    Ok(ExitCode::SUCCESS)
}
