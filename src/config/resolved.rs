//! The resolved configuration as text, and what has changed against a stored one.

use serde_json::Value;

use super::Config;
use crate::{Error, Result};

/// Keys that say where or how fast, but not what is computed: a run may be continued with other values.
const NOT_RESULTS: [&str; 6] =
    ["output.url", "run.threads", "hessian.slots", "hessian.memory", "checkpoint.every", "checkpoint.basis"];

/// A key with its stored and its present value, `(absent)` where there is none.
pub type Difference = (String, String, String);

impl Config {
    /// Every key with its value, as TOML that [`super::load`] reads back to the same configuration.
    ///
    /// # Errors
    /// None for a configuration from [`super::load`].
    pub fn resolved_toml(&self) -> Result<String> {
        toml::to_string(self)
            .map_err(|error| Error::Other(format!("the configuration cannot be written as TOML: {error}")))
    }

    /// Every key with its value, in the order of the contract: what results record.
    ///
    /// # Errors
    /// None for a configuration from [`super::load`].
    pub fn resolved_json(&self) -> Result<Value> {
        serde_json::to_value(self)
            .map_err(|error| Error::Other(format!("the configuration cannot be written as JSON: {error}")))
    }
}

/// The keys of two [`Config::resolved_json`] that differ and matter to results, in the order of the file.
///
/// Left out: `output.url`, `run.threads`, `hessian.slots`, `hessian.memory`, `checkpoint.*`. `batch.micro_batch` counts
/// only with `reduction = "sum"`: otherwise the loss and its segments do not depend on it, results only within rounding.
pub fn differences(stored: &Value, current: &Value) -> Vec<Difference> {
    let (mut old, mut new) = (Vec::new(), Vec::new());
    flatten("", stored, &mut old);
    flatten("", current, &mut new);
    let is_sum =
        |keys: &[(String, String)]| keys.iter().any(|(key, value)| key == "hessian.reduction" && value == "\"sum\"");
    let micro_batch_counts = is_sum(&old) || is_sum(&new);

    let value = |keys: &[(String, String)], key: &str| {
        keys.iter().find(|(name, _)| name == key).map_or("(absent)".to_string(), |(_, value)| value.clone())
    };
    let only_stored = old.iter().filter(|(key, _)| !new.iter().any(|(other, _)| other == key));
    new.iter()
        .chain(only_stored)
        .map(|(key, _)| (key.clone(), value(&old, key), value(&new, key)))
        .filter(|(key, _, _)| !NOT_RESULTS.contains(&key.as_str()))
        .filter(|(key, _, _)| key != "batch.micro_batch" || micro_batch_counts)
        .filter(|(_, before, after)| before != after)
        .collect()
}

/// Dotted keys; lists stay whole.
fn flatten(prefix: &str, value: &Value, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(table) => {
            let dot = if prefix.is_empty() { "" } else { "." };
            table.iter().for_each(|(key, value)| flatten(&format!("{prefix}{dot}{key}"), value, out));
        }
        other => out.push((prefix.into(), other.to_string())),
    }
}
