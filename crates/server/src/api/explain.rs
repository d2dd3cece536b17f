//! What nodes are to an agent, in words: why it is there, what stands in the way, and what to do.

use fleet_core::{
    Agent, AgentSpec, Evidence, FULL, Lack, Lifecycle, Node, NodeStatus, PendingReason, Room,
    State, What,
    explain::{Obstacle, Verdict, remedies},
    plan::waits_for,
};
use fleet_proto::{
    convert::{api as convert, placement::cause},
    v1::{NodeVerdict, Remedy},
};
use fleet_types::{NodeId, Resources};

/// Its stable code.
fn reason(obstacle: Obstacle) -> &'static str {
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
fn why(node: Option<&Node>, spec: &AgentSpec, obstacle: Obstacle) -> String {
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

/// How a node gets room that it lacks, which may be more than it has.
fn free(missing: &str, is_too_small: bool) -> String {
    if is_too_small {
        "ask for less, or promise more than it has (`fleet-cluster placement set`)".into()
    } else {
        format!("free {missing}, or promise more (`fleet-cluster placement set`)")
    }
}

/// What takes it away. `limit` is all that the node may promise.
fn way_out(
    node: Option<&Node>,
    limit: Option<Resources>,
    spec: &AgentSpec,
    obstacle: Obstacle,
) -> String {
    let name = node.map(|node| node.name.to_string()).unwrap_or_default();
    let asked = spec.wants.requests;
    match obstacle {
        Obstacle::NotUp(_) => {
            "bring it back: `systemctl start fleet-cluster` on it starts its guards, too".into()
        }
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
            free(&missing, limit.is_some_and(|it| it.memory_bytes < asked.memory_bytes))
        }
        Obstacle::NoRoom(Lack::Cpu(left)) => {
            let missing = convert::cores(asked.cpu_millis.saturating_sub(left));
            free(&missing, limit.is_some_and(|it| it.cpu_millis < asked.cpu_millis))
        }
    }
}

/// What a node must have for an agent.
fn needs(spec: &AgentSpec) -> String {
    let mut all = vec![format!("runtime {} {}", spec.runtime, version(spec)).trim_end().to_owned()];
    let asked = spec.wants.requests;
    all.extend(spec.wants.node_labels.iter().next().map(|_| convert::node_labels(spec)));
    all.extend((asked.memory_bytes > 0).then(|| convert::memory(asked.memory_bytes)));
    all.extend((asked.cpu_millis > 0).then(|| convert::cores(asked.cpu_millis)));
    all.push(format!("{} ports", spec.ports));
    all.join(", ")
}

/// Why an agent is on its node.
fn why_here(state: &State, agent: &Agent) -> String {
    let Some(placement) = &agent.placement else { return String::new() };
    let evidence = convert::evidence(&placement.evidence);
    match (&placement.evidence, left_for(state, agent)) {
        (Evidence::First, _) if agent.spec.wants.spread_by.is_none() => {
            format!("{evidence}, on what was the least full of the nodes that suited it")
        }
        (Evidence::ConfirmedEmpty, Some(why)) => format!("moved ({why}); {evidence}"),
        _ => evidence,
    }
}

/// Why an agent left the place that it had before, if it was asked to.
fn left_for(state: &State, agent: &Agent) -> Option<&'static str> {
    let events = state.events().values().rev();
    let events = events.filter(|event| event.agent.as_ref() == Some(&agent.id));
    let came = |what: &What| match what {
        What::AgentPlaced { generation, .. } => *generation == agent.generation,
        _ => false,
    };
    let before = events.skip_while(|event| !came(&event.what)).skip(1).map(|event| &event.what);
    let mut since_placed = before.take_while(|what| {
        !matches!(what, What::AgentPlaced { .. } | What::AgentKept | What::AgentDeleted)
    });
    since_placed.find_map(|what| match what {
        What::AgentEvicted { cause: why } => Some(cause(*why)),
        What::PortsQuarantined { .. } => Some("something else listened on its ports"),
        _ => None,
    })
}

/// What is to be known of an agent that has a place, and may not run there for long, or not at all.
fn standing(state: &State, agent: &Agent, node: Option<&Node>) -> String {
    let name = |id| state.nodes().get(&id).map_or_else(String::new, |node| node.name.to_string());
    let next = agent.placement.as_ref().and_then(|placement| placement.next);
    let leaves = agent.placement.as_ref().is_some_and(|placement| placement.evicting);
    let going = match (agent.lifecycle, next.filter(|_| leaves)) {
        (Lifecycle::Deleting, _) => "; it is being deleted".into(),
        (_, Some(next)) => format!("; it leaves for {}", name(next)),
        _ if leaves => "; it leaves, and goes where there is room".into(),
        _ => String::new(),
    };
    match node.filter(|node| node.status == NodeStatus::Fenced) {
        Some(node) => format!(
            "{going}; but the node is out of reach, and it is not known yet that nothing of the \
             agent runs there: wait, bring the node back, or if its machine has no power, \
             `fleet-cluster node confirm-dead {}`",
            node.name
        ),
        None => going,
    }
}

/// What a node is to an agent, for people.
pub(super) fn shown(state: &State, agent: &Agent, id: NodeId, verdict: &Verdict) -> NodeVerdict {
    let node = state.nodes().get(&id);
    let (suits, reason, message) = match verdict {
        Verdict::Here { agents, load } => {
            let (full, why) = (load * 100 / FULL, why_here(state, agent));
            let standing = standing(state, agent, node);
            let message =
                format!("it is here, beside {agents} agents, {full} % full: {why}{standing}");
            (true, "PLACED", message)
        }
        Verdict::Suits { agents, load, of_fleet } => {
            let full = load * 100 / FULL;
            // Not of one that leaves it anyway.
            let stays = agent.placement.as_ref().filter(|placement| !placement.evicting);
            let here = stays.and_then(|placement| state.room(placement.node)).map(Room::load);
            let least_full = match here.filter(|_| of_fleet.is_none()) {
                Some(here) if *load < here => {
                    "it is less full now than the node the agent is on; an agent that is placed \
                     goes elsewhere only if it is moved, as by a rebalance that finds it worth it"
                }
                Some(_) => "it is no less full than the node the agent is on",
                None => "of nodes that suit, the least full is taken",
            };
            let why = match (of_fleet, &agent.spec.wants.spread_by) {
                (Some(count), Some(key)) => {
                    let under = format!("{count} agents of its fleet are under this {key}");
                    format!("{under}: where the fewest are, {least_full}")
                }
                _ => least_full.into(),
            };
            let message =
                format!("it could run here, beside {agents} agents, {full} % full; {why}");
            (true, "SUITS", message)
        }
        Verdict::Hindered(obstacles) => {
            let all = obstacles.iter().map(|o| why(node, &agent.spec, *o));
            let first = obstacles.first().map_or("", |first| reason(*first));
            (false, first, all.collect::<Vec<_>>().join("; "))
        }
    };
    NodeVerdict {
        node: format!("nodes/{id}"),
        node_display_name: node.map(|node| node.name.to_string()).unwrap_or_default(),
        suits,
        reason: reason.into(),
        message,
    }
}

/// What would let an agent be placed.
pub(super) fn help(state: &State, agent: &Agent) -> Vec<Remedy> {
    if agent.placement.is_some() {
        return Vec::new();
    }
    let remedy = |(id, obstacles): (NodeId, Vec<Obstacle>)| {
        let node = state.nodes().get(&id);
        let name = node.map(|node| node.name.to_string()).unwrap_or_default();
        let limit = state.room(id).map(Room::limit);
        let steps = obstacles.iter().map(|o| way_out(node, limit, &agent.spec, *o));
        Remedy {
            node: format!("nodes/{id}"),
            reasons: obstacles.iter().map(|o| reason(*o).into()).collect(),
            message: format!("{name}: {}", steps.collect::<Vec<_>>().join(", and ")),
            node_display_name: name,
        }
    };
    let general = |reason: &str, message: String| {
        let reasons = vec![reason.into()];
        Remedy { reasons, message, ..Remedy::default() }
    };
    match waits_for(state, agent) {
        Some(PendingReason::MovesPaused) => {
            let what = "bring its node back, or `fleet-cluster moves always` to place it elsewhere";
            return vec![general("MOVES_PAUSED", what.into())];
        }
        Some(PendingReason::RoomKept) => {
            let what = "wait until agents on their way have arrived, or join another node with";
            return vec![general("ROOM_KEPT", format!("{what} {}", needs(&agent.spec)))];
        }
        _ => {}
    }
    let mut all: Vec<Remedy> = remedies(state, agent).into_iter().map(remedy).collect();
    if !all.is_empty() || state.nodes().is_empty() {
        let what = format!("or join another node with {}", needs(&agent.spec));
        all.push(general("NEW_NODE", what));
    }
    all
}
