//! A second opinion on a state: what must always hold, checked from the records alone. Shares no
//! code with `apply`, so a mistake there does not hide itself here.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};

use fleet_types::{AgentClass, AgentId, NodeId, limits};

use crate::{
    record::{Agent, Lifecycle, NodeStatus},
    state::State,
};

/// A broken promise: which, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The promise, as a short stable name.
    pub rule: &'static str,
    /// The records that break it.
    pub detail: String,
}

/// Everything wrong with `state`; empty for a sound one.
pub fn audit(state: &State) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut uids = BTreeMap::new();
    let mut by_node: BTreeMap<NodeId, Vec<&Agent>> = BTreeMap::new();
    for agent in state.agents().values() {
        if !state.fleets().contains_key(&agent.id.fleet) {
            found.push(violation("agent without fleet", agent, ""));
        }
        if let Some(other) = uids.insert(agent.uid, &agent.id) {
            found.push(violation("uid used twice", agent, &format!(" and {other}")));
        }
        if agent.placement.is_some() && agent.generation.0 == 0 {
            found.push(violation("placed without a generation", agent, ""));
        }
        if agent.placement.is_some() == agent.pending.is_some() {
            found.push(violation("must be either placed or pending", agent, ""));
        }
        if agent.lifecycle == Lifecycle::Deleting && agent.placement.is_none() {
            found.push(violation("deleted agent lingers", agent, ""));
        }
        if let Some(placement) = &agent.placement {
            by_node.entry(placement.node).or_default().push(agent);
        }
    }
    for (node, agents) in by_node {
        audit_node(state, node, agents, &mut found);
    }
    if state.events().len() > limits::EVENTS_MAX {
        let detail = format!("{} events", state.events().len());
        found.push(Violation { rule: "too many events kept", detail });
    }
    if state.requests().len() > limits::REQUESTS_REMEMBERED_MAX {
        let detail = format!("{} requests", state.requests().len());
        found.push(Violation { rule: "too many requests remembered", detail });
    }
    found
}

fn audit_node(state: &State, id: NodeId, mut agents: Vec<&Agent>, found: &mut Vec<Violation>) {
    let Some(node) = state.nodes().get(&id) else {
        found.extend(agents.iter().map(|a| violation("placed on an unknown node", a, "")));
        return;
    };
    if node.status != NodeStatus::Active {
        let strict = agents.iter().filter(|agent| agent.spec.class == AgentClass::Strict);
        found.extend(strict.map(|a| violation("strict, on a node without lease", a, "")));
    }
    let range = node.report.as_ref().map(|report| report.port_range);
    agents.sort_by_key(|agent| agent.placement.as_ref().map(|p| p.block));
    let mut last: Option<(u16, &AgentId)> = None;
    for kept in state.quarantined(id) {
        let inside = range.is_some_and(|range| {
            kept.block.base >= range.first() && kept.block.last() <= range.last()
        });
        if !inside {
            let detail = format!("{} of node {id}", kept.block);
            found.push(Violation { rule: "quarantined ports outside the node's range", detail });
        }
    }
    for agent in agents {
        let Some(placement) = &agent.placement else { continue };
        let (base, size) = (placement.block.base, placement.block.size);
        if size != agent.spec.ports || !size.is_power_of_two() || base % size != 0 {
            found.push(violation("block of the wrong size or alignment", agent, ""));
        }
        if range.is_none_or(|range| base < range.first() || base + (size - 1) > range.last()) {
            found.push(violation("block outside the node's range", agent, ""));
        }
        if let Some((end, other)) = last
            && base <= end
        {
            found.push(violation("blocks overlap", agent, &format!(" and {other}")));
        }
        if state.quarantined(id).any(|kept| kept.block.overlaps(placement.block)) {
            found.push(violation("block is quarantined", agent, ""));
        }
        last = Some((base + (size - 1), &agent.id));
    }
}

fn violation(rule: &'static str, agent: &Agent, more: &str) -> Violation {
    Violation { rule, detail: format!("agent {}{more}", agent.id) }
}
