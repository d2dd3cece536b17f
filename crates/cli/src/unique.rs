//! Maps that are given as keys with values, each key once: of two values one would be lost.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use anyhow::{Result, bail};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};

/// What an option that may be repeated gives.
///
/// # Errors
/// When it gives a key two values.
pub fn unique(option: &str, pairs: Vec<(String, String)>) -> Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for (key, value) in pairs {
        // The values may be secrets.
        if map.contains_key(&key) {
            bail!("{option} gives {key:?} two values: give one");
        }
        map.insert(key, value);
    }
    Ok(map)
}

/// Reads a map.
///
/// # Errors
/// When a key is there twice.
pub fn map<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, V>, D::Error> {
    struct Unique<V>(PhantomData<V>);

    impl<'de, V: Deserialize<'de>> Visitor<'de> for Unique<V> {
        type Value = BTreeMap<String, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((key, value)) = entries.next_entry::<String, V>()? {
                if map.contains_key(&key) {
                    return Err(A::Error::custom(format!("{key:?} is there twice")));
                }
                map.insert(key, value);
            }
            Ok(map)
        }
    }

    deserializer.deserialize_map(Unique(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_value() {
        let pairs = |keys: [&str; 2]| keys.map(|key| (key.to_owned(), "v".to_owned())).to_vec();
        assert_eq!(unique("--on", pairs(["a", "b"])).unwrap().len(), 2);
        let refused = unique("--on", pairs(["a", "a"])).unwrap_err();
        assert!(refused.to_string().contains("--on"), "{refused}");

        #[derive(Debug, Deserialize)]
        struct File {
            #[serde(deserialize_with = "map")]
            agents: BTreeMap<String, u32>,
        }
        let read = |text: &str| serde_json::from_str::<File>(text);
        assert_eq!(read(r#"{"agents": {"a": 1, "b": 2}}"#).unwrap().agents.len(), 2);
        let refused = read(r#"{"agents": {"a": 1, "a": 2}}"#).unwrap_err();
        assert!(refused.to_string().contains("\"a\" is there twice"), "{refused}");
    }
}
