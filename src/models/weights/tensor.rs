//! A tensor as it lies in a file, and its numbers.

use burn::tensor::{bf16, f16};
use safetensors::tensor::Dtype;

use super::naming::Part;
use crate::{Error, Result};

/// A tensor of a file: bytes from its first entry on, and how far apart entries are.
#[derive(Debug, Clone)]
pub(super) struct FileTensor<'a> {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// In entries, by dimension.
    pub strides: Vec<usize>,
    pub bytes: &'a [u8],
}

/// Distances between entries of a row-major tensor.
pub(super) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = strides[at] * shape[at];
    }
    strides
}

impl FileTensor<'_> {
    /// Puts its numbers where they belong among the entries of a parameter of `columns` columns.
    ///
    /// # Errors
    /// [`Error::Config`] for a type that is no float, or a number that is none; `source` and the name are in it.
    pub fn place(&self, part: &Part, columns: usize, values: &mut [f64], source: &str) -> Result<()> {
        let read = self.reader().ok_or_else(|| {
            Error::Config(format!("{source}: {} has type {:?}; expected F64, F32, F16 or BF16", part.name, self.dtype))
        })?;
        // as (rows, columns) of the file; a vector is one row
        let (rows, width) = match self.shape.as_slice() {
            [] => (1, 1),
            [len] => (1, *len),
            [rows, rest @ ..] => (*rows, rest.iter().product()),
        };
        let inner = row_major(&self.shape[self.shape.len().min(1)..]);
        for row in 0..rows {
            for column in 0..width {
                let at = if self.shape.len() < 2 {
                    column * self.stride(0)
                } else {
                    row * self.stride(0) + self.inside(column, &inner)
                };
                let value = read(at);
                if !value.is_finite() {
                    return Err(Error::Config(format!(
                        "{source}: {} is not finite at index {}: the weights cannot be used",
                        part.name,
                        row * width + column
                    )));
                }
                let (r, c) = if part.transposed { (column, row) } else { (row, column) };
                values[r * columns + part.first_column + c] = value;
            }
        }
        Ok(())
    }

    fn stride(&self, dimension: usize) -> usize {
        self.strides.get(dimension).copied().unwrap_or(0)
    }

    /// Where the entry `index` of a row lies, counted row-major over the dimensions but the first.
    fn inside(&self, index: usize, inner: &[usize]) -> usize {
        if inner.len() == 1 {
            return index * self.stride(1);
        }
        let coordinate = |at: usize| (index / inner[at]) % self.shape[at + 1];
        (0..inner.len()).map(|at| coordinate(at) * self.stride(at + 1)).sum()
    }

    /// The number at an entry; `None` for a type that is no float.
    fn reader(&self) -> Option<Box<dyn Fn(usize) -> f64 + '_>> {
        Some(match self.dtype {
            Dtype::F64 => Box::new(|at| f64::from_le_bytes(self.entry(at))),
            Dtype::F32 => Box::new(|at| f64::from(f32::from_le_bytes(self.entry(at)))),
            Dtype::F16 => Box::new(|at| f16::from_le_bytes(self.entry(at)).to_f64()),
            Dtype::BF16 => Box::new(|at| bf16::from_le_bytes(self.entry(at)).to_f64()),
            _ => return None,
        })
    }

    fn entry<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut entry = [0; N];
        entry.copy_from_slice(&self.bytes[N * at..N * (at + 1)]);
        entry
    }

    /// Whether two tensors are the same, entry by entry.
    pub fn is_same(&self, other: &Self) -> bool {
        if self.dtype != other.dtype || self.shape != other.shape {
            return false;
        }
        let number = self.shape.iter().product::<usize>();
        if self.strides == other.strides && self.strides == row_major(&self.shape) {
            let len = number * self.dtype.bitsize() / 8;
            return self.bytes[..len] == other.bytes[..len];
        }
        let part = Part { name: String::new(), shape: self.shape.clone(), first_column: 0, transposed: false };
        let columns = self.shape.last().copied().unwrap_or(1);
        let mut values = [vec![0.0; number], vec![0.0; number]];
        let placed =
            [self, other].iter().zip(&mut values).all(|(tensor, to)| tensor.place(&part, columns, to, "").is_ok());
        placed && values[0] == values[1]
    }
}
