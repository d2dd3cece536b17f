//! Merging JSON configuration.

use serde_json::Value;

/// Merges `over` into `base`: objects key by key, anything else replaced.
pub fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// The first key, dotted, at which `overlay` would change something `reserved` sets.
pub fn first_conflict(overlay: &Value, reserved: &Value) -> Option<String> {
    let (Value::Object(overlay), Value::Object(reserved)) = (overlay, reserved) else {
        return Some(String::new());
    };
    for (key, value) in overlay {
        let Some(kept) = reserved.get(key) else { continue };
        if let Some(rest) = first_conflict(value, kept) {
            return Some(if rest.is_empty() { key.clone() } else { format!("{key}.{rest}") });
        }
    }
    None
}

/// The overlay of `texts`, later ones over earlier ones; empty texts change nothing.
///
/// # Errors
/// When one is not JSON.
pub fn combine<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Value, serde_json::Error> {
    let mut all = Value::Object(serde_json::Map::new());
    for text in texts.into_iter().filter(|text| !text.is_empty()) {
        merge(&mut all, &serde_json::from_str(text)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merges_deeply_and_replaces_leaves() {
        let mut base = json!({"a": {"b": 1, "c": [1, 2]}, "d": 1});
        merge(&mut base, &json!({"a": {"c": [3]}, "d": {"e": null}}));
        assert_eq!(base, json!({"a": {"b": 1, "c": [3]}, "d": {"e": null}}));
    }
}
