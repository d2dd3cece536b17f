//! Calendar time as data: it enters with a command and is never asked for.

use core::fmt;

/// Milliseconds since 1970-01-01T00:00:00Z, as the leader's calendar clock said.
///
/// For people and for the life of join tokens only. Leases use monotonic clocks, never this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This moment and `ms` milliseconds.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}
