//! Weights in safetensors files, under the names of a [`Names`] table.
//!
//! A file must hold exactly the module's parameters: nothing is missing, nothing left over, every shape right and
//! every number finite, or the error says which and what was expected.

use std::collections::HashMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, TensorData, backend::Backend, bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::names::{Names, fill, parameters, read};
use crate::block::Layout;
use crate::error::{Error, Result};

/// At most so many names are listed in an error.
const LISTED: usize = 8;

/// Loads a safetensors file into the module; the parameters get `dtype`.
///
/// Sources may be f64, f32, f16 or bf16. Errors: [`Error::Config`], see [`load_bytes`].
pub fn load<B: Backend, M: Module<B>>(module: M, names: &Names, path: &Path, dtype: DType) -> Result<M> {
    let source = path.display().to_string();
    let cannot = |error: std::io::Error| Error::Config(format!("{source}: cannot read the weights: {error}"));
    let file = std::fs::File::open(path).map_err(cannot)?;
    // SAFETY: the map is read only while this function runs; a file that another process cuts short meanwhile
    // ends this process with SIGBUS, as with every memory-mapped reader.
    let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(cannot)?;
    load_bytes(module, names, &bytes, &source, dtype)
}

/// Loads the bytes of a safetensors file; `source` names it in errors.
///
/// Errors, all [`Error::Config`]: no safetensors; tensors missing, left over or of the wrong shape; a type other than
/// f64, f32, f16, bf16; NaN or infinite numbers; a copy (tied head) that differs from its original.
pub fn load_bytes<B: Backend, M: Module<B>>(
    module: M,
    names: &Names,
    bytes: &[u8],
    source: &str,
    dtype: DType,
) -> Result<M> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| Error::Config(format!("{source}: not a complete safetensors file: {error}")))?;
    let layout = parameters(&module, names);
    let tensors = matching(&file, &layout, names, source)?;
    fill(module, names, dtype, |name, shape| {
        tensors.get(name).map(|view| decode(view, name, shape, source)).transpose()
    })
}

/// Writes the module's parameters as a safetensors file, each in the precision it has (f64 or f32).
/// Errors: [`Error::Storage`].
pub fn save<B: Backend, M: Module<B>>(module: &M, names: &Names, path: &Path) -> Result<()> {
    let layout = parameters(module, names);
    let mut tensors = Vec::new();
    read(module, names, |name, data| {
        if layout.find(name).is_some() {
            tensors.push((name.to_owned(), data));
        }
    });
    let storage = |error: String| Error::Storage(format!("{}: cannot write the weights: {error}", path.display()));
    let views = tensors.iter().map(|(name, data)| Ok((name.as_str(), view(data)?)));
    let views = views.collect::<std::result::Result<Vec<_>, String>>().map_err(storage)?;
    safetensors::serialize_to_file(views, None, path).map_err(|error| storage(error.to_string()))
}

fn view(data: &TensorData) -> std::result::Result<TensorView<'_>, String> {
    let dtype = match data.dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        other => return Err(format!("parameters of type {other:?} have no place in it")),
    };
    TensorView::new(dtype, data.shape.to_vec(), data.as_bytes()).map_err(|error| error.to_string())
}

/// The file's tensors by parameter name, checked against the layout: names and shapes.
fn matching<'a>(
    file: &'a SafeTensors<'a>,
    layout: &Layout,
    names: &Names,
    source: &str,
) -> Result<HashMap<String, TensorView<'a>>> {
    let mut tensors = HashMap::new();
    let mut surplus = Vec::new();
    for (name, tensor) in file.iter().filter(|(name, _)| !names.is_buffer(name)) {
        match parameter_name(name, layout, names) {
            Some(parameter) => {
                if tensors.insert(parameter.clone(), tensor).is_some() {
                    return Err(Error::Config(format!(
                        "{source}: {parameter} is there twice, with and without its prefix"
                    )));
                }
            }
            None if names.copies.iter().any(|(copy, _)| *copy == name) => {}
            None => surplus.push(format!("{name} {:?}", tensor.shape())),
        }
    }
    check_copies(file, &tensors, names, source)?;
    let mut problems = Vec::new();
    let missing = layout.parameters().iter().filter(|p| !tensors.contains_key(&p.name));
    problems.extend(list("missing", missing.map(|p| format!("{} {:?}", p.name, p.shape)).collect()));
    let misshapen = layout.parameters().iter().filter_map(|p| {
        let found = tensors.get(&p.name)?.shape();
        (found != p.shape).then(|| format!("{} is {found:?}, expected {:?}", p.name, p.shape))
    });
    problems.extend(list("wrong shape", misshapen.collect()));
    surplus.sort();
    problems.extend(list("not in the model", surplus));
    if problems.is_empty() {
        return Ok(tensors);
    }
    Err(Error::Config(format!(
        "{source}: the weights do not fit the model: {}. Make the sizes and variants of the configuration ([model.*]: bias, tied, layer_norm ...) those of the file",
        problems.join("; ")
    )))
}

/// The parameter which a file's tensor belongs to: the same name, or with the prefix that a file may leave out.
fn parameter_name(name: &str, layout: &Layout, names: &Names) -> Option<String> {
    let prefixed = format!("{}{name}", names.optional_prefix);
    [name.to_owned(), prefixed].into_iter().find(|candidate| layout.find(candidate).is_some())
}

/// A copy of a tied parameter is left aside, but only where it *is* a copy.
fn check_copies(
    file: &SafeTensors<'_>,
    tensors: &HashMap<String, TensorView<'_>>,
    names: &Names,
    source: &str,
) -> Result<()> {
    for (copy, original) in names.copies.iter().filter(|(copy, _)| !tensors.contains_key(*copy)) {
        let (Ok(copied), Some(tensor)) = (file.tensor(copy), tensors.get(*original)) else { continue };
        if copied.dtype() != tensor.dtype() || copied.data() != tensor.data() {
            return Err(Error::Config(format!(
                "{source}: {copy} differs from {original}, but the model ties them; set tied = false"
            )));
        }
    }
    Ok(())
}

fn list(what: &str, mut names: Vec<String>) -> Option<String> {
    let count = names.len();
    names.truncate(LISTED);
    let more = if count > LISTED { format!(" and {} more", count - LISTED) } else { String::new() };
    (count > 0).then(|| format!("{count} {what}: {}{more}", names.join(", ")))
}

/// Numbers of a tensor in the smallest of f32 and f64 that holds them exactly.
fn decode(view: &TensorView<'_>, name: &str, shape: &[usize], source: &str) -> Result<TensorData> {
    let bytes = view.data();
    let shape = shape.to_vec();
    let finite = |at: Option<usize>| match at {
        None => Ok(()),
        Some(index) => {
            Err(Error::Config(format!("{source}: {name} is not finite at index {index}: the weights cannot be used")))
        }
    };
    let single = |values: Vec<f32>| {
        finite(values.iter().position(|x| !x.is_finite()))?;
        Ok(TensorData::new(values, shape.clone()))
    };
    match view.dtype() {
        Dtype::F64 => {
            let values = numbers(bytes, f64::from_le_bytes);
            finite(values.iter().position(|x| !x.is_finite()))?;
            Ok(TensorData::new(values, shape))
        }
        Dtype::F32 => single(numbers(bytes, f32::from_le_bytes)),
        Dtype::F16 => single(numbers(bytes, |two| f16::from_le_bytes(two).to_f32())),
        Dtype::BF16 => single(numbers(bytes, |two| bf16::from_le_bytes(two).to_f32())),
        other => Err(Error::Config(format!("{source}: {name} has type {other:?}; expected F64, F32, F16 or BF16"))),
    }
}

fn numbers<const N: usize, T>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| number(*chunk)).collect()
}

#[cfg(test)]
#[path = "weights_tests.rs"]
mod tests;
