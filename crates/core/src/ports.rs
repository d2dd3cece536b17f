//! A buddy allocator over a port range.
//!
//! The range is cut into the largest aligned power-of-two blocks that fit. A request takes the
//! lowest-addressed free block of the smallest sufficient size and halves it down; a release joins
//! a block with its free buddy as far up as the range allows. The set of free blocks is therefore
//! a function of the set of taken ones alone, whatever the history: a restored snapshot allocates
//! as the original would.

use alloc::{collections::BTreeSet, vec::Vec};

use fleet_types::{PortBlock, PortRange, limits::PORT_BLOCK_MAX};

/// Largest order: 2^10 = [`PORT_BLOCK_MAX`] ports.
const ORDER_MAX: u32 = PORT_BLOCK_MAX.ilog2();

/// Free blocks of one node's port range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuddyAllocator {
    range: PortRange,
    /// Bases of the free blocks, by order.
    free: Vec<BTreeSet<u16>>,
}

impl BuddyAllocator {
    /// All of `range` free.
    pub fn new(range: PortRange) -> Self {
        let mut free = alloc::vec![BTreeSet::new(); ORDER_MAX as usize + 1];
        let mut base = u32::from(range.first());
        let end = u32::from(range.last()) + 1;
        while base < end {
            let order = base.trailing_zeros().min((end - base).ilog2()).min(ORDER_MAX);
            free[order as usize].insert(narrow(base));
            base += 1 << order;
        }
        Self { range, free }
    }

    /// The range it divides.
    pub fn range(&self) -> PortRange {
        self.range
    }

    /// Whether `size` (a power of two) could be taken now.
    pub fn fits(&self, size: u16) -> bool {
        self.free.iter().skip(size.ilog2() as usize).any(|bases| !bases.is_empty())
    }

    /// Takes a block of `size` (a power of two up to the limit), or none when nothing fits.
    pub fn take(&mut self, size: u16) -> Option<PortBlock> {
        let wanted = size.ilog2() as usize;
        let mut order = (wanted..self.free.len()).find(|o| !self.free[*o].is_empty())?;
        let base = self.free[order].pop_first()?;
        while order > wanted {
            order -= 1;
            self.free[order].insert(base + (1 << order));
        }
        Some(PortBlock { base, size })
    }

    /// Takes exactly `block`; false when part of it is taken or lies outside the range.
    pub fn take_exactly(&mut self, block: PortBlock) -> bool {
        let wanted = block.size.ilog2() as usize;
        let holder = (wanted..self.free.len()).find_map(|order| {
            let base = block.base & !((1_u16 << order) - 1);
            self.free[order].contains(&base).then_some((order, base))
        });
        let Some((mut order, mut base)) = holder else { return false };
        self.free[order].remove(&base);
        while order > wanted {
            order -= 1;
            let upper = base + (1 << order);
            if block.base >= upper {
                self.free[order].insert(base);
                base = upper;
            } else {
                self.free[order].insert(upper);
            }
        }
        true
    }

    /// Gives `block` back.
    pub fn release(&mut self, block: PortBlock) {
        let mut base = u32::from(block.base);
        let mut order = block.size.ilog2();
        while order < ORDER_MAX {
            let buddy = base ^ (1 << order);
            if !self.free[order as usize].remove(&narrow(buddy)) {
                break;
            }
            base = base.min(buddy);
            order += 1;
        }
        self.free[order as usize].insert(narrow(base));
    }

    /// How many blocks of `size` (a power of two) could be taken.
    pub(crate) fn blocks(&self, size: u16) -> u64 {
        let order = size.ilog2();
        let larger = self.free.iter().zip(0_u32..).filter(|(_, of)| *of >= order);
        larger.map(|(bases, of)| u64::from(narrow_len(bases)) << (of - order)).sum()
    }

    /// The size of the largest free block; 0 when nothing is free.
    pub fn largest(&self) -> u16 {
        let order = self.free.iter().rposition(|bases| !bases.is_empty());
        order.map_or(0, |order| 1 << order)
    }

    /// The free blocks, by their base.
    pub fn free_blocks(&self) -> Vec<PortBlock> {
        let sized = self.free.iter().zip(0_u32..);
        let blocks =
            sized.flat_map(|(bases, order)| bases.iter().map(move |base| (*base, 1 << order)));
        let mut blocks: Vec<_> = blocks.map(|(base, size)| PortBlock { base, size }).collect();
        blocks.sort_unstable();
        blocks
    }

    /// How many ports are free.
    pub fn free_ports(&self) -> u32 {
        self.free.iter().zip(0_u32..).map(|(bases, order)| narrow_len(bases) << order).sum()
    }

    /// How many ports are free in pieces smaller than the largest free block.
    pub fn free_in_pieces(&self) -> u32 {
        let Some(order) = self.free.iter().rposition(|bases| !bases.is_empty()) else { return 0 };
        self.free_ports() - (narrow_len(&self.free[order]) << order)
    }
}

fn narrow(port: u32) -> u16 {
    u16::try_from(port).expect("a port number is at most 65535")
}

fn narrow_len(bases: &BTreeSet<u16>) -> u32 {
    u32::try_from(bases.len()).expect("at most 65536 ports exist")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(first: u16, last: u16) -> PortRange {
        PortRange::new(first, last).unwrap()
    }

    #[test]
    fn odd_edges_are_usable_in_small_blocks() {
        let mut ports = BuddyAllocator::new(range(20_001, 20_130));
        assert_eq!(ports.free_ports(), 130);
        assert!(!ports.fits(128), "20001-20130 holds no aligned 128");
        let block = ports.take(64).unwrap();
        assert_eq!(block.base % 64, 0);
    }

    #[test]
    fn what_nobody_took_is_hardly_in_pieces() {
        let mut ports = BuddyAllocator::new(range(10_240, 32_767));
        assert_eq!(ports.free_in_pieces(), 0);
        ports.take(16).unwrap();
        assert_eq!(ports.free_in_pieces(), 1_024 - 16);
        assert_eq!(BuddyAllocator::new(range(20_001, 20_001)).free_in_pieces(), 0);
    }

    #[test]
    fn the_last_port_is_usable() {
        let mut ports = BuddyAllocator::new(range(65_408, 65_535));
        assert_eq!(ports.take(128), Some(PortBlock { base: 65_408, size: 128 }));
        assert_eq!(ports.take(1), None);
    }

    proptest! {
        #[test]
        fn never_overlaps_and_joins_back(
            first in 1024_u16..60_000,
            length in 1_u16..4_000,
            steps in proptest::collection::vec((0_u32..9, any::<bool>(), 0_usize..64), 1..200),
        ) {
            let whole = BuddyAllocator::new(range(first, first + length));
            let mut ports = whole.clone();
            let mut taken: Vec<PortBlock> = Vec::new();
            for (order, release, pick) in steps {
                if release && !taken.is_empty() {
                    ports.release(taken.swap_remove(pick % taken.len()));
                } else if let Some(block) = ports.take(1 << order) {
                    prop_assert_eq!(block.base % block.size, 0);
                    prop_assert!(block.base >= first && block.last() <= first + length);
                    prop_assert!(taken.iter().all(|b| !b.overlaps(block)));
                    taken.push(block);
                }
                let mut rebuilt = whole.clone();
                for block in &taken {
                    prop_assert!(rebuilt.take_exactly(*block));
                }
                prop_assert_eq!(&rebuilt, &ports, "free blocks follow from the taken ones alone");
            }
            for block in taken {
                ports.release(block);
            }
            prop_assert_eq!(ports, whole);
        }
    }
}
