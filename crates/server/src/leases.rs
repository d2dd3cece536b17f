//! Who was heard from, and until when a predecessor may have granted. In memory only: a new leader
//! waits as long as a lease lasts before it believes anyone to be gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};

use fleet_core::{Agent, Node, NodeStatus, State};
use fleet_mutants::{Mutant, planted};
use fleet_runtime::clock::raw_ms;
use fleet_types::{AgentClass, Epoch, LeaseTiming, NodeId};

#[derive(Clone, Copy)]
struct Term {
    /// No earlier leader granted anything later than this.
    predecessors_ms: u64,
    /// Nobody is fenced before this.
    patient_until_ms: u64,
}

impl Term {
    /// For how long a node was not heard, given what was heard of any.
    fn waited_ms(&self, heard: &BTreeMap<NodeId, u64>, node: NodeId, now: u64) -> u64 {
        let heard = heard.get(&node).copied().unwrap_or(0);
        now.saturating_sub(heard.max(self.predecessors_ms))
    }
}

#[derive(Default)]
struct Table {
    /// None while not leading.
    term: Option<Term>,
    /// Receipt of the last granted renewal.
    heard_ms: BTreeMap<NodeId, u64>,
    /// Epochs whose fence is on its way: they are granted nothing any more.
    dying: BTreeSet<(NodeId, Epoch)>,
}

/// The leader's memory of leases.
#[derive(Default)]
pub struct Leases {
    table: Mutex<Table>,
}

/// A node that may be fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silent {
    /// The node.
    pub node: NodeId,
    /// The epoch that ends.
    pub epoch: Epoch,
    /// How long it was silent, in milliseconds of the waiter's clock.
    pub waited_ms: u64,
    /// The last class of agents that must have ended by now.
    pub reach: AgentClass,
}

/// The class whose time is the next to be over on a node, if any.
fn next_to_end(state: &State, node: &Node) -> Option<AgentClass> {
    let sticky = |id| {
        state.agents().get(id).is_some_and(|agent: &Agent| agent.spec.class == AgentClass::Sticky)
    };
    match node.status {
        NodeStatus::Joining => None,
        NodeStatus::Active => Some(AgentClass::Strict),
        NodeStatus::Fenced => state.placed_on(node.id).any(sticky).then_some(AgentClass::Sticky),
    }
}

impl Leases {
    fn with<T>(&self, act: impl FnOnce(&mut Table) -> T) -> T {
        act(&mut self.table.lock().expect("no holder panics"))
    }

    /// This node leads, an entry of its own term is committed, and no earlier leader can have
    /// granted anything for as long as `since_predecessors`, by a clock that may run fast.
    pub fn begin_term(&self, since_predecessors: Duration, timing: &LeaseTiming) {
        let now = raw_ms();
        let ago = u64::try_from(since_predecessors.as_millis()).unwrap_or(0);
        let surely_ago = ago * (1_000 - LeaseTiming::WAITER_MARGIN_PERMILLE) / 1_000;
        let mut term = Term {
            predecessors_ms: now.saturating_sub(surely_ago),
            patient_until_ms: now + timing.patience_ms(),
        };
        if planted(Mutant::NewLeaderDoesNotWait) {
            let waited = timing.fence_after_ms() - 2 * timing.renew_ms;
            term = Term { predecessors_ms: now.saturating_sub(waited), patient_until_ms: now };
        }
        self.with(|table| *table = Table { term: Some(term), ..Table::default() });
    }

    /// This node leads no more.
    pub fn end_term(&self) {
        self.with(|table| *table = Table::default());
    }

    /// Notes a renewal received at `receipt_ms` and confirmed by a quorum since; false when it
    /// must not be granted.
    pub fn grant(&self, node: NodeId, epoch: Epoch, receipt_ms: u64) -> bool {
        self.with(|table| {
            if table.term.is_none() || table.dying.contains(&(node, epoch)) {
                return false;
            }
            let heard = table.heard_ms.entry(node).or_insert(receipt_ms);
            *heard = receipt_ms.max(*heard);
            true
        })
    }

    /// How long ago a node was last heard, if ever in this term.
    pub fn age_ms(&self, node: NodeId) -> Option<u64> {
        let now = raw_ms();
        self.with(|table| table.heard_ms.get(&node).map(|at| now.saturating_sub(*at)))
    }

    /// How many registered nodes were not heard for half of W, and may be lost.
    pub fn feared_lost(&self, state: &State, timing: &LeaseTiming) -> usize {
        let now = raw_ms();
        self.with(|table| {
            let Some(term) = table.term else { return 0 };
            let active = state.nodes().values().filter(|n| n.status == NodeStatus::Active);
            let waited = active.map(|node| term.waited_ms(&table.heard_ms, node.id, now));
            waited.filter(|waited_ms| *waited_ms >= timing.fence_after_ms() / 2).count()
        })
    }

    /// The nodes that were silent for W, or fenced and silent for as long as sticky agents last,
    /// marked so that nothing is granted to them any more; and how long until the next one may be.
    pub fn silent(&self, state: &State, timing: &LeaseTiming) -> (Vec<Silent>, Option<u64>) {
        let now = raw_ms();
        self.with(|table| {
            let Some(term) = table.term else { return (Vec::new(), None) };
            if now < term.patient_until_ms {
                return (Vec::new(), Some(term.patient_until_ms - now));
            }
            let (mut silent, mut next) = (Vec::new(), None);
            for node in state.nodes().values() {
                let Some(reach) = next_to_end(state, node) else { continue };
                let Some(wait) = reach.fence_after_ms(timing) else { continue };
                let waited_ms = term.waited_ms(&table.heard_ms, node.id, now);
                if waited_ms >= wait {
                    table.dying.insert((node.id, node.epoch));
                    silent.push(Silent { node: node.id, epoch: node.epoch, waited_ms, reach });
                } else {
                    let left = wait - waited_ms;
                    next = Some(next.map_or(left, |n: u64| n.min(left)));
                }
            }
            (silent, next)
        })
    }
}
