//! Stands in for the crate of the same name, with which openraft counts the sizes of its batches
//! and how long its stages take. That one makes tables for sixteen scales when it is first used, 28
//! MB in every daemon, and openraft uses a small one. This has what openraft calls of it, and a
//! count for each power of two.
//!
//! To be dropped once the original makes only the table that is asked for.
#![forbid(unsafe_code)]

use std::{fmt, marker::PhantomData};

/// A count for 0, and one for each number of binary digits.
const BUCKETS: usize = 1 + u64::BITS as usize;

/// How often values came, to a power of two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: [u64; BUCKETS],
    slot: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], slot: PhantomData }
    }
}

impl<T> Histogram<T> {
    /// Nothing came yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value that came `times` times.
    pub fn record_n(&mut self, value: u64, times: u64) {
        self.counts[(u64::BITS - value.leading_zeros()) as usize] += times;
    }

    /// How many values came.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What so many thousandths of the values do not exceed, rounded up to one less than a power of
    /// two.
    fn percentile(&self, per_mille: u64) -> u64 {
        let wanted = (u128::from(self.total()) * u128::from(per_mille)).div_ceil(1_000);
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += u128::from(*count);
            seen >= wanted && seen > 0
        });
        reached.map_or(0, |digits| u64::try_from((1_u128 << digits) - 1).unwrap_or(u64::MAX))
    }

    /// Its usual percentiles, each rounded up to one less than a power of two.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(1),
            p1: self.percentile(10),
            p5: self.percentile(50),
            p10: self.percentile(100),
            p50: self.percentile(500),
            p90: self.percentile(900),
            p99: self.percentile(990),
            p99_9: self.percentile(999),
        }
    }
}

/// Percentiles of a [`Histogram`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names say all: `p99_9` is the 99.9th percentile")]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Histograms, printed one below the other.
#[derive(Debug, Default)]
pub struct AsciiChart(Vec<(String, Histogram)>);

impl AsciiChart {
    /// No histograms.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more.
    #[must_use]
    pub fn add(mut self, name: impl Into<String>, histogram: Histogram) -> Self {
        self.0.push((name.into(), histogram));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, of)| writeln!(f, "{name}: {}", of.percentile_stats()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_values_to_a_power_of_two() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats(), PercentileStats::default());
        for value in 1..=1_000 {
            histogram.record(value);
        }
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p50, stats.p99_9), (1_000, 511, 1_023));
        histogram.record(u64::MAX);
        assert_eq!(histogram.percentile(1_000), u64::MAX);
    }
}
