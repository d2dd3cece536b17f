//! The rules of a lease, without clocks or kernels.

use fleet_guard::Lease;
use fleet_mutants::{Mutant, planted};
use fleet_types::{AgentClass, LeaseTiming, limits::HOLD_MS};

/// Longest lease of a strict agent that is taken, in milliseconds: that of the slowest profile, and
/// some.
const STRICT_MS_MAX: u64 = 10_000;

/// Renewals that may be under way.
const NONCES_MAX: usize = 4;

/// What is held, and what a grant makes of it.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) lease: Option<Lease>,
    /// Longest lease of a strict agent that is taken, if it was raised.
    raised_ms: Option<u64>,
    /// Nonces given out and not yet used, with the moment each was.
    nonces: Vec<(u64, u64)>,
}

impl Book {
    /// A book that goes on with a lease from before.
    pub(crate) fn with(lease: Option<Lease>) -> Self {
        Self { lease, ..Self::default() }
    }

    /// Notes that a renewal begins; a grant counts from here.
    pub(crate) fn begin(&mut self, nonce: u64, now_ms: u64) {
        if self.nonces.len() == NONCES_MAX {
            self.nonces.remove(0);
        }
        self.nonces.push((nonce, now_ms));
    }

    /// Takes strict leases of up to `lease_ms` from now on, and of the usual length always.
    pub(crate) fn raise(&mut self, lease_ms: u64) -> Result<(), &'static str> {
        if lease_ms > *HOLD_MS.end() {
            return Err("a lease too long for any hold");
        }
        self.raised_ms = Some(lease_ms.max(STRICT_MS_MAX));
        Ok(())
    }

    /// Takes a grant of `lease_ms` to agents of `class`, to the renewal that began with `nonce`.
    pub(crate) fn grant(
        &mut self,
        nonce: u64,
        epoch: u64,
        lease_ms: u64,
        now_ms: u64,
        class: AgentClass,
    ) -> Result<Lease, &'static str> {
        let begun = self.nonces.iter().position(|(known, _)| *known == nonce);
        let (_, begun_ms) = self.nonces.remove(begun.ok_or("a nonce that is not outstanding")?);
        let begun_ms = if planted(Mutant::DeadlineFromGrant) { now_ms } else { begun_ms };
        if lease_ms > class.lease_ms(self.raised_ms.unwrap_or(STRICT_MS_MAX)) {
            return Err("a lease too long");
        }
        let new = Lease { epoch, deadline_ms: begun_ms + LeaseTiming::holder_ms_of(lease_ms) };
        if new.deadline_ms <= now_ms {
            return Err("a deadline that is over");
        }
        if let Some(held) = self.lease {
            // What outlasts the node's lease goes on under the next one.
            let goes_on = epoch > held.epoch && class > AgentClass::Strict;
            if epoch != held.epoch && !goes_on {
                return Err("another epoch; end this one first");
            }
            if new.deadline_ms < held.deadline_ms {
                return Err("an earlier deadline");
            }
        }
        self.lease = Some(new);
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: AgentClass = AgentClass::Strict;

    #[test]
    fn what_outlasts_a_lease_goes_on_under_the_next_epoch() {
        let mut book = Book::with(Some(Lease { epoch: 5, deadline_ms: 1_500 }));
        let mut grant = |epoch, lease_ms| {
            book.begin(1, 1_000);
            book.grant(1, epoch, lease_ms, 1_000, AgentClass::Sticky)
        };
        assert_eq!(grant(4, 600_000), Err("another epoch; end this one first"));
        assert_eq!(grant(6, 600_000), Ok(Lease { epoch: 6, deadline_ms: 541_000 }));
        assert_eq!(grant(6, 100 * STRICT_MS_MAX + 1), Err("a lease too long"));
    }

    #[test]
    fn a_grant_counts_from_when_its_renewal_began() {
        let mut book = Book::default();
        book.begin(7, 1_000);
        let held = book.grant(7, 1, 100, 1_050, STRICT);
        assert_eq!(held, Ok(Lease { epoch: 1, deadline_ms: 1_090 }));
        book.begin(8, 1_050);
        assert_eq!(book.grant(8, 1, 100, 1_140, STRICT), Err("a deadline that is over"));
    }

    #[test]
    fn a_nonce_serves_once() {
        let mut book = Book::default();
        book.begin(7, 1_000);
        assert_eq!(book.grant(6, 1, 100, 1_000, STRICT), Err("a nonce that is not outstanding"));
        assert!(book.grant(7, 1, 100, 1_000, STRICT).is_ok());
        assert_eq!(book.grant(7, 1, 100, 1_001, STRICT), Err("a nonce that is not outstanding"));
        (0..=NONCES_MAX as u64).for_each(|nonce| book.begin(nonce, 1_010));
        assert_eq!(book.grant(0, 1, 100, 1_011, STRICT), Err("a nonce that is not outstanding"));
        assert!(book.grant(1, 1, 100, 1_011, STRICT).is_ok());
    }

    #[test]
    fn only_the_same_epoch_and_only_later() {
        let mut book = Book::with(Some(Lease { epoch: 5, deadline_ms: 1_500 }));
        let mut grant = |epoch, begun, lease_ms| {
            book.begin(1, begun);
            book.grant(1, epoch, lease_ms, 1_000, STRICT)
        };
        assert_eq!(grant(4, 1_000, 1_000), Err("another epoch; end this one first"));
        assert_eq!(grant(6, 1_000, 1_000), Err("another epoch; end this one first"));
        assert_eq!(grant(5, 500, 1_000), Err("an earlier deadline"));
        assert_eq!(grant(5, 1_000, STRICT_MS_MAX + 1), Err("a lease too long"));
        assert!(grant(5, 1_000, 1_000).is_ok());
        assert!(book.raise(3_600_001).is_err());
        assert_eq!(book.raise(60_000), Ok(()));
        book.begin(2, 1_000);
        let held = Lease { epoch: 5, deadline_ms: 55_000 };
        assert_eq!(book.grant(2, 5, 60_000, 1_000, STRICT), Ok(held));
        book.begin(3, 1_001);
        assert_eq!(book.grant(3, 5, 60_001, 1_001, STRICT), Err("a lease too long"));
    }
}
