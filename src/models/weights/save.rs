//! Weights out of a module into a file: safetensors, or PyTorch's.

use std::io::{Cursor, Write};

use burn::module::Module;
use burn::tensor::{DType, TensorData, backend::Backend};
use safetensors::tensor::{Dtype, TensorView};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::error::{Error, Result};
use crate::models::names::{Names, parameters, read, stored};
use crate::models::{Naming, Part};
use crate::shown::Url;
use crate::storage::{Access, Location, local_path};

/// PyTorch aligns storages so, in order to map them.
const ALIGNMENT: u16 = 64;

/// Kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.safetensors`
    Safetensors,
    /// `.pt` or `.pth`: `{"model": state_dict}`, as nanoGPT's checkpoints.
    PyTorch,
}

impl Format {
    /// By the ending of a name.
    ///
    /// # Errors
    /// [`Error::Config`] for any other ending.
    pub fn of(name: &Url) -> Result<Self> {
        match name.without_query().rsplit('.').next() {
            Some("safetensors") => Ok(Self::Safetensors),
            Some("pt" | "pth") => Ok(Self::PyTorch),
            _ => Err(Error::Config(format!("{name}: expected a name that ends in .safetensors, .pt or .pth"))),
        }
    }
}

/// Numbers of a tensor as they go into a file.
struct Saved {
    part: Part,
    dtype: DType,
    bytes: Vec<u8>,
}

/// Writes the module's parameters and BatchNorm's running statistics to a path or URL, each in the precision it has (f64 or f32), under the names and in the
/// layout of `naming`. A tied head is written once, as its original.
///
/// # Errors
/// [`Error::Config`] for a name with an unknown ending; [`Error::Storage`].
pub fn save<B: Backend, M: Module<B>>(
    module: &M,
    names: &Names,
    target: impl Into<Url>,
    naming: &Naming,
) -> Result<()> {
    let target = &target.into();
    let bytes = encoded(module, names, naming, Format::of(target)?);
    write(target, bytes.map_err(|error| Error::Storage(format!("{target}: {error}")))?)
}

/// The file that [`save`] writes.
///
/// # Errors
/// [`Error::Storage`] for parameters in a type that files of weights do not have.
pub fn encoded<B: Backend, M: Module<B>>(
    module: &M,
    names: &Names,
    naming: &Naming,
    format: Format,
) -> Result<Vec<u8>> {
    let layout = stored(module, names, &parameters(module, names));
    let mut tensors = Vec::new();
    let mut problem = None;
    read(module, names, |name, data| {
        let parts = layout.find(name).map_or(Vec::new(), |at| naming.parts(&layout.parameters()[at]));
        for part in parts {
            match cut(&part, &data) {
                Ok(bytes) => tensors.push(Saved { dtype: data.dtype, part, bytes }),
                Err(error) => problem = Some(error),
            }
        }
    });
    let storage = |error: String| Error::Storage(format!("cannot write the weights: {error}"));
    if let Some(error) = problem {
        return Err(storage(error));
    }
    let bytes = match format {
        Format::Safetensors => as_safetensors(&tensors),
        Format::PyTorch => as_pytorch(&tensors),
    };
    bytes.map_err(storage)
}

fn write(target: &Url, bytes: Vec<u8>) -> Result<()> {
    if let Some(path) = local_path(target)? {
        let storage = |error| Error::Storage(format!("{target}: cannot write the weights: {error}"));
        let part = path.with_extension("part");
        std::fs::write(&part, bytes).map_err(storage)?;
        return std::fs::rename(&part, &path).map_err(storage);
    }
    if let Some(problem) = target.refused() {
        return Err(Error::Config(format!("`{target}`: {problem}")));
    }
    let (parent, object) = target.split();
    Location::open(parent, Access::Write)?.put(object, bytes)
}

/// A part's numbers, in its own order.
fn cut(part: &Part, data: &TensorData) -> std::result::Result<Vec<u8>, String> {
    let size = match data.dtype {
        DType::F64 => 8,
        DType::F32 => 4,
        other => return Err(format!("parameters of type {} have no place in it", other.name())),
    };
    let columns = data.shape.to_vec().last().copied().unwrap_or(1);
    let width = part.shape.last().copied().unwrap_or(1);
    let number: usize = part.shape.iter().product();
    let all = data.as_bytes();
    let mut bytes = Vec::with_capacity(number * size);
    for index in 0..number {
        let (row, column) = (index / width.max(1), index % width.max(1));
        let (r, c) = if part.transposed { (column, row) } else { (row, column) };
        let at = size * (r * columns + part.first_column + c);
        bytes.extend_from_slice(&all[at..at + size]);
    }
    Ok(bytes)
}

fn as_safetensors(tensors: &[Saved]) -> std::result::Result<Vec<u8>, String> {
    let mut views = Vec::new();
    for Saved { part, dtype, bytes } in tensors {
        let dtype = if *dtype == DType::F64 { Dtype::F64 } else { Dtype::F32 };
        views.push((&part.name, TensorView::new(dtype, part.shape.clone(), bytes).map_err(|error| error.to_string())?));
    }
    safetensors::serialize(views, None).map_err(|error| error.to_string())
}

/// The archive that torch.save writes: the pickle, and every tensor in a storage of its own.
fn as_pytorch(tensors: &[Saved]) -> std::result::Result<Vec<u8>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).with_alignment(ALIGNMENT);
    let mut file = |name: &str, bytes: &[u8]| {
        let started = archive.start_file(format!("archive/{name}"), options.large_file(bytes.len() >= 1 << 31));
        started.map_err(|error| text(&error))?;
        archive.write_all(bytes).map_err(|error| text(&error))
    };
    file("data.pkl", &pickle(tensors))?;
    file("byteorder", b"little")?;
    for (number, tensor) in tensors.iter().enumerate() {
        file(&format!("data/{number}"), &tensor.bytes)?;
    }
    file("version", b"3\n")?;
    Ok(archive.finish().map_err(|error| text(&error))?.into_inner())
}

/// `{"model": {name: _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())}}` in protocol 2.
fn pickle(tensors: &[Saved]) -> Vec<u8> {
    let mut out = b"\x80\x02}".to_vec();
    text(&mut out, "model");
    out.extend(b"}(");
    for (number, Saved { part, dtype, bytes }) in tensors.iter().enumerate() {
        let (class, size) = if *dtype == DType::F64 { ("DoubleStorage", 8) } else { ("FloatStorage", 4) };
        text(&mut out, &part.name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(format!("ctorch\n{class}\n").into_bytes());
        text(&mut out, &number.to_string());
        text(&mut out, "cpu");
        integer(&mut out, bytes.len() / size);
        out.extend(b"tQ"); // the storage, as data outside of the pickle
        integer(&mut out, 0);
        for sizes in [&part.shape, &super::tensor::row_major(&part.shape)] {
            out.push(b'(');
            sizes.iter().for_each(|size| integer(&mut out, *size));
            out.push(b't');
        }
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"us.");
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn integer(out: &mut Vec<u8>, number: usize) {
    out.extend(b"\x8a\x08"); // LONG1 of eight bytes
    out.extend((number as i64).to_le_bytes());
}
