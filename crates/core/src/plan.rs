//! Choosing nodes. Runs on the leader, outside `apply`, on a view of the state.
//!
//! The problem: each agent needs a node that is registered, open, has the agent's runtime, a free
//! port block of its size, and for a strict agent all it takes to end it in time. The choice: the
//! eligible node with the fewest agents, the smallest number winning a tie. Properties: (1) every
//! choice is eligible in the view; (2) after a plan, no two eligible nodes of equal room differ by
//! more than the agents they differed by before, plus one; (3) the same view and requests give the
//! same plan; (4) where room is short, no agent is left out for one of lower priority of its size.
//!
//! Not done here: weighing memory or cores, keeping agents of a fleet apart, moving what runs.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::cmp::Reverse;

use fleet_types::{AgentClass, AgentId, Epoch, NodeId};

use crate::{
    command::FenceNode,
    ports::BuddyAllocator,
    record::{
        Agent, AgentSpec, Evidence, MovePolicy, MoveRule, Node, NodeStatus, PendingReason,
        Schedulable,
    },
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

fn runs(node: &Node, spec: &AgentSpec) -> bool {
    node.report.as_ref().is_some_and(|report| report.runtimes.contains_key(&spec.runtime))
}

/// Whether a node ends what runs there in time.
fn keeps(node: &Node, spec: &AgentSpec) -> bool {
    let fit = node.report.as_ref().is_some_and(|report| report.unfit.is_empty());
    fit || spec.class != AgentClass::Strict
}

fn labelled(node: &Node, spec: &AgentSpec) -> bool {
    node.report.as_ref().is_some_and(|report| report.labels.have(&spec.node_labels))
}

/// Why a registered, open node cannot have an agent, room aside; none when it can.
pub(crate) fn obstacle(node: &Node, spec: &AgentSpec) -> Option<PendingReason> {
    if !runs(node, spec) {
        return Some(PendingReason::NoRuntime);
    }
    if !labelled(node, spec) {
        return Some(PendingReason::NoLabels);
    }
    (!keeps(node, spec)).then_some(PendingReason::NoFitNode)
}

fn suits(node: &Node, spec: &AgentSpec) -> bool {
    obstacle(node, spec).is_none()
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

    /// The node for one more agent, or none when no open node suits it and has the room.
    pub fn choose(&mut self, spec: &AgentSpec) -> Option<NodeId> {
        self.choose_among(|_| true, spec)
    }

    fn choose_among(&mut self, among: impl Fn(NodeId) -> bool, spec: &AgentSpec) -> Option<NodeId> {
        let block = spec.ports;
        if !block.is_power_of_two() {
            return None;
        }
        let (state, ports) = (self.state, &mut self.ports);
        let (load, id) = self.by_load.iter().copied().find(|(_, id)| {
            let fits = |id| match ports.get(id) {
                Some(ports) => ports.fits(block),
                None => state.ports(*id).is_some_and(|ports| ports.fits(block)),
            };
            among(*id) && state.nodes().get(id).is_some_and(|node| suits(node, spec)) && fits(id)
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

/// The order agents get what room there is in: the highest priority first, of equal ones the oldest.
fn first_come<'a>(agents: impl Iterator<Item = &'a Agent>) -> impl Iterator<Item = &'a Agent> {
    let mut agents: Vec<&Agent> = agents.collect();
    agents.sort_by_key(|agent| (Reverse(agent.spec.priority), agent.uid));
    agents.into_iter()
}

/// Whether the agents of lost nodes are placed elsewhere now. `silent` counts the registered nodes
/// that are feared to be lost: nodes that go at the same time are not fenced at the same time.
pub fn moves(state: &State, silent: usize) -> bool {
    let policy = state.cluster().map_or_else(MovePolicy::default, |cluster| cluster.moves);
    match policy.rule {
        MoveRule::Always => true,
        MoveRule::Never => false,
        MoveRule::Automatic => {
            let known = state.nodes().values().filter(|node| node.status != NodeStatus::Joining);
            let (all, fenced) = known.fold((0, 0), |(all, fenced), node| {
                (all + 1, fenced + usize::from(node.status == NodeStatus::Fenced))
            });
            (fenced + silent) * 100 <= all * usize::from(policy.lost_percent_max)
        }
    }
}

/// The fence of a node up to class `reach`, `silent` of all being feared to be lost.
pub fn fence(
    state: &State,
    node: NodeId,
    epoch: Epoch,
    evidence: Evidence,
    reach: AgentClass,
    silent: usize,
) -> FenceNode {
    let paused = !moves(state, silent);
    let moves = if paused { Vec::new() } else { replacements(state, node, reach) };
    FenceNode { node, epoch, evidence, moves, paused, reach }
}

/// Where the agents of `node` up to class `reach` would go if it were lost now. Those that fit
/// nowhere are left out.
pub fn replacements(state: &State, node: NodeId, reach: AgentClass) -> Vec<(AgentId, NodeId)> {
    let losses = losses(state, node, reach).into_iter();
    losses.filter_map(|(agent, to)| Some((agent.id.clone(), to?))).collect()
}

/// All agents of `node`, in the order they are placed if it is lost, each with where it would go;
/// nowhere when it fits nowhere, or is of a class after `reach`.
pub(crate) fn losses(
    state: &State,
    node: NodeId,
    reach: AgentClass,
) -> Vec<(&Agent, Option<NodeId>)> {
    let mut planner = Planner::without(state, node);
    let agents = state.placed_on(node).filter_map(|id| state.agents().get(id));
    let mut place =
        |agent: &Agent| (agent.spec.class <= reach).then(|| planner.choose(&agent.spec));
    first_come(agents).map(|agent| (agent, place(agent).flatten())).collect()
}

/// Where agents without a placement can go now; at most `limit` of them. `silent` as for [`moves`].
/// While agents are not moved, those of a lost node go back there once it is up.
pub fn placements(state: &State, limit: usize, silent: usize) -> Vec<(AgentId, NodeId)> {
    let mut planner = Planner::new(state);
    let paused = !moves(state, silent);
    first_come(state.unplaced().filter_map(|id| state.agents().get(id)))
        .filter_map(|agent| {
            let held = paused && agent.pending == Some(PendingReason::MovesPaused);
            let former = agent.former.map(|(node, _)| node);
            let may = |node| !held || former == Some(node);
            let node = planner.choose_among(may, &agent.spec)?;
            Some((agent.id.clone(), node))
        })
        .take(limit)
        .collect()
}

/// Why no node can take an agent: what the nodes that come closest lack.
pub fn why_pending(state: &State, spec: &AgentSpec) -> PendingReason {
    let nodes = state.nodes().values().filter(|node| open(node));
    let obstacles = nodes.map(|node| match obstacle(node, spec) {
        Some(reason) => reason,
        None if state.ports(node.id).is_some_and(|ports| ports.fits(spec.ports)) => {
            PendingReason::NoNode
        }
        None => PendingReason::NoPorts,
    });
    obstacles.max_by_key(|reason| closeness(*reason)).unwrap_or(PendingReason::NoNode)
}

/// How close a node with this obstacle comes to taking an agent.
fn closeness(obstacle: PendingReason) -> u8 {
    match obstacle {
        PendingReason::NoRuntime => 0,
        PendingReason::NoLabels => 1,
        PendingReason::NoFitNode => 2,
        PendingReason::NoPorts => 3,
        // Nothing stands in the way: the choice was made on an older view.
        PendingReason::NoNode | PendingReason::MovesPaused => 4,
    }
}
