//! PyTorch's files of before 1.6 (`torch.save(..., _use_new_zipfile_serialization=False)`): five pickles, one after the other (a magic
//! number, the protocol, the machine, what was saved, the keys of its storages), then each storage: its number of entries as
//! int64, and the entries.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value as Json};

use super::pickle::{self, Pickle, Value};
use super::pytorch::{args_of, dtype, model, tensor};
use super::tensor::FileTensor;
use crate::shown::quoted;
use crate::{Error, Result};

/// PROTO 2, and LONG1 with the ten bytes of 0x1950a86a20f9469cfc6c.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// Whether these bytes begin such a file.
pub(super) fn is_legacy(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC[..MAGIC.len().min(bytes.len())]) && bytes.len() >= 8
}

/// The tensors of a checkpoint or a bare table of them.
///
/// # Errors
/// [`Error::Config`] for what is no such file, or is cut short.
pub(super) fn tensors<'a>(bytes: &'a [u8], source: &str) -> Result<BTreeMap<String, FileTensor<'a>>> {
    let problem = |text: String| Error::Config(format!("{source}: {text}"));
    let (pickle, storages) = parts(bytes).map_err(problem)?;
    let mut found = BTreeMap::new();
    for (name, place) in model(&pickle).map_err(problem)? {
        let storage = storages.get(&place.storage).copied();
        let tensor = tensor(&place, storage).map_err(|text| problem(format!("{}: {text}", quoted(&name))))?;
        found.extend(tensor.map(|tensor| (name, tensor)));
    }
    Ok(found)
}

/// nanoGPT's `model_args`, as in [`pytorch`](super::pytorch::model_args).
///
/// # Errors
/// As [`tensors`].
pub(super) fn model_args(bytes: &[u8], source: &str) -> Result<Map<String, Json>> {
    let (pickle, _) = parts(bytes).map_err(|text| Error::Config(format!("{source}: {text}")))?;
    Ok(args_of(&pickle))
}

/// What was saved, and the entries of each storage by its key.
fn parts(bytes: &[u8]) -> std::result::Result<(Pickle, HashMap<String, &[u8]>), String> {
    let mut rest = bytes;
    let mut next = || -> std::result::Result<Pickle, String> {
        let (pickle, len) = pickle::read_first(rest)?;
        rest = &rest[len..];
        Ok(pickle)
    };
    let (_magic, _protocol, machine, saved, keys) = (next()?, next()?, next()?, next()?, next()?);
    let is_little = |(key, value): (&Value, &Value)| match (key, value) {
        (Value::Text(key), Value::Bool(is_little)) if &**key == "little_endian" => Some(*is_little),
        _ => None,
    };
    if machine.entries(&machine.root).find_map(is_little) == Some(false) {
        return Err("written on a big-endian machine, which is not supported; save it again elsewhere".into());
    }
    let mut storages = HashMap::new();
    for key in keys.items(&keys.root) {
        let Value::Text(key) = key else { return Err("the key of a storage is no text".into()) };
        let class = saved.storages.get(&**key).map(String::as_str).unwrap_or_default();
        let cut_short = || format!("cut short in storage {}; fetch or save it again", quoted(key));
        let dtype = dtype(class).ok_or_else(|| format!("storage {} has numbers of no known type", quoted(key)))?;
        let (len, after) = rest.split_first_chunk::<8>().ok_or_else(cut_short)?;
        let len = usize::try_from(i64::from_le_bytes(*len)).ok().and_then(|len| len.checked_mul(dtype.bitsize() / 8));
        let (entries, after) = len.and_then(|len| after.split_at_checked(len)).ok_or_else(cut_short)?;
        storages.insert(key.to_string(), entries);
        rest = after;
    }
    Ok((saved, storages))
}
