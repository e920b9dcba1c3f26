//! Backends without fused kernels: everything is composed from tensor operations.

use super::Kernels;

impl Kernels for burn_ndarray::NdArray<f64> {
    const HAS_F64: bool = true;
}
impl Kernels for burn_ndarray::NdArray<f32> {
    const HAS_F64: bool = true;
}

/// burn-wgpu without fusion of elementwise operations.
#[cfg(feature = "wgpu")]
pub type WgpuUnfused = burn_wgpu::CubeBackend<burn_wgpu::WgpuRuntime, f32, i32, u32>;
/// burn-cuda without fusion of elementwise operations.
#[cfg(feature = "cuda")]
pub type CudaUnfused = burn_cubecl::CubeBackend<cubecl::cuda::CudaRuntime, f32, i32, u8>;
