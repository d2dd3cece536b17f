//! What the leader proposes for agents: who goes where when a node is lost, where those go that
//! wait, and why one waits.
//!
//! Not done here: choosing among nodes, see [`crate::planner`]; moving what runs, see
//! [`crate::rebalance`].

use alloc::vec::Vec;
use core::cmp::Reverse;

use fleet_types::{AgentClass, AgentId, Epoch, FleetName, NodeId};

pub use crate::planner::Planner;
use crate::{
    admission,
    command::FenceNode,
    offer::Needs,
    record::{
        Agent, AgentSpec, Evidence, Lifecycle, MovePolicy, MoveRule, Node, NodeStatus,
        PendingReason,
    },
    room::{Lack, Room},
    state::State,
};

/// Why a node is not one for an agent, whatever else is there.
pub(crate) fn mismatches(
    node: &Node,
    Needs { runtime, version, labels, strict }: Needs<'_>,
) -> impl Iterator<Item = PendingReason> {
    let report = node.report.as_ref();
    let found = report.and_then(|report| report.runtimes.get(runtime));
    let is_old = version.zip(found).is_some_and(|(wanted, found)| !wanted.is_reached_by(found));
    let labelled = report.is_some_and(|report| report.labels.have(labels));
    // It ends what runs there in time.
    let keeps = report.is_some_and(|report| report.unfit.is_empty());
    [
        (found.is_none(), PendingReason::NoRuntime),
        (!labelled, PendingReason::NoLabels),
        (is_old, PendingReason::OldRuntime),
        (strict && !keeps, PendingReason::NoFitNode),
    ]
    .into_iter()
    .filter_map(|(hinders, reason)| hinders.then_some(reason))
}

/// Whether a node is one for an agent, if nothing else were there.
pub(crate) fn matches(node: &Node, needs: Needs<'_>) -> bool {
    mismatches(node, needs).next().is_none()
}

/// The nodes that are ones for an agent and take agents, but for those with agents of a fleet that
/// stand apart, if given.
pub(crate) fn listed<'a>(
    state: &'a State,
    needs: Needs<'a>,
    apart_from: Option<&'a FleetName>,
) -> impl Iterator<Item = &'a Node> {
    let listed = state.index().search(needs, None, None, apart_from).nodes();
    let close =
        move |id| apart_from.is_some_and(|it| state.index().whereabouts.stands_apart(it, id));
    let listed = listed.filter(move |id| !close(*id)).filter_map(|id| state.nodes().get(&id));
    listed.filter(move |node| matches(node, needs))
}

/// The nodes that are ones for an agent, whether they take agents now or not, those that surely
/// have room first; some twice.
pub(crate) fn suiting<'a>(state: &'a State, spec: &'a AgentSpec) -> impl Iterator<Item = &'a Node> {
    let with_room =
        state.index().search(spec.into(), Some(admission::asked(spec)), None, None).nodes();
    let with_room = with_room.filter_map(|id| state.nodes().get(&id));
    // Which nodes are fit changes by itself.
    let needs = Needs { strict: false, ..spec.into() };
    let closed = state.index().closed.iter().filter_map(|id| state.nodes().get(id));
    let others = listed(state, needs, None).chain(closed);
    with_room.chain(others).filter(move |node| matches(node, needs))
}

/// Whether some node that takes agents would have room for an agent if nothing else were there.
pub(crate) fn could_hold(state: &State, spec: &AgentSpec) -> bool {
    listed(state, spec.into(), None)
        .filter_map(|node| state.room(node.id))
        .any(|room| Room::new(room.ports().range(), room.limit()).lacks(spec).is_none())
}

/// Whether an agent stands apart from one that a node has.
pub(crate) fn too_close(state: &State, node: NodeId, fleet: &FleetName, spec: &AgentSpec) -> bool {
    spec.wants.apart && state.index().whereabouts.stands_apart(fleet, node)
}

/// Why a registered, open node cannot have an agent now; none when it can.
pub(crate) fn obstacle(
    state: &State,
    node: &Node,
    fleet: &FleetName,
    spec: &AgentSpec,
) -> Option<PendingReason> {
    let close = || too_close(state, node.id, fleet, spec).then_some(PendingReason::NotApart);
    let lack = || match state.room(node.id).map(|room| room.lacks(spec)) {
        Some(None) => None,
        Some(Some(Lack::Memory(_))) => Some(PendingReason::NoMemory),
        Some(Some(Lack::Cpu(_))) => Some(PendingReason::NoCpu),
        Some(Some(Lack::Ports(_))) | None => Some(PendingReason::NoPorts),
    };
    mismatches(node, spec.into()).next().or_else(close).or_else(lack)
}

/// The order agents get what room there is in: the highest priority first, of equal ones the oldest.
pub(crate) fn first_come<'a>(
    agents: impl Iterator<Item = &'a Agent>,
) -> impl Iterator<Item = &'a Agent> {
    let mut agents: Vec<&Agent> = agents.collect();
    agents.sort_unstable_by_key(|agent| (Reverse(agent.spec.priority), agent.uid));
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

/// All agents of `node` that are not being deleted, and those that wait for it since it was lost, in
/// the order they are placed if all up to class `reach` are placed at once, each with where it would
/// go; nowhere when it fits nowhere, or is of a class after that.
fn losses(state: &State, node: NodeId, reach: AgentClass) -> Vec<(&Agent, Option<NodeId>)> {
    placed_without(state, node, reach, first_come(lost_with(state, node)))
}

/// As [`losses`], in the order they are placed as their classes' times are over.
pub(crate) fn losses_in_turn(state: &State, node: NodeId) -> Vec<(&Agent, Option<NodeId>)> {
    let mut agents: Vec<&Agent> = first_come(lost_with(state, node)).collect();
    agents.sort_by_key(|agent| agent.spec.class);
    placed_without(state, node, AgentClass::Sticky, agents.into_iter())
}

fn lost_with(state: &State, node: NodeId) -> impl Iterator<Item = &Agent> {
    let placed = state.placed_on(node).filter_map(|id| state.agent(id));
    let agents = placed.filter(|agent| agent.lifecycle == Lifecycle::Live);
    agents.chain(state.held_for(node))
}

fn placed_without<'a>(
    state: &State,
    node: NodeId,
    reach: AgentClass,
    agents: impl Iterator<Item = &'a Agent>,
) -> Vec<(&'a Agent, Option<NodeId>)> {
    let mut planner = Planner::without(state, node);
    let mut place = |agent: &Agent| {
        (agent.spec.class <= reach).then(|| planner.choose(&agent.id.fleet, &agent.spec))
    };
    agents.map(|agent| (agent, place(agent).flatten())).collect()
}

/// Whether an agent is kept for the node that it was on, as long as agents are not moved. One that was
/// removed does not come back.
pub fn waits_for_its_node(state: &State, agent: &Agent) -> bool {
    let known = agent.former.is_some_and(|(former, _)| state.nodes().contains_key(&former));
    known && agent.pending == Some(PendingReason::MovesPaused)
}

/// Where agents without a placement can go now; at most `limit` of them. `silent` as for [`moves`].
/// While agents are not moved, those of a lost node go back there once it is up.
pub fn placements(state: &State, limit: usize, silent: usize) -> Vec<(AgentId, NodeId)> {
    let mut planner = Planner::beside_moves(state);
    let paused = !moves(state, silent);
    let is_held = |agent: &Agent| paused && waits_for_its_node(state, agent);
    first_come(state.unplaced().filter_map(|id| state.agent(id)))
        .filter_map(|agent| {
            let (id, fleet, spec) = (&agent.id, &agent.id.fleet, &agent.spec);
            if is_held(agent) {
                let (former, _) = agent.former?;
                return planner.take_if_suits(former, fleet, spec).then(|| (id.clone(), former));
            }
            Some((id.clone(), planner.choose(fleet, spec)?))
        })
        .take(limit)
        .collect()
}

/// Why an agent waits that does, as things are now: what was said when it began to may be so no
/// more.
pub fn waits_for(state: &State, agent: &Agent) -> Option<PendingReason> {
    let first = agent.pending?;
    if waits_for_its_node(state, agent) && !moves(state, 0) {
        return Some(first);
    }
    match why_pending(state, &agent.id.fleet, &agent.spec) {
        // It is placed once nodes that are silent are not.
        PendingReason::RoomKept if waits_for_its_node(state, agent) => Some(first),
        now => Some(now),
    }
}

/// Why no node can take an agent: what the nodes that come closest lack, of those the least full.
pub fn why_pending(state: &State, fleet: &FleetName, spec: &AgentSpec) -> PendingReason {
    let index = state.index();
    if index.listed().is_empty() {
        return PendingReason::NoNode;
    }
    if !index.has_runtime(&spec.runtime) {
        return PendingReason::NoRuntime;
    }
    let needs = Needs::from(spec);
    let mut apart = listed(state, needs, spec.wants.apart.then_some(fleet));
    if let Some(node) = apart.next() {
        return obstacle(state, node, fleet, spec).unwrap_or(PendingReason::RoomKept);
    }
    let any_fitness = Needs { strict: false, ..needs };
    let any_version = Needs { version: None, ..any_fitness };
    let is_one = |needs| listed(state, needs, None).next().is_some();
    match () {
        () if is_one(needs) => PendingReason::NotApart,
        () if is_one(any_fitness) => PendingReason::NoFitNode,
        () if is_one(any_version) => PendingReason::OldRuntime,
        () => PendingReason::NoLabels,
    }
}
