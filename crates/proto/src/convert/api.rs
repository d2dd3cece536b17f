//! Plain values to and from the public API. What comes in is checked here and nowhere later.

use std::collections::BTreeMap;

use fleet_core as core;
use fleet_types::{
    AgentClass, Labels, PortBlock, PortRange, ResourceLimits, RuntimeName, Timestamp,
    limits::{
        COMMAND_WORD_BYTES_MAX, COMMAND_WORDS_MAX, CONFIG_BYTES_MAX, PAGE_SIZE_DEFAULT,
        PAGE_SIZE_MAX, PORT_BLOCK_MAX, PRIORITIES,
    },
};
use tonic::Status;

use super::placement::{self, Stated};
use crate::{error::invalid_field, resource, v1};

/// A moment as the API writes it.
pub fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let seconds = i64::try_from(at.0 / 1000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(at.0 % 1000).expect("less than 1000") * 1_000_000;
    prost_types::Timestamp { seconds, nanos }
}

/// A span of milliseconds as the API writes it.
pub fn duration(ms: u64) -> prost_types::Duration {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(ms % 1000).expect("less than 1000") * 1_000_000;
    prost_types::Duration { seconds, nanos }
}

/// Labels as the API writes them.
pub fn labels(labels: &Labels) -> BTreeMap<String, String> {
    labels.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// Reads labels.
///
/// # Errors
/// `INVALID_ARGUMENT` when one is malformed or there are too many.
pub fn parse_labels(field: &str, pairs: BTreeMap<String, String>) -> Result<Labels, Status> {
    Labels::new(pairs).map_err(|e| invalid_field("INVALID_LABEL", field, "", e))
}

/// A role as the API writes it.
pub fn role(role: core::Role) -> v1::Role {
    match role {
        core::Role::Voter => v1::Role::Voter,
        core::Role::Worker => v1::Role::Worker,
    }
}

/// Reads a role; unspecified is voter.
pub fn parse_role(role: v1::Role) -> core::Role {
    match role {
        v1::Role::Worker => core::Role::Worker,
        v1::Role::Voter | v1::Role::Unspecified => core::Role::Voter,
    }
}

/// A port range as the API writes it.
pub fn port_range(range: PortRange) -> v1::PortRange {
    v1::PortRange { first: range.first().into(), last: range.last().into() }
}

/// A port block as the API writes it.
pub fn port_block(block: PortBlock) -> v1::PortBlock {
    v1::PortBlock { base: block.base.into(), size: block.size.into() }
}

/// A node as the API writes it; `lease_age_ms` is what the leader knows of its last renewal, and
/// `votes` whether Raft counts it.
pub fn node(
    state: &core::State,
    node: &core::Node,
    lease_age_ms: Option<u64>,
    votes: bool,
) -> v1::Node {
    let (report, room) = (node.report.as_ref(), state.room(node.id));
    v1::Node {
        name: format!("nodes/{}", node.id),
        display_name: node.name.to_string(),
        role: role(node.role).into(),
        state: match node.status {
            core::NodeStatus::Joining => v1::node::State::Joining,
            core::NodeStatus::Active => v1::node::State::Active,
            core::NodeStatus::Fenced => v1::node::State::Fenced,
        }
        .into(),
        schedulable: match node.schedulable {
            core::Schedulable::Open => v1::node::Schedulable::Open,
            core::Schedulable::Cordoned => v1::node::Schedulable::Cordoned,
            core::Schedulable::Draining => v1::node::Schedulable::Draining,
        }
        .into(),
        epoch: node.epoch.0,
        api_address: node.address.api.clone(),
        port_range: report.map(|r| port_range(r.port_range)),
        runtimes: report
            .map(|r| r.runtimes.iter().map(|(k, v)| (k.to_string(), v.clone())).collect())
            .unwrap_or_default(),
        labels: report.map(|r| labels(&r.labels)).unwrap_or_default(),
        version: report.map(|r| r.version.clone()).unwrap_or_default(),
        degraded: report.map(|r| r.degraded.clone()).unwrap_or_default(),
        unfit: report.map(|r| r.unfit.clone()).unwrap_or_default(),
        hold: node.hold.map(|hold| duration(hold.lease_ms)),
        hold_ending: node.hold.is_some_and(|hold| hold.ending),
        capacity: report.map(|r| placement::resources(r.capacity)),
        promisable: room.map(|room| placement::resources(room.limit())),
        promised: room.map(|room| placement::resources(room.promised())),
        disk_bytes: report.map_or(0, |r| r.disk_bytes),
        load_percent: placement::percent(room.map_or(0, core::Room::load)),
        quarantined_ports: state.quarantined(node.id).map(|kept| u32::from(kept.block.size)).sum(),
        largest_free_block: room.map_or(0, |room| room.ports().largest().into()),
        drain: placement::drain(state, node),
        agents: count(state.placed_on(node.id).len()),
        lease_age: lease_age_ms.map(duration),
        create_time: Some(timestamp(node.joined)),
        revision: node.revision.0,
        free_ports: room.map_or(0, |room| room.ports().free_ports()),
        votes,
    }
}

/// A length as the API writes it.
pub fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// A fleet as the API writes it.
pub fn fleet(state: &core::State, fleet: &core::Fleet) -> v1::Fleet {
    v1::Fleet {
        name: resource::fleet(&fleet.name),
        config_json: fleet.config.clone(),
        labels: labels(&fleet.labels),
        agents: count(state.fleet_agents(&fleet.name).count()),
        create_time: Some(timestamp(fleet.created)),
        revision: fleet.revision.0,
        requests: placement::stated(fleet.wants.requests),
        node_labels: labels(&fleet.wants.node_labels),
        runtime_version: placement::version(&fleet.wants),
        apart: fleet.wants.apart,
        spread_by: fleet.wants.spread_by.clone().unwrap_or_default(),
        ports: fleet.ports.into(),
        priority: fleet.priority,
    }
}

/// When the agents of lost nodes are placed elsewhere, as the API writes it.
pub fn move_policy(policy: core::MovePolicy) -> v1::MovePolicy {
    use v1::move_policy::Rule;
    let rule = match policy.rule {
        core::MoveRule::Automatic => Rule::Automatic,
        core::MoveRule::Always => Rule::Always,
        core::MoveRule::Never => Rule::Never,
    };
    v1::MovePolicy { rule: rule.into(), lost_percent_max: policy.lost_percent_max.into() }
}

/// Why a placement was allowed, in words.
pub fn evidence(evidence: &core::Evidence) -> String {
    match evidence {
        core::Evidence::First => "first placement".into(),
        core::Evidence::LeaseExpired { waited_ms } => {
            format!("the lease of the old node ran out; the leader had waited {waited_ms} ms")
        }
        core::Evidence::ConfirmedEmpty => "the old node confirmed that nothing of it ran".into(),
        core::Evidence::Asserted { by } => {
            let who = if by.is_empty() { "an operator" } else { by };
            format!("{who} stated that the old node is off")
        }
    }
}

/// Why an agent has no placement, in words.
pub fn pending(reason: core::PendingReason, spec: &core::AgentSpec) -> String {
    match reason {
        core::PendingReason::NoNode => "no node is up and open for placements".into(),
        core::PendingReason::NoRuntime => format!("no open node has runtime {}", spec.runtime),
        core::PendingReason::NoPorts => {
            format!("no open node that suits it has {} free ports in one block", spec.ports)
        }
        core::PendingReason::NoLabels => format!("no open node has {}", node_labels(spec)),
        core::PendingReason::NoMemory => {
            let asked = memory(spec.wants.requests.memory_bytes);
            format!("no open node that suits it has room: the least full has not {asked} left")
        }
        core::PendingReason::NoCpu => {
            let asked = cores(spec.wants.requests.cpu_millis);
            format!("no open node that suits it has room: the least full has not {asked} left")
        }
        core::PendingReason::OldRuntime => {
            let version = placement::version(&spec.wants);
            format!("no open node has runtime {} {version} or newer", spec.runtime)
        }
        core::PendingReason::NotApart => {
            "it stands apart, and every open node has another of its fleet".into()
        }
        core::PendingReason::NoFitNode => {
            "no open node keeps strict agents; `fleet-cluster node get` says why".into()
        }
        core::PendingReason::RoomKept => {
            "it is placed in a moment, unless what room there is, is kept for agents on their way"
                .into()
        }
        core::PendingReason::MovesPaused => {
            "its node was lost, and agents are not moved now".into()
        }
    }
}

/// An amount of memory, for people.
pub fn memory(bytes: u64) -> String {
    format!("{} MiB of memory", bytes >> 20)
}

/// An amount of processor time, for people.
pub fn cores(millis: u64) -> String {
    format!("{}.{:03} cores", millis / 1_000, millis % 1_000)
}

/// The labels an agent asks for, in words.
pub fn node_labels(spec: &core::AgentSpec) -> String {
    let labels = spec.wants.node_labels.iter().map(|(key, value)| format!("{key}={value}"));
    labels.collect::<Vec<_>>().join(" and ")
}

/// A class, as the API writes it.
pub fn class(class: AgentClass) -> v1::agent_spec::Class {
    match class {
        AgentClass::Strict => v1::agent_spec::Class::Strict,
        AgentClass::Sticky => v1::agent_spec::Class::Sticky,
        AgentClass::Pinned => v1::agent_spec::Class::Pinned,
    }
}

/// Reads a class; none when there is no such.
pub fn parse_class(number: i32) -> Option<AgentClass> {
    Some(match v1::agent_spec::Class::try_from(number).ok()? {
        v1::agent_spec::Class::Unspecified | v1::agent_spec::Class::Strict => AgentClass::Strict,
        v1::agent_spec::Class::Sticky => AgentClass::Sticky,
        v1::agent_spec::Class::Pinned => AgentClass::Pinned,
    })
}

/// What an agent is, as the API writes it.
pub fn agent_spec(spec: &core::AgentSpec) -> v1::AgentSpec {
    v1::AgentSpec {
        runtime: spec.runtime.to_string(),
        config_json: spec.config.clone(),
        command: spec.command.clone(),
        environment: spec.environment.clone(),
        ports: spec.ports.into(),
        labels: labels(&spec.labels),
        limits: (spec.limits != ResourceLimits::default()).then_some(v1::ResourceLimits {
            memory_bytes: spec.limits.memory_bytes,
            cpu_millis: spec.limits.cpu_millis,
            processes: spec.limits.processes,
            open_files: spec.limits.open_files,
            home_bytes: spec.limits.home_bytes,
            log_bytes: spec.limits.log_bytes,
        }),
        class: class(spec.class).into(),
        priority: spec.priority,
        node_labels: labels(&spec.wants.node_labels),
        requests: placement::stated(spec.wants.requests),
        runtime_version: placement::version(&spec.wants),
        apart: spec.wants.apart,
        spread_by: spec.wants.spread_by.clone().unwrap_or_default(),
    }
}

/// What is known of an agent without its host.
pub fn agent_state(agent: &core::Agent) -> v1::agent::State {
    let fenced = matches!(
        agent.evidence,
        core::Evidence::LeaseExpired { .. } | core::Evidence::Asserted { .. }
    );
    match agent.pending {
        Some(_) if fenced => v1::agent::State::Fenced,
        Some(_) => v1::agent::State::Pending,
        None => v1::agent::State::Unknown,
    }
}

/// An agent as the API writes it, without what its host observes.
pub fn agent(state: &core::State, agent: &core::Agent) -> v1::Agent {
    let name = |node| state.nodes().get(&node).map_or_else(String::new, |n| n.name.to_string());
    let placement = agent.placement.as_ref().map(|p| v1::Placement {
        node: format!("nodes/{}", p.node),
        node_display_name: name(p.node),
        port_block: Some(port_block(p.block)),
        place_time: Some(timestamp(p.placed)),
        evidence: evidence(&p.evidence),
        evicting: p.evicting,
        next_node: p.next.map(|node| format!("nodes/{node}")).unwrap_or_default(),
    });
    let message = match (core::plan::waits_for(state, agent), agent.former) {
        (Some(reason), Some((node, _))) if agent_state(agent) == v1::agent::State::Fenced => {
            let (why, proof) = (pending(reason, &agent.spec), evidence(&agent.evidence));
            format!("{why}; it was on {}: {proof}", name(node))
        }
        (Some(reason), _) => pending(reason, &agent.spec),
        (None, _) => {
            let node = agent.placement.as_ref().and_then(|p| state.nodes().get(&p.node));
            match node.filter(|node| node.status == core::NodeStatus::Fenced) {
                Some(node) => format!("its node {} is out of reach", node.name),
                None => "its node has not reported yet".into(),
            }
        }
    };
    v1::Agent {
        name: resource::agent(&agent.id),
        spec: Some(agent_spec(&agent.spec)),
        desired_state: match agent.desired {
            core::Desired::Running => v1::agent::DesiredState::Running,
            core::Desired::Stopped => v1::agent::DesiredState::Stopped,
        }
        .into(),
        state: agent_state(agent).into(),
        state_message: message,
        placement,
        generation: agent.generation.0,
        uid: agent.uid,
        home: home(&agent.id),
        deleting: agent.lifecycle == core::Lifecycle::Deleting,
        create_time: Some(timestamp(agent.created)),
        revision: agent.revision.0,
        pid: 0,
        starts: 0,
        double_run: String::new(),
        former_placement: agent.former.map(|(node, generation)| v1::FormerPlacement {
            node: format!("nodes/{node}"),
            node_display_name: name(node),
            generation: generation.0,
        }),
    }
}

/// Where the HOMEs of all agents are.
pub const HOMES: &str = "/var/lib/fleets";

/// An agent's HOME. The same absolute path on every node, because OpenClaw stores absolute paths
/// in its state.
pub fn home(id: &fleet_types::AgentId) -> String {
    format!("{HOMES}/{}/{}", id.fleet, id.agent)
}

/// Limits as stated; none of what is not.
pub fn limits(limits: Option<v1::ResourceLimits>) -> ResourceLimits {
    let stated = limits.unwrap_or_default();
    ResourceLimits {
        memory_bytes: stated.memory_bytes,
        cpu_millis: stated.cpu_millis,
        processes: stated.processes,
        open_files: stated.open_files,
        home_bytes: stated.home_bytes,
        log_bytes: stated.log_bytes,
    }
}

/// Reads the size of a block of ports; 0 where none is stated.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field, the value and the way out.
pub fn parse_ports(field: &str, ports: u32) -> Result<u16, Status> {
    let stated = u16::try_from(ports).ok();
    stated.filter(|n| *n == 0 || n.is_power_of_two() && *n <= PORT_BLOCK_MAX).ok_or_else(|| {
        let why = format!("{ports} is not a power of two up to {PORT_BLOCK_MAX}");
        invalid_field("PORT_BLOCK_SIZE_INVALID", field, &ports.to_string(), why)
    })
}

/// Checks a priority.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field, the value and the way out.
pub fn check_priority(field: &str, priority: i32) -> Result<(), Status> {
    if PRIORITIES.contains(&priority) {
        return Ok(());
    }
    let why = format!("use {} to {}", PRIORITIES.start(), PRIORITIES.end());
    Err(invalid_field("PRIORITY_INVALID", field, &priority.to_string(), why))
}

/// Reads an agent's spec. `block_size` is asked for the runtime's block size when the caller gave
/// none, and answers none for an unknown runtime.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field, the value and the way out.
pub fn parse_agent_spec(
    spec: Option<v1::AgentSpec>,
    block_size: impl Fn(&RuntimeName) -> Option<u16>,
) -> Result<core::AgentSpec, Status> {
    let spec = spec.ok_or_else(|| {
        invalid_field("SPEC_MISSING", "agent.spec", "", "give at least a runtime")
    })?;
    let field = "agent.spec.runtime";
    let runtime: RuntimeName =
        spec.runtime.parse().map_err(|e| invalid_field("INVALID_NAME", field, &spec.runtime, e))?;
    let Some(default_ports) = block_size(&runtime) else {
        let why = format!("no runtime {runtime} is defined; `fleet-cluster node get` lists them");
        return Err(invalid_field("RUNTIME_UNKNOWN", field, &spec.runtime, why));
    };
    let ports = match parse_ports("agent.spec.ports", spec.ports)? {
        0 => default_ports,
        stated => stated,
    };
    check_words("agent.spec.command", spec.command.iter())?;
    check_words("agent.spec.environment", spec.environment.values())?;
    for key in spec.environment.keys() {
        let ok = !key.is_empty() && key.len() <= 128 && !key.contains(['=', '\0']);
        if !ok || key.starts_with("FLEET_") {
            let why =
                format!("{key:?} cannot be set: it is empty, too long, holds '=' or is reserved");
            return Err(invalid_field("ENVIRONMENT_INVALID", "agent.spec.environment", key, why));
        }
    }
    let limits = limits(spec.limits);
    limits.check().map_err(|e| {
        invalid_field("LIMITS_INVALID", "agent.spec.limits", &e.value.to_string(), e)
    })?;
    let class = parse_class(spec.class).ok_or_else(|| {
        let (field, value) = ("agent.spec.class", spec.class.to_string());
        invalid_field("CLASS_INVALID", field, &value, "use STRICT, STICKY or PINNED")
    })?;
    check_priority("agent.spec.priority", spec.priority)?;
    let wants = placement::parse_wants("agent.spec", &Stated::from(&spec))?;
    Ok(core::AgentSpec {
        runtime,
        config: parse_config("agent.spec.config_json", spec.config_json)?,
        command: spec.command,
        environment: spec.environment,
        ports,
        labels: parse_labels("agent.spec.labels", spec.labels)?,
        limits,
        class,
        priority: spec.priority,
        wants,
    })
}

fn check_words<'a>(
    field: &str,
    words: impl ExactSizeIterator<Item = &'a String>,
) -> Result<(), Status> {
    if words.len() > COMMAND_WORDS_MAX {
        let why = format!("more than {COMMAND_WORDS_MAX} entries");
        return Err(invalid_field("LIMIT_REACHED", field, &words.len().to_string(), why));
    }
    for word in words {
        if word.len() > COMMAND_WORD_BYTES_MAX || word.contains('\0') {
            let why =
                format!("an entry is longer than {COMMAND_WORD_BYTES_MAX} bytes or holds a NUL");
            return Err(invalid_field("COMMAND_INVALID", field, word, why));
        }
    }
    Ok(())
}

/// Reads a configuration overlay: empty, or a JSON object.
///
/// # Errors
/// `INVALID_ARGUMENT` with the JSON parser's position.
pub fn parse_config(field: &str, text: String) -> Result<String, Status> {
    if text.len() > CONFIG_BYTES_MAX {
        let why = format!("{} bytes; at most {CONFIG_BYTES_MAX} are possible", text.len());
        return Err(invalid_field("LIMIT_REACHED", field, "", why));
    }
    if text.is_empty() {
        return Ok(text);
    }
    match serde_json::from_str(&text) {
        Ok(serde_json::Value::Object(_)) => Ok(text),
        Ok(_) => Err(invalid_field("CONFIG_INVALID", field, &text, "must be a JSON object")),
        Err(e) => Err(invalid_field("CONFIG_INVALID", field, &text, format!("not JSON: {e}"))),
    }
}

/// Reads a page request: how many, and the key to start after.
///
/// # Errors
/// `INVALID_ARGUMENT` for a negative size.
pub fn parse_page(page_size: i32, page_token: &str) -> Result<(usize, Option<&str>), Status> {
    let size = usize::try_from(page_size).map_err(|_| {
        invalid_field("PAGE_SIZE_INVALID", "page_size", &page_size.to_string(), "is negative")
    })?;
    let size = if size == 0 { PAGE_SIZE_DEFAULT } else { size.min(PAGE_SIZE_MAX) };
    Ok((size, Some(page_token).filter(|token| !token.is_empty())))
}
