//! The files that weights lie in: one, the shards that an index names, or what a folder of Hugging Face or nanoGPT has.

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;
use serde_json::Value;

use crate::shown::{Url, quoted};
use crate::storage::{Input, local_path};
use crate::{Error, Result};

/// What a folder may hold its weights in, the first that is there.
const IN_FOLDERS: [&str; 5] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "ckpt.pt",
];
/// Ending of an index: which tensor lies in which file beside it.
const INDEX: &str = ".index.json";
/// More than any index or description has.
const MOST_BYTES: u64 = 64 << 20;

/// Bytes of a file of weights.
pub(super) enum Content {
    /// Of this machine.
    Mapped(Mmap),
    /// Of a storage.
    Read(Vec<u8>),
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Read(bytes) => bytes,
        }
    }
}

/// The files that weights lie in, in order; each is there.
///
/// # Errors
/// [`Error::Config`] for a place where there are none, and for an index that is none; [`Error::Storage`].
pub(super) fn inputs(source: &Url) -> Result<Vec<Input>> {
    if is_folder(source)? {
        return in_folder(source);
    }
    match Input::open(source) {
        Ok(input) if source.exposed().ends_with(INDEX) => shards(&input),
        Ok(input) => Ok(vec![input]),
        // there are no folders on object storage, only names that begin alike
        Err(Error::Config(text)) if !source.is_local() && !source.has_query() => {
            in_folder(source).map_err(|_| cannot_read(source, &text))
        }
        Err(Error::Config(text)) => Err(cannot_read(source, &text)),
        Err(error) => Err(error),
    }
}

fn cannot_read(source: &Url, text: &str) -> Error {
    let why = text.strip_prefix(&format!("{source}: ")).unwrap_or(text);
    Error::Config(format!("{source}: cannot read the weights: {why}"))
}

/// Whether it is a folder of this machine.
pub(super) fn is_folder(source: &Url) -> Result<bool> {
    let is_folder = |path: &Path| path.metadata().is_ok_and(|found| found.is_dir());
    Ok(local_path(source)?.is_some_and(|path| is_folder(&path)))
}

fn in_folder(folder: &Url) -> Result<Vec<Input>> {
    for name in IN_FOLDERS {
        match Input::open(beside(folder, name)) {
            Ok(input) if name.ends_with(INDEX) => return shards(&input),
            Ok(input) => return Ok(vec![input]),
            Err(Error::Config(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Config(format!(
        "{folder}: the folder has no weights; expected one of {} in it, or the name of a file",
        IN_FOLDERS.join(", ")
    )))
}

/// A file in a folder.
fn beside(folder: &Url, name: &str) -> Url {
    Url::from(format!("{}/{name}", folder.exposed().trim_end_matches('/')))
}

/// The files that an index names: `{"weight_map": {"tensor": "file"}}`.
fn shards(index: &Input) -> Result<Vec<Input>> {
    let json: Value = parsed(index)?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| index.error("it is no index of shards: there is no table `weight_map`"))?;
    let names: Option<BTreeSet<&str>> = map.values().map(Value::as_str).collect();
    let names = names.filter(|names| !names.is_empty() && names.iter().all(|name| !name.contains('/')));
    let names = names.ok_or_else(|| index.error("its `weight_map` has values that are no names of files beside it"))?;
    let (folder, _) = index.name.split();
    let folder = if folder == index.name { Url::from(".") } else { folder };
    let open = |name: &&str| {
        Input::open(beside(&folder, name)).map_err(|error| match error {
            Error::Config(text) => Error::Config(format!("{}: a shard is missing: {text}", index.name)),
            other => other,
        })
    };
    names.iter().map(open).collect()
}

fn parsed(input: &Input) -> Result<Value> {
    if input.len() > MOST_BYTES {
        return Err(input.error(format!("it has {} bytes, too many for what it should be", input.len())));
    }
    let bytes = input.read()?;
    serde_json::from_slice(&bytes)
        .map_err(|error| input.error(format!("it is no JSON: {}", quoted(&error.to_string()))))
}

/// `config.json` beside a file of weights, as Hugging Face writes it: its name, and what it says. `None` where there is none, or one
/// of something else.
///
/// # Errors
/// [`Error::Config`] for one that is no JSON; [`Error::Storage`].
pub(super) fn description(file: &Input) -> Result<Option<(Url, Value)>> {
    if file.name.has_query() {
        return Ok(None); // such a URL is good for this file alone
    }
    let (folder, _) = file.name.split();
    let folder = if folder == file.name { Url::from(".") } else { folder };
    match Input::open(beside(&folder, "config.json")) {
        Ok(input) => {
            let json = parsed(&input)?;
            Ok(json.get("model_type").is_some().then_some((input.name, json)))
        }
        Err(Error::Config(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All bytes of a file.
pub(super) fn content(input: &Input) -> Result<Content> {
    if let Some(path) = input.path() {
        let cannot = |error: std::io::Error| Error::Config(format!("{}: cannot read the weights: {error}", input.name));
        let file = crate::file::open(path).map_err(cannot)?;
        // SAFETY: the map is read only while the caller runs; a file that another process cuts short meanwhile
        // ends this process with SIGBUS, as with every memory-mapped reader.
        return unsafe { Mmap::map(&file) }.map(Content::Mapped).map_err(cannot);
    }
    let mut bytes = Vec::new(); // not of the length that a server claims
    input.reader(0)?.read_to_end(&mut bytes).map_err(|error| input.error(error))?;
    Ok(Content::Read(bytes))
}
