//! Labels: small key–value pairs people attach to records.

use alloc::{
    collections::BTreeMap,
    string::{String, ToString},
};
use core::fmt;

use crate::limits::{LABEL_BYTES_MAX, LABELS_MAX};

/// Checked labels, in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels(BTreeMap<String, String>);

/// Why labels were refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidLabel {
    /// A key or value holds something it may not.
    Text {
        /// The offending key or value.
        text: String,
    },
    /// There are more than [`LABELS_MAX`].
    TooMany,
}

impl fmt::Display for InvalidLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { text } => write!(
                f,
                "label text {text:?} is not valid: use 1 to {LABEL_BYTES_MAX} of a-z, A-Z, 0-9, \
                 '-', '_', '.' and '/', starting and ending with a letter or digit (a value may be \
                 empty)"
            ),
            Self::TooMany => write!(f, "more than {LABELS_MAX} labels"),
        }
    }
}

impl core::error::Error for InvalidLabel {}

fn valid(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= LABEL_BYTES_MAX
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(b))
}

impl Labels {
    /// Checks and takes the pairs.
    ///
    /// # Errors
    /// When a key or value is malformed, or there are too many.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, InvalidLabel> {
        let mut labels = BTreeMap::new();
        for (key, value) in pairs {
            let bad = if valid(&key) {
                Some(&value).filter(|v| !v.is_empty() && !valid(v))
            } else {
                Some(&key)
            };
            if let Some(text) = bad {
                return Err(InvalidLabel::Text {
                    text: text.chars().take(80).collect::<String>().to_string(),
                });
            }
            labels.insert(key, value);
            if labels.len() > LABELS_MAX {
                return Err(InvalidLabel::TooMany);
            }
        }
        Ok(Self(labels))
    }

    /// Whether all of `wanted` are among these.
    pub fn have(&self, wanted: &Self) -> bool {
        wanted.0.iter().all(|(key, value)| self.0.get(key) == Some(value))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The pair of a key.
    pub fn pair(&self, key: &str) -> Option<(&str, &str)> {
        self.0.get_key_value(key).map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The pairs, in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &str) -> Result<Labels, InvalidLabel> {
        Labels::new([(key.to_string(), value.to_string())])
    }

    #[test]
    fn labels_are_checked() {
        assert!(one("rack", "r1").is_ok());
        assert!(one("example.com/rack", "").is_ok());
        for (key, value) in [("", "x"), ("-a", "x"), ("a b", "x"), ("a", "x y"), ("ü", "x")] {
            assert!(one(key, value).is_err(), "{key}={value}");
        }
        assert!(one("a", &"v".repeat(64)).is_err());
        let many = (0..33).map(|i| (alloc::format!("k{i}"), String::new()));
        assert_eq!(Labels::new(many), Err(InvalidLabel::TooMany));
    }
}
