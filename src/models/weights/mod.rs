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
use std::io::Read;

use burn::module::Module;
use burn::tensor::{DType, TensorData, backend::Backend};
use safetensors::tensor::SafeTensors;

use self::matching::Matched;
use self::tensor::{FileTensor, row_major};
use super::names::{Names, fill, parameters};
use crate::error::{Error, Result};
use crate::storage::Input;

/// Loads a file of weights, by path or URL, into the module; the parameters get `dtype`.
///
/// Sources may be f64, f32, f16 or bf16. Errors: see [`load_bytes`]; [`Error::Storage`] where the storage does not answer.
pub fn load<B: Backend, M: Module<B>>(module: M, names: &Names, source: &str, dtype: DType) -> Result<M> {
    let input = Input::open(source).map_err(|error| match error {
        Error::Config(text) => Error::Config(format!("{source}: cannot read the weights: {text}")),
        other => other,
    })?;
    let Some(path) = input.path() else {
        let mut bytes = Vec::with_capacity(input.len() as usize);
        input.reader(0)?.read_to_end(&mut bytes).map_err(|error| input.error(error))?;
        return load_bytes(module, names, &bytes, source, dtype);
    };
    let cannot = |error: std::io::Error| Error::Config(format!("{source}: cannot read the weights: {error}"));
    let file = std::fs::File::open(path).map_err(cannot)?;
    // SAFETY: the map is read only while this function runs; a file that another process cuts short meanwhile
    // ends this process with SIGBUS, as with every memory-mapped reader.
    let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(cannot)?;
    load_bytes(module, names, &bytes, source, dtype)
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
    if bytes.is_empty() {
        return Err(Error::Config(format!(
            "{source}: the file is empty; expected safetensors, or a checkpoint of torch.save\nHINT: fetch or save it again"
        )));
    }
    let file = if pytorch::is_archive(bytes) { pytorch::tensors(bytes, source)? } else { safetensors(bytes, source)? };
    let layout = parameters(&module, names);
    let matched = Matched::new(file, &layout, names, source)?;
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

fn safetensors<'a>(bytes: &'a [u8], source: &str) -> Result<BTreeMap<String, FileTensor<'a>>> {
    let header = SafeTensors::read_metadata(bytes).and_then(|_| SafeTensors::deserialize(bytes));
    let file = header.map_err(|error| {
        Error::Config(format!(
            "{source}: not a complete safetensors file: {error}\nHINT: expected safetensors, or a checkpoint of torch.save"
        ))
    })?;
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let shape = view.shape().to_vec();
        (name, FileTensor { dtype: view.dtype(), strides: row_major(&shape), shape, bytes: view.data() })
    });
    Ok(tensors.collect())
}

#[cfg(test)]
mod tests;
