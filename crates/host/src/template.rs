//! `{name}` in runtime definitions.

use std::collections::BTreeMap;

use serde_json::Value;

/// The values of the names.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    values: BTreeMap<String, String>,
    numbers: BTreeMap<String, u64>,
}

impl Variables {
    /// Those of the node alone.
    pub fn node(values: &BTreeMap<String, String>) -> Self {
        Self { values: values.clone(), numbers: BTreeMap::new() }
    }

    /// Adds a text.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.values.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a number: a JSON string that is nothing but its name becomes a JSON number.
    #[must_use]
    pub fn with_number(mut self, name: &str, value: u64) -> Self {
        self.values.insert(name.to_owned(), value.to_string());
        self.numbers.insert(name.to_owned(), value);
        self
    }

    /// Replaces every `{name}` of `text`.
    ///
    /// # Errors
    /// In words, when a name has no value.
    pub fn fill(&self, text: &str) -> Result<String, String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) =
                after.split_once('}').ok_or_else(|| format!("{text:?} has a '{{' without '}}'"))?;
            let value = self.values.get(name).ok_or_else(|| {
                format!(
                    "{{{name}}} has no value; set it in [runtime_variables] of the configuration"
                )
            })?;
            filled.push_str(before);
            filled.push_str(value);
            rest = after;
        }
        filled.push_str(rest);
        Ok(filled)
    }

    /// Replaces in every string of a JSON value.
    ///
    /// # Errors
    /// In words, when a name has no value.
    pub fn fill_json(&self, value: &Value) -> Result<Value, String> {
        Ok(match value {
            Value::String(text) => {
                let name = text.strip_prefix('{').and_then(|t| t.strip_suffix('}'));
                match name.and_then(|name| self.numbers.get(name)) {
                    Some(number) => Value::from(*number),
                    None => Value::String(self.fill(text)?),
                }
            }
            Value::Array(items) => {
                Value::Array(items.iter().map(|v| self.fill_json(v)).collect::<Result<_, _>>()?)
            }
            Value::Object(entries) => {
                let fill = |(k, v): (&String, &Value)| Ok((k.clone(), self.fill_json(v)?));
                Value::Object(entries.iter().map(fill).collect::<Result<_, String>>()?)
            }
            other => other.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fills_text_and_numbers() {
        let variables = Variables::default().with("home", "/h").with_number("port", 7);
        assert_eq!(variables.fill("{home}/x:{port}").unwrap(), "/h/x:7");
        let json = variables.fill_json(&json!({"p": "{port}", "q": "{port}!"})).unwrap();
        assert_eq!(json, json!({"p": 7, "q": "7!"}));
        assert!(variables.fill("{node}").unwrap_err().contains("runtime_variables"));
    }
}
