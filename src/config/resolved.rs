//! The resolved configuration as text, and what has changed against a stored one.

use serde_json::Value;

use super::Config;
use crate::{Error, Result};

/// Keys that say where or how fast, but not what is computed: a run may be continued with other values.
const NOT_RESULTS: [&str; 12] = [
    "output.url",
    "run.threads",
    "run.ranks",
    "data.tokens.cache",
    "hessian.device",
    "hessian.slots",
    "hessian.memory",
    "hessian.autotune",
    "hessian.recompute",
    "hessian.prefix_cache",
    "checkpoint.every",
    "checkpoint.basis",
];

/// A key with its stored and its present value, `(absent)` where there is none.
pub type Difference = (String, String, String);

impl Config {
    /// Every key with its value, as TOML that [`super::load`] reads back to the same configuration, but for the secrets of URLs.
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

/// A JSON object as a TOML document: its entries on lines, tables in them inline. Strings and numbers are written alike in both.
pub(super) fn json_to_toml(json: &str) -> String {
    let inner = json.trim().trim_start_matches('{');
    let inner = inner.strip_suffix('}').unwrap_or(inner);
    let (mut depth, mut is_text, mut is_escaped) = (0usize, false, false);
    let translated = inner.chars().map(|c| {
        if is_text {
            is_text = c != '"' || is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            return c;
        }
        match c {
            '"' => is_text = true,
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            ':' => return '=',
            ',' if depth == 0 => return '\n',
            _ => {}
        }
        c
    });
    translated.collect()
}

/// The keys of two [`Config::resolved_json`] that differ and matter to results, in the order of the file.
///
/// Left out: `output.url`, `run.threads`, `run.ranks`, `data.tokens.cache`, `hessian.device`, `hessian.slots`, `hessian.memory`,
/// `hessian.autotune`, `hessian.recompute`, `hessian.prefix_cache`, `checkpoint.*`. `batch.micro_batch` counts only with
/// `reduction = "sum"`: otherwise the loss and its segments do not depend on it, results only within rounding.
pub fn differences(stored: &Value, current: &Value) -> Vec<Difference> {
    let (mut old, mut new) = (Vec::new(), Vec::new());
    flatten("", stored, &mut old);
    flatten("", current, &mut new);
    let micro_batch_counts = is_sum(stored) || is_sum(current);
    let value =
        |keys: &[(String, Value)], key: &str| keys.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
    let text = |value: Option<Value>| value.map_or("(absent)".to_string(), |value| value.to_string());

    let only_stored = old.iter().filter(|(key, _)| !new.iter().any(|(other, _)| other == key));
    new.iter()
        .chain(only_stored)
        .map(|(key, _)| (key, value(&old, key), value(&new, key)))
        .filter(|(key, _, _)| !NOT_RESULTS.contains(&key.as_str()))
        .filter(|(key, _, _)| *key != "batch.micro_batch" || micro_batch_counts)
        .filter(|(_, before, after)| !is_same(before.as_ref(), after.as_ref()))
        .map(|(key, before, after)| (key.clone(), text(before), text(after)))
        .collect()
}

fn is_sum(config: &Value) -> bool {
    config.pointer("/hessian/reduction").is_some_and(|reduction| reduction == "sum")
}

/// Equal, or the same number within the last digits: serde_json need not read back the bits that it wrote.
fn is_same(before: Option<&Value>, after: Option<&Value>) -> bool {
    let number = |value: Option<&Value>| value.filter(|value| value.is_f64()).and_then(Value::as_f64);
    match (number(before), number(after)) {
        (Some(a), Some(b)) => (a - b).abs() <= 8.0 * f64::EPSILON * a.abs(),
        _ => before == after,
    }
}

/// Dotted keys; lists stay whole.
fn flatten(prefix: &str, value: &Value, out: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(table) => {
            let dot = if prefix.is_empty() { "" } else { "." };
            table.iter().for_each(|(key, value)| flatten(&format!("{prefix}{dot}{key}"), value, out));
        }
        other => out.push((prefix.into(), other.clone())),
    }
}
