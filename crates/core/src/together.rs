//! How much there is of two things at once. What one node has of memory and another of processor
//! time no node need have together: the most of each, over many nodes, is more than any of them
//! has.

use crate::admission::{Amounts, Dimension};

/// The pairs.
const PAIRS: [(Dimension, Dimension); 3] = [
    (Dimension::Memory, Dimension::Cpu),
    (Dimension::Memory, Dimension::Ports),
    (Dimension::Cpu, Dimension::Ports),
];
/// Of each pair, how much of the second goes with the first, at least: powers of two, the smallest of
/// which is this. A core with 1 MiB to 32 GiB, a port with 256 KiB to 8 GiB, or with a sixteenth
/// of a thousandth of a core to two cores.
const LOWEST: [i32; 3] = [-25, -33, -11];
/// How many such shapes there are.
const SHAPES: usize = 16;

/// For each pair and shape how much there is of the first where the second goes with it: as a
/// logarithm, in quarters between powers of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Together([[u8; SHAPES]; PAIRS.len()]);

/// For each pair which shape is asked for, and how much of it; none where not both are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shape([Option<(usize, u8)>; PAIRS.len()]);

/// In quarters between powers of two. Twice as much is four more, exactly.
fn logarithm(amount: u64) -> i32 {
    let Some(power) = amount.checked_ilog2() else { return i32::MIN / 2 };
    let quarter = (u128::from(amount) << 2 >> power) & 3;
    4 * power.cast_signed() + i32::try_from(quarter).unwrap_or(0)
}

/// The largest power of two that a ratio is not less than, of amounts that are not 0.
fn ratio(of: u64, to: u64) -> i32 {
    let power = of.ilog2().cast_signed() - to.ilog2().cast_signed();
    let (of, to) = (u128::from(of) << (-power).max(0), u128::from(to) << power.max(0));
    if to <= of { power } else { power - 1 }
}

impl From<&Amounts> for Together {
    fn from(left: &Amounts) -> Self {
        let mut all = Self::default();
        for ((shapes, (first, second)), lowest) in all.0.iter_mut().zip(PAIRS).zip(LOWEST) {
            let [first, second] = [first, second].map(|of| logarithm(left[of as usize]));
            for (shape, power) in shapes.iter_mut().zip(lowest..) {
                let both = first.min(second - 4 * power);
                *shape = u8::try_from(both.clamp(0, 255)).unwrap_or(u8::MAX);
            }
        }
        all
    }
}

impl From<&Amounts> for Shape {
    fn from(asked: &Amounts) -> Self {
        let mut all = Self::default();
        for ((shape, (first, second)), lowest) in all.0.iter_mut().zip(PAIRS).zip(LOWEST) {
            let [first, second] = [first, second].map(|of| asked[of as usize]);
            if first == 0 || second == 0 {
                continue;
            }
            // One of a lower ratio asks for less of the second than any shape stands for.
            let above = usize::try_from(ratio(second, first) - lowest).ok();
            let size = u8::try_from(logarithm(first)).unwrap_or(u8::MAX);
            *shape = above.map(|above| (above.min(SHAPES - 1), size));
        }
        all
    }
}

impl Together {
    /// Makes it the most of both.
    pub(crate) fn join(&mut self, other: &Self) {
        for (most, one) in self.0.as_flattened_mut().iter_mut().zip(other.0.as_flattened()) {
            *most = (*most).max(*one);
        }
    }

    /// Whether it may be enough.
    pub(crate) fn covers(&self, asked: &Shape) -> bool {
        let mut pairs = self.0.iter().zip(&asked.0);
        pairs.all(|(shapes, asked)| asked.is_none_or(|(shape, size)| shapes[shape] >= size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn amount() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), 0_u64..20, any::<u64>(), (0_u32..64).prop_map(|power| 1 << power)]
    }

    proptest! {
        #[test]
        fn what_is_enough_is_never_left_out(
            asked in [amount(), amount(), amount()],
            more in [amount(), amount(), amount()],
        ) {
            let left = [0, 1, 2].map(|n: usize| asked[n].saturating_add(more[n]));
            prop_assert!(Together::from(&left).covers(&Shape::from(&asked)));
        }

        /// Unless there is nearly enough, or the ratio is one of those that no shape stands for.
        #[test]
        fn much_of_one_and_of_the_other_is_not_both(
            memory in 20_u32..38, more in 2_u32..10, millis in 6_u32..10,
        ) {
            let asked = [1 << memory, 1 << millis, 16];
            let mut most = Together::from(&[1 << (memory + more), (1 << millis) / 4, 1 << 15]);
            most.join(&Together::from(&[(1 << memory) / 4, 1 << (millis + more), 1 << 15]));
            let stands_for = (millis.cast_signed() - memory.cast_signed()) >= LOWEST[0];
            prop_assert_eq!(most.covers(&Shape::from(&asked)), !stands_for);
        }
    }
}
