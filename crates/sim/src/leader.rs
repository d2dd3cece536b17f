//! A simulated leader: what it heard, since when it leads, and what it would propose.
//!
//! Several may believe to lead at once; only one of them can commit, which the world sees to.

use std::collections::{BTreeMap, BTreeSet};

use fleet_core::{
    Agent, ConfirmStopped, Desired, Evidence, Lifecycle, Node, NodeStatus, Operation, PlaceAgents,
    State, plan,
};
use fleet_types::{AgentClass, AgentId, Epoch, Generation, LeaseTiming, NodeId};

/// Whether a host should run an agent placed on it.
pub(crate) fn should_run(agent: &Agent) -> bool {
    let stays = agent.placement.as_ref().is_some_and(|placement| !placement.evicting);
    stays && agent.desired == Desired::Running && agent.lifecycle == Lifecycle::Live
}

/// One who believes to lead.
pub(crate) struct Leader {
    pub(crate) term: u64,
    /// True time of its last round that a quorum answered.
    pub(crate) confirmed_ms: u64,
    /// Its own clock when its predecessors may last have granted something.
    predecessors_ms: u64,
    /// Its own clock until which it fences nobody.
    patient_until_ms: u64,
    rate_permille: u64,
    heard_ms: BTreeMap<NodeId, (Epoch, u64)>,
    dying: BTreeSet<(NodeId, Epoch)>,
}

impl Leader {
    /// Elected at true time `now_ms`, by voters that last answered a predecessor `ago_ms` before;
    /// fences nobody for `patience_ms`.
    pub(crate) fn new(
        term: u64,
        now_ms: u64,
        ago_ms: u64,
        rate_permille: u64,
        patience_ms: u64,
    ) -> Self {
        let now = now_ms * rate_permille / 1_000;
        let surely_ago = ago_ms * (1_000 - LeaseTiming::WAITER_MARGIN_PERMILLE) / 1_000;
        Self {
            term,
            confirmed_ms: now_ms,
            predecessors_ms: now.saturating_sub(surely_ago),
            patient_until_ms: now + patience_ms,
            rate_permille,
            heard_ms: BTreeMap::new(),
            dying: BTreeSet::new(),
        }
    }

    fn clock(&self, now_ms: u64) -> u64 {
        now_ms * self.rate_permille / 1_000
    }

    /// Notes a renewal received at true time `now_ms`; false when it must not be granted.
    pub(crate) fn hears(&mut self, state: &State, node: NodeId, epoch: Epoch, now_ms: u64) -> bool {
        let current = state.nodes().get(&node);
        let active = current.is_some_and(|n| n.epoch == epoch && n.status == NodeStatus::Active);
        if !active || self.dying.contains(&(node, epoch)) {
            return false;
        }
        self.confirmed_ms = now_ms;
        self.heard_ms.insert(node, (epoch, self.clock(now_ms)));
        true
    }

    /// A fence for a node silent for W, if there is one.
    pub(crate) fn fence(
        &mut self,
        state: &State,
        timing: &LeaseTiming,
        now_ms: u64,
    ) -> Option<Operation> {
        let now = self.clock(now_ms);
        if now < self.patient_until_ms {
            return None;
        }
        let active = state.nodes().values().filter(|n| n.status == NodeStatus::Active);
        for node in active {
            let waited_ms = self.waited_ms(node, now);
            if waited_ms >= timing.fence_after_ms() {
                self.dying.insert((node.id, node.epoch));
                let evidence = Evidence::LeaseExpired { waited_ms };
                let feared = self.feared_lost(state, timing, now);
                let fence =
                    plan::fence(state, node.id, node.epoch, evidence, AgentClass::Strict, feared);
                return Some(Operation::FenceNode(fence));
            }
        }
        None
    }

    /// For how long, at `now` of its clock, it has not heard a node.
    fn waited_ms(&self, node: &Node, now: u64) -> u64 {
        let heard = self.heard_ms.get(&node.id).filter(|(epoch, _)| *epoch == node.epoch);
        now.saturating_sub(heard.map_or(0, |(_, at)| *at).max(self.predecessors_ms))
    }

    /// How many registered nodes it has not heard for half of W.
    fn feared_lost(&self, state: &State, timing: &LeaseTiming, now: u64) -> usize {
        let active = state.nodes().values().filter(|n| n.status == NodeStatus::Active);
        let waited = active.map(|node| self.waited_ms(node, now));
        waited.filter(|waited_ms| *waited_ms >= timing.fence_after_ms() / 2).count()
    }

    /// A placement for agents that wait for one.
    pub(crate) fn place(
        &self,
        state: &State,
        timing: &LeaseTiming,
        now_ms: u64,
    ) -> Option<Operation> {
        let feared = self.feared_lost(state, timing, self.clock(now_ms));
        let moves = plan::placements(state, 100, feared);
        (!moves.is_empty()).then_some(Operation::PlaceAgents(PlaceAgents { moves }))
    }

    /// A record of an awaited stop that `node` reports.
    pub(crate) fn confirm(
        &self,
        state: &State,
        node: NodeId,
        stopped: &[(AgentId, Generation)],
    ) -> Option<Operation> {
        stopped.iter().find_map(|(id, generation)| {
            let agent = state.agent(id)?;
            let placement = agent.placement.as_ref()?;
            let awaited = placement.evicting || agent.lifecycle == Lifecycle::Deleting;
            if placement.node != node || agent.generation != *generation || !awaited {
                return None;
            }
            let mut planner = plan::Planner::beside_moves(state);
            Some(Operation::ConfirmStopped(ConfirmStopped {
                agent: id.clone(),
                generation: *generation,
                node,
                epoch: state.nodes().get(&node)?.epoch,
                next: planner.arrive(agent),
            }))
        })
    }
}
