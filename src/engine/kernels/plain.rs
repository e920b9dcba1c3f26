//! Backends without fused kernels: everything is composed from tensor operations.

use super::Kernels;

impl Kernels for burn_ndarray::NdArray<f64> {}
impl Kernels for burn_ndarray::NdArray<f32> {}

#[cfg(feature = "wgpu")]
impl Kernels for burn_wgpu::Wgpu {}

#[cfg(feature = "cuda")]
impl Kernels for burn_cuda::Cuda {}
