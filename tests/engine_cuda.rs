//! The engine on burn-cuda, fused and unfused, against f64 on NdArray. Needs an NVIDIA device: tests/gpu/run.sh cuda.

#[path = "engine/cases/mod.rs"]
mod cases;
#[path = "engine/kernels.rs"]
mod kernels;
#[macro_use]
#[path = "engine/on_gpu.rs"]
mod on_gpu;
#[path = "engine/run.rs"]
mod run;
#[path = "engine/single.rs"]
mod single;
#[path = "engine/transformer.rs"]
mod transformer;
#[path = "engine/values.rs"]
mod values;

use burn_cuda::Cuda;
use hesspec::engine::kernels::CudaUnfused;
use single::Accept;

/// CUDA's elementary functions are good to a few ulp.
const ACCEPT: Accept = Accept { relative: 1e-5, exact: false, loose: &[] };

on_gpu! { fused: Cuda, unfused: CudaUnfused, accept: ACCEPT }

#[test]
fn linear_cross_entropy_in_chunks() {
    kernels::linear_cross_entropy_in_chunks::<Cuda>();
    kernels::linear_cross_entropy_in_chunks::<CudaUnfused>();
}
