//! The engine on burn-wgpu, fused and unfused, against f64 on NdArray. Needs a Vulkan device; Mesa's software one does:
//! tests/wgpu/run.sh.

#[path = "engine/cases/mod.rs"]
mod cases;
#[path = "engine/kernels.rs"]
mod kernels;
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

#[test]
fn forward_mode_fused() {
    single::forward_mode_in_f32_is_that_in_f64_rounded::<Wgpu>(&ACCEPT);
}

#[test]
fn second_order_fused() {
    single::second_order_in_f32_is_that_in_f64_rounded::<Wgpu>(&ACCEPT);
}

/// The parameters are rounded to f32 on one side only; their effect is of the same size as the arithmetic's.
#[test]
fn a_transformer_fused() {
    single::a_transformer_in_f32_is_that_in_f64_rounded::<Wgpu>(&ACCEPT);
}

/// Softmax of scores that overflow exp in f32.
#[test]
fn large_scores_stay_finite_fused() {
    single::large_scores_stay_finite::<Wgpu>();
}

#[test]
fn forward_mode_unfused() {
    single::forward_mode_in_f32_is_that_in_f64_rounded::<WgpuUnfused>(&ACCEPT);
}

#[test]
fn second_order_unfused() {
    single::second_order_in_f32_is_that_in_f64_rounded::<WgpuUnfused>(&ACCEPT);
}

/// The parameters are rounded to f32 on one side only; their effect is of the same size as the arithmetic's.
#[test]
fn a_transformer_unfused() {
    single::a_transformer_in_f32_is_that_in_f64_rounded::<WgpuUnfused>(&ACCEPT);
}

/// Softmax of scores that overflow exp in f32.
#[test]
fn large_scores_stay_finite_unfused() {
    single::large_scores_stay_finite::<WgpuUnfused>();
}

/// The kernels by themselves.
macro_rules! kernels {
    ($backend:ty, $module:ident: $($test:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    super::kernels::$test::<$backend>();
                }
            )*
        }
    };
}

kernels! { super::Wgpu, kernels_fused:
    softmax
    softmax_of_masked_rows
    softmax_backward
    layer_norm
    layer_norm_backward
    layer_norm_backward_forms_no_more_than_is_read
    linear_cross_entropy
    linear_cross_entropy_forms_no_more_than_is_read
    a_target_that_is_no_class_is_not_overlooked
}

kernels! { super::WgpuUnfused, kernels_unfused:
    softmax
    softmax_of_masked_rows
    softmax_backward
    layer_norm
    layer_norm_backward
    layer_norm_backward_forms_no_more_than_is_read
    linear_cross_entropy
    linear_cross_entropy_in_chunks
    linear_cross_entropy_forms_no_more_than_is_read
    a_target_that_is_no_class_is_not_overlooked
}
