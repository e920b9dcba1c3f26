//! Activations below a group's blocks, computed once and kept.
//!
//! Weights and batch do not change during a run, and nothing below a sweep's lowest block depends on its vectors. So the
//! first sweep of a group keeps what enters the stage of its lowest block, micro-batch by micro-batch, and every later
//! sweep starts there, with the same bits. In memory within a budget, beyond it in an unnamed local file; what fits in
//! neither is computed again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use burn::tensor::{Tensor, TensorData};
use burn_backend::tensor::Device;

use super::Precision;
use super::seed::values;
use crate::engine::{Kernels, SecondOrder};

/// How many bytes a [`Prefix`] may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixBudget {
    /// In memory.
    pub memory: usize,
    /// In a file in the directory for temporary files.
    pub file: usize,
}

impl PrefixBudget {
    /// Keeps nothing.
    pub const NONE: Self = Self { memory: 0, file: 0 };
}

/// Activations at the entry of one stage, by micro-batch: (rows, width) each.
pub struct Prefix<T> {
    stage: usize,
    store: RefCell<Store<T>>,
}

struct Store<T> {
    left: PrefixBudget,
    entries: HashMap<usize, (Place<T>, [usize; 2])>,
    file: Option<(File, u64)>,
}

enum Place<T> {
    Memory(Vec<T>),
    /// Start in the file.
    File(u64),
}

impl<T: Precision> Prefix<T> {
    /// Nothing yet, at the entry of a stage from 1 on.
    pub fn new(stage: usize, budget: PrefixBudget) -> Self {
        Self { stage, store: RefCell::new(Store { left: budget, entries: HashMap::new(), file: None }) }
    }

    /// The stage.
    pub fn stage(&self) -> usize {
        self.stage
    }

    /// The activations of a micro-batch: as kept, or computed now.
    pub(super) fn entry<K: Kernels>(
        &self,
        index: usize,
        device: &Device<K>,
        compute: impl FnOnce() -> Tensor<SecondOrder<K>, 2>,
    ) -> Tensor<SecondOrder<K>, 2> {
        let kept = self.store.borrow().get(index);
        if let Some((values, shape)) = kept {
            return Tensor::from_data(TensorData::new(values, shape), (device, T::DTYPE));
        }
        let entry = compute().detach();
        let primal = entry.clone().inner().into_primitive().tensor().primal;
        self.store.borrow_mut().keep(index, entry.dims(), || values::<K, T>(&primal));
        entry
    }

    /// Micro-batches that are kept.
    pub fn len(&self) -> usize {
        self.store.borrow().entries.len()
    }

    /// Whether nothing is kept yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Precision> Store<T> {
    fn get(&self, index: usize) -> Option<(Vec<T>, [usize; 2])> {
        let (place, shape) = self.entries.get(&index)?;
        match place {
            Place::Memory(values) => Some((values.clone(), *shape)),
            Place::File(start) => {
                let mut values = vec![T::default(); shape[0] * shape[1]];
                let (file, _) = self.file.as_ref()?;
                let read = file.read_exact_at(bytemuck::cast_slice_mut(&mut values), *start);
                read.inspect_err(|error| tracing::warn!("prefix cache, reading its file: {error}; computed again"))
                    .ok()?;
                Some((values, *shape))
            }
        }
    }

    fn keep(&mut self, index: usize, shape: [usize; 2], values: impl FnOnce() -> Vec<T>) {
        let bytes = shape[0] * shape[1] * size_of::<T>();
        if bytes <= self.left.memory {
            self.left.memory -= bytes;
            self.entries.insert(index, (Place::Memory(values()), shape));
        } else if bytes <= self.left.file {
            match self.append(&values()) {
                Ok(start) => {
                    self.left.file -= bytes;
                    self.entries.insert(index, (Place::File(start), shape));
                }
                Err(error) => {
                    tracing::warn!(
                        "prefix cache, writing its file: {error}; the rest is computed again in every sweep"
                    );
                    self.left.file = 0;
                }
            }
        }
    }

    /// Writes at the end of the file; where that was.
    fn append(&mut self, values: &[T]) -> io::Result<u64> {
        let (file, end) = match &mut self.file {
            Some(open) => open,
            none => none.insert((tempfile::tempfile()?, 0)),
        };
        let bytes: &[u8] = bytemuck::cast_slice(values);
        file.write_all_at(bytes, *end)?;
        let start = *end;
        *end += bytes.len() as u64;
        Ok(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Plain = burn_flex::Flex;

    /// Memory first, then the file, then nothing; whatever was kept comes back bit by bit.
    #[test]
    fn kept_in_memory_then_in_a_file_then_not_at_all() {
        let device = Default::default();
        let prefix = Prefix::<f32>::new(1, PrefixBudget { memory: 2 * 24, file: 24 });
        let entry = |index: usize| {
            let values: Vec<f32> = (0..6).map(|at| (10 * index + at) as f32 / 3.0).collect();
            Tensor::<SecondOrder<Plain>, 2>::from_data(TensorData::new(values, [2, 3]), &device)
        };
        let read = |tensor: Tensor<SecondOrder<Plain>, 2>| tensor.into_data().to_vec::<f32>().unwrap();
        let mut computed = 0;
        for _sweep in 0..2 {
            for index in 0..4 {
                let found = prefix.entry::<Plain>(index, &device, || {
                    computed += 1;
                    entry(index)
                });
                assert_eq!(read(found), read(entry(index)), "micro-batch {index}");
            }
        }
        assert_eq!(computed, 5, "four in the first sweep, and the one that fits nowhere once more");
        assert_eq!(prefix.len(), 3);
        assert_eq!(prefix.store.borrow().file.as_ref().map(|(_, end)| *end), Some(24));
    }
}
