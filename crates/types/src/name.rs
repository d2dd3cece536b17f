//! Names people choose: DNS-label shaped, so that they fit in paths, hostnames and certificates.

use alloc::string::String;
use core::{fmt, str::FromStr};

use smol_str::SmolStr;

use crate::limits::NAME_BYTES_MAX;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidName {
    /// What kind of name was expected, e.g. `agent name`.
    pub kind: &'static str,
    /// The text as given, cut to a printable length.
    pub value: String,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {:?} is not valid: use 1 to {NAME_BYTES_MAX} of a-z, 0-9 and '-', starting and \
             ending with a letter or digit",
            self.kind, self.value
        )
    }
}

impl core::error::Error for InvalidName {}

fn check(kind: &'static str, text: &str) -> Result<(), InvalidName> {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    let ok = bytes.len() <= NAME_BYTES_MAX
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(inner);
    if ok {
        return Ok(());
    }
    Err(InvalidName { kind, value: text.chars().take(2 * NAME_BYTES_MAX).collect() })
}

macro_rules! name {
    ($name:ident, $kind:literal, $doc:literal) => {
        #[doc = $doc]
        ///
        /// One to 40 bytes of `a-z`, `0-9` and `-`, starting and ending with a letter or digit.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(SmolStr);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                check($kind, text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                check($kind, &text)?;
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(FleetName, "fleet name", "The name of a fleet.");
name!(AgentName, "agent name", "The name of an agent within its fleet.");
name!(NodeName, "node name", "The name an operator gives a node.");
name!(RuntimeName, "runtime name", "The name of a runtime, e.g. `openclaw` or `exec`.");

impl NodeName {
    /// Whether it could be a node's number, by which people name nodes, too.
    pub fn is_number(&self) -> bool {
        self.as_str().bytes().all(|byte| byte.is_ascii_digit())
    }
}

/// An agent's full name, written `fleet/agent`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId {
    /// The fleet the agent belongs to.
    pub fleet: FleetName,
    /// The agent within it.
    pub agent: AgentName,
}

impl FromStr for AgentId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName {
            kind: "agent (written fleet/agent)",
            value: text.chars().take(2 * NAME_BYTES_MAX).collect(),
        };
        let (fleet, agent) = text.split_once('/').ok_or_else(invalid)?;
        Ok(Self { fleet: fleet.parse()?, agent: agent.parse()? })
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.fleet, self.agent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_dns_labels_only() {
        for good in ["a", "a-b", "0", "web-01", &"x".repeat(40)] {
            assert!(good.parse::<AgentName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "..", "ä", "a b", &"x".repeat(41)] {
            assert!(bad.parse::<AgentName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn agent_id_needs_both_parts() {
        assert_eq!("f/a".parse::<AgentId>().unwrap().to_string(), "f/a");
        for bad in ["a", "f/", "/a", "f/a/b", "F/a"] {
            assert!(bad.parse::<AgentId>().is_err(), "{bad}");
        }
    }
}
