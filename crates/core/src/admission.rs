//! Whether more agents may be admitted. By default the cluster takes on only what it could still
//! run after the loss of its largest node: what all agents ask for must fit into the nodes without
//! the one that has most of it. Of each node only as much counts as agents can have of it: a whole
//! number of what all their sizes are multiples of, which for agents of one size is that size. That
//! is arithmetic on sums, so it is cheap and can be shown; it does not see that agents of several
//! sizes leave pieces, or that only some nodes suit an agent, which [`crate::provision`] does.
//!
//! A node counts while it is known and open, whether it is up or not: the loss of one node is what
//! is provided for, so it does not shut the door. Alone, a node has nothing to provide for.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use fleet_types::{AgentName, NodeId, Resources};

use crate::{
    command::{Admission, AgentDraft},
    plan,
    ports::BuddyAllocator,
    provision::is_choosy,
    record::{AgentSpec, Node, NodeReport, NodeStatus, PlacementPolicy, Schedulable},
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
pub(crate) type Amounts = [u64; Dimension::ALL.len()];

/// What an agent asks for.
pub(crate) fn asked(spec: &AgentSpec) -> Amounts {
    let Resources { memory_bytes, cpu_millis } = spec.wants.requests;
    [memory_bytes, cpu_millis, spec.ports.into()]
}

/// What a node has, as far as it has said.
fn amounts(node: &Node, policy: &PlacementPolicy) -> Option<Amounts> {
    let report = node.report.as_ref()?;
    let Resources { memory_bytes, cpu_millis } = room::limit(report, policy);
    Some([memory_bytes, cpu_millis, report.port_range.size().into()])
}

/// The greatest common divisor; 0 divides nothing and is divided by all.
fn gcd(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { gcd(other, one % other) }
}

/// What of `amount` is a whole number of `grains`; all of it when there are none.
fn whole(amount: u64, grain: u64) -> u64 {
    amount - amount.checked_rem(grain).unwrap_or(0)
}

/// Rounds up to four binary digits: less than an eighth.
fn up(amount: u64) -> u64 {
    let digits = u64::BITS - amount.leading_zeros();
    amount.next_multiple_of(1 << digits.saturating_sub(4))
}

/// Sums over all agents and all nodes that count, kept as they change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    asked: Amounts,
    /// How many agents ask for more than room.
    choosy: usize,
    /// How many agents ask for each amount, but for nothing.
    asking: [BTreeMap<u64, usize>; Dimension::ALL.len()],
    /// What all of these are multiples of; 0 when there are none.
    grains: Amounts,
    /// What each node counts for, and its largest aligned block of ports.
    nodes: BTreeMap<NodeId, (Amounts, u16)>,
    /// What all nodes have, in whole grains of each.
    has: Amounts,
    /// By amount; 0 is no bound.
    sizes: [BTreeSet<(u64, NodeId)>; Dimension::ALL.len()],
    /// The largest aligned block of ports of each node.
    blocks: BTreeSet<(u16, NodeId)>,
}

impl Totals {
    pub(crate) fn add_agent(&mut self, spec: &AgentSpec) {
        self.choosy += usize::from(is_choosy(spec));
        for (n, amount) in asked(spec).into_iter().enumerate() {
            self.asked[n] += amount;
            if amount > 0 {
                *self.asking[n].entry(amount).or_default() += 1;
                self.grind(n, gcd(self.grains[n], amount));
            }
        }
    }

    pub(crate) fn remove_agent(&mut self, spec: &AgentSpec) {
        self.choosy -= usize::from(is_choosy(spec));
        for (n, amount) in asked(spec).into_iter().enumerate() {
            self.asked[n] -= amount;
            let Some(count) = self.asking[n].get_mut(&amount) else { continue };
            *count -= 1;
            if *count == 0 {
                self.asking[n].remove(&amount);
                let grain = self.asking[n].keys().copied().fold(0, gcd);
                self.grind(n, grain);
            }
        }
    }

    /// Counts what nodes have in other grains.
    fn grind(&mut self, n: usize, grain: u64) {
        if self.grains[n] != grain {
            self.grains[n] = grain;
            self.has[n] = self.in_grains(n, grain);
        }
    }

    /// What all nodes have in whole grains.
    fn in_grains(&self, n: usize, grain: u64) -> u64 {
        self.nodes.values().map(|(amounts, _)| whole(amounts[n], grain)).sum()
    }

    /// What the nodes without the largest have, in whole grains, and the largest; nothing of what is
    /// not bounded, or when fewer than two nodes count.
    fn has_after_loss(&self, of: Dimension, grain: u64) -> Option<(u64, NodeId)> {
        let n = of as usize;
        let (most, largest) = *self.sizes[n].last()?;
        let known = grain == self.grains[n];
        let all = if known { self.has[n] } else { self.in_grains(n, grain) };
        let counts = self.nodes.len() > 1 && !self.unbounded(of);
        counts.then(|| (all - whole(most, grain), largest))
    }

    pub(crate) fn remove_node(&mut self, id: NodeId) {
        let Some((amounts, block)) = self.nodes.remove(&id) else { return };
        self.blocks.remove(&(block, id));
        for (n, amount) in amounts.into_iter().enumerate() {
            self.has[n] -= whole(amount, self.grains[n]);
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
            self.has[n] += whole(amount, self.grains[n]);
            self.sizes[n].insert((amount, node.id));
        }
        let block = largest_block(report);
        self.nodes.insert(node.id, (amounts, block));
        self.blocks.insert((block, node.id));
    }

    /// How many nodes count.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Whether some agent asks for more than room.
    pub(crate) fn has_choosy(&self) -> bool {
        self.choosy > 0
    }

    /// The most any agent asks for of each, rounded up, so that it seldom changes.
    pub(crate) fn largest_asked(&self) -> Amounts {
        self.asking.each_ref().map(|sizes| sizes.last_key_value().map_or(0, |(most, _)| up(*most)))
    }

    /// Whether no node has more of something that is bounded.
    pub(crate) fn is_largest(&self, id: NodeId) -> bool {
        let Some((amounts, _)) = self.nodes.get(&id) else { return false };
        Dimension::ALL.into_iter().any(|of| {
            let most = self.sizes[of as usize].last().map(|(most, _)| *most);
            !self.unbounded(of) && most == Some(amounts[of as usize])
        })
    }

    fn unbounded(&self, of: Dimension) -> bool {
        self.sizes[of as usize].first().is_none_or(|(amount, _)| *amount == 0)
    }
}

/// The nodes that take no agents now: they may be opened again.
fn closed(state: &State) -> impl Iterator<Item = &Node> {
    state.nodes().values().filter(|node| node.schedulable != Schedulable::Open)
}

/// Whether one of these has so much.
fn closed_has(state: &State, of: Dimension, amount: u64) -> bool {
    let policy = state.placement_policy();
    closed(state).filter_map(|node| amounts(node, &policy)).any(|has| has[of as usize] >= amount)
}

/// Whether one of these has a block of so many ports.
fn closed_has_block(state: &State, ports: u16) -> bool {
    let reports = closed(state).filter_map(|node| node.report.as_ref());
    reports.map(largest_block).any(|block| block >= ports)
}

/// The largest block of ports of a node on which nothing is.
fn largest_block(report: &NodeReport) -> u16 {
    BuddyAllocator::new(report.port_range).largest()
}

/// How much of something more agents may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// Of what.
    pub of: Dimension,
    /// What all agents ask for.
    pub asked: u64,
    /// What the nodes without the largest have, as far as agents can have it.
    pub has: u64,
    /// The node that has most.
    pub largest: NodeId,
}

/// How much more agents may ask for; nothing of what is not bounded, or when fewer than two nodes
/// count.
pub fn headroom(state: &State) -> impl Iterator<Item = Headroom> + '_ {
    let totals = state.totals();
    Dimension::ALL.into_iter().filter_map(|of| {
        let (has, largest) = totals.has_after_loss(of, totals.grains[of as usize])?;
        Some(Headroom { of, asked: totals.asked[of as usize], has, largest })
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
    let (mut more, mut grains) = (Amounts::default(), totals.grains);
    let largest_block = totals.blocks.last().map(|(block, _)| *block);
    for draft in drafts {
        let ports = draft.spec.ports;
        let too_large = largest_block.filter(|most| ports > *most);
        if let Some(most) = too_large.filter(|_| !closed_has_block(state, ports)) {
            let (agent, what, asked) = (draft.name.clone(), "ports in one block", ports.into());
            return Err(Rejection::NoNodeEver { agent, what, asked, most: most.into() });
        }
        for (of, amount) in Dimension::ALL.into_iter().zip(asked(&draft.spec)) {
            more[of as usize] += amount;
            grains[of as usize] = gcd(grains[of as usize], amount);
            let most = totals.sizes[of as usize].last().map(|(most, _)| *most);
            let too_large = |most: &u64| !totals.unbounded(of) && amount > *most;
            if let Some(most) = most.filter(too_large).filter(|_| !closed_has(state, of, amount)) {
                let (agent, what, asked) = (draft.name.clone(), of.name(), amount);
                return Err(Rejection::NoNodeEver { agent, what, asked, most });
            }
        }
    }
    if admission == Admission::Overcommit {
        return Ok(());
    }
    for of in Dimension::ALL {
        let Some((has, largest)) = totals.has_after_loss(of, grains[of as usize]) else { continue };
        let (asked_more, asked) = (more[of as usize], totals.asked[of as usize]);
        let left = has.saturating_sub(asked);
        if asked_more > left {
            let what = of.name();
            return Err(Rejection::NoRoomAfterLoss { what, asked: asked_more, left, largest });
        }
    }
    Ok(())
}

/// Refuses an agent that none of the nodes that suit it, whether they take agents now or not, is
/// large enough for. One that no node suits may be waiting for such a node.
pub(crate) fn check_suiting(
    state: &State,
    agent: &AgentName,
    spec: &AgentSpec,
) -> Result<(), Rejection> {
    let (policy, asked) = (state.placement_policy(), asked(spec));
    let has = |node: &Node| {
        let mut amounts = amounts(node, &policy)?;
        // In one block.
        let ports = BuddyAllocator::new(node.report.as_ref()?.port_range).largest();
        amounts[Dimension::Ports as usize] = ports.into();
        Some(amounts)
    };
    // 0 is no bound.
    let enough = |of: Dimension, has: &Amounts| {
        let (asked, has) = (asked[of as usize], has[of as usize]);
        has == 0 || asked <= has
    };
    let all = |has: &Amounts| Dimension::ALL.into_iter().all(|of| enough(of, has));
    if plan::suiting(state, spec).filter_map(has).any(|has| all(&has)) {
        return Ok(());
    }
    let mut suiting: Vec<Amounts> = plan::suiting(state, spec).filter_map(has).collect();
    for of in Dimension::ALL {
        let most = suiting.iter().map(|has| has[of as usize]).max();
        // Of nodes that differ one may have enough of this and another of that.
        suiting.retain(|has| enough(of, has));
        if let Some(most) = most.filter(|_| suiting.is_empty()) {
            let (agent, what, asked) = (agent.clone(), of.name(), asked[of as usize]);
            return Err(Rejection::NoNodeEver { agent, what, asked, most });
        }
    }
    Ok(())
}
