//! The engine in f32 on flex (fused kernels where there are some) against f64 on NdArray.

#[path = "engine/cases/mod.rs"]
mod cases;
#[path = "engine/run.rs"]
mod run;
#[path = "engine/single.rs"]
mod single;
#[path = "engine/transformer.rs"]
mod transformer;
#[path = "engine/values.rs"]
mod values;

use burn_flex::Flex;
use single::Accept;

/// 80 roundings of 2^-24.
const ACCEPT: Accept = Accept { relative: 5e-6, exact: true, loose: &[] };

#[test]
fn forward_mode() {
    single::forward_mode_in_f32_is_that_in_f64_rounded::<Flex>(&ACCEPT);
}

#[test]
fn second_order() {
    single::second_order_in_f32_is_that_in_f64_rounded::<Flex>(&ACCEPT);
}

/// The parameters are rounded to f32 on one side only; their effect is of the same size as the arithmetic's.
#[test]
fn a_transformer() {
    single::a_transformer_in_f32_is_that_in_f64_rounded::<Flex>(&ACCEPT);
}

/// Softmax of scores that overflow exp in f32.
#[test]
fn large_scores_stay_finite() {
    single::large_scores_stay_finite::<Flex>();
}
