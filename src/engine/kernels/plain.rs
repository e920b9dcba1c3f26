//! Backends without fused kernels: everything is composed from tensor operations.

use super::Kernels;

impl Kernels for burn_ndarray::NdArray<f64> {
    const HAS_F64: bool = true;
}
impl Kernels for burn_ndarray::NdArray<f32> {
    const HAS_F64: bool = true;
}
