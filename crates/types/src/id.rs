//! Numbers and opaque ids the cluster hands out.

use alloc::string::{String, ToString};
use core::{fmt, str::FromStr};

use crate::limits::REQUEST_ID_BYTES_MAX;

macro_rules! number {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    NodeId,
    "A node's number: 1 for the first, then the log index that admitted it. Never reused."
);
number!(Epoch, "Counts the leases a node was granted or lost; the fencing token of a node.");
number!(Generation, "Counts the times an agent was placed; the fencing token of an agent.");
number!(Revision, "The log index of the last change to a record; 0 before the first.");

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidId {
    /// What kind of id was expected.
    pub kind: &'static str,
    /// What it must look like.
    pub expected: &'static str,
}

impl fmt::Display for InvalidId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a {}: expected {}", self.kind, self.expected)
    }
}

impl core::error::Error for InvalidId {}

macro_rules! hex_id {
    ($name:ident, $kind:literal, $digits:literal, $expected:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The id as lower-case hexadecimal digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if text.len() == $digits && text.bytes().all(digit) {
                    return Ok(Self(text.to_string()));
                }
                Err(InvalidId { kind: $kind, expected: $expected })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

hex_id!(ClusterId, "cluster id", 16, "16 hexadecimal digits", "A cluster's random id.");
hex_id!(TokenId, "token id", 12, "12 hexadecimal digits", "The public part of a join token.");

/// An idempotency key chosen by the caller; a call repeated with it is answered, not repeated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(String);

impl RequestId {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RequestId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let fits = (1..=REQUEST_ID_BYTES_MAX).contains(&text.len());
        if fits && text.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(Self(text.to_string()));
        }
        Err(InvalidId { kind: "request id", expected: "1 to 64 visible ASCII characters" })
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
