//! What is wrong with the cluster, and what to do about it.

use std::collections::BTreeMap;

use fleet_core::{Agent, MoveRule, Node, NodeStatus, Role, Schedulable, State, plan};
use fleet_proto::{
    convert::api::pending,
    host::Observation,
    v1::{Problem, agent::State as AgentState},
};

use fleet_types::NodeId;

use crate::leader::Observed;

fn problem(reason: &str, message: String, action: &str) -> Problem {
    Problem { reason: reason.into(), message, action: action.into() }
}

/// Everything wrong with the cluster and its nodes, most urgent first.
/// `refused` says why nodes cannot register.
pub(super) fn find(state: &State, moves: bool, refused: &BTreeMap<NodeId, String>) -> Vec<Problem> {
    let mut found = Vec::new();
    if !moves {
        let held = state.unplaced().filter_map(|id| state.agent(id));
        let held = held.filter(|agent| plan::waits_for_its_node(state, agent)).count();
        let policy = state.cluster().map(|cluster| cluster.moves).unwrap_or_default();
        let why = match policy.rule {
            MoveRule::Never => "by the rule `never`".to_owned(),
            _ => format!("for more than {} % of the nodes are lost", policy.lost_percent_max),
        };
        found.push(problem(
            "MOVES_PAUSED",
            format!("agents of lost nodes are not placed elsewhere, {why}; {held} wait"),
            "bring the nodes back, or `fleet-cluster moves always` to place them on what is left",
        ));
    }
    for (node, why) in refused.iter().filter_map(|(id, why)| Some((state.nodes().get(id)?, why))) {
        let message = format!("node {} ({}) may not register: {why}", node.id, node.name);
        let action = "mend its configuration and `systemctl restart fleet-cluster` there";
        found.push(problem("NODE_REFUSED", message, action));
    }
    nodes(state, &mut found);
    found
}

fn nodes(state: &State, found: &mut Vec<Problem>) {
    let voters = state.nodes().values().filter(|node| node.role == Role::Voter);
    let (all, up) = voters.fold((0, 0), |(all, up), node| {
        (all + 1, up + usize::from(node.status == NodeStatus::Active))
    });
    let spare = up - (up.min(all / 2 + 1));
    if all > 1 && spare == 0 {
        let message =
            format!("{up} of {all} voters are up: the loss of one more stops the cluster");
        let action =
            "bring a voter back, `fleet-cluster node promote` a worker, or join another node";
        found.push(problem("NO_SPARE_VOTER", message, action));
    }
    for node in state.nodes().values() {
        let name = format!("node {} ({})", node.id, node.name);
        match (node.status, node.schedulable) {
            (NodeStatus::Fenced, _) => found.push(fenced(state, node, &name)),
            (NodeStatus::Joining, _) => found.push(problem(
                "NODE_JOINING",
                format!("{name} was admitted and has not registered yet"),
                "start its daemon: systemctl start fleet-cluster",
            )),
            (_, Schedulable::Draining) if state.placed_on(node.id).len() > 0 => {
                let left = state.placed_on(node.id).len();
                found.push(problem(
                    "NODE_DRAINING",
                    format!("{name} is being drained; {left} agents are left"),
                    "wait, or `fleet-cluster node uncordon` it",
                ));
            }
            _ => {}
        }
        if let Some(hold) = node.hold {
            let (minutes, left) = (hold.lease_ms / 60_000, hold.lease_ms % 60_000 / 1_000);
            let ends = if hold.ending { ", until the last long lease is over" } else { "" };
            let message = format!(
                "{name} is held: if it is lost, its agents wait {minutes} min {left} s and more{ends}"
            );
            found.push(problem(
                "NODE_HELD",
                message,
                "`fleet-cluster node release` it when it is up",
            ));
        }
        let Some(report) = node.report.as_ref().filter(|_| node.status == NodeStatus::Active)
        else {
            continue;
        };
        let action = "see docs/operations, Degraded nodes";
        for why in &report.unfit {
            let message = format!("{name} gets no strict agents: {why}");
            found.push(problem("NODE_UNFIT", message, action));
        }
        for why in &report.degraded {
            let message = format!("{name} cannot keep every promise: {why}");
            found.push(problem("NODE_DEGRADED", message, action));
        }
    }
}

fn fenced(state: &State, node: &Node, name: &str) -> Problem {
    let left = state.placed_on(node.id).len();
    let (what, action) = match left {
        0 => (
            "nothing of it runs there".to_owned(),
            "start its machine and daemon, or `fleet-cluster node remove` it",
        ),
        _ => (
            format!("{left} sticky or pinned agents are taken to run there still"),
            "start its machine and daemon; or cut its power, then `fleet-cluster node confirm-dead` it",
        ),
    };
    problem("NODE_FENCED", format!("{name} is out of reach and was fenced; {what}"), action)
}

/// What an agent's service says of two sessions, and where both may be.
fn runs_twice(state: &State, agent: &Agent, line: &str) -> String {
    let place = |node: Option<NodeId>, generation: u64| {
        let name = node.and_then(|id| state.nodes().get(&id)).map(|node| node.name.to_string());
        let name = name.unwrap_or_else(|| "a node that is gone".into());
        format!("generation {generation} on {name}")
    };
    let now = place(agent.placement.as_ref().map(|p| p.node), agent.generation.0);
    let before = agent.former.map(|(node, generation)| place(Some(node), generation.0));
    let before = before.map_or_else(String::new, |before| format!(", before it {before}"));
    format!("agent {} ({now}{before}) says another copy of its session is live: {line}", agent.id)
}

/// What is wrong with an agent, if anything is.
pub(super) fn of_agent(state: &State, observed: &Observed, agent: &Agent) -> Option<Problem> {
    if let Some(reason) = plan::waits_for(state, agent) {
        let message = format!("agent {} waits: {}", agent.id, pending(reason, &agent.spec));
        let action = "see `fleet-cluster agent explain` for what would help";
        return Some(problem("AGENT_PENDING", message, action));
    }
    let trouble = |o: &Observation| match o.state() {
        _ if !o.double_run.is_empty() => Some((
            "AGENT_RUNS_TWICE",
            runs_twice(state, agent, &o.double_run),
            "end the other copy; then `fleet-cluster agent restart` it",
        )),
        AgentState::CrashLooping => Some((
            "AGENT_CRASH_LOOPING",
            format!("agent {}: {}", agent.id, o.message),
            "see `fleet-cluster agent logs`, mend it, then `fleet-cluster agent restart` it",
        )),
        AgentState::BackingOff | AgentState::Unready => Some((
            "AGENT_UNREADY",
            format!("agent {}: {}", agent.id, o.message),
            "see `fleet-cluster agent logs`",
        )),
        _ => None,
    };
    let (reason, message, action) = observed.look(agent, trouble).flatten()?;
    Some(problem(reason, message, action))
}

/// What is wrong with more agents than are named.
pub(super) fn of_more(count: usize) -> Problem {
    let message = format!("{count} more agents are not well");
    problem("AGENTS_UNWELL", message, "see `fleet-cluster agent list`")
}
