//! The keys of a network against what stands beside its weights: what the configuration leaves out is taken from there, what
//! contradicts it is refused.

use std::fmt::Display;

use serde::Serialize;
use serde_json::Value;

use crate::document::Check;
use crate::models::weights::Description;
use crate::shown::quoted;
use crate::{Error, Result};

/// Sets a key that was not given, and refuses another value of one that was.
///
/// # Errors
/// [`Error::Config`] with the place of the key, and both values.
pub(super) fn agree<V: Copy + PartialEq + Display>(
    check: &Check<'_>,
    description: &Description,
    key: &str,
    ours: &mut V,
    theirs: Option<V>,
) -> Result<()> {
    let Some(theirs) = theirs.filter(|theirs| *theirs != *ours) else { return Ok(()) };
    check.that(!check.is_given(key), key, *ours, disagreement(description, key, theirs))?;
    *ours = theirs;
    Ok(())
}

/// As [`agree`], for values that are shown as TOML has them.
///
/// # Errors
/// As [`agree`].
pub(super) fn agree_as_toml<V: Copy + PartialEq + Serialize>(
    check: &Check<'_>,
    description: &Description,
    key: &str,
    ours: &mut V,
    theirs: V,
) -> Result<()> {
    if theirs == *ours {
        return Ok(());
    }
    let as_toml = |value: &V| serde_json::to_string(value).unwrap_or_default();
    check.that(!check.is_given(key), key, as_toml(ours), disagreement(description, key, as_toml(&theirs)))?;
    *ours = theirs;
    Ok(())
}

/// The word for a key that has another value beside the weights.
pub(super) fn disagreement(description: &Description, key: &str, theirs: impl Display) -> String {
    format!("the weights are of {key} = {theirs} ({}); leave the key out, or use other weights", description.place)
}

/// Samples may be shorter than the positions of the weights reach: `context` is what they have, `positions` what these have, if more.
///
/// # Errors
/// [`Error::Config`] with the place of the key, and both values.
pub(super) fn place_positions(
    check: &Check<'_>,
    description: &Description,
    context: &mut usize,
    positions: &mut Option<usize>,
    theirs: Option<usize>,
) -> Result<()> {
    let Some(theirs) = theirs else { return Ok(()) };
    let ours = positions.unwrap_or(*context);
    let agrees = !check.is_given("positions") || ours == theirs;
    check.that(agrees, "positions", ours, disagreement(description, "positions", theirs))?;
    if check.is_given("context") {
        let long = format!("the weights have {theirs} positions ({}); expected no more", description.place);
        check.that(*context <= theirs, "context", *context, long)?;
    } else {
        *context = theirs;
    }
    *positions = (theirs > *context).then_some(theirs);
    Ok(())
}

/// Families of Hugging Face's that `[model.decoder]` can be, by `model_type`.
pub(super) const DECODERS: [&str; 5] = ["llama", "mistral", "olmo2", "qwen2", "qwen3"];

/// The refusal of weights of another family than a table has, with the table that has it.
pub(super) fn of_another_family(description: &Description, table: &str, expected: &str) -> Error {
    let family = description.family().unwrap_or_default();
    let table_of = |family: &str| match family {
        "gpt2" => Some("gpt2"),
        "bert" => Some("bert"),
        _ => DECODERS.contains(&family).then_some("decoder"),
    };
    let hint = table_of(family).map_or(String::new(), |other| format!("\nHINT: [model.{other}] has it"));
    let family = quoted(family);
    let place = &description.place;
    Error::Config(format!("{place}: the weights are of a `{family}`; [model.{table}] expected {expected}{hint}"))
}

/// Refuses a key of the description that is there, and is no size.
///
/// # Errors
/// [`Error::Config`] with the first of them.
pub(super) fn check_sizes(description: &Description, keys: &[&str]) -> Result<()> {
    let no_size = |key: &&str| {
        let value = description.keys.get(*key).filter(|value| !value.is_null())?;
        value.as_u64().is_none_or(|size| size == 0).then(|| (key.to_string(), value.to_string()))
    };
    match keys.iter().find_map(no_size) {
        None => Ok(()),
        Some((key, value)) => Err(Error::Config(format!(
            "{}: {key} = {}: expected a whole number above 0",
            description.place,
            quoted(&value)
        ))),
    }
}

/// A size of the description.
pub(super) fn size(description: &Description, key: &str) -> Option<usize> {
    description.keys.get(key).and_then(Value::as_u64).map(|size| size as usize)
}
