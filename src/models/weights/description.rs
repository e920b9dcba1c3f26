//! What stands beside weights about the network that they are of: Hugging Face's `config.json`, nanoGPT's `model_args`.

use serde_json::{Map, Value};

use super::{files, legacy, pytorch};
use crate::Result;
use crate::shown::Url;

/// What is said of the network, key by key.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// Where it stands, for messages.
    pub place: String,
    /// The keys, as they were written.
    pub keys: Map<String, Value>,
}

impl Description {
    /// Hugging Face's name of the family, like `gpt2`; `None` for nanoGPT's, which have none.
    pub fn family(&self) -> Option<&str> {
        self.keys.get("model_type").and_then(Value::as_str)
    }
}

/// The description of the network whose weights are there. `None` where nothing stands beside them, or they are not there. A
/// PyTorch file is looked into only if it is local.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) for a description that is none, or for a folder without weights;
/// [`Error::Storage`](crate::Error::Storage).
pub fn describe(source: &Url) -> Result<Option<Description>> {
    if source.has_query() {
        return Ok(None); // such a URL is good for one file alone, and once is enough to ask for it
    }
    let inputs = match files::inputs(source) {
        Ok(inputs) => inputs,
        // whoever needs the weights says so; plans do not
        Err(crate::Error::Config(_) | crate::Error::Environment(_)) if !files::is_folder(source)? => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(first) = inputs.first() else { return Ok(None) };
    if let Some((place, Value::Object(keys))) = files::description(first)? {
        return Ok(Some(Description { place: place.to_string(), keys }));
    }
    if first.path().is_none() || first.is_empty() {
        return Ok(None);
    }
    let bytes = files::content(first)?;
    let name = first.name.to_string();
    let keys = match () {
        () if pytorch::is_archive(&bytes) => pytorch::model_args(&bytes, &name)?,
        () if legacy::is_legacy(&bytes) => legacy::model_args(&bytes, &name)?,
        () => Map::new(),
    };
    Ok((!keys.is_empty()).then(|| Description { place: format!("{}: model_args", first.name), keys }))
}
