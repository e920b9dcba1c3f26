//! Where the tensors of a batch are made.

use burn::tensor::{Bool, DType, Int, Tensor, TensorData, backend::Backend};

/// A device, and the type of floats on it: that of the run.
#[derive(Debug, Clone)]
pub struct Place<B: Backend> {
    device: B::Device,
    float: DType,
}

impl<B: Backend> Place<B> {
    /// On a device, with floats of this type.
    pub fn new(device: B::Device, float: DType) -> Self {
        Self { device, float }
    }

    /// A tensor of floats, rounded once to the run's precision. `values` are row-major, as many as `shape` says.
    pub fn floats<const D: usize>(&self, values: Vec<f64>, shape: [usize; D]) -> Tensor<B, D> {
        Tensor::from_data(TensorData::new(values, shape), (&self.device, self.float))
    }

    /// A tensor of whole numbers: tokens, labels. `values` are row-major, as many as `shape` says.
    pub fn integers<const D: usize>(&self, values: Vec<i32>, shape: [usize; D]) -> Tensor<B, D, Int> {
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    /// A tensor of truth values: masks. `values` are row-major, as many as `shape` says.
    pub fn flags<const D: usize>(&self, values: Vec<bool>, shape: [usize; D]) -> Tensor<B, D, Bool> {
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }
}
