//! Choosing nodes. Runs on the leader, outside `apply`, on a view of the state.
//!
//! The problem: each agent needs a node that is registered, open, has the agent's runtime and a
//! free port block of its size. The choice: the eligible node with the fewest agents, the smallest
//! number winning a tie. Properties: (1) every choice is eligible in the view; (2) after a plan, no
//! two eligible nodes of equal room differ by more than the agents they differed by before, plus
//! one; (3) the same view and requests give the same plan.
//!
//! Not done here: weighing memory or cores, keeping agents of a fleet apart, moving what runs.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use fleet_types::{AgentId, NodeId, RuntimeName};

use crate::{
    ports::BuddyAllocator,
    record::{Node, NodeStatus, PendingReason, Schedulable},
    state::State,
};

/// Chooses nodes for a batch of agents, counting its own choices.
pub struct Planner<'a> {
    state: &'a State,
    /// Open nodes by (agents, number).
    by_load: BTreeSet<(usize, NodeId)>,
    /// Port space of the nodes chosen so far, less what this plan takes.
    ports: BTreeMap<NodeId, BuddyAllocator>,
}

fn open(node: &Node) -> bool {
    node.status == NodeStatus::Active && node.schedulable == Schedulable::Open
}

fn runs(node: &Node, runtime: &RuntimeName) -> bool {
    node.report.as_ref().is_some_and(|report| report.runtimes.contains_key(runtime))
}

impl<'a> Planner<'a> {
    /// A planner over `state`.
    pub fn new(state: &'a State) -> Self {
        let nodes = state.nodes().values().filter(|node| open(node));
        let by_load = nodes.map(|node| (state.placed_on(node.id).len(), node.id)).collect();
        Self { state, by_load, ports: BTreeMap::new() }
    }

    /// What it plans on.
    pub fn state(&self) -> &'a State {
        self.state
    }

    /// A planner that leaves `node` out.
    pub fn without(state: &'a State, node: NodeId) -> Self {
        let mut planner = Self::new(state);
        planner.by_load.retain(|(_, id)| *id != node);
        planner
    }

    /// The node for one more agent, or none when no open node has the runtime and the room.
    pub fn choose(&mut self, runtime: &RuntimeName, block: u16) -> Option<NodeId> {
        if !block.is_power_of_two() {
            return None;
        }
        let (state, ports) = (self.state, &mut self.ports);
        let (load, id) = self.by_load.iter().copied().find(|(_, id)| {
            let fits = |id| match ports.get(id) {
                Some(ports) => ports.fits(block),
                None => state.ports(*id).is_some_and(|ports| ports.fits(block)),
            };
            state.nodes().get(id).is_some_and(|node| runs(node, runtime)) && fits(id)
        })?;
        let taken = match ports.get_mut(&id) {
            Some(ports) => ports.take(block),
            None => {
                let mut copy = state.ports(id)?.clone();
                let taken = copy.take(block);
                ports.insert(id, copy);
                taken
            }
        };
        taken?;
        self.by_load.remove(&(load, id));
        self.by_load.insert((load + 1, id));
        Some(id)
    }
}

/// Where the agents of `node` would go if it were lost now. Those that fit nowhere are left out.
pub fn replacements(state: &State, node: NodeId) -> Vec<(AgentId, NodeId)> {
    let mut planner = Planner::without(state, node);
    let agents = state.placed_on(node).filter_map(|id| state.agents().get(id));
    agents
        .filter_map(|agent| {
            let node = planner.choose(&agent.spec.runtime, agent.spec.ports)?;
            Some((agent.id.clone(), node))
        })
        .collect()
}

/// Where agents without a placement can go now; at most `limit` of them.
pub fn placements(state: &State, limit: usize) -> Vec<(AgentId, NodeId)> {
    let mut planner = Planner::new(state);
    let agents = state.unplaced().filter_map(|id| state.agents().get(id));
    agents
        .filter_map(|agent| {
            let node = planner.choose(&agent.spec.runtime, agent.spec.ports)?;
            Some((agent.id.clone(), node))
        })
        .take(limit)
        .collect()
}

/// Why no node can take an agent.
pub fn why_pending(state: &State, runtime: &RuntimeName, block: u16) -> PendingReason {
    let mut nodes = state.nodes().values().filter(|node| open(node)).peekable();
    if nodes.peek().is_none() {
        return PendingReason::NoNode;
    }
    let mut with_runtime = nodes.filter(|node| runs(node, runtime)).peekable();
    if with_runtime.peek().is_none() {
        return PendingReason::NoRuntime;
    }
    if with_runtime.any(|node| state.ports(node.id).is_some_and(|ports| ports.fits(block))) {
        return PendingReason::NoNode;
    }
    PendingReason::NoPorts
}
