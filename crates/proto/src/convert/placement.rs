//! What concerns placement, to and from the public API: wants, policies, room, ports and events.

use std::collections::BTreeMap;

use fleet_core::{
    Cause, FULL, Load, Node, PendingReason, PlacementPolicy, Quarantine, QuarantineCause,
    RoleCause, Room, Schedulable, State, Wants, What,
    admission::{Dimension, Headroom},
    rebalance::Move,
};
use fleet_types::{Labels, NodeId, Resources};
use tonic::Status;

use super::api::{count, evidence, parse_labels, port_block, role, timestamp};
use crate::{error::invalid_field, resource, v1};

/// Resources as the API writes them.
pub fn resources(r: Resources) -> v1::Resources {
    v1::Resources { memory_bytes: r.memory_bytes, cpu_millis: r.cpu_millis }
}

/// As [`resources`]; absent when there are none.
pub(super) fn stated(r: Resources) -> Option<v1::Resources> {
    (r != Resources::default()).then(|| resources(r))
}

/// A load in hundredths of a whole.
pub fn percent(load: Load) -> u32 {
    u32::try_from(load.saturating_mul(100) / FULL).unwrap_or(u32::MAX)
}

pub(super) fn version(wants: &Wants) -> String {
    wants.runtime_version.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// Where agents may be placed, as a fleet or an agent states it.
pub struct Stated<'a> {
    requests: Option<v1::Resources>,
    node_labels: &'a BTreeMap<String, String>,
    runtime_version: &'a str,
    apart: bool,
    spread_by: &'a str,
}

macro_rules! states {
    ($message:ty) => {
        impl<'a> From<&'a $message> for Stated<'a> {
            fn from(from: &'a $message) -> Self {
                Self {
                    requests: from.requests,
                    node_labels: &from.node_labels,
                    runtime_version: &from.runtime_version,
                    apart: from.apart,
                    spread_by: &from.spread_by,
                }
            }
        }
    };
}

states!(v1::AgentSpec);
states!(v1::Fleet);

/// Reads where agents may be placed; `within` is the field that states it.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field, the value and the way out.
pub fn parse_wants(within: &str, stated: &Stated<'_>) -> Result<Wants, Status> {
    let field = |name| format!("{within}.{name}");
    let v1::Resources { memory_bytes, cpu_millis } = stated.requests.unwrap_or_default();
    let requests = Resources { memory_bytes, cpu_millis };
    requests.check().map_err(|e| {
        let name = format!("{within}.requests.{}", e.what);
        invalid_field("REQUESTS_INVALID", &name, &e.value.to_string(), e)
    })?;
    let version = Some(stated.runtime_version).filter(|text| !text.is_empty());
    let version = version.map(|text| {
        let invalid = |e| invalid_field("VERSION_INVALID", &field("runtime_version"), text, e);
        text.parse().map_err(invalid)
    });
    let spread_by = label_key(&field("spread_by"), stated.spread_by)?;
    Ok(Wants {
        requests,
        node_labels: parse_labels(&field("node_labels"), stated.node_labels.clone())?,
        runtime_version: version.transpose()?,
        apart: stated.apart,
        spread_by,
    })
}

/// How agents are placed, as the API writes it.
pub fn policy(policy: PlacementPolicy) -> v1::PlacementPolicy {
    v1::PlacementPolicy {
        memory_percent: policy.memory_percent.into(),
        cpu_percent: policy.cpu_percent.into(),
        rebalance: policy.rebalance,
        moves_at_once: policy.moves_max.into(),
        voters: policy.voters.into(),
        voters_spread_by: policy.voters_spread_by.unwrap_or_default(),
    }
}

/// Reads how agents are placed.
///
/// # Errors
/// `INVALID_ARGUMENT` when a label's key is malformed, or a number is too large for its type: others
/// are refused where they are to count.
pub fn parse_policy(policy: v1::PlacementPolicy) -> Result<PlacementPolicy, Status> {
    let too_large = |reason, field: &str, value: u32| {
        let field = format!("placement_policy.{field}");
        invalid_field(reason, &field, &value.to_string(), "is too large")
    };
    let percent = |field, value: u32| {
        u16::try_from(value).map_err(|_| too_large("OVERCOMMIT_PERCENT_INVALID", field, value))
    };
    let moves = policy.moves_at_once;
    let voters = policy.voters;
    let voters_spread_by =
        label_key("placement_policy.voters_spread_by", &policy.voters_spread_by)?;
    Ok(PlacementPolicy {
        memory_percent: percent("memory_percent", policy.memory_percent)?,
        cpu_percent: percent("cpu_percent", policy.cpu_percent)?,
        rebalance: policy.rebalance,
        moves_max: u16::try_from(moves)
            .map_err(|_| too_large("REBALANCE_MOVES_INVALID", "moves_at_once", moves))?,
        voters: u8::try_from(voters)
            .map_err(|_| too_large("VOTER_COUNT_INVALID", "voters", voters))?,
        voters_spread_by,
    })
}

/// Reads the key of a label; none when it is empty.
fn label_key(field: &str, key: &str) -> Result<Option<String>, Status> {
    if key.is_empty() {
        return Ok(None);
    }
    Labels::new([(key.to_owned(), String::new())])
        .map_err(|e| invalid_field("INVALID_LABEL", field, key, e))?;
    Ok(Some(key.to_owned()))
}

/// How much more agents may ask for, as the API writes it.
pub fn headroom(room: Headroom) -> v1::Headroom {
    let what = match room.of {
        Dimension::Memory => "memory_bytes",
        Dimension::Cpu => "cpu_millis",
        Dimension::Ports => "ports",
    };
    v1::Headroom {
        what: what.into(),
        asked: room.asked,
        has: room.has,
        left: room.has.saturating_sub(room.asked),
        largest_node: format!("nodes/{}", room.largest),
    }
}

fn node_name(state: &State, id: NodeId) -> String {
    let removed = || format!("{id} (removed)");
    state.nodes().get(&id).map_or_else(removed, |node| node.name.to_string())
}

/// A move, as the API writes it.
pub fn agent_move(state: &State, it: &Move) -> v1::AgentMove {
    v1::AgentMove {
        agent: resource::agent(&it.agent),
        from_node: format!("nodes/{}", it.from),
        from_display_name: node_name(state, it.from),
        to_node: format!("nodes/{}", it.to),
        to_display_name: node_name(state, it.to),
    }
}

/// How a node's agents leave; none when it is not drained.
pub(super) fn drain(state: &State, node: &Node) -> Option<v1::Drain> {
    if node.schedulable != Schedulable::Draining {
        return None;
    }
    let pace = node.drain.unwrap_or_default();
    let agents = state.placed_on(node.id);
    let left = agents.len();
    let leaving = agents.filter_map(|id| state.agent(id)?.placement.as_ref());
    Some(v1::Drain {
        moves_at_once: pace.moves_max,
        deadline: pace.deadline.map(timestamp),
        agents_left: count(left),
        agents_leaving: count(leaving.filter(|placement| placement.evicting).count()),
    })
}

fn kept(kept: &Quarantine) -> v1::NodePorts {
    let message = match &kept.cause {
        QuarantineCause::Freed => "an agent had them; its sockets may not be gone yet".into(),
        QuarantineCause::Foreign(by) => by.clone(),
    };
    v1::NodePorts {
        block: Some(port_block(kept.block)),
        r#use: v1::node_ports::Use::Quarantined.into(),
        agent: String::new(),
        message,
        since: Some(timestamp(kept.since)),
    }
}

/// The ports of a node, by number.
pub fn ports(state: &State, node: NodeId) -> v1::ListNodePortsResponse {
    let agents = state.placed_on(node).filter_map(|id| state.agent(id));
    let owned = agents.filter_map(|agent| {
        Some(v1::NodePorts {
            block: Some(port_block(agent.placement.as_ref()?.block)),
            r#use: v1::node_ports::Use::Owned.into(),
            agent: resource::agent(&agent.id),
            ..v1::NodePorts::default()
        })
    });
    let ports = state.room(node).map(Room::ports);
    let free = ports.into_iter().flat_map(|ports| ports.free_blocks()).map(|block| v1::NodePorts {
        block: Some(port_block(block)),
        r#use: v1::node_ports::Use::Free.into(),
        ..v1::NodePorts::default()
    });
    let mut all: Vec<_> = owned.chain(free).chain(state.quarantined(node).map(kept)).collect();
    all.sort_by_key(|ports| ports.block.map(|block| block.base));
    let (free, in_pieces) =
        ports.map_or((0, 0), |ports| (ports.free_ports(), ports.free_in_pieces()));
    v1::ListNodePortsResponse {
        ports: all,
        owned: state.room(node).map_or(0, Room::ports_owned),
        free,
        quarantined: state.quarantined(node).map(|kept| u32::from(kept.block.size)).sum(),
        fragmentation_percent: in_pieces * 100 / free.max(1),
    }
}

/// Why an agent is asked to leave its node, in words.
pub fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Operator => "an operator moves it",
        Cause::Drain => "its node is drained",
        Cause::Rebalance => "another node has more room",
        Cause::UnfitNode => "it is strict, and its node cannot keep that",
        Cause::PortsTaken => {
            "something else listens on its ports, and its node has no others, or takes no agents"
        }
        Cause::DrainOverdue => "its node is drained, and the deadline for that has passed",
    }
}

/// Why an agent had no place, in words that need not know what it asked for: it may be no more.
fn was_pending(reason: PendingReason) -> &'static str {
    match reason {
        PendingReason::NoNode => "no node was up and open for placements",
        PendingReason::NoRuntime => "no open node had its runtime",
        PendingReason::NoPorts => "no open node that suited it had a block of ports free for it",
        PendingReason::NoMemory => "no open node that suited it had the memory left",
        PendingReason::NoCpu => "no open node that suited it had the processor time left",
        PendingReason::OldRuntime => "no open node had its runtime in the version it asks for",
        PendingReason::NotApart => "every open node had another of its fleet",
        PendingReason::NoLabels => "no open node had the labels it asks for",
        PendingReason::NoFitNode => "no open node kept strict agents",
        PendingReason::MovesPaused => "its node was lost while agents were not moved",
        PendingReason::RoomKept => {
            "the room for it was just taken, or kept for agents on their way"
        }
    }
}

/// What happened, as a stable code and in words.
fn told(state: &State, event: &fleet_core::Event) -> (&'static str, String) {
    match &event.what {
        What::AgentPlaced { generation, evidence: proof } => {
            ("AGENT_PLACED", format!("placed at generation {generation}: {}", evidence(proof)))
        }
        What::AgentPending { reason } => {
            ("AGENT_PENDING", format!("has no place: {}", was_pending(*reason)))
        }
        What::AgentEvicted { cause: why } => {
            ("AGENT_EVICTED", format!("asked to leave: {}", cause(*why)))
        }
        What::AgentKept => ("AGENT_KEPT", "stays after all".into()),
        What::AgentDeleted => ("AGENT_DELETED", "deleted".into()),
        What::NodeAdmitted { role: as_role } => {
            ("NODE_ADMITTED", format!("admitted as {}", role_name(*as_role)))
        }
        What::NodeRegistered { epoch } => {
            ("NODE_REGISTERED", format!("registered under epoch {epoch}"))
        }
        What::NodeFenced { evidence: proof, agents } => {
            ("NODE_FENCED", format!("fenced; {agents} agents left it: {}", evidence(proof)))
        }
        What::NodeScheduling { schedulable } => {
            let what = match schedulable {
                Schedulable::Open => "takes agents",
                Schedulable::Cordoned => "takes no new agents",
                Schedulable::Draining => "is drained",
            };
            ("NODE_SCHEDULING", what.into())
        }
        What::NodeRemoved { name } => ("NODE_REMOVED", format!("{name} removed").trim().into()),
        What::RoleChanged { role: now, cause } => {
            ("ROLE_CHANGED", format!("made {}: {}", role_name(*now), role_cause(*cause)))
        }
        What::NodeHeld { lease_ms } => {
            ("NODE_HELD", format!("has leases of {} s for a time", lease_ms / 1_000))
        }
        What::HoldEnded => ("HOLD_ENDED", "has leases of the usual length again".into()),
        What::AgentRunsTwice { generation, former, line, .. } => {
            let before = former.map_or_else(String::new, |(node, former)| {
                format!(", before it generation {former} on {}", node_name(state, node))
            });
            let what = "says another copy of its session is live";
            ("AGENT_RUNS_TWICE", format!("at generation {generation}{before}, {what}: {line}"))
        }
        What::AgentParked { start: 0, why } => ("AGENT_PARKED", format!("not started: {why}")),
        What::AgentParked { start, why } => {
            ("AGENT_PARKED", format!("not started again after start {start}: {why}"))
        }
        What::PortsQuarantined { block, by } => {
            ("PORTS_QUARANTINED", format!("ports {block} are kept from agents: {by}"))
        }
        What::PortsReleased { block } => {
            let why = "nothing listens there any more";
            ("PORTS_RELEASED", format!("ports {block} are for agents again: {why}"))
        }
    }
}

fn role_cause(cause: RoleCause) -> &'static str {
    match cause {
        RoleCause::Operator => "an operator says so",
        RoleCause::VoterGone => "a voter is gone for long",
        RoleCause::Gone => "it is gone for long or cannot vote, and enough others do",
        RoleCause::TooFew => "fewer nodes vote than should",
        RoleCause::TooMany => "more nodes vote than should",
        RoleCause::Spread => "voters are spread over the values of a label",
    }
}

fn role_name(of: fleet_core::Role) -> &'static str {
    match role(of) {
        v1::Role::Voter => "voter",
        v1::Role::Worker | v1::Role::Unspecified => "worker",
    }
}

/// An event, as the API writes it.
pub fn event(state: &State, event: &fleet_core::Event) -> v1::Event {
    let (reason, message) = told(state, event);
    v1::Event {
        name: format!("events/{}", event.serial),
        event_time: Some(timestamp(event.at)),
        revision: event.revision.0,
        reason: reason.into(),
        message,
        node: event.node.map(|id| format!("nodes/{id}")).unwrap_or_default(),
        node_display_name: event.node.map(|id| node_name(state, id)).unwrap_or_default(),
        agent: event.agent.as_ref().map(resource::agent).unwrap_or_default(),
    }
}
