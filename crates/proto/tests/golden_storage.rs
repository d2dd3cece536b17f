//! What is on disk today must decode for ever. One of every record and command, as bytes; the file
//! only ever grows. `UPDATE=1 cargo test -p fleet-proto` adds what is new.

#![allow(clippy::unwrap_used, clippy::too_many_lines, reason = "a test may")]

use std::{collections::BTreeMap, fmt::Write, fs, sync::Arc};

use fleet_core as core;
use fleet_core::Operation as Op;
use fleet_proto::convert::storage::{
    Malformed, decode_batch, decode_record, encode_batch, encode_record,
};
use fleet_types::{
    AgentClass, AgentId, Epoch, Generation, Labels, LeaseProfile, NodeId, PortBlock, PortRange,
    ResourceLimits, Resources, Revision, Timestamp,
};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden_storage.txt");

fn address() -> core::NodeAddress {
    let at = |port| format!("192.0.2.1:{port}");
    core::NodeAddress { api: at(7400), peer: at(7401), lease: at(7402) }
}

fn labels() -> Labels {
    Labels::new([("rack".to_owned(), "r1".to_owned())]).unwrap()
}

fn report() -> core::NodeReport {
    core::NodeReport {
        port_range: PortRange::new(10_240, 32_767).unwrap(),
        runtimes: BTreeMap::from([("exec".parse().unwrap(), "-".to_owned())]),
        capacity: Resources { memory_bytes: 1 << 36, cpu_millis: 16_000 },
        disk_bytes: 1 << 40,
        labels: labels(),
        version: "0.1.0".into(),
        boot: "boot".into(),
        rules: 1,
        degraded: vec!["no Landlock".into()],
        unfit: vec!["its clock".into()],
    }
}

fn spec() -> core::AgentSpec {
    core::AgentSpec {
        runtime: "exec".parse().unwrap(),
        config: "{}".into(),
        command: vec!["/bin/sleep".into(), "1".into()],
        environment: BTreeMap::from([("A".to_owned(), "b".to_owned())]),
        ports: 16,
        labels: labels(),
        limits: ResourceLimits {
            memory_bytes: 1 << 30,
            cpu_millis: 500,
            processes: 64,
            open_files: 1024,
            home_bytes: 1 << 33,
            log_bytes: 1 << 20,
        },
        class: AgentClass::Pinned,
        priority: -7,
        wants: wants(),
    }
}

fn wants() -> core::Wants {
    core::Wants {
        requests: Resources { memory_bytes: 1 << 29, cpu_millis: 100 },
        node_labels: labels(),
        runtime_version: Some("2026.9.6".parse().unwrap()),
        apart: true,
        spread_by: Some("zone".into()),
    }
}

fn placement_policy() -> core::PlacementPolicy {
    core::PlacementPolicy {
        memory_percent: 120,
        cpu_percent: 400,
        rebalance: false,
        moves_max: 4,
        voters: 5,
        voters_spread_by: Some("rack".into()),
    }
}

fn agent() -> AgentId {
    "shop/support".parse().unwrap()
}

fn quarantine(cause: core::QuarantineCause) -> core::Record {
    let (node, block) = (NodeId(5), PortBlock { base: 10_240, size: 16 });
    let (since, revision) = (Timestamp(9), Revision(11));
    core::Record::Quarantine(core::Quarantine { node, block, cause, since, revision })
}

fn event(what: core::What) -> core::Record {
    let (at, revision, node) = (Timestamp(9), Revision(11), Some(NodeId(5)));
    let event = core::Event { serial: 3, at, revision, node, agent: Some(agent()), what };
    core::Record::Event(Box::new(event))
}

fn happenings() -> Vec<core::What> {
    use core::What;
    let evidence = core::Evidence::LeaseExpired { waited_ms: 6_701 };
    vec![
        What::AgentPlaced { generation: Generation(3), evidence: evidence.clone() },
        What::AgentPending { reason: core::PendingReason::NoMemory },
        What::AgentEvicted { cause: core::Cause::Rebalance },
        What::AgentKept,
        What::AgentDeleted,
        What::NodeAdmitted { role: core::Role::Voter },
        What::NodeRegistered { epoch: Epoch(4) },
        What::NodeFenced { evidence, agents: 7 },
        What::NodeScheduling { schedulable: core::Schedulable::Cordoned },
        What::NodeRemoved { name: "n3".into() },
        What::RoleChanged { role: core::Role::Voter, cause: core::RoleCause::VoterGone },
        What::NodeHeld { lease_ms: 30_000 },
        What::HoldEnded,
        What::PortsQuarantined { block: PortBlock { base: 10_240, size: 16 }, by: "nginx".into() },
        What::PortsReleased { block: PortBlock { base: 10_240, size: 16 } },
        What::AgentRunsTwice {
            generation: Generation(3),
            start: 2,
            former: Some((NodeId(5), Generation(2))),
            line: "conflict".into(),
        },
        What::AgentParked { start: 2, why: "exit code 78".into() },
    ]
}

fn records() -> Vec<core::Record> {
    let placement = core::Placement {
        node: NodeId(5),
        block: PortBlock { base: 10_240, size: 16 },
        evicting: true,
        next: Some(NodeId(6)),
        taken_by: Some("nginx".into()),
        parked: Some(Box::new((Revision(8), Epoch(4)))),
        evidence: core::Evidence::LeaseExpired { waited_ms: 6_701 },
        placed: Timestamp(9),
    };
    let placed = core::Agent {
        id: agent(),
        spec: Arc::new(spec()),
        desired: core::Desired::Running,
        lifecycle: core::Lifecycle::Live,
        restarts: 2,
        uid: 2_000_000,
        generation: Generation(3),
        placement: Some(placement),
        pending: None,
        evidence: core::Evidence::First,
        former: Some((NodeId(4), Generation(2))),
        created: Timestamp(8),
        revision: Revision(10),
    };
    let pending = core::Agent {
        desired: core::Desired::Stopped,
        lifecycle: core::Lifecycle::Deleting,
        placement: None,
        pending: Some(core::PendingReason::NoPorts),
        evidence: core::Evidence::Asserted { by: "ops@desk".into() },
        former: None,
        ..placed.clone()
    };
    vec![
        core::Record::Cluster(core::Cluster {
            id: "0123456789abcdef".parse().unwrap(),
            profile: LeaseProfile::Fast,
            next_uid: 2_000_001,
            moves: core::MovePolicy { rule: core::MoveRule::Never, lost_percent_max: 40 },
            placement: placement_policy(),
            created: Timestamp(1),
            revision: Revision(2),
        }),
        core::Record::Node(core::Node {
            id: NodeId(5),
            name: "n2".parse().unwrap(),
            address: address(),
            role: core::Role::Worker,
            may_vote: true,
            storage: "s".into(),
            token: Some("0123456789ab".parse().unwrap()),
            status: core::NodeStatus::Fenced,
            schedulable: core::Schedulable::Draining,
            epoch: Epoch(4),
            hold: Some(core::Hold { lease_ms: 600_000, since: Revision(8), ending: true }),
            drain: Some(core::Drain { moves_max: 4, deadline: Some(Timestamp(77)) }),
            report: Some(report()),
            joined: Timestamp(3),
            revision: Revision(6),
        }),
        core::Record::Fleet(core::Fleet {
            name: "shop".parse().unwrap(),
            config: "{}".into(),
            labels: labels(),
            wants: wants(),
            ports: 32,
            priority: 4,
            created: Timestamp(4),
            revision: Revision(7),
        }),
        core::Record::Agent(Box::new(placed)),
        core::Record::Agent(Box::new(pending)),
        core::Record::Token(core::JoinToken {
            id: "0123456789ab".parse().unwrap(),
            secret_sha256: [7; 32],
            role: core::Role::Voter,
            expires: Timestamp(99),
            uses_left: 2,
            created: Timestamp(5),
            revision: Revision(8),
        }),
        core::Record::Request(core::RequestRecord {
            id: "key".parse().unwrap(),
            fingerprint: 12,
            serial: 13,
            revision: Revision(14),
        }),
        quarantine(core::QuarantineCause::Freed),
        quarantine(core::QuarantineCause::Foreign("nginx".into())),
    ]
    .into_iter()
    .chain(happenings().into_iter().map(event))
    .collect()
}

fn operations() -> Vec<Op> {
    let token: fleet_types::TokenId = "0123456789ab".parse().unwrap();
    let node = NodeId(5);
    let fleet: fleet_types::FleetName = "shop".parse().unwrap();
    vec![
        Op::InitCluster(core::InitCluster {
            cluster: "0123456789abcdef".parse().unwrap(),
            profile: LeaseProfile::Aggressive,
            node: NodeId(1),
            name: "n1".parse().unwrap(),
            address: address(),
            storage: "s".into(),
        }),
        Op::CreateToken(core::CreateToken {
            token: token.clone(),
            secret_sha256: [7; 32],
            role: core::Role::Worker,
            ttl_ms: 1_000,
            uses: 3,
        }),
        Op::RevokeToken(core::RevokeToken { token: token.clone() }),
        Op::AdmitNode(core::AdmitNode {
            token,
            secret_sha256: [7; 32],
            name: "n2".parse().unwrap(),
            address: address(),
            storage: "s".into(),
        }),
        Op::RegisterNode(core::RegisterNode {
            node,
            storage: "s".into(),
            held: Some(Epoch(2)),
            report: report(),
        }),
        Op::FenceNode(core::FenceNode {
            node,
            epoch: Epoch(4),
            evidence: core::Evidence::ConfirmedEmpty,
            moves: vec![(agent(), NodeId(1))],
            paused: true,
            reach: AgentClass::Sticky,
        }),
        Op::HoldNode(core::HoldNode { node, change: core::HoldChange::Set { lease_ms: 60_000 } }),
        Op::HoldNode(core::HoldNode { node, change: core::HoldChange::Release }),
        Op::HoldNode(core::HoldNode { node, change: core::HoldChange::End { since: Revision(8) } }),
        Op::SetMovePolicy(core::SetMovePolicy {
            policy: core::MovePolicy { rule: core::MoveRule::Always, lost_percent_max: 50 },
        }),
        Op::SetSchedulable(core::SetSchedulable {
            node,
            schedulable: core::Schedulable::Draining,
            drain: Some(core::Drain { moves_max: 4, deadline: None }),
        }),
        Op::RemoveNode(core::RemoveNode { node }),
        Op::CreateFleet(core::CreateFleet {
            fleet: fleet.clone(),
            config: "{}".into(),
            labels: labels(),
            wants: wants(),
            ports: 32,
            priority: 4,
        }),
        Op::DeleteFleet(core::DeleteFleet { fleet: fleet.clone() }),
        Op::CreateAgents(core::CreateAgents {
            fleet,
            agents: vec![core::AgentDraft {
                name: "support".parse().unwrap(),
                spec: spec(),
                desired: core::Desired::Running,
                node: Some(node),
            }],
            admission: core::Admission::SurviveLoss,
        }),
        Op::SetAgentDesired(core::SetAgentDesired {
            agent: agent(),
            desired: core::Desired::Stopped,
        }),
        Op::RestartAgent(core::RestartAgent { agent: agent() }),
        Op::DeleteAgent(core::DeleteAgent { agent: agent() }),
        Op::PlaceAgents(core::PlaceAgents { moves: vec![(agent(), node)] }),
        Op::ConfirmStopped(core::ConfirmStopped {
            agent: agent(),
            generation: Generation(3),
            node,
            epoch: Epoch(4),
            next: Some(NodeId(1)),
        }),
        Op::SetPlacementPolicy(core::SetPlacementPolicy { policy: placement_policy() }),
        Op::EvictAgents(core::EvictAgents {
            agents: vec![core::Eviction {
                agent: agent(),
                generation: Generation(3),
                to: Some(node),
            }],
            cause: core::Cause::Drain,
        }),
        Op::QuarantinePorts(core::QuarantinePorts {
            agent: agent(),
            generation: Generation(3),
            node,
            epoch: Epoch(4),
            by: "nginx".into(),
        }),
        Op::ReleasePorts(core::ReleasePorts {
            node,
            epoch: Epoch(4),
            blocks: vec![PortBlock { base: 10_240, size: 16 }],
        }),
        Op::SetRole(core::SetRole {
            node,
            role: core::Role::Worker,
            cause: core::RoleCause::TooMany,
        }),
        Op::ReportDoubleRun(core::ReportDoubleRun {
            agent: agent(),
            generation: Generation(3),
            start: 2,
            node,
            epoch: Epoch(4),
            line: "conflict".into(),
        }),
        Op::ReportParked(core::ReportParked {
            node,
            epoch: Epoch(4),
            agents: vec![core::Parked {
                agent: agent(),
                revision: Revision(8),
                start: 2,
                why: "exit code 78".into(),
            }],
        }),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn decoded(bytes: &[u8]) -> Result<Vec<core::Command>, Malformed> {
    decode_batch(bytes)?.1.collect()
}

#[test]
fn stored_bytes_stay_what_they_are() {
    let mut lines = Vec::new();
    for record in records() {
        let bytes = encode_record(&record);
        assert_eq!(decode_record(&bytes).unwrap(), record);
        lines.push(format!("record {}", hex(&bytes)));
    }
    for (number, operation) in operations().into_iter().enumerate() {
        let request =
            (number % 2 == 0).then(|| core::Request { id: "key".parse().unwrap(), fingerprint: 1 });
        let commands = vec![core::Command { at: Timestamp(7), request, operation }];
        let bytes = encode_batch(core::RULES, &commands);
        assert_eq!(decode_batch(&bytes).unwrap().0, core::RULES);
        assert_eq!(decoded(&bytes).unwrap(), commands);
        lines.push(format!("batch {}", hex(&bytes)));
    }
    let mut stored = fs::read_to_string(FILE).unwrap_or_default();
    for line in &lines {
        if !stored.lines().any(|old| old == line) {
            assert!(std::env::var_os("UPDATE").is_some(), "not in {FILE}: {line}");
            stored.push_str(line);
            stored.push('\n');
        }
    }
    fs::write(FILE, &stored).unwrap();
    for line in stored.lines() {
        let (kind, bytes) = line.split_once(' ').unwrap();
        let bytes = unhex(bytes);
        match kind {
            "record" => drop(decode_record(&bytes).unwrap()),
            _ => drop(decoded(&bytes).unwrap()),
        }
    }
}

#[test]
fn foreign_bytes_are_refused() {
    assert!(decode_record(&[]).is_err());
    assert!(decode_record(&[0xff; 8]).is_err());
    assert!(decoded(&[0x0a, 0x02, 0x08, 0x01]).is_err(), "a command without operation");
    assert!(decoded(&[0x0a, 0x7f]).is_err(), "a command cut short");
    assert!(decoded(&[0x12, 0x00]).is_err(), "another field");
}
