//! Records and commands to and from their stored form.
//!
//! Encoding cannot fail. Decoding fails only on bytes this software did not write; the caller
//! stops the process then, for a replica that skips an entry is no replica.

use fleet_core as core;
use fleet_types::{
    AgentClass, AgentId, Epoch, Generation, Labels, NodeId, PortBlock, PortRange, ResourceLimits,
    Revision, Timestamp,
};
use prost::Message;

use crate::storage as wire;

/// Stored bytes that are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Not a protobuf message of the type.
    #[error("stored bytes are not a message")]
    Bytes(#[from] prost::DecodeError),
    /// A field holds an impossible value.
    #[error("stored {0} is not valid")]
    Field(&'static str),
}

type Result<T> = std::result::Result<T, Malformed>;

fn parse<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T> {
    text.parse().map_err(|_| Malformed::Field(what))
}

fn need<T>(what: &'static str, value: Option<T>) -> Result<T> {
    value.ok_or(Malformed::Field(what))
}

fn port(what: &'static str, value: u32) -> Result<u16> {
    u16::try_from(value).map_err(|_| Malformed::Field(what))
}

fn hash(bytes: &[u8]) -> Result<[u8; 32]> {
    bytes.try_into().map_err(|_| Malformed::Field("hash"))
}

fn pairs(labels: &Labels) -> std::collections::BTreeMap<String, String> {
    labels.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn labels(pairs: std::collections::BTreeMap<String, String>) -> Result<Labels> {
    Labels::new(pairs).map_err(|_| Malformed::Field("labels"))
}

macro_rules! coded {
    ($encode:ident, $decode:ident, $type:ty, $what:literal, $($code:literal => $value:path),+) => {
        fn $encode(value: $type) -> u32 {
            match value { $($value => $code),+ }
        }
        fn $decode(code: u32) -> Result<$type> {
            match code { $($code => Ok($value),)+ _ => Err(Malformed::Field($what)) }
        }
    };
}

coded!(put_role, get_role, core::Role, "role", 1 => core::Role::Voter, 2 => core::Role::Worker);
coded!(put_status, get_status, core::NodeStatus, "node status",
    1 => core::NodeStatus::Joining, 2 => core::NodeStatus::Active, 3 => core::NodeStatus::Fenced);
coded!(put_schedulable, get_schedulable, core::Schedulable, "schedulable",
    1 => core::Schedulable::Open, 2 => core::Schedulable::Cordoned,
    3 => core::Schedulable::Draining);
coded!(put_desired, get_desired, core::Desired, "desired state",
    1 => core::Desired::Running, 2 => core::Desired::Stopped);
coded!(put_lifecycle, get_lifecycle, core::Lifecycle, "lifecycle",
    1 => core::Lifecycle::Live, 2 => core::Lifecycle::Deleting);
coded!(put_pending, get_pending, core::PendingReason, "pending reason",
    1 => core::PendingReason::NoNode, 2 => core::PendingReason::NoRuntime,
    3 => core::PendingReason::NoPorts, 4 => core::PendingReason::MovesPaused,
    5 => core::PendingReason::NoFitNode, 6 => core::PendingReason::NoLabels);
coded!(put_class, get_class, AgentClass, "class",
    0 => AgentClass::Strict, 1 => AgentClass::Sticky, 2 => AgentClass::Pinned);
coded!(put_rule, get_rule, core::MoveRule, "move rule",
    1 => core::MoveRule::Automatic, 2 => core::MoveRule::Always, 3 => core::MoveRule::Never);

fn put_move_policy(policy: core::MovePolicy) -> wire::MovePolicy {
    let lost_percent_max = policy.lost_percent_max.into();
    wire::MovePolicy { rule: put_rule(policy.rule), lost_percent_max }
}

fn get_move_policy(policy: wire::MovePolicy) -> Result<core::MovePolicy> {
    let lost_percent_max = u8::try_from(policy.lost_percent_max);
    let lost_percent_max = lost_percent_max.map_err(|_| Malformed::Field("share of nodes"))?;
    Ok(core::MovePolicy { rule: get_rule(policy.rule)?, lost_percent_max })
}

fn put_address(a: &core::NodeAddress) -> wire::NodeAddress {
    wire::NodeAddress { api: a.api.clone(), peer: a.peer.clone(), lease: a.lease.clone() }
}

fn get_address(a: Option<wire::NodeAddress>) -> Result<core::NodeAddress> {
    let a = need("address", a)?;
    Ok(core::NodeAddress { api: a.api, peer: a.peer, lease: a.lease })
}

fn put_report(r: &core::NodeReport) -> wire::NodeReport {
    wire::NodeReport {
        port_first: r.port_range.first().into(),
        port_last: r.port_range.last().into(),
        runtimes: r.runtimes.iter().map(|(k, v)| (k.to_string(), v.clone())).collect(),
        labels: pairs(&r.labels),
        version: r.version.clone(),
        boot: r.boot.clone(),
        degraded: r.degraded.clone(),
        unfit: r.unfit.clone(),
    }
}

fn get_report(r: wire::NodeReport) -> Result<core::NodeReport> {
    let (first, last) = (port("port", r.port_first)?, port("port", r.port_last)?);
    let runtimes = r.runtimes.into_iter();
    Ok(core::NodeReport {
        port_range: PortRange::new(first, last).map_err(|_| Malformed::Field("port range"))?,
        runtimes: runtimes.map(|(k, v)| Ok((parse("runtime", &k)?, v))).collect::<Result<_>>()?,
        labels: labels(r.labels)?,
        version: r.version,
        boot: r.boot,
        degraded: r.degraded,
        unfit: r.unfit,
    })
}

fn put_evidence(e: &core::Evidence) -> wire::Evidence {
    use wire::evidence::Kind;
    let kind = match e {
        core::Evidence::First => Kind::First(true),
        core::Evidence::LeaseExpired { waited_ms } => Kind::LeaseExpiredMs(*waited_ms),
        core::Evidence::ConfirmedEmpty => Kind::ConfirmedEmpty(true),
        core::Evidence::Asserted => Kind::Asserted(true),
    };
    wire::Evidence { kind: Some(kind) }
}

fn get_evidence(e: Option<wire::Evidence>) -> Result<core::Evidence> {
    use wire::evidence::Kind;
    Ok(match need("evidence", e.and_then(|e| e.kind))? {
        Kind::First(_) => core::Evidence::First,
        Kind::LeaseExpiredMs(waited_ms) => core::Evidence::LeaseExpired { waited_ms },
        Kind::ConfirmedEmpty(_) => core::Evidence::ConfirmedEmpty,
        Kind::Asserted(_) => core::Evidence::Asserted,
    })
}

fn put_spec(s: &core::AgentSpec) -> wire::AgentSpec {
    wire::AgentSpec {
        runtime: s.runtime.to_string(),
        config: s.config.clone(),
        command: s.command.clone(),
        environment: s.environment.clone(),
        ports: s.ports.into(),
        labels: pairs(&s.labels),
        limits: Some(wire::ResourceLimits {
            memory_bytes: s.limits.memory_bytes,
            cpu_millis: s.limits.cpu_millis,
            processes: s.limits.processes,
            open_files: s.limits.open_files,
            home_bytes: s.limits.home_bytes,
        }),
        class: put_class(s.class),
        priority: s.priority,
        node_labels: pairs(&s.node_labels),
    }
}

fn get_spec(s: Option<wire::AgentSpec>) -> Result<core::AgentSpec> {
    let s = need("spec", s)?;
    Ok(core::AgentSpec {
        runtime: parse("runtime", &s.runtime)?,
        config: s.config,
        command: s.command,
        environment: s.environment,
        ports: port("block size", s.ports)?,
        labels: labels(s.labels)?,
        limits: s.limits.map_or(ResourceLimits::default(), |limits| ResourceLimits {
            memory_bytes: limits.memory_bytes,
            cpu_millis: limits.cpu_millis,
            processes: limits.processes,
            open_files: limits.open_files,
            home_bytes: limits.home_bytes,
        }),
        class: get_class(s.class)?,
        priority: s.priority,
        node_labels: labels(s.node_labels)?,
    })
}

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

fn put_node(n: &core::Node) -> wire::NodeRecord {
    wire::NodeRecord {
        id: n.id.0,
        name: n.name.to_string(),
        address: Some(put_address(&n.address)),
        role: put_role(n.role),
        storage: n.storage.clone(),
        token: n.token.as_ref().map(ToString::to_string).unwrap_or_default(),
        status: put_status(n.status),
        schedulable: put_schedulable(n.schedulable),
        epoch: n.epoch.0,
        report: n.report.as_ref().map(put_report),
        hold: n.hold.map(|hold| wire::Hold {
            lease_ms: hold.lease_ms,
            since: hold.since.0,
            ending: hold.ending,
        }),
        joined_ms: n.joined.0,
        revision: n.revision.0,
    }
}

fn get_node(n: wire::NodeRecord) -> Result<core::Node> {
    Ok(core::Node {
        id: NodeId(n.id),
        name: parse("node name", &n.name)?,
        address: get_address(n.address)?,
        role: get_role(n.role)?,
        storage: n.storage,
        token: if n.token.is_empty() { None } else { Some(parse("token id", &n.token)?) },
        status: get_status(n.status)?,
        schedulable: get_schedulable(n.schedulable)?,
        epoch: Epoch(n.epoch),
        report: n.report.map(get_report).transpose()?,
        hold: n.hold.map(|hold| core::Hold {
            lease_ms: hold.lease_ms,
            since: Revision(hold.since),
            ending: hold.ending,
        }),
        joined: Timestamp(n.joined_ms),
        revision: Revision(n.revision),
    })
}

fn put_agent(a: &core::Agent) -> wire::AgentRecord {
    wire::AgentRecord {
        fleet: a.id.fleet.to_string(),
        agent: a.id.agent.to_string(),
        spec: Some(put_spec(&a.spec)),
        desired: put_desired(a.desired),
        lifecycle: put_lifecycle(a.lifecycle),
        restarts: a.restarts,
        uid: a.uid,
        generation: a.generation.0,
        placement: a.placement.as_ref().map(|p| wire::PlacementRecord {
            node: p.node.0,
            port_base: p.block.base.into(),
            port_size: p.block.size.into(),
            evicting: p.evicting,
            evidence: Some(put_evidence(&p.evidence)),
            placed_ms: p.placed.0,
        }),
        pending: a.pending.map_or(0, put_pending),
        evidence: Some(put_evidence(&a.evidence)),
        created_ms: a.created.0,
        revision: a.revision.0,
        former: a.former.map(|(node, generation)| wire::FormerPlacement {
            node: node.0,
            generation: generation.0,
        }),
    }
}

fn get_agent(a: wire::AgentRecord) -> Result<core::Agent> {
    let placement = |p: wire::PlacementRecord| -> Result<core::Placement> {
        let (base, size) = (port("port", p.port_base)?, port("block size", p.port_size)?);
        Ok(core::Placement {
            node: NodeId(p.node),
            block: PortBlock { base, size },
            evicting: p.evicting,
            evidence: get_evidence(p.evidence)?,
            placed: Timestamp(p.placed_ms),
        })
    };
    Ok(core::Agent {
        id: AgentId { fleet: parse("fleet", &a.fleet)?, agent: parse("agent", &a.agent)? },
        spec: get_spec(a.spec)?,
        desired: get_desired(a.desired)?,
        lifecycle: get_lifecycle(a.lifecycle)?,
        restarts: a.restarts,
        uid: a.uid,
        generation: Generation(a.generation),
        placement: a.placement.map(placement).transpose()?,
        pending: if a.pending == 0 { None } else { Some(get_pending(a.pending)?) },
        evidence: get_evidence(a.evidence)?,
        former: a.former.map(|former| (NodeId(former.node), Generation(former.generation))),
        created: Timestamp(a.created_ms),
        revision: Revision(a.revision),
    })
}

/// The stored bytes of a record.
pub fn encode_record(record: &core::Record) -> Vec<u8> {
    use wire::record::Kind;
    let kind = match record {
        core::Record::Cluster(c) => Kind::Cluster(wire::ClusterRecord {
            id: c.id.to_string(),
            profile: c.profile.to_string(),
            next_uid: c.next_uid,
            created_ms: c.created.0,
            revision: c.revision.0,
            moves: Some(put_move_policy(c.moves)),
        }),
        core::Record::Node(n) => Kind::Node(put_node(n)),
        core::Record::Fleet(f) => Kind::Fleet(wire::FleetRecord {
            name: f.name.to_string(),
            config: f.config.clone(),
            labels: pairs(&f.labels),
            created_ms: f.created.0,
            revision: f.revision.0,
        }),
        core::Record::Agent(a) => Kind::Agent(put_agent(a)),
        core::Record::Token(t) => Kind::Token(wire::TokenRecord {
            id: t.id.to_string(),
            secret_sha256: t.secret_sha256.to_vec(),
            role: put_role(t.role),
            expires_ms: t.expires.0,
            uses_left: t.uses_left,
            created_ms: t.created.0,
            revision: t.revision.0,
        }),
        core::Record::Request(r) => Kind::Request(wire::RequestRecord {
            id: r.id.to_string(),
            fingerprint: r.fingerprint,
            serial: r.serial,
            revision: r.revision.0,
        }),
    };
    wire::Record { kind: Some(kind) }.encode_to_vec()
}

/// The record of stored bytes.
///
/// # Errors
/// When the bytes are not a record.
pub fn decode_record(bytes: &[u8]) -> Result<core::Record> {
    use wire::record::Kind;
    Ok(match need("record", wire::Record::decode(bytes)?.kind)? {
        Kind::Cluster(c) => core::Record::Cluster(core::Cluster {
            id: parse("cluster id", &c.id)?,
            profile: parse("profile", &c.profile)?,
            next_uid: c.next_uid,
            moves: c.moves.map(get_move_policy).transpose()?.unwrap_or_default(),
            created: Timestamp(c.created_ms),
            revision: Revision(c.revision),
        }),
        Kind::Node(n) => core::Record::Node(get_node(n)?),
        Kind::Fleet(f) => core::Record::Fleet(core::Fleet {
            name: parse("fleet", &f.name)?,
            config: f.config,
            labels: labels(f.labels)?,
            created: Timestamp(f.created_ms),
            revision: Revision(f.revision),
        }),
        Kind::Agent(a) => core::Record::Agent(get_agent(a)?),
        Kind::Token(t) => core::Record::Token(core::JoinToken {
            id: parse("token id", &t.id)?,
            secret_sha256: hash(&t.secret_sha256)?,
            role: get_role(t.role)?,
            expires: Timestamp(t.expires_ms),
            uses_left: t.uses_left,
            created: Timestamp(t.created_ms),
            revision: Revision(t.revision),
        }),
        Kind::Request(r) => core::Record::Request(core::RequestRecord {
            id: parse("request id", &r.id)?,
            fingerprint: r.fingerprint,
            serial: r.serial,
            revision: Revision(r.revision),
        }),
    })
}

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
        }),
        Op::RemoveNode(o) => Wire::RemoveNode(o.node.0),
        Op::CreateFleet(o) => Wire::CreateFleet(wire::CreateFleet {
            fleet: o.fleet.to_string(),
            config: o.config.clone(),
            labels: pairs(&o.labels),
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
    }
}

fn put_create_agents(o: &core::CreateAgents) -> wire::CreateAgents {
    let draft = |d: &core::AgentDraft| wire::AgentDraft {
        name: d.name.to_string(),
        spec: Some(put_spec(&d.spec)),
        desired: put_desired(d.desired),
        node: d.node.map_or(0, |node| node.0),
    };
    wire::CreateAgents { fleet: o.fleet.to_string(), agents: o.agents.iter().map(draft).collect() }
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
    Ok(core::CreateAgents { fleet: parse("fleet", &o.fleet)?, agents })
}

fn some_node(id: u64) -> Option<NodeId> {
    (id != 0).then_some(NodeId(id))
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
        }),
        Wire::RemoveNode(node) => Op::RemoveNode(core::RemoveNode { node: NodeId(node) }),
        Wire::CreateFleet(o) => Op::CreateFleet(core::CreateFleet {
            fleet: parse("fleet", &o.fleet)?,
            config: o.config,
            labels: labels(o.labels)?,
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

/// The stored bytes of one log entry's commands: a `Batch`, made without holding all of it twice.
pub fn encode_batch(commands: &[core::Command]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for command in commands {
        bytes.push(COMMAND_FOLLOWS);
        put_command(command).encode_length_delimited(&mut bytes).expect("a vector grows");
    }
    bytes
}

/// The commands of one log entry, decoded one by one.
///
/// # Errors
/// When the bytes are not a batch; nothing comes after an error.
pub fn decode_batch(mut bytes: &[u8]) -> impl Iterator<Item = Result<core::Command>> + '_ {
    std::iter::from_fn(move || {
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
    })
}
