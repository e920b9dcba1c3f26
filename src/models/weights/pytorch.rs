//! PyTorch's files: a zip archive of a pickle and the storages that its tensors lie in (`torch.save` since 1.6; `legacy` has those
//! of before).

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::rc::Rc;

use safetensors::tensor::Dtype;
use serde_json::{Map, Value as Json};
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{self, Pickle, TensorPlace, Value};
use super::tensor::FileTensor;
use crate::shown::quoted;
use crate::{Error, Result};

/// Keys under which checkpoints keep the model's tensors; nanoGPT's and the paper's is the first.
const MODEL_KEYS: [&str; 4] = ["model", "state_dict", "model_state_dict", "module"];

/// Keys of something else that a message names at most.
const MOST_KEYS: usize = 20;
/// Bytes of a tensor's name.
const MOST_NAME: usize = 1000;

/// Whether these bytes are a zip archive.
pub(super) fn is_archive(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

/// The tensors of a checkpoint or a bare table of them.
///
/// # Errors
/// [`Error::Config`] for what is no such file, or is cut short.
pub(super) fn tensors<'a>(bytes: &'a [u8], source: &str) -> Result<BTreeMap<String, FileTensor<'a>>> {
    let problem = |text: String| Error::Config(format!("{source}: {text}"));
    let (pickle, root, entries) = opened(bytes, source)?;
    let mut found = BTreeMap::new();
    for (name, place) in model(&pickle).map_err(problem)? {
        let storage = entries.get(&format!("{root}data/{}", place.storage)).copied();
        let tensor = tensor(&place, storage).map_err(|text| problem(format!("{}: {text}", quoted(&name))))?;
        found.extend(tensor.map(|tensor| (name, tensor)));
    }
    Ok(found)
}

/// nanoGPT's `model_args` in an archive: the sizes of the network, numbers and truths; nothing where the checkpoint has none.
///
/// # Errors
/// As [`tensors`].
pub(super) fn model_args(bytes: &[u8], source: &str) -> Result<Map<String, Json>> {
    Ok(args_of(&opened(bytes, source)?.0))
}

/// The numbers and truths under `model_args`.
pub(super) fn args_of(pickle: &Pickle) -> Map<String, Json> {
    let named = |(key, value): (&Value, &Value)| match (key, value) {
        (Value::Text(key), Value::Int(value)) => Some((key.to_string(), Json::from(*value))),
        (Value::Text(key), Value::Bool(value)) => Some((key.to_string(), Json::from(*value))),
        _ => None,
    };
    let is_args = |(key, _): &(&Value, &Value)| matches!(key, Value::Text(name) if &**name == "model_args");
    let args = pickle.entries(&pickle.root).find(is_args).map(|(_, value)| value);
    args.into_iter().flat_map(|args| pickle.entries(args)).filter_map(named).collect()
}

/// An archive's files by name.
type Entries<'a> = HashMap<String, &'a [u8]>;

/// An archive's pickle, what stands in front of its files' names, and the files.
fn opened<'a>(bytes: &'a [u8], source: &str) -> Result<(Pickle, String, Entries<'a>)> {
    let problem = |text: String| Error::Config(format!("{source}: {text}"));
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| {
        problem(format!(
            "not a complete PyTorch file: {error}\nHINT: it is cut short or damaged; fetch or save it again"
        ))
    })?;
    let entries = entries(&mut archive, bytes).map_err(problem)?;
    let root = entries.keys().find_map(|name| name.strip_suffix("data.pkl")).map(str::to_owned);
    let root = root.ok_or_else(|| problem("a zip archive without data.pkl: not written by torch.save".into()))?;
    if entries.get(&format!("{root}byteorder")).is_some_and(|order| order.starts_with(b"big")) {
        return Err(problem("written on a big-endian machine, which is not supported; save it again elsewhere".into()));
    }
    let pickle = pickle::read(entries[&format!("{root}data.pkl")]).map_err(problem)?;
    Ok((pickle, root, entries))
}

/// The archive's files as parts of its bytes: PyTorch compresses nothing.
fn entries<'a>(
    archive: &mut ZipArchive<Cursor<&'a [u8]>>,
    bytes: &'a [u8],
) -> std::result::Result<Entries<'a>, String> {
    let mut found = HashMap::new();
    for index in 0..archive.len() {
        let file = archive.by_index_raw(index).map_err(|error| error.to_string())?;
        let name = file.name().to_string();
        if file.compression() != CompressionMethod::Stored {
            return Err(format!("{} is compressed, which torch.save never does; save it again", quoted(&name)));
        }
        let start = file.data_start().ok_or_else(|| format!("{} has no place in the archive", quoted(&name)))? as usize;
        let content = bytes.get(start..start.saturating_add(file.size() as usize));
        found.insert(name.clone(), content.ok_or_else(|| format!("{} is cut short", quoted(&name)))?);
    }
    Ok(found)
}

/// Names and places of the model's tensors.
pub(super) fn model(pickle: &Pickle) -> std::result::Result<BTreeMap<String, Rc<TensorPlace>>, String> {
    let tensors = |table: &Value| -> std::result::Result<BTreeMap<String, Rc<TensorPlace>>, String> {
        let mut found = BTreeMap::new();
        for entry in pickle.entries(table) {
            let (Value::Text(name), Value::Tensor(place)) = entry else { continue };
            if name.len() > MOST_NAME {
                return Err(format!("a tensor's name has {} bytes, beginning with {}", name.len(), quoted(name)));
            }
            found.insert(name.to_string(), place.clone());
        }
        Ok(found)
    };
    let named = |wanted: &str| {
        pickle.entries(&pickle.root).find(|(key, _)| matches!(key, Value::Text(name) if **name == *wanted))
    };
    // a checkpoint also holds loose tensors (nanoGPT's best_val_loss), so the model's key comes first
    for (_, inside) in MODEL_KEYS.iter().filter_map(|key| named(key)) {
        let found = tensors(inside)?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let found = tensors(&pickle.root)?;
    if found.is_empty() {
        let key = |(key, _): (&Value, _)| if let Value::Text(key) = key { Some(quoted(key)) } else { None };
        let keys: Vec<String> = pickle.entries(&pickle.root).filter_map(key).take(MOST_KEYS).collect();
        return Err(format!(
            "holds no table of tensors; expected a state_dict, or one under `model`; there are the keys {}\nHINT: save \
             model.state_dict(), not the model itself",
            keys.join(", ")
        ));
    }
    Ok(found)
}

/// A tensor in its storage; `None` where its type has no place among weights.
pub(super) fn tensor<'a>(
    place: &TensorPlace,
    storage: Option<&'a [u8]>,
) -> std::result::Result<Option<FileTensor<'a>>, String> {
    let Some(dtype) = dtype(&place.class) else { return Ok(None) };
    let storage = storage.ok_or_else(|| format!("its storage {} is missing", place.storage))?;
    let size = dtype.bitsize() / 8;
    let reach = |(len, stride): (&usize, &usize)| len.checked_sub(1)?.checked_mul(*stride);
    let is_empty = place.shape.contains(&0);
    let last = place.shape.iter().zip(&place.strides).map(reach).try_fold(0usize, |sum, far| sum.checked_add(far?));
    let needed = match last {
        _ if is_empty => Some(0),
        Some(last) => place.offset.checked_add(last + 1).and_then(|entries| entries.checked_mul(size)),
        None => None,
    };
    if needed.is_none_or(|needed| needed > storage.len()) {
        return Err(format!(
            "its storage {} has {} bytes, too few for its shape {:?}",
            place.storage,
            storage.len(),
            place.shape
        ));
    }
    let bytes = &storage[(place.offset * size).min(storage.len())..];
    Ok(Some(FileTensor { dtype, shape: place.shape.clone(), strides: place.strides.clone(), bytes }))
}

/// The type of the numbers in a storage of this class; `None` for one that is not known.
pub(super) fn dtype(class: &str) -> Option<Dtype> {
    Some(match class {
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        _ => return None,
    })
}
