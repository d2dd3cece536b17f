//! What a node has for agents, and how much of it is taken.

use fleet_types::{PortBlock, PortRange, Resources};

use crate::{
    admission::Amounts,
    ports::BuddyAllocator,
    record::{AgentSpec, NodeReport, PlacementPolicy},
};

/// How full a node is: the largest share of anything that is taken, in millionths. Comparing shares
/// keeps nodes of different sizes equally far from their end, whatever they run out of first.
pub type Load = u64;

/// A whole, as a [`Load`].
pub const FULL: Load = 1_000_000;

/// What an agent cannot have on a node, and how much of it is left there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// A block of its size. So many ports are free, but not in one.
    Ports(u32),
    /// Memory, in bytes.
    Memory(u64),
    /// Processor time, in thousandths of a core.
    Cpu(u64),
}

/// The room of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    ports: BuddyAllocator,
    /// Ports that agents own; quarantined ones are neither free nor owned.
    ports_owned: u32,
    /// What may be promised to agents; 0 is no bound.
    limit: Resources,
    promised: Resources,
}

/// What may be promised of what a node has.
pub(crate) fn limit(report: &NodeReport, policy: &PlacementPolicy) -> Resources {
    let share = |whole: u64, percent: u16| {
        u64::try_from(u128::from(whole) * u128::from(percent) / 100).unwrap_or(u64::MAX)
    };
    Resources {
        memory_bytes: share(report.capacity.memory_bytes, policy.memory_percent),
        cpu_millis: share(report.capacity.cpu_millis, policy.cpu_percent),
    }
}

fn left(limit: u64, promised: u64) -> u64 {
    if limit == 0 { u64::MAX } else { limit.saturating_sub(promised) }
}

fn share(taken: u64, whole: u64) -> Load {
    // Fits: a node's memory is below 2^44 bytes times a million.
    u64::try_from(u128::from(taken) * u128::from(FULL) / u128::from(whole)).unwrap_or(u64::MAX)
}

impl Room {
    /// All of `range` and `limit` free.
    pub(crate) fn new(range: PortRange, limit: Resources) -> Self {
        let (ports, promised) = (BuddyAllocator::new(range), Resources::default());
        Self { ports, ports_owned: 0, limit, promised }
    }

    /// Its ports.
    pub fn ports(&self) -> &BuddyAllocator {
        &self.ports
    }

    /// How many ports agents own.
    pub fn ports_owned(&self) -> u32 {
        self.ports_owned
    }

    /// What may be promised to agents; 0 is no bound.
    pub fn limit(&self) -> Resources {
        self.limit
    }

    /// What is promised to agents.
    pub fn promised(&self) -> Resources {
        self.promised
    }

    pub(crate) fn set_limit(&mut self, limit: Resources) {
        self.limit = limit;
    }

    /// How full the node is.
    pub fn load(&self) -> Load {
        self.load_of(self.ports_owned, self.promised)
    }

    /// How full it would be with an agent more.
    pub(crate) fn load_with(&self, spec: &AgentSpec) -> Load {
        let ports = self.ports_owned + u32::from(spec.ports);
        self.load_of(ports, self.promised.plus(spec.wants.requests))
    }

    /// How full it would be without an agent that is there.
    pub(crate) fn load_without(&self, spec: &AgentSpec) -> Load {
        let ports = self.ports_owned - u32::from(spec.ports);
        self.load_of(ports, self.promised.less(spec.wants.requests))
    }

    fn load_of(&self, ports_owned: u32, promised: Resources) -> Load {
        let of = |taken, whole| if whole == 0 { 0 } else { share(taken, whole) };
        of(ports_owned.into(), self.ports.range().size().into())
            .max(of(promised.memory_bytes, self.limit.memory_bytes))
            .max(of(promised.cpu_millis, self.limit.cpu_millis))
    }

    /// How many agents that ask for so much of each fit, whichever comes first and
    /// though others ask for less.
    pub(crate) fn slots(&self, [memory, cpu, ports]: Amounts) -> u64 {
        let (limit, promised) = (self.limit, self.promised);
        let times = |left: u64, size: u64| left.checked_div(size).unwrap_or(u64::MAX);
        let memory = times(left(limit.memory_bytes, promised.memory_bytes), memory);
        let cpu = times(left(limit.cpu_millis, promised.cpu_millis), cpu);
        // Every agent has a port.
        let ports = self.ports.blocks(u16::try_from(ports.max(1)).unwrap_or(u16::MAX));
        memory.min(cpu).min(ports)
    }

    /// How much of each is left, of ports in one block.
    pub(crate) fn left(&self) -> Amounts {
        let (limit, promised) = (self.limit, self.promised);
        let memory = left(limit.memory_bytes, promised.memory_bytes);
        let cpu = left(limit.cpu_millis, promised.cpu_millis);
        [memory, cpu, self.ports.largest().into()]
    }

    /// Whether there is so much of each.
    pub(crate) fn has(&self, size: Amounts) -> bool {
        size.into_iter().zip(self.left()).all(|(asked, left)| asked <= left)
    }

    /// All that an agent cannot have here.
    pub fn lacking(&self, spec: &AgentSpec) -> impl Iterator<Item = Lack> {
        let (asked, promised) = (spec.wants.requests, self.promised);
        let memory = left(self.limit.memory_bytes, promised.memory_bytes);
        let cpu = left(self.limit.cpu_millis, promised.cpu_millis);
        let has_block = spec.ports.is_power_of_two() && self.ports.fits(spec.ports);
        let memory = (asked.memory_bytes > memory).then_some(Lack::Memory(memory));
        let cpu = (asked.cpu_millis > cpu).then_some(Lack::Cpu(cpu));
        let ports = (!has_block).then(|| Lack::Ports(self.ports.free_ports()));
        [memory, cpu, ports].into_iter().flatten()
    }

    /// What an agent cannot have here; none when it fits.
    pub fn lacks(&self, spec: &AgentSpec) -> Option<Lack> {
        self.lacking(spec).next()
    }

    /// Takes what an agent asks for, if it fits.
    pub(crate) fn take(&mut self, spec: &AgentSpec) -> Option<PortBlock> {
        if self.lacks(spec).is_some() {
            return None;
        }
        let block = self.ports.take(spec.ports)?;
        self.own(spec, block);
        Some(block)
    }

    /// Takes exactly `block` for an agent; false when part of it is taken.
    pub(crate) fn take_exactly(&mut self, spec: &AgentSpec, block: PortBlock) -> bool {
        let free = self.ports.take_exactly(block);
        if free {
            self.own(spec, block);
        }
        free
    }

    fn own(&mut self, spec: &AgentSpec, block: PortBlock) {
        self.ports_owned += u32::from(block.size);
        self.promised = self.promised.plus(spec.wants.requests);
    }

    /// Takes an agent's share back. Its block is free only once it is given to
    /// [`Room::free_block`].
    pub(crate) fn disown(&mut self, spec: &AgentSpec, block: PortBlock) {
        self.ports_owned -= u32::from(block.size);
        self.promised = self.promised.less(spec.wants.requests);
    }

    /// Keeps a block from agents; false when part of it is taken.
    pub(crate) fn keep_block(&mut self, block: PortBlock) -> bool {
        self.ports.take_exactly(block)
    }

    /// Makes a block free that no agent owns any more.
    pub(crate) fn free_block(&mut self, block: PortBlock) {
        self.ports.release(block);
    }
}
