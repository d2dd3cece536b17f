//! What becomes of an agent whose node is out of the leader's reach. A node cannot tell whether it
//! is cut off or nobody leads, so this is for the agent's owner to choose.

use core::{fmt, str::FromStr};

use crate::LeaseTiming;

/// How long an agent runs on without its cluster, and when it is placed elsewhere. Later classes
/// outlast earlier ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AgentClass {
    /// It ends with the node's lease and is placed elsewhere at once.
    #[default]
    Strict,
    /// It runs on for [`AgentClass::STICKY_LEASES`] leases and is placed elsewhere after that.
    Sticky,
    /// It runs on; only an operator moves it.
    Pinned,
}

impl AgentClass {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Strict, Self::Sticky, Self::Pinned];
    /// How many leases of its node a sticky agent lasts: ten minutes in the default profile.
    pub const STICKY_LEASES: u64 = 100;
    /// The lease of a pinned agent, in milliseconds: a hundred years.
    const PINNED_MS: u64 = 100 * 365 * 24 * 3_600 * 1_000;

    /// The lease an agent of this class runs under, where its node's is `lease_ms`.
    pub const fn lease_ms(self, lease_ms: u64) -> u64 {
        match self {
            Self::Strict => lease_ms,
            Self::Sticky => lease_ms * Self::STICKY_LEASES,
            Self::Pinned => Self::PINNED_MS,
        }
    }

    /// How long a leader waits after the last receipt before it places such an agent elsewhere;
    /// none when it never does.
    pub const fn fence_after_ms(self, timing: &LeaseTiming) -> Option<u64> {
        match self {
            Self::Pinned => None,
            Self::Strict | Self::Sticky => {
                let lease_ms = self.lease_ms(timing.lease_ms);
                Some(LeaseTiming { lease_ms, ..*timing }.fence_after_ms())
            }
        }
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Sticky => "sticky",
            Self::Pinned => "pinned",
        }
    }
}

impl fmt::Display for AgentClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownClass;

impl fmt::Display for UnknownClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a class: use strict, sticky or pinned")
    }
}

impl core::error::Error for UnknownClass {}

impl FromStr for AgentClass {
    type Err = UnknownClass;

    fn from_str(text: &str) -> Result<Self, UnknownClass> {
        Self::ALL.into_iter().find(|class| class.as_str() == text).ok_or(UnknownClass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LeaseProfile;

    #[test]
    fn a_class_outlasts_those_before_it() {
        let timing = LeaseTiming::of(LeaseProfile::Default);
        assert_eq!(AgentClass::Strict.fence_after_ms(&timing), Some(timing.fence_after_ms()));
        assert_eq!(AgentClass::Sticky.lease_ms(timing.lease_ms), 600_000);
        assert_eq!(AgentClass::Sticky.fence_after_ms(&timing), Some(630_400));
        assert_eq!(AgentClass::Pinned.fence_after_ms(&timing), None);
        for class in AgentClass::ALL {
            assert_eq!(class.as_str().parse(), Ok(class));
        }
        assert_eq!("Strict".parse::<AgentClass>(), Err(UnknownClass));
    }
}
