//! Commands.

use fleet_core as core;
use fleet_types::{AgentId, Epoch, Generation, NodeId, PortBlock, Revision, Timestamp};
use prost::{
    Message,
    encoding::{decode_varint, encode_varint},
};

use super::{records::*, *};
use crate::storage as wire;

fn put_agent_ref(id: &AgentId) -> wire::AgentRef {
    wire::AgentRef { fleet: id.fleet.to_string(), agent: id.agent.to_string() }
}

fn get_agent_ref(r: wire::AgentRef) -> Result<AgentId> {
    Ok(AgentId { fleet: parse("fleet", &r.fleet)?, agent: parse("agent", &r.agent)? })
}

fn put_moves(moves: &[(AgentId, NodeId)]) -> Vec<wire::Move> {
    let one = |(id, node): &(AgentId, NodeId)| wire::Move {
        agent: Some(put_agent_ref(id)),
        node: node.0,
    };
    moves.iter().map(one).collect()
}

fn get_moves(moves: Vec<wire::Move>) -> Result<Vec<(AgentId, NodeId)>> {
    let one = |m: wire::Move| Ok((get_agent_ref(need("agent", m.agent)?)?, NodeId(m.node)));
    moves.into_iter().map(one).collect()
}

#[expect(clippy::too_many_lines, reason = "one arm an operation")]
fn put_operation(operation: &core::Operation) -> wire::command::Operation {
    use core::Operation as Op;
    use wire::command::Operation as Wire;
    match operation {
        Op::InitCluster(o) => Wire::InitCluster(wire::InitCluster {
            cluster: o.cluster.to_string(),
            profile: o.profile.to_string(),
            node: o.node.0,
            name: o.name.to_string(),
            address: Some(put_address(&o.address)),
            storage: o.storage.clone(),
        }),
        Op::CreateToken(o) => Wire::CreateToken(wire::CreateToken {
            token: o.token.to_string(),
            secret_sha256: o.secret_sha256.to_vec(),
            role: put_role(o.role),
            ttl_ms: o.ttl_ms,
            uses: o.uses,
        }),
        Op::RevokeToken(o) => Wire::RevokeToken(o.token.to_string()),
        Op::AdmitNode(o) => Wire::AdmitNode(wire::AdmitNode {
            token: o.token.to_string(),
            secret_sha256: o.secret_sha256.to_vec(),
            name: o.name.to_string(),
            address: Some(put_address(&o.address)),
            storage: o.storage.clone(),
        }),
        Op::RegisterNode(o) => Wire::RegisterNode(wire::RegisterNode {
            node: o.node.0,
            storage: o.storage.clone(),
            held_epoch: o.held.map_or(0, |epoch| epoch.0),
            report: Some(put_report(&o.report)),
        }),
        Op::FenceNode(o) => Wire::FenceNode(wire::FenceNode {
            node: o.node.0,
            epoch: o.epoch.0,
            evidence: Some(put_evidence(&o.evidence)),
            moves: put_moves(&o.moves),
            paused: o.paused,
            reach: put_class(o.reach),
        }),
        Op::HoldNode(o) => Wire::HoldNode(put_hold(o)),
        Op::SetMovePolicy(o) => Wire::SetMovePolicy(put_move_policy(o.policy)),
        Op::SetSchedulable(o) => Wire::SetSchedulable(wire::SetSchedulable {
            node: o.node.0,
            schedulable: put_schedulable(o.schedulable),
            drain: o.drain.map(put_drain),
        }),
        Op::RemoveNode(o) => Wire::RemoveNode(o.node.0),
        Op::CreateFleet(o) => Wire::CreateFleet(wire::CreateFleet {
            fleet: o.fleet.to_string(),
            config: o.config.clone(),
            labels: pairs(&o.labels),
            wants: put_wants(&o.wants),
            ports: o.ports.into(),
            priority: o.priority,
        }),
        Op::DeleteFleet(o) => Wire::DeleteFleet(o.fleet.to_string()),
        Op::CreateAgents(o) => Wire::CreateAgents(put_create_agents(o)),
        Op::SetAgentDesired(o) => Wire::SetAgentDesired(wire::SetAgentDesired {
            agent: Some(put_agent_ref(&o.agent)),
            desired: put_desired(o.desired),
        }),
        Op::RestartAgent(o) => Wire::RestartAgent(put_agent_ref(&o.agent)),
        Op::DeleteAgent(o) => Wire::DeleteAgent(put_agent_ref(&o.agent)),
        Op::PlaceAgents(o) => Wire::PlaceAgents(wire::PlaceAgents { moves: put_moves(&o.moves) }),
        Op::ConfirmStopped(o) => Wire::ConfirmStopped(wire::ConfirmStopped {
            agent: Some(put_agent_ref(&o.agent)),
            generation: o.generation.0,
            node: o.node.0,
            epoch: o.epoch.0,
            next: o.next.map_or(0, |node| node.0),
        }),
        Op::SetPlacementPolicy(o) => Wire::SetPlacementPolicy(put_placement_policy(&o.policy)),
        Op::EvictAgents(o) => Wire::EvictAgents(put_evict_agents(o)),
        Op::QuarantinePorts(o) => Wire::QuarantinePorts(wire::QuarantinePorts {
            agent: Some(put_agent_ref(&o.agent)),
            generation: o.generation.0,
            node: o.node.0,
            epoch: o.epoch.0,
            by: o.by.clone(),
        }),
        Op::ReleasePorts(o) => Wire::ReleasePorts(put_release_ports(o)),
        Op::ReportDoubleRun(o) => Wire::ReportDoubleRun(wire::ReportDoubleRun {
            agent: Some(put_agent_ref(&o.agent)),
            generation: o.generation.0,
            start: o.start,
            node: o.node.0,
            epoch: o.epoch.0,
            line: o.line.clone(),
        }),
        Op::ReportParked(o) => Wire::ReportParked(put_report_parked(o)),
        Op::SetRole(o) => Wire::SetRole(wire::SetRole {
            node: o.node.0,
            role: put_role(o.role),
            cause: put_role_cause(o.cause),
            automatic: o.cause != core::RoleCause::Operator,
        }),
    }
}

fn put_report_parked(o: &core::ReportParked) -> wire::ReportParked {
    let agents = o.agents.iter().map(|parked| wire::Parked {
        agent: Some(put_agent_ref(&parked.agent)),
        revision: parked.revision.0,
        start: parked.start,
        why: parked.why.clone(),
    });
    wire::ReportParked { node: o.node.0, epoch: o.epoch.0, agents: agents.collect() }
}

fn get_report_parked(o: wire::ReportParked) -> Result<core::ReportParked> {
    let agents = o.agents.into_iter().map(|parked| {
        Ok(core::Parked {
            agent: get_agent_ref(need("agent", parked.agent)?)?,
            revision: Revision(parked.revision),
            start: parked.start,
            why: parked.why,
        })
    });
    let agents = agents.collect::<Result<_>>()?;
    Ok(core::ReportParked { node: NodeId(o.node), epoch: Epoch(o.epoch), agents })
}

fn put_evict_agents(o: &core::EvictAgents) -> wire::EvictAgents {
    let eviction = |e: &core::Eviction| wire::Eviction {
        agent: Some(put_agent_ref(&e.agent)),
        generation: e.generation.0,
        to: e.to.map_or(0, |node| node.0),
    };
    wire::EvictAgents { agents: o.agents.iter().map(eviction).collect(), cause: put_cause(o.cause) }
}

fn get_evict_agents(o: wire::EvictAgents) -> Result<core::EvictAgents> {
    let eviction = |e: wire::Eviction| {
        Ok(core::Eviction {
            agent: get_agent_ref(need("agent", e.agent)?)?,
            generation: Generation(e.generation),
            to: some_node(e.to),
        })
    };
    let agents = o.agents.into_iter().map(eviction).collect::<Result<_>>()?;
    Ok(core::EvictAgents { agents, cause: get_cause(o.cause)? })
}

fn put_release_ports(o: &core::ReleasePorts) -> wire::ReleasePorts {
    let block = |b: &PortBlock| wire::PortBlock { base: b.base.into(), size: b.size.into() };
    wire::ReleasePorts {
        node: o.node.0,
        epoch: o.epoch.0,
        blocks: o.blocks.iter().map(block).collect(),
    }
}

fn get_release_ports(o: wire::ReleasePorts) -> Result<core::ReleasePorts> {
    let blocks = o.blocks.into_iter().map(|b| block(b.base, b.size));
    let (node, epoch) = (NodeId(o.node), Epoch(o.epoch));
    Ok(core::ReleasePorts { node, epoch, blocks: blocks.collect::<Result<_>>()? })
}

fn put_create_agents(o: &core::CreateAgents) -> wire::CreateAgents {
    let draft = |d: &core::AgentDraft| wire::AgentDraft {
        name: d.name.to_string(),
        spec: Some(put_spec(&d.spec)),
        desired: put_desired(d.desired),
        node: d.node.map_or(0, |node| node.0),
    };
    wire::CreateAgents {
        fleet: o.fleet.to_string(),
        agents: o.agents.iter().map(draft).collect(),
        admission: put_admission(o.admission),
    }
}

fn get_create_agents(o: wire::CreateAgents) -> Result<core::CreateAgents> {
    let draft = |d: wire::AgentDraft| {
        Ok(core::AgentDraft {
            name: parse("agent", &d.name)?,
            spec: get_spec(d.spec)?,
            desired: get_desired(d.desired)?,
            node: some_node(d.node),
        })
    };
    let agents = o.agents.into_iter().map(draft).collect::<Result<_>>()?;
    let admission = get_admission(o.admission)?;
    Ok(core::CreateAgents { fleet: parse("fleet", &o.fleet)?, agents, admission })
}

fn put_hold(o: &core::HoldNode) -> wire::HoldNode {
    use wire::hold_node::Change;
    let change = match o.change {
        core::HoldChange::Set { lease_ms } => Change::LeaseMs(lease_ms),
        core::HoldChange::Release => Change::Release(true),
        core::HoldChange::End { since } => Change::EndSince(since.0),
    };
    wire::HoldNode { node: o.node.0, change: Some(change) }
}

fn get_hold(o: &wire::HoldNode) -> Result<core::HoldNode> {
    use wire::hold_node::Change;
    let change = match need("hold", o.change)? {
        Change::LeaseMs(lease_ms) => core::HoldChange::Set { lease_ms },
        Change::Release(_) => core::HoldChange::Release,
        Change::EndSince(since) => core::HoldChange::End { since: Revision(since) },
    };
    Ok(core::HoldNode { node: NodeId(o.node), change })
}

fn get_fence(o: wire::FenceNode) -> Result<core::FenceNode> {
    Ok(core::FenceNode {
        node: NodeId(o.node),
        epoch: Epoch(o.epoch),
        evidence: get_evidence(o.evidence)?,
        moves: get_moves(o.moves)?,
        paused: o.paused,
        reach: get_class(o.reach)?,
    })
}

#[expect(clippy::too_many_lines, reason = "one arm an operation")]
fn get_operation(operation: wire::command::Operation) -> Result<core::Operation> {
    use core::Operation as Op;
    use wire::command::Operation as Wire;
    Ok(match operation {
        Wire::InitCluster(o) => Op::InitCluster(core::InitCluster {
            cluster: parse("cluster id", &o.cluster)?,
            profile: parse("profile", &o.profile)?,
            node: NodeId(o.node),
            name: parse("node name", &o.name)?,
            address: get_address(o.address)?,
            storage: o.storage,
        }),
        Wire::CreateToken(o) => Op::CreateToken(core::CreateToken {
            token: parse("token id", &o.token)?,
            secret_sha256: hash(&o.secret_sha256)?,
            role: get_role(o.role)?,
            ttl_ms: o.ttl_ms,
            uses: o.uses,
        }),
        Wire::RevokeToken(token) => {
            Op::RevokeToken(core::RevokeToken { token: parse("token id", &token)? })
        }
        Wire::AdmitNode(o) => Op::AdmitNode(core::AdmitNode {
            token: parse("token id", &o.token)?,
            secret_sha256: hash(&o.secret_sha256)?,
            name: parse("node name", &o.name)?,
            address: get_address(o.address)?,
            storage: o.storage,
        }),
        Wire::RegisterNode(o) => Op::RegisterNode(core::RegisterNode {
            node: NodeId(o.node),
            storage: o.storage,
            held: (o.held_epoch > 0).then_some(Epoch(o.held_epoch)),
            report: get_report(need("report", o.report)?)?,
        }),
        Wire::FenceNode(o) => Op::FenceNode(get_fence(o)?),
        Wire::HoldNode(o) => Op::HoldNode(get_hold(&o)?),
        Wire::SetMovePolicy(o) => {
            Op::SetMovePolicy(core::SetMovePolicy { policy: get_move_policy(o)? })
        }
        Wire::SetSchedulable(o) => Op::SetSchedulable(core::SetSchedulable {
            node: NodeId(o.node),
            schedulable: get_schedulable(o.schedulable)?,
            drain: o.drain.map(get_drain),
        }),
        Wire::RemoveNode(node) => Op::RemoveNode(core::RemoveNode { node: NodeId(node) }),
        Wire::CreateFleet(o) => Op::CreateFleet(core::CreateFleet {
            fleet: parse("fleet", &o.fleet)?,
            config: o.config,
            labels: labels(o.labels)?,
            wants: get_wants(o.wants)?,
            ports: port("ports", o.ports)?,
            priority: o.priority,
        }),
        Wire::DeleteFleet(fleet) => {
            Op::DeleteFleet(core::DeleteFleet { fleet: parse("fleet", &fleet)? })
        }
        Wire::CreateAgents(o) => Op::CreateAgents(get_create_agents(o)?),
        Wire::SetAgentDesired(o) => Op::SetAgentDesired(core::SetAgentDesired {
            agent: get_agent_ref(need("agent", o.agent)?)?,
            desired: get_desired(o.desired)?,
        }),
        Wire::RestartAgent(o) => Op::RestartAgent(core::RestartAgent { agent: get_agent_ref(o)? }),
        Wire::DeleteAgent(o) => Op::DeleteAgent(core::DeleteAgent { agent: get_agent_ref(o)? }),
        Wire::PlaceAgents(o) => Op::PlaceAgents(core::PlaceAgents { moves: get_moves(o.moves)? }),
        Wire::ConfirmStopped(o) => Op::ConfirmStopped(core::ConfirmStopped {
            agent: get_agent_ref(need("agent", o.agent)?)?,
            generation: Generation(o.generation),
            node: NodeId(o.node),
            epoch: Epoch(o.epoch),
            next: some_node(o.next),
        }),
        Wire::SetPlacementPolicy(o) => {
            Op::SetPlacementPolicy(core::SetPlacementPolicy { policy: get_placement_policy(o)? })
        }
        Wire::EvictAgents(o) => Op::EvictAgents(get_evict_agents(o)?),
        Wire::QuarantinePorts(o) => Op::QuarantinePorts(core::QuarantinePorts {
            agent: get_agent_ref(need("agent", o.agent)?)?,
            generation: Generation(o.generation),
            node: NodeId(o.node),
            epoch: Epoch(o.epoch),
            by: o.by,
        }),
        Wire::ReleasePorts(o) => Op::ReleasePorts(get_release_ports(o)?),
        Wire::ReportDoubleRun(o) => Op::ReportDoubleRun(core::ReportDoubleRun {
            agent: get_agent_ref(need("agent", o.agent)?)?,
            generation: Generation(o.generation),
            start: o.start,
            node: NodeId(o.node),
            epoch: Epoch(o.epoch),
            line: o.line,
        }),
        Wire::ReportParked(o) => Op::ReportParked(get_report_parked(o)?),
        Wire::SetRole(o) => Op::SetRole(core::SetRole {
            node: NodeId(o.node),
            role: get_role(o.role)?,
            cause: role_cause(o.cause, get_role(o.role)?, o.automatic)?,
        }),
    })
}

fn put_command(command: &core::Command) -> wire::Command {
    let request = command.request.as_ref();
    wire::Command {
        at_ms: command.at.0,
        request_id: request.map(|r| r.id.to_string()).unwrap_or_default(),
        request_fingerprint: request.map_or(0, |r| r.fingerprint),
        operation: Some(put_operation(&command.operation)),
    }
}

fn get_command(command: wire::Command) -> Result<core::Command> {
    let request = if command.request_id.is_empty() {
        None
    } else {
        let id = parse("request id", &command.request_id)?;
        Some(core::Request { id, fingerprint: command.request_fingerprint })
    };
    let operation = get_operation(need("operation", command.operation)?)?;
    Ok(core::Command { at: Timestamp(command.at_ms), request, operation })
}

/// What stands before each command of a `Batch`: field 1, with its length next.
const COMMAND_FOLLOWS: u8 = 0x0a;
/// What stands before its rules: field 2, a number.
const RULES_FOLLOW: u8 = 0x10;

/// The stored bytes of one log entry's commands, to be applied by some rules: a `Batch`, made without
/// holding all of it twice.
pub fn encode_batch(rules: u32, commands: &[core::Command]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if rules > 0 {
        bytes.push(RULES_FOLLOW);
        encode_varint(rules.into(), &mut bytes);
    }
    for command in commands {
        bytes.push(COMMAND_FOLLOWS);
        put_command(command).encode_length_delimited(&mut bytes).expect("a vector grows");
    }
    bytes
}

/// The rules and the commands of one log entry, these decoded one by one.
///
/// # Errors
/// When the bytes are not a batch; nothing comes after an error.
pub fn decode_batch(
    mut bytes: &[u8],
) -> Result<(u32, impl Iterator<Item = Result<core::Command>> + '_)> {
    let mut rules = 0;
    if let Some((&RULES_FOLLOW, rest)) = bytes.split_first() {
        bytes = rest;
        rules = u32::try_from(decode_varint(&mut bytes)?).map_err(|_| Malformed::Field("rules"))?;
    }
    let commands = std::iter::from_fn(move || {
        let (first, rest) = bytes.split_first()?;
        bytes = rest;
        let command = match *first {
            COMMAND_FOLLOWS => wire::Command::decode_length_delimited(&mut bytes)
                .map_err(Malformed::from)
                .and_then(get_command),
            _ => Err(Malformed::Field("batch")),
        };
        if command.is_err() {
            bytes = &[];
        }
        Some(command)
    });
    Ok((rules, commands))
}
