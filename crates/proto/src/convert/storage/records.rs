//! Records.

use std::sync::Arc;

use fleet_core as core;
use fleet_types::{
    AgentId, Epoch, Generation, NodeId, PortRange, ResourceLimits, Resources, Revision, Timestamp,
};
use prost::Message;

use super::*;
use crate::storage as wire;

pub(super) fn put_move_policy(policy: core::MovePolicy) -> wire::MovePolicy {
    let lost_percent_max = policy.lost_percent_max.into();
    wire::MovePolicy { rule: put_rule(policy.rule), lost_percent_max }
}

pub(super) fn get_move_policy(policy: wire::MovePolicy) -> Result<core::MovePolicy> {
    let lost_percent_max = u8::try_from(policy.lost_percent_max);
    let lost_percent_max = lost_percent_max.map_err(|_| Malformed::Field("share of nodes"))?;
    Ok(core::MovePolicy { rule: get_rule(policy.rule)?, lost_percent_max })
}

pub(super) fn put_placement_policy(policy: &core::PlacementPolicy) -> wire::PlacementPolicy {
    wire::PlacementPolicy {
        memory_percent: policy.memory_percent.into(),
        cpu_percent: policy.cpu_percent.into(),
        rebalance: policy.rebalance,
        moves_max: policy.moves_max.into(),
        voters: policy.voters.into(),
        voters_spread_by: policy.voters_spread_by.clone().unwrap_or_default(),
    }
}

pub(super) fn get_placement_policy(p: wire::PlacementPolicy) -> Result<core::PlacementPolicy> {
    let narrow = |value| port("placement policy", value);
    Ok(core::PlacementPolicy {
        memory_percent: narrow(p.memory_percent)?,
        cpu_percent: narrow(p.cpu_percent)?,
        rebalance: p.rebalance,
        moves_max: narrow(p.moves_max)?,
        voters: u8::try_from(p.voters).map_err(|_| Malformed::Field("voters"))?,
        voters_spread_by: Some(p.voters_spread_by).filter(|key| !key.is_empty()),
    })
}

fn put_resources(r: Resources) -> Option<wire::Resources> {
    let Resources { memory_bytes, cpu_millis } = r;
    (r != Resources::default()).then_some(wire::Resources { memory_bytes, cpu_millis })
}

fn get_resources(r: Option<wire::Resources>) -> Resources {
    let wire::Resources { memory_bytes, cpu_millis } = r.unwrap_or_default();
    Resources { memory_bytes, cpu_millis }
}

pub(super) fn put_drain(drain: core::Drain) -> wire::Drain {
    let deadline_ms = drain.deadline.map_or(0, |at| at.0);
    wire::Drain { moves_max: drain.moves_max, deadline_ms }
}

pub(super) fn get_drain(drain: wire::Drain) -> core::Drain {
    let deadline = (drain.deadline_ms != 0).then_some(Timestamp(drain.deadline_ms));
    core::Drain { moves_max: drain.moves_max, deadline }
}

/// Nothing when nothing is wanted, so that what was stored before stays as it is.
pub(super) fn put_wants(w: &core::Wants) -> Option<wire::Wants> {
    (*w != core::Wants::default()).then(|| wire::Wants {
        requests: put_resources(w.requests),
        node_labels: pairs(&w.node_labels),
        runtime_version: w.runtime_version.as_ref().map(ToString::to_string).unwrap_or_default(),
        apart: w.apart,
        spread_by: w.spread_by.clone().unwrap_or_default(),
    })
}

pub(super) fn get_wants(w: Option<wire::Wants>) -> Result<core::Wants> {
    let w = w.unwrap_or_default();
    let version = Some(w.runtime_version).filter(|text| !text.is_empty());
    Ok(core::Wants {
        requests: get_resources(w.requests),
        node_labels: labels(w.node_labels)?,
        runtime_version: version.map(|text| parse("version", &text)).transpose()?,
        apart: w.apart,
        spread_by: Some(w.spread_by).filter(|key| !key.is_empty()),
    })
}

pub(super) fn put_address(a: &core::NodeAddress) -> wire::NodeAddress {
    wire::NodeAddress { api: a.api.clone(), peer: a.peer.clone(), lease: a.lease.clone() }
}

pub(super) fn get_address(a: Option<wire::NodeAddress>) -> Result<core::NodeAddress> {
    let a = need("address", a)?;
    Ok(core::NodeAddress { api: a.api, peer: a.peer, lease: a.lease })
}

pub(super) fn put_report(r: &core::NodeReport) -> wire::NodeReport {
    wire::NodeReport {
        port_first: r.port_range.first().into(),
        port_last: r.port_range.last().into(),
        runtimes: r.runtimes.iter().map(|(k, v)| (k.to_string(), v.clone())).collect(),
        labels: pairs(&r.labels),
        version: r.version.clone(),
        rules: r.rules,
        boot: r.boot.clone(),
        degraded: r.degraded.clone(),
        unfit: r.unfit.clone(),
        capacity: put_resources(r.capacity),
        disk_bytes: r.disk_bytes,
    }
}

pub(super) fn get_report(r: wire::NodeReport) -> Result<core::NodeReport> {
    let (first, last) = (port("port", r.port_first)?, port("port", r.port_last)?);
    let runtimes = r.runtimes.into_iter();
    Ok(core::NodeReport {
        port_range: PortRange::new(first, last).map_err(|_| Malformed::Field("port range"))?,
        runtimes: runtimes.map(|(k, v)| Ok((parse("runtime", &k)?, v))).collect::<Result<_>>()?,
        capacity: get_resources(r.capacity),
        disk_bytes: r.disk_bytes,
        labels: labels(r.labels)?,
        version: r.version,
        rules: r.rules,
        boot: r.boot,
        degraded: r.degraded,
        unfit: r.unfit,
    })
}

pub(super) fn put_evidence(e: &core::Evidence) -> wire::Evidence {
    use wire::evidence::Kind;
    let kind = match e {
        core::Evidence::First => Kind::First(true),
        core::Evidence::LeaseExpired { waited_ms } => Kind::LeaseExpiredMs(*waited_ms),
        core::Evidence::ConfirmedEmpty => Kind::ConfirmedEmpty(true),
        core::Evidence::Asserted { by } => Kind::AssertedBy(by.clone()),
    };
    wire::Evidence { kind: Some(kind) }
}

pub(super) fn get_evidence(e: Option<wire::Evidence>) -> Result<core::Evidence> {
    use wire::evidence::Kind;
    Ok(match need("evidence", e.and_then(|e| e.kind))? {
        Kind::First(_) => core::Evidence::First,
        Kind::LeaseExpiredMs(waited_ms) => core::Evidence::LeaseExpired { waited_ms },
        Kind::ConfirmedEmpty(_) => core::Evidence::ConfirmedEmpty,
        Kind::Asserted(_) => core::Evidence::Asserted { by: String::new() },
        Kind::AssertedBy(by) => core::Evidence::Asserted { by },
    })
}

pub(super) fn put_spec(s: &core::AgentSpec) -> wire::AgentSpec {
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
            log_bytes: s.limits.log_bytes,
        }),
        class: put_class(s.class),
        priority: s.priority,
        node_labels: std::collections::BTreeMap::new(),
        wants: put_wants(&s.wants),
    }
}

pub(super) fn get_spec(s: Option<wire::AgentSpec>) -> Result<core::AgentSpec> {
    let s = need("spec", s)?;
    let mut wants = get_wants(s.wants)?;
    if !s.node_labels.is_empty() {
        wants.node_labels = labels(s.node_labels)?;
    }
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
            log_bytes: limits.log_bytes,
        }),
        class: get_class(s.class)?,
        priority: s.priority,
        wants,
    })
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
        drain: n.drain.map(put_drain),
        may_vote: n.may_vote,
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
        drain: n.drain.map(get_drain),
        may_vote: n.may_vote,
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
            next: p.next.map_or(0, |node| node.0),
            taken_by: p.taken_by.as_deref().unwrap_or_default().into(),
            parked_revision: p.parked.as_ref().map_or(0, |parked| parked.0.0),
            parked_epoch: p.parked.as_ref().map_or(0, |parked| parked.1.0),
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
        Ok(core::Placement {
            node: NodeId(p.node),
            block: block(p.port_base, p.port_size)?,
            evicting: p.evicting,
            next: some_node(p.next),
            taken_by: Some(p.taken_by).filter(|by| !by.is_empty()).map(Into::into),
            parked: (p.parked_revision > 0)
                .then(|| Box::new((Revision(p.parked_revision), Epoch(p.parked_epoch)))),
            evidence: get_evidence(p.evidence)?,
            placed: Timestamp(p.placed_ms),
        })
    };
    Ok(core::Agent {
        id: AgentId { fleet: parse("fleet", &a.fleet)?, agent: parse("agent", &a.agent)? },
        spec: Arc::new(get_spec(a.spec)?),
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

fn put_quarantine(q: &core::Quarantine) -> wire::QuarantineRecord {
    wire::QuarantineRecord {
        node: q.node.0,
        port_base: q.block.base.into(),
        port_size: q.block.size.into(),
        foreign: match &q.cause {
            core::QuarantineCause::Freed => String::new(),
            core::QuarantineCause::Foreign(by) => by.clone(),
        },
        since_ms: q.since.0,
        revision: q.revision.0,
    }
}

fn get_quarantine(q: wire::QuarantineRecord) -> Result<core::Quarantine> {
    let foreign = Some(q.foreign).filter(|by| !by.is_empty());
    Ok(core::Quarantine {
        node: NodeId(q.node),
        block: block(q.port_base, q.port_size)?,
        cause: foreign.map_or(core::QuarantineCause::Freed, core::QuarantineCause::Foreign),
        since: Timestamp(q.since_ms),
        revision: Revision(q.revision),
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
            placement: Some(put_placement_policy(&c.placement)),
        }),
        core::Record::Node(n) => Kind::Node(put_node(n)),
        core::Record::Fleet(f) => Kind::Fleet(wire::FleetRecord {
            name: f.name.to_string(),
            config: f.config.clone(),
            labels: pairs(&f.labels),
            wants: put_wants(&f.wants),
            ports: f.ports.into(),
            priority: f.priority,
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
        core::Record::Quarantine(q) => Kind::Quarantine(put_quarantine(q)),
        core::Record::Event(e) => Kind::Event(events::put_event(e)),
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
            placement: c.placement.map(get_placement_policy).transpose()?.unwrap_or_default(),
            created: Timestamp(c.created_ms),
            revision: Revision(c.revision),
        }),
        Kind::Node(n) => core::Record::Node(get_node(n)?),
        Kind::Fleet(f) => core::Record::Fleet(core::Fleet {
            name: parse("fleet", &f.name)?,
            config: f.config,
            labels: labels(f.labels)?,
            wants: get_wants(f.wants)?,
            ports: port("ports", f.ports)?,
            priority: f.priority,
            created: Timestamp(f.created_ms),
            revision: Revision(f.revision),
        }),
        Kind::Agent(a) => core::Record::Agent(Box::new(get_agent(a)?)),
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
        Kind::Quarantine(q) => core::Record::Quarantine(get_quarantine(q)?),
        Kind::Event(e) => core::Record::Event(Box::new(events::get_event(e)?)),
    })
}
