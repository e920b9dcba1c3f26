//! Weights in files: safetensors and PyTorch's, under the names of Hugging Face, nanoGPT or the paper ([`Naming`]), by path or
//! URL, in both directions.
//!
//! A file must hold exactly the module's parameters and BatchNorm's running statistics ([`stored`]): nothing is missing, nothing
//! left over, every shape right and every number finite, or the error says which and what was expected.

mod description;
mod files;
mod legacy;
mod matching;
mod pickle;
mod pytorch;
mod save;
mod tensor;

pub use super::naming::{Naming, Part, Rule};
pub use description::{Description, describe};
pub use save::{Format, encoded, save};

use std::collections::BTreeMap;
use std::fmt::Display;

use burn::module::Module;
use burn::tensor::{DType, TensorData, backend::Backend};
use safetensors::tensor::{Metadata, SafeTensors, TensorInfo};

use self::matching::Matched;
use self::tensor::{FileTensor, row_major};
use super::names::{Names, fill, parameters, stored};
use crate::block::Layout;
use crate::error::{Error, Result};
use crate::shown::{Url, quoted};
use crate::storage::Input;

/// A file's tensors by name.
type Tensors<'a> = BTreeMap<String, FileTensor<'a>>;

/// Loads weights into the module, by path or URL of a file, of an index of shards, or of a folder that has one of these; the
/// parameters get `dtype`.
///
/// Sources may be f64, f32, f16 or bf16. Errors: see [`load_bytes`]; [`Error::Storage`] where the storage does not answer.
pub fn load<B: Backend, M: Module<B>>(module: M, names: &Names, source: impl Into<Url>, dtype: DType) -> Result<M> {
    let inputs = files::inputs(&source.into())?;
    let contents = inputs.iter().map(files::content).collect::<Result<Vec<_>>>()?;
    let parts = inputs.iter().zip(&contents).map(|(input, bytes)| (input.name.to_string(), &**bytes));
    let (tensors, source) = joined(parts)?;
    load_tensors(module, names, tensors, &source, dtype)
}

/// Whether [`load`] will find files that fit, before anything is spent: they are there, and what they say of their tensors is what
/// the layout, that of [`stored`], asks for. No numbers are read. Of a PyTorch file on an object store only that it is there: its table of
/// tensors has no fixed place.
///
/// # Errors
/// As [`load`], but for those of numbers.
pub fn check(layout: &Layout, names: &Names, source: impl Into<Url>) -> Result<()> {
    let inputs = files::inputs(&source.into())?;
    if inputs.iter().all(|input| input.path().is_some()) {
        let contents = inputs.iter().map(files::content).collect::<Result<Vec<_>>>()?;
        let (tensors, source) =
            joined(inputs.iter().zip(&contents).map(|(input, bytes)| (input.name.to_string(), &**bytes)))?;
        return Matched::new(tensors, layout, names, &source)?.check_copies(&source);
    }
    let mut all = Tensors::new();
    for input in &inputs {
        let Some(tensors) = described(input, &input.name.to_string())? else { return Ok(()) };
        join(&mut all, tensors, &input.name.to_string())?;
    }
    Matched::new(all, layout, names, &named(inputs.iter().map(|input| input.name.to_string()))).map(drop)
}

/// The tensors of several files, and what errors call them together.
fn joined<'a>(parts: impl Iterator<Item = (String, &'a [u8])> + Clone) -> Result<(Tensors<'a>, String)> {
    let mut all = Tensors::new();
    for (name, bytes) in parts.clone() {
        join(&mut all, tensors(bytes, &name)?, &name)?;
    }
    Ok((all, named(parts.map(|(name, _)| name))))
}

fn join<'a>(all: &mut Tensors<'a>, more: Tensors<'a>, source: &str) -> Result<()> {
    more.into_iter().try_for_each(|(name, tensor)| match all.insert(name.clone(), tensor) {
        None => Ok(()),
        Some(_) => Err(Error::Config(format!("{source}: {} is in another shard as well", quoted(&name)))),
    })
}

/// `first`, or `first and 3 more`.
fn named(mut names: impl Iterator<Item = String>) -> String {
    let first = names.next().unwrap_or_default();
    match names.count() {
        0 => first,
        more => format!("{first} and {more} more"),
    }
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
    load_tensors(module, names, tensors(bytes, source)?, source, dtype)
}

fn load_tensors<B: Backend, M: Module<B>>(
    module: M,
    names: &Names,
    tensors: Tensors<'_>,
    source: &str,
    dtype: DType,
) -> Result<M> {
    let layout = stored(&module, names, &parameters(&module, names));
    let matched = Matched::new(tensors, &layout, names, source)?;
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
    if pytorch::is_archive(bytes) {
        pytorch::tensors(bytes, source)
    } else if legacy::is_legacy(bytes) {
        legacy::tensors(bytes, source)
    } else {
        safetensors(bytes, source)
    }
}

fn safetensors<'a>(bytes: &'a [u8], source: &str) -> Result<Tensors<'a>> {
    let header = SafeTensors::read_metadata(bytes).and_then(|_| SafeTensors::deserialize(bytes));
    let file = header.map_err(|error| no_weights(source, bytes).unwrap_or_else(|| incomplete(source, &error)))?;
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let shape = view.shape().to_vec();
        (name, FileTensor { dtype: view.dtype(), strides: row_major(&shape), shape, bytes: view.data() })
    });
    Ok(tensors.collect())
}

/// Tensors without their numbers, from the header of a safetensors object: its length in 8 bytes, JSON. `None` for an archive.
fn described(input: &Input, source: &str) -> Result<Option<Tensors<'static>>> {
    const LENGTH: u64 = size_of::<u64>() as u64;
    const KIND: u64 = 128; // bytes that tell another kind of file
    const MOST: u64 = 100 << 20; // what the format allows
    if input.is_empty() {
        return Err(empty(source));
    }
    let start = input.read_at(0..LENGTH.min(input.len()))?;
    if pytorch::is_archive(&start) || legacy::is_legacy(&start) {
        return Ok(None);
    }
    if let Some(error) = no_weights(source, &input.read_at(0..input.len().min(KIND))?) {
        return Err(error);
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

/// The error for what is no file of weights at all; `None` where it may be a damaged one.
fn no_weights(source: &str, bytes: &[u8]) -> Option<Error> {
    let what = crate::file::kind(&bytes[..bytes.len().min(1024)])?;
    Some(Error::Config(format!("{source}: {what}; expected safetensors, or a checkpoint of torch.save")))
}

fn incomplete(source: &str, why: &dyn Display) -> Error {
    Error::Config(format!(
        "{source}: not a complete safetensors file: {why}\nHINT: expected safetensors, or a checkpoint of torch.save"
    ))
}

#[cfg(test)]
mod tests;
