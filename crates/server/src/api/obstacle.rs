//! What keeps a node from having an agent, in words, and what to do about it.

use fleet_core::{AgentSpec, Lack, Node, NodeStatus, explain::Obstacle};
use fleet_proto::convert::api as convert;

/// Its stable code.
pub(super) fn reason(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::NotUp(_) => "NOT_UP",
        Obstacle::NotOpen(_) => "NOT_OPEN",
        Obstacle::NoRuntime => "NO_RUNTIME",
        Obstacle::NoLabels => "NO_LABELS",
        Obstacle::OldRuntime => "OLD_RUNTIME",
        Obstacle::Unfit => "UNFIT",
        Obstacle::NotApart => "NOT_APART",
        Obstacle::NoRoom(Lack::Ports(_)) => "NO_PORTS",
        Obstacle::NoRoom(Lack::Memory(_)) => "NO_MEMORY",
        Obstacle::NoRoom(Lack::Cpu(_)) => "NO_CPU",
    }
}

/// Why a node keeps no strict agents.
fn unfit(node: Option<&Node>) -> String {
    let report = node.and_then(|node| node.report.as_ref());
    report.map(|report| report.unfit.join(", ")).unwrap_or_default()
}

/// The version of its runtime that an agent asks for.
fn version(spec: &AgentSpec) -> String {
    spec.wants.runtime_version.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// What it is.
pub(super) fn why(node: Option<&Node>, spec: &AgentSpec, obstacle: Obstacle) -> String {
    match obstacle {
        Obstacle::NotUp(NodeStatus::Fenced) => "the node is out of reach and was fenced".into(),
        Obstacle::NotUp(_) => "the node has not registered yet".into(),
        Obstacle::NotOpen(_) => {
            "the node is cordoned or drained; `fleet-cluster node uncordon` opens it".into()
        }
        Obstacle::NoRuntime => format!("runtime {} cannot run there", spec.runtime),
        Obstacle::NoLabels => format!("the node has not {}", convert::node_labels(spec)),
        Obstacle::Unfit => format!("it keeps no strict agents: {}", unfit(node)),
        Obstacle::OldRuntime => {
            let runtimes = node.and_then(|node| node.report.as_ref()).map(|r| &r.runtimes);
            let found = runtimes.and_then(|r| r.get(&spec.runtime)).cloned().unwrap_or_default();
            match found.as_str() {
                "-" => format!("runtime {} has no version there", spec.runtime),
                found => format!("runtime {} has version {found}", spec.runtime),
            }
        }
        Obstacle::NotApart => "another agent of its fleet is there, and they stand apart".into(),
        Obstacle::NoRoom(Lack::Ports(free)) => {
            format!("no block of {} ports is free, of {free} free ports", spec.ports)
        }
        Obstacle::NoRoom(Lack::Memory(left)) => {
            format!("only {} is not promised yet", convert::memory(left))
        }
        Obstacle::NoRoom(Lack::Cpu(left)) => {
            format!("only {} are not promised yet", convert::cores(left))
        }
    }
}

/// What takes it away.
pub(super) fn way_out(node: Option<&Node>, spec: &AgentSpec, obstacle: Obstacle) -> String {
    let name = node.map(|node| node.name.to_string()).unwrap_or_default();
    let asked = spec.wants.requests;
    match obstacle {
        Obstacle::NotUp(_) => "bring it back: systemctl start fleet-guard fleet-cluster".into(),
        Obstacle::NotOpen(_) => format!("`fleet-cluster node uncordon {name}`"),
        Obstacle::NoRuntime => format!("install runtime {}", spec.runtime),
        Obstacle::NoLabels => format!("give it {} in its config", convert::node_labels(spec)),
        Obstacle::OldRuntime => {
            format!("install version {} or newer of runtime {}", version(spec), spec.runtime)
        }
        Obstacle::Unfit => format!("mend this: {}", unfit(node)),
        Obstacle::NotApart => "move or delete the other agent of its fleet".into(),
        Obstacle::NoRoom(Lack::Ports(_)) => {
            let ports = spec.ports;
            format!("free a block of {ports} ports; `fleet-cluster node ports {name}` shows them")
        }
        Obstacle::NoRoom(Lack::Memory(left)) => {
            let missing = convert::memory(asked.memory_bytes.saturating_sub(left));
            format!("free {missing}, or promise more (`fleet-cluster placement set`)")
        }
        Obstacle::NoRoom(Lack::Cpu(left)) => {
            let missing = convert::cores(asked.cpu_millis.saturating_sub(left));
            format!("free {missing}, or promise more (`fleet-cluster placement set`)")
        }
    }
}

/// What a node must have for an agent.
pub(super) fn needs(spec: &AgentSpec) -> String {
    let mut all = vec![format!("runtime {} {}", spec.runtime, version(spec)).trim_end().to_owned()];
    let asked = spec.wants.requests;
    all.extend(spec.wants.node_labels.iter().next().map(|_| convert::node_labels(spec)));
    all.extend((asked.memory_bytes > 0).then(|| convert::memory(asked.memory_bytes)));
    all.extend((asked.cpu_millis > 0).then(|| convert::cores(asked.cpu_millis)));
    all.push(format!("{} ports", spec.ports));
    all.join(", ")
}
