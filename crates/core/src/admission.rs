//! Whether more agents may be admitted. By default the cluster takes on only what it could still
//! run after the loss of its largest node: what all agents ask for must fit into the nodes without
//! the one that has most of it. That is arithmetic on sums, so it is cheap and can be shown; it
//! does not see that what is left is in pieces, or that only some nodes suit an agent.
//!
//! A node counts while it is known and open, whether it is up or not: the loss of one node is what
//! is provided for, so it does not shut the door. Alone, a node has nothing to provide for.

use alloc::collections::{BTreeMap, BTreeSet};

use fleet_types::{NodeId, Resources};

use crate::{
    command::{Admission, AgentDraft},
    ports::BuddyAllocator,
    record::{AgentSpec, Node, NodeStatus, PlacementPolicy, Schedulable},
    rejection::Rejection,
    room,
    state::State,
};

/// Something nodes have and agents ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dimension {
    /// Memory, in bytes.
    Memory,
    /// Processor time, in thousandths of a core.
    Cpu,
    /// Ports.
    Ports,
}

impl Dimension {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Ports];

    /// Its name, with its unit.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "bytes of memory",
            Self::Cpu => "thousandths of a core",
            Self::Ports => "ports",
        }
    }
}

/// An amount of each dimension.
type Amounts = [u64; Dimension::ALL.len()];

/// What an agent asks for.
fn asked(spec: &AgentSpec) -> Amounts {
    let Resources { memory_bytes, cpu_millis } = spec.wants.requests;
    [memory_bytes, cpu_millis, spec.ports.into()]
}

/// What a node has, as far as it has said.
fn amounts(node: &Node, policy: &PlacementPolicy) -> Option<Amounts> {
    let report = node.report.as_ref()?;
    let Resources { memory_bytes, cpu_millis } = room::limit(report, policy);
    Some([memory_bytes, cpu_millis, report.port_range.size().into()])
}

/// Sums over all agents and all nodes that count, kept as they change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    asked: Amounts,
    /// What each node counts for, and its largest aligned block of ports.
    nodes: BTreeMap<NodeId, (Amounts, u16)>,
    has: Amounts,
    /// By amount; 0 is no bound.
    sizes: [BTreeSet<(u64, NodeId)>; Dimension::ALL.len()],
    /// The largest aligned block of ports of each node.
    blocks: BTreeSet<(u16, NodeId)>,
}

impl Totals {
    pub(crate) fn add_agent(&mut self, spec: &AgentSpec) {
        self.asked.iter_mut().zip(asked(spec)).for_each(|(sum, amount)| *sum += amount);
    }

    pub(crate) fn remove_agent(&mut self, spec: &AgentSpec) {
        self.asked.iter_mut().zip(asked(spec)).for_each(|(sum, amount)| *sum -= amount);
    }

    pub(crate) fn remove_node(&mut self, id: NodeId) {
        let Some((amounts, block)) = self.nodes.remove(&id) else { return };
        self.blocks.remove(&(block, id));
        for (n, amount) in amounts.into_iter().enumerate() {
            self.has[n] -= amount;
            self.sizes[n].remove(&(amount, id));
        }
    }

    /// Counts a node as it is now.
    pub(crate) fn put_node(&mut self, node: &Node, policy: &PlacementPolicy) {
        self.remove_node(node.id);
        let counts = node.status != NodeStatus::Joining && node.schedulable == Schedulable::Open;
        let Some(report) = node.report.as_ref().filter(|_| counts) else { return };
        let Some(amounts) = amounts(node, policy) else { return };
        for (n, amount) in amounts.into_iter().enumerate() {
            self.has[n] += amount;
            self.sizes[n].insert((amount, node.id));
        }
        let block = BuddyAllocator::new(report.port_range).largest();
        self.nodes.insert(node.id, (amounts, block));
        self.blocks.insert((block, node.id));
    }

    fn unbounded(&self, of: Dimension) -> bool {
        self.sizes[of as usize].first().is_none_or(|(amount, _)| *amount == 0)
    }
}

/// Whether a node that takes no agents now has so much: it may be opened again.
fn closed_has(state: &State, of: Dimension, amount: u64) -> bool {
    let policy = state.placement_policy();
    let closed = state.nodes().values().filter(|node| node.schedulable != Schedulable::Open);
    closed.filter_map(|node| amounts(node, &policy)).any(|has| has[of as usize] >= amount)
}

/// How much of something more agents may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// Of what.
    pub of: Dimension,
    /// What all agents ask for.
    pub asked: u64,
    /// What the nodes without the largest have.
    pub has: u64,
    /// The node that has most.
    pub largest: NodeId,
}

/// How much more agents may ask for; nothing of what is not bounded, or when fewer than two nodes
/// count.
pub fn headroom(state: &State) -> impl Iterator<Item = Headroom> + '_ {
    let totals = state.totals();
    Dimension::ALL.into_iter().filter(|of| !totals.unbounded(*of)).filter_map(|of| {
        let (most, largest) = *totals.sizes[of as usize].last()?;
        let (asked, has) = (totals.asked[of as usize], totals.has[of as usize] - most);
        (totals.nodes.len() > 1).then_some(Headroom { of, asked, has, largest })
    })
}

/// Refuses agents that no node could ever run and, unless overcommitting is allowed, agents that
/// could not all run after the loss of the largest node.
pub(crate) fn check<'a>(
    state: &State,
    drafts: impl Iterator<Item = &'a AgentDraft>,
    admission: Admission,
) -> Result<(), Rejection> {
    if admission == Admission::Unchecked {
        return Ok(());
    }
    let totals = state.totals();
    let mut more = Amounts::default();
    let largest_block = totals.blocks.last().map(|(block, _)| *block);
    for draft in drafts {
        if let Some(most) = largest_block.filter(|most| draft.spec.ports > *most) {
            let (what, asked) = ("ports in one block", draft.spec.ports.into());
            return Err(Rejection::NoNodeEver { what, asked, most: most.into() });
        }
        for (of, amount) in Dimension::ALL.into_iter().zip(asked(&draft.spec)) {
            more[of as usize] += amount;
            let most = totals.sizes[of as usize].last().map(|(most, _)| *most);
            let too_large = |most: &u64| !totals.unbounded(of) && amount > *most;
            if let Some(most) = most.filter(too_large).filter(|_| !closed_has(state, of, amount)) {
                let (what, asked) = (of.name(), amount);
                return Err(Rejection::NoNodeEver { what, asked, most });
            }
        }
    }
    if admission == Admission::Overcommit {
        return Ok(());
    }
    for Headroom { of, asked, has, largest } in headroom(state) {
        let (asked_more, left) = (more[of as usize], has.saturating_sub(asked));
        if asked_more > left {
            let what = of.name();
            return Err(Rejection::NoRoomAfterLoss { what, asked: asked_more, left, largest });
        }
    }
    Ok(())
}
