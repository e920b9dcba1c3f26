//! The engine on burn-wgpu, fused and unfused, against f64 on NdArray. Needs a Vulkan device; Mesa's software one does:
//! tests/gpu/run.sh wgpu.

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

use burn_wgpu::Wgpu;
use hesspec::engine::kernels::WgpuUnfused;
use single::Accept;

/// A shader's elementary functions are good to a few times 1e-6, but for asin and acos, of which Vulkan asks 4096 ulp of atan2
/// (2.4e-4) and no more. What is fused depends on the number of slots.
const ACCEPT: Accept = Accept { relative: 5e-5, exact: false, loose: &[("float_asin", 5e-4), ("float_acos", 5e-4)] };

on_gpu! { fused: Wgpu, unfused: WgpuUnfused, accept: ACCEPT }

/// Takes long on a processor, so on one of the two only.
#[test]
fn linear_cross_entropy_in_chunks() {
    kernels::linear_cross_entropy_in_chunks::<WgpuUnfused>();
}
