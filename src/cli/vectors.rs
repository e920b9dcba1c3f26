//! Vectors in safetensors files: tensors by *parameter* name, in the parameter's shape, in the run's precision.
//!
//! One vector: `name`. Several: `name@0`, `name@1`, ... A tensor that is missing is zero.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::block::{Block, Layout};
use crate::hessian::Precision;
use crate::storage::absolute;
use crate::{Error, Result};

/// A file of vectors, mapped.
pub struct VectorFile {
    path: PathBuf,
    map: Mmap,
}

/// The vectors of a file, checked against the network.
pub struct Vectors<'a> {
    path: &'a Path,
    layout: &'a Layout,
    list: Vec<Vector<'a>>,
}

/// One vector: its number behind the `@`, where there is one, and its tensors by parameter.
struct Vector<'a> {
    number: Option<u32>,
    tensors: HashMap<usize, TensorView<'a>>,
}

impl VectorFile {
    /// Maps a file.
    pub fn open(path: &Path) -> Result<Self> {
        let cannot = |error: std::io::Error| {
            Error::Config(format!("{}: cannot read the vectors: {error} (tried {})", path.display(), absolute(path)))
        };
        let file = crate::file::open(path).map_err(cannot)?;
        // SAFETY: the map is only read; a file that another process cuts short meanwhile ends this process with SIGBUS.
        let map = unsafe { Mmap::map(&file) }.map_err(cannot)?;
        Ok(Self { path: path.into(), map })
    }

    /// Its vectors, with names, shapes and types checked. `blocks`: those whose names somebody may have taken for a
    /// parameter's.
    pub fn vectors<'a, T: Precision>(&'a self, layout: &'a Layout, blocks: &[Block]) -> Result<Vectors<'a>> {
        let named = |problem: String| Error::Config(format!("{}: {problem}", self.path.display()));
        let file = SafeTensors::deserialize(&self.map)
            .map_err(|error| named(format!("not a complete safetensors file: {error}")))?;
        let mut by_number: BTreeMap<Option<u32>, HashMap<usize, TensorView<'a>>> = BTreeMap::new();
        for (key, tensor) in file.iter() {
            let (name, number) = split_number(key).map_err(named)?;
            let parameter = parameter(layout, blocks, name).map_err(named)?;
            check::<T>(key, &tensor, &layout.parameters()[parameter].shape).map_err(named)?;
            by_number.entry(number).or_default().insert(parameter, tensor);
        }
        if by_number.is_empty() {
            return Err(named("there is no tensor in it; expected at least one, by parameter name".into()));
        }
        if by_number.len() > 1 && by_number.contains_key(&None) {
            return Err(named(
                "some names have a number (`name@0`) and others have none: of which vector are they? Give every name its number"
                    .into(),
            ));
        }
        let list = by_number.into_iter().map(|(number, tensors)| Vector { number, tensors }).collect();
        Ok(Vectors { path: &self.path, layout, list })
    }
}

impl Vectors<'_> {
    /// How many.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// The number behind the `@` of vector `index`.
    pub fn number(&self, index: usize) -> Option<u32> {
        self.list[index].number
    }

    /// Vector `index` cut to a block, in the block's flat order.
    ///
    /// # Errors
    /// [`Error::Config`] for an entry that is NaN or infinite.
    pub fn cut<T: Precision>(&self, index: usize, block: &Block) -> Result<Vec<T>> {
        let vector = &self.list[index];
        let values = |parameter: usize| vector.tensors.get(&parameter).map(|tensor| decode::<T>(tensor.data()));
        let flat = block.gather(self.layout, values, T::default());
        match flat.iter().position(|x| !x.to_f64().is_finite()) {
            None => Ok(flat),
            Some(at) => Err(Error::Config(format!(
                "{}: {} has the entry {} at position {at} of block `{}`; expected finite numbers",
                self.path.display(),
                self.label(index),
                flat[at].to_f64(),
                block.name
            ))),
        }
    }

    /// `the vector`, or `vector @3`.
    pub fn label(&self, index: usize) -> String {
        self.number(index).map_or("the vector".into(), |number| format!("vector @{number}"))
    }
}

/// `name@3` as name and number.
fn split_number(key: &str) -> std::result::Result<(&str, Option<u32>), String> {
    match key.rsplit_once('@') {
        None => Ok((key, None)),
        Some((name, number)) => match number.parse() {
            Ok(number) => Ok((name, Some(number))),
            Err(_) => Err(format!("tensor `{key}`: expected a number behind the @, as in `{name}@0`")),
        },
    }
}

fn parameter(layout: &Layout, blocks: &[Block], name: &str) -> std::result::Result<usize, String> {
    layout.find(name).ok_or_else(|| {
        if let Some(block) = blocks.iter().find(|block| block.name == name) {
            return is_a_block(layout, block);
        }
        let known: Vec<&str> = layout.parameters().iter().map(|parameter| parameter.name.as_str()).collect();
        format!(
            "tensor `{name}` is no parameter of this network; expected (blocks are cut by --block) one of {}",
            known.join(", ")
        )
    })
}

/// What to do instead where a tensor has the name of a block.
fn is_a_block(layout: &Layout, block: &Block) -> String {
    let name = &block.name;
    let of: Vec<String> = block
        .parameters()
        .iter()
        .map(|at| &layout.parameters()[*at])
        .map(|parameter| format!("`{}` {:?}", parameter.name, parameter.shape))
        .collect();
    format!(
        "tensor `{name}` has the name of a block, and vectors go by parameter: give {}, with zeros outside of the block, and \
         --block {name}, which cuts it out",
        of.join(", ")
    )
}

fn check<T: Precision>(key: &str, tensor: &TensorView<'_>, shape: &[usize]) -> std::result::Result<(), String> {
    if tensor.shape() != shape {
        return Err(format!("tensor `{key}` has shape {:?}, expected {shape:?}", tensor.shape()));
    }
    if tensor.dtype() != dtype::<T>() {
        return Err(format!(
            "tensor `{key}` is {}, expected {}, the run's precision; convert it, or change hessian.precision",
            tensor.dtype(),
            dtype::<T>()
        ));
    }
    Ok(())
}

/// safetensors' name of a precision.
fn dtype<T: Precision>() -> Dtype {
    if T::DTYPE == f64::DTYPE { Dtype::F64 } else { Dtype::F32 }
}

/// Little-endian bytes to numbers; f32 through f64 is exact.
fn decode<T: Precision>(bytes: &[u8]) -> Vec<T> {
    if dtype::<T>() == Dtype::F64 {
        bytes.as_chunks::<8>().0.iter().map(|bytes| T::from_f64(f64::from_le_bytes(*bytes))).collect()
    } else {
        bytes.as_chunks::<4>().0.iter().map(|bytes| T::from_f64(f32::from_le_bytes(*bytes).into())).collect()
    }
}

fn encode<T: Precision>(values: &[T]) -> Vec<u8> {
    if dtype::<T>() == Dtype::F64 {
        values.iter().flat_map(|x| x.to_f64().to_le_bytes()).collect()
    } else {
        values.iter().flat_map(|x| (x.to_f64() as f32).to_le_bytes()).collect()
    }
}

/// A file of vectors to be written. It appears whole or not at all.
pub struct Writer {
    path: PathBuf,
    part: PathBuf,
    tensors: Vec<(String, Vec<usize>, Dtype, Vec<u8>)>,
}

impl Writer {
    /// Makes sure that the file can be written, before anything is computed for it.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn create(path: &Path) -> Result<Self> {
        let part = PathBuf::from(format!("{}.part", path.display()));
        File::create(&part).map_err(|error| cannot_write(path, &error))?;
        Ok(Self { path: path.into(), part, tensors: Vec::new() })
    }

    /// Adds a block's vector, as tensors of every parameter that it touches, zero outside of the block.
    pub fn push<T: Precision>(&mut self, layout: &Layout, block: &Block, flat: &[T], number: Option<u32>) {
        for (index, values) in block.scatter(layout, flat, T::default()) {
            let parameter = &layout.parameters()[index];
            let name = number.map_or(parameter.name.clone(), |number| format!("{}@{number}", parameter.name));
            self.tensors.push((name, parameter.shape.clone(), dtype::<T>(), encode(&values)));
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn finish(self) -> Result<()> {
        let views = self.tensors.iter().map(|(name, shape, dtype, bytes)| {
            let view = TensorView::new(*dtype, shape.clone(), bytes);
            view.map(|view| (name.as_str(), view)).map_err(|error| cannot_write(&self.path, &error))
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        safetensors::serialize_to_file(views, None, &self.part).map_err(|error| cannot_write(&self.path, &error))?;
        std::fs::rename(&self.part, &self.path).map_err(|error| cannot_write(&self.path, &error))
    }
}

impl Drop for Writer {
    /// What was not finished leaves nothing behind.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.part);
    }
}

fn cannot_write(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Storage(format!("{}: cannot be written: {error}; name a file in a folder that exists", path.display()))
}
