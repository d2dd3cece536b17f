//! Versions of runtimes, as far as they are compared.

use alloc::string::{String, ToString};
use core::{cmp::Ordering, fmt, str::FromStr};

/// Most numbers of a version.
const PARTS_MAX: usize = 6;

/// A version to be reached: numbers with dots, e.g. `2026.9.6`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(String);

/// A text that is no version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidVersion;

impl fmt::Display for InvalidVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a version: use up to {PARTS_MAX} numbers with dots, like 2026.9.6")
    }
}

impl core::error::Error for InvalidVersion {}

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let known = text.split('.').count() <= PARTS_MAX && numbers(text).all(|n| n.is_some());
        known.then(|| Self(text.to_string())).ok_or(InvalidVersion)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The numbers of a version; none for a part that is not one.
fn numbers(text: &str) -> impl Iterator<Item = Option<u32>> + '_ {
    text.split('.').map(|part| part.parse().ok())
}

impl Version {
    /// Whether a runtime of version `found` is this or newer. Of `2026.9.6-beta.1` the numbers
    /// count that come before anything else; what starts with none is older than everything.
    pub fn is_reached_by(&self, found: &str) -> bool {
        let digits = found.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(found.len());
        let mut found = numbers(&found[..digits]).map_while(|n| n).peekable();
        if found.peek().is_none() {
            return false;
        }
        for wanted in numbers(&self.0).flatten() {
            match found.next().unwrap_or(0).cmp(&wanted) {
                Ordering::Less => return false,
                Ordering::Greater => return true,
                Ordering::Equal => {}
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_is_enough() {
        let wanted: Version = "2026.9.6".parse().unwrap();
        for found in ["2026.9.6", "2026.10", "2027", "2026.9.6.1", "2026.9.7-beta.1"] {
            assert!(wanted.is_reached_by(found), "{found}");
        }
        for found in ["2026.9.5", "2026.9", "2025.12.31", "-", "", "v2026.9.6"] {
            assert!(!wanted.is_reached_by(found), "{found}");
        }
        for text in ["", "1.", "a", "1.2.3.4.5.6.7", "-1", "99999999999"] {
            assert_eq!(text.parse::<Version>(), Err(InvalidVersion), "{text}");
        }
    }
}
