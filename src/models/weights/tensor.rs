//! A tensor as it lies in a file, and its numbers.

use burn::tensor::{bf16, f16};
use safetensors::tensor::Dtype;

use crate::models::Part;
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
    /// Puts its numbers where they belong among the entries of a parameter of `columns` columns, the last dimension.
    ///
    /// # Errors
    /// [`Error::Config`] for a type that is no float, or a number that is none; `source` and the name are in it.
    pub fn place(&self, part: &Part, columns: usize, values: &mut [f64], source: &str) -> Result<()> {
        let read = self.reader().ok_or_else(|| {
            Error::Config(format!("{source}: {} has type {:?}; expected F64, F32, F16 or BF16", part.name, self.dtype))
        })?;
        let width = self.shape.last().copied().unwrap_or(1);
        let is_row_major = self.strides == row_major(&self.shape);
        for index in 0..self.shape.iter().product() {
            let value = read(if is_row_major { index } else { self.offset(index) });
            if !value.is_finite() {
                return Err(Error::Config(format!(
                    "{source}: {} is not finite at index {index}: the weights cannot be used",
                    part.name
                )));
            }
            let (row, column) = (index / width, index % width);
            let (row, column) = if part.transposed { (column, row) } else { (row, column) };
            values[row * columns + part.first_column + column] = value;
        }
        Ok(())
    }

    /// Where the entry lies that is the `index`-th in row-major order.
    fn offset(&self, index: usize) -> usize {
        let (mut rest, mut offset) = (index, 0);
        for (len, stride) in self.shape.iter().zip(&self.strides).rev() {
            offset += rest % len * stride;
            rest /= len;
        }
        offset
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_shape_land_in_row_major_order() {
        let bytes: Vec<u8> = (0..24).flat_map(|x| (x as f32).to_le_bytes()).collect();
        let placed = |shape: &[usize], strides: &[usize], transposed: bool| {
            let part = Part { name: "x".into(), shape: shape.to_vec(), first_column: 0, transposed };
            let tensor =
                FileTensor { dtype: Dtype::F32, shape: shape.to_vec(), strides: strides.to_vec(), bytes: &bytes };
            let columns = if transposed { shape[0] } else { shape.last().copied().unwrap_or(1) };
            let mut values = vec![-1.0; shape.iter().product()];
            tensor.place(&part, columns, &mut values, "file").unwrap();
            values
        };
        let counted: Vec<f64> = (0..24).map(f64::from).collect();
        for shape in [vec![24], vec![4, 6], vec![2, 3, 4], vec![2, 3, 2, 2], vec![1, 24]] {
            assert_eq!(placed(&shape, &row_major(&shape), false), counted, "{shape:?}");
        }
        assert_eq!(placed(&[], &[], false), [0.0]);
        assert_eq!(placed(&[2, 3], &[1, 2], false), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0], "a transposed view");
        assert_eq!(placed(&[2, 3], &[3, 1], true), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(placed(&[2, 2, 2], &[1, 4, 2], false), [0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]);
    }
}
