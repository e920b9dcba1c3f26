//! Weights in files: safetensors and PyTorch's, under the names of Hugging Face, nanoGPT or the paper ([`Naming`]), by path or
//! URL, in both directions.
//!
//! A file must hold exactly the module's parameters: nothing is missing, nothing left over, every shape right and
//! every number finite, or the error says which and what was expected.

mod matching;
mod naming;
mod pickle;
mod pytorch;
mod save;
mod tensor;

pub use naming::{Naming, Part, Rule};
pub use save::{Format, save};

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Read;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, TensorData, backend::Backend};
use memmap2::Mmap;
use safetensors::tensor::{Metadata, SafeTensors, TensorInfo};

use self::matching::Matched;
use self::tensor::{FileTensor, row_major};
use super::names::{Names, fill, parameters};
use crate::block::Layout;
use crate::error::{Error, Result};
use crate::shown::Url;
use crate::storage::Input;

/// A file's tensors by name.
type Tensors<'a> = BTreeMap<String, FileTensor<'a>>;

/// Loads a file of weights, by path or URL, into the module; the parameters get `dtype`.
///
/// Sources may be f64, f32, f16 or bf16. Errors: see [`load_bytes`]; [`Error::Storage`] where the storage does not answer.
pub fn load<B: Backend, M: Module<B>>(module: M, names: &Names, source: impl Into<Url>, dtype: DType) -> Result<M> {
    let input = open(&source.into())?;
    let source = &input.name.to_string();
    if let Some(path) = input.path() {
        return load_bytes(module, names, &mapped(path, source)?, source, dtype);
    }
    let mut bytes = Vec::new(); // not of the length that a server claims
    input.reader(0)?.read_to_end(&mut bytes).map_err(|error| input.error(error))?;
    load_bytes(module, names, &bytes, source, dtype)
}

/// Whether [`load`] will find a file that fits, before anything is spent: it is there, and what it says of its tensors is what
/// the layout asks for. No numbers are read. Of a PyTorch archive on an object store only that it is there: its table of
/// tensors has no fixed place.
///
/// # Errors
/// As [`load`], but for those of numbers.
pub fn check(layout: &Layout, names: &Names, source: impl Into<Url>) -> Result<()> {
    let input = open(&source.into())?;
    let source = &input.name.to_string();
    if let Some(path) = input.path() {
        let bytes = mapped(path, source)?;
        return Matched::new(tensors(&bytes, source)?, layout, names, source)?.check_copies(source);
    }
    let Some(tensors) = described(&input, source)? else { return Ok(()) };
    Matched::new(tensors, layout, names, source).map(drop)
}

fn open(source: &Url) -> Result<Input> {
    Input::open(source).map_err(|error| match error {
        Error::Config(text) => {
            let why = text.strip_prefix(&format!("{source}: ")).unwrap_or(&text);
            Error::Config(format!("{source}: cannot read the weights: {why}"))
        }
        other => other,
    })
}

fn mapped(path: &Path, source: &str) -> Result<Mmap> {
    let cannot = |error: std::io::Error| Error::Config(format!("{source}: cannot read the weights: {error}"));
    let file = crate::file::open(path).map_err(cannot)?;
    // SAFETY: the map is read only while the caller runs; a file that another process cuts short meanwhile
    // ends this process with SIGBUS, as with every memory-mapped reader.
    unsafe { Mmap::map(&file) }.map_err(cannot)
}

/// Loads the bytes of a file; `source` names it in errors. A zip archive is PyTorch's, everything else safetensors.
///
/// Errors, all [`Error::Config`]: nothing in it; neither of them; tensors missing, left over or of the wrong shape; a type other than
/// f64, f32, f16, bf16; NaN or infinite numbers; a copy (tied head) that differs from its original.
pub fn load_bytes<B: Backend, M: Module<B>>(
    module: M,
    names: &Names,
    bytes: &[u8],
    source: &str,
    dtype: DType,
) -> Result<M> {
    let layout = parameters(&module, names);
    let matched = Matched::new(tensors(bytes, source)?, &layout, names, source)?;
    matched.check_copies(source)?;
    fill(module, names, dtype, |name, shape| {
        let Some(parameter) = layout.find(name).map(|at| &layout.parameters()[at]) else { return Ok(None) };
        let columns = shape.last().copied().unwrap_or(1);
        let mut values = vec![0.0; shape.iter().product()];
        for part in matched.naming.parts(parameter) {
            matched.tensors[&part.name].place(&part, columns, &mut values, source)?;
        }
        Ok(Some(TensorData::new(values, shape.to_vec())))
    })
}

/// What a file holds.
fn tensors<'a>(bytes: &'a [u8], source: &str) -> Result<Tensors<'a>> {
    if bytes.is_empty() {
        return Err(empty(source));
    }
    if pytorch::is_archive(bytes) { pytorch::tensors(bytes, source) } else { safetensors(bytes, source) }
}

fn safetensors<'a>(bytes: &'a [u8], source: &str) -> Result<Tensors<'a>> {
    let header = SafeTensors::read_metadata(bytes).and_then(|_| SafeTensors::deserialize(bytes));
    let file = header.map_err(|error| incomplete(source, &error))?;
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let shape = view.shape().to_vec();
        (name, FileTensor { dtype: view.dtype(), strides: row_major(&shape), shape, bytes: view.data() })
    });
    Ok(tensors.collect())
}

/// Tensors without their numbers, from the header of a safetensors object: its length in 8 bytes, JSON. `None` for an archive.
fn described(input: &Input, source: &str) -> Result<Option<Tensors<'static>>> {
    const LENGTH: u64 = size_of::<u64>() as u64;
    const MOST: u64 = 100 << 20; // what the format allows
    if input.is_empty() {
        return Err(empty(source));
    }
    let start = input.read_at(0..LENGTH.min(input.len()))?;
    if pytorch::is_archive(&start) {
        return Ok(None);
    }
    let end = <[u8; 8]>::try_from(start.as_ref()).ok().and_then(|len| u64::from_le_bytes(len).checked_add(LENGTH));
    let end = end.filter(|end| *end <= input.len().min(MOST));
    let end = end.ok_or_else(|| incomplete(source, &"its header is cut short, or too long to be one"))?;
    let header: Metadata =
        serde_json::from_slice(&input.read_at(LENGTH..end)?).map_err(|error| incomplete(source, &error))?;
    let (expected, found) = (header.data_len() as u64, input.len() - end);
    if expected != found {
        return Err(incomplete(source, &format!("{found} bytes of numbers, expected {expected}")));
    }
    let tensor = |(name, info): (String, &TensorInfo)| {
        (name, FileTensor { dtype: info.dtype, shape: info.shape.clone(), strides: row_major(&info.shape), bytes: &[] })
    };
    Ok(Some(header.tensors().into_iter().map(tensor).collect()))
}

fn empty(source: &str) -> Error {
    Error::Config(format!(
        "{source}: the file is empty; expected safetensors, or a checkpoint of torch.save\nHINT: fetch or save it again"
    ))
}

fn incomplete(source: &str, why: &dyn Display) -> Error {
    Error::Config(format!(
        "{source}: not a complete safetensors file: {why}\nHINT: expected safetensors, or a checkpoint of torch.save"
    ))
}

#[cfg(test)]
mod tests;
