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
use fleet_types::{AgentClass, Epoch, LeaseTiming, NodeId, Revision};

/// Who is refused and asks no more for so long has given up, in milliseconds: they ask every five
/// seconds.
const REFUSED_MS: u64 = 30_000;

#[derive(Clone, Copy)]
struct Term {
    began_ms: u64,
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
    /// Receipt of the last renewal granted for longer than usual.
    held_ms: BTreeMap<NodeId, u64>,
    /// How many registrations of a node are under way.
    registering: BTreeMap<NodeId, u32>,
    /// When and why one of a node was refused last, in words.
    refused: BTreeMap<NodeId, (u64, String)>,
    /// Epochs whose fence is on its way: they are granted nothing any more.
    dying: BTreeSet<(NodeId, Epoch)>,
}

/// The leader's memory of leases.
#[derive(Default)]
pub struct Leases {
    table: Mutex<Table>,
}

/// A registration under way. Its epoch is in the state before its node counts as heard under it, so
/// until this is dropped the node is not taken for silent.
pub struct Registering<'a> {
    leases: &'a Leases,
    node: NodeId,
}

impl Drop for Registering<'_> {
    fn drop(&mut self) {
        self.leases.with(|table| {
            // A table of another term knows nothing of it.
            if let Some(under_way) = table.registering.get_mut(&self.node) {
                *under_way -= 1;
                if *under_way == 0 {
                    table.registering.remove(&self.node);
                }
            }
        });
    }
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

/// The timings of a node's lease: longer ones while it is held.
fn timing_of(node: &Node, timing: &LeaseTiming) -> LeaseTiming {
    let lease_ms = node.hold.map_or(timing.lease_ms, |hold| hold.lease_ms.max(timing.lease_ms));
    LeaseTiming { lease_ms, ..*timing }
}

/// How long a leader waits before it takes agents of `class` on a node to be gone.
pub fn wait_ms(class: AgentClass, node: &Node, timing: &LeaseTiming) -> Option<u64> {
    match class {
        AgentClass::Strict => class.fence_after_ms(&timing_of(node, timing)),
        _ => class.fence_after_ms(timing),
    }
}

/// The class whose time is the next to be over on a node, if any.
fn next_to_end(state: &State, node: &Node) -> Option<AgentClass> {
    let sticky =
        |id| state.agent(id).is_some_and(|agent: &Agent| agent.spec.class == AgentClass::Sticky);
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
            began_ms: now,
            predecessors_ms: now.saturating_sub(surely_ago),
            patient_until_ms: now + timing.patience_ms(),
        };
        if planted(Mutant::NewLeaderDoesNotWait) {
            let waited = timing.fence_after_ms() - 2 * timing.renew_ms;
            (term.predecessors_ms, term.patient_until_ms) = (now.saturating_sub(waited), now);
        }
        self.with(|table| *table = Table { term: Some(term), ..Table::default() });
    }

    /// This node leads no more.
    pub fn end_term(&self) {
        self.with(|table| *table = Table::default());
    }

    /// A node is about to register.
    pub fn registering(&self, node: NodeId) -> Registering<'_> {
        self.with(|table| *table.registering.entry(node).or_default() += 1);
        Registering { leases: self, node }
    }

    /// Notes a renewal received at `receipt_ms` and confirmed by a quorum since, `held` when for
    /// longer than usual; false when it must not be granted.
    pub fn grant(&self, node: NodeId, epoch: Epoch, receipt_ms: u64, held: bool) -> bool {
        self.with(|table| {
            if table.term.is_none() || table.dying.contains(&(node, epoch)) {
                return false;
            }
            let heard = table.heard_ms.entry(node).or_insert(receipt_ms);
            *heard = receipt_ms.max(*heard);
            if held {
                let last = table.held_ms.entry(node).or_insert(receipt_ms);
                *last = receipt_ms.max(*last);
            }
            true
        })
    }

    /// How long ago a node was last heard, if ever in this term.
    pub fn age_ms(&self, node: NodeId) -> Option<u64> {
        let now = raw_ms();
        self.with(|table| table.heard_ms.get(&node).map(|at| now.saturating_sub(*at)))
    }

    /// How long ago this term began, in milliseconds: of who lives nothing was heard before.
    pub fn term_age_ms(&self) -> Option<u64> {
        let now = raw_ms();
        self.with(|table| table.term.map(|term| now.saturating_sub(term.began_ms)))
    }

    /// The registered nodes that were not heard for half of W, and may be lost.
    pub fn feared_lost(&self, state: &State, timing: &LeaseTiming) -> Vec<NodeId> {
        let now = raw_ms();
        self.with(|table| {
            let Some(term) = table.term else { return Vec::new() };
            let active = state.nodes().values().filter(|n| n.status == NodeStatus::Active);
            let feared = active.filter(|node| {
                let wait = timing_of(node, timing).fence_after_ms();
                term.waited_ms(&table.heard_ms, node.id, now) >= wait / 2
            });
            feared.map(|node| node.id).collect()
        })
    }

    /// Notes that a node registered, or why that was refused.
    pub fn registered(&self, node: NodeId, registered: Result<(), String>) {
        self.with(|table| match registered {
            Ok(()) => drop(table.refused.remove(&node)),
            Err(why) => drop(table.refused.insert(node, (raw_ms(), why))),
        });
    }

    /// Why registering is refused to nodes that ask for it.
    pub fn refused(&self) -> BTreeMap<NodeId, String> {
        let now = raw_ms();
        self.with(|table| {
            let of_late =
                table.refused.iter().filter(|(_, (at, _))| now.saturating_sub(*at) < REFUSED_MS);
            of_late.map(|(node, (_, why))| (*node, why.clone())).collect()
        })
    }

    /// Receipt of the last renewal of a node that was granted for longer than usual in this term.
    pub fn held_ms(&self, node: NodeId) -> Option<u64> {
        self.with(|table| table.held_ms.get(&node).copied())
    }

    /// The nodes of which the last long lease of an ending hold is over, with the revision of the
    /// hold.
    pub fn released(&self, state: &State, timing: &LeaseTiming) -> Vec<(NodeId, Revision)> {
        let now = raw_ms();
        self.with(|table| {
            let Some(term) = table.term else { return Vec::new() };
            let ending = state.nodes().values().filter_map(|node| {
                let hold = node.hold.filter(|hold| hold.ending)?;
                let waited_ms = term.waited_ms(&table.held_ms, node.id, now);
                let over = waited_ms >= timing_of(node, timing).fence_after_ms();
                over.then_some((node.id, hold.since))
            });
            ending.collect()
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
            let nodes = state.nodes().values();
            for node in nodes.filter(|node| !table.registering.contains_key(&node.id)) {
                let Some(reach) = next_to_end(state, node) else { continue };
                let Some(wait) = wait_ms(reach, node, timing) else { continue };
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

#[cfg(test)]
mod tests {
    use super::*;
    use fleet_core::{
        Command, InitCluster, NodeAddress, NodeReport, Operation, RegisterNode, apply,
    };
    use fleet_types::{Labels, LeaseProfile, PortRange, Resources, Timestamp};

    const NODE: NodeId = NodeId(1);

    /// A cluster of one registered node.
    fn state() -> State {
        let address = NodeAddress { api: "a:1".into(), peer: "a:2".into(), lease: "a:3".into() };
        let init = InitCluster {
            cluster: "0123456789abcdef".parse().unwrap(),
            profile: LeaseProfile::Default,
            node: NODE,
            name: "n1".parse().unwrap(),
            address,
            storage: "s1".into(),
        };
        let report = NodeReport {
            port_range: PortRange::new(10_240, 10_500).unwrap(),
            runtimes: BTreeMap::new(),
            capacity: Resources::default(),
            disk_bytes: 0,
            labels: Labels::default(),
            version: "0".into(),
            boot: "b".into(),
            degraded: Vec::new(),
            unfit: Vec::new(),
            rules: fleet_core::RULES,
        };
        let register = RegisterNode { node: NODE, storage: "s1".into(), held: None, report };
        let mut state = State::default();
        let operations = [Operation::InitCluster(init), Operation::RegisterNode(register)];
        for (index, operation) in (1..).zip(operations) {
            let command = Command { at: Timestamp(1), request: None, operation };
            apply(&mut state, index, &command).unwrap();
        }
        state
    }

    /// Leases of a leader that fences at once whom it has not heard.
    fn leases() -> Leases {
        let leases = Leases::default();
        let term = Term { began_ms: 0, predecessors_ms: 0, patient_until_ms: 0 };
        leases.with(|table| table.term = Some(term));
        leases
    }

    fn silent(leases: &Leases, state: &State) -> usize {
        leases.silent(state, &LeaseTiming::of(LeaseProfile::Default)).0.len()
    }

    #[test]
    fn one_that_registers_is_not_silent() {
        let (state, leases) = (state(), leases());
        let (first, second) = (leases.registering(NODE), leases.registering(NODE));
        assert_eq!(silent(&leases, &state), 0);
        drop(first);
        assert_eq!(silent(&leases, &state), 0, "another registration is under way");
        leases.grant(NODE, state.nodes()[&NODE].epoch, raw_ms(), false);
        drop(second);
        assert_eq!(silent(&leases, &state), 0);
    }

    #[test]
    fn one_that_failed_to_register_is_silent_still() {
        let (state, leases) = (state(), leases());
        drop(leases.registering(NODE));
        assert_eq!(silent(&leases, &state), 1);
        let epoch = state.nodes()[&NODE].epoch;
        assert!(!leases.grant(NODE, epoch, raw_ms(), false), "its fence is on its way");
    }
}
