//! A fingerprint of a state, to compare replicas by one number.

use core::fmt::{self, Write};

use crate::{record::Record, state::State};

/// FNV-1a, 64 bits: enough to tell two states apart by accident, no protection against malice.
/// Source: Fowler, Noll and Vo, as in draft-eastlake-fnv.
pub(crate) struct Fnv(pub(crate) u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

impl State {
    /// The same number for the same records, in every replica that runs the same release.
    pub fn digest(&self) -> u64 {
        let mut hash = Fnv::default();
        // Of what happened the last stands for all: each has its place among them.
        let last = self.events().values().next_back().cloned().map(Record::Event);
        for record in self.records_but_events().chain(last) {
            write!(hash, "{record:?}").expect("hashing text cannot fail");
        }
        hash.0
    }
}
