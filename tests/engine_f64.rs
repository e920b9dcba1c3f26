//! The engine's conformance suite in f64, on NdArray and on flex.
//!
//! Its own process: the default dtype of a device is set once, before any tensor exists.

#[path = "engine/cases/mod.rs"]
mod cases;
#[path = "engine/check.rs"]
mod check;
#[path = "engine/cost.rs"]
mod cost;
#[path = "engine/counting.rs"]
mod counting;
#[path = "engine/counting_delegates.rs"]
mod counting_delegates;
#[path = "engine/depths.rs"]
mod depths;
#[path = "engine/networks.rs"]
mod networks;
#[path = "engine/run.rs"]
mod run;
#[path = "engine/stops.rs"]
mod stops;
#[path = "engine/transformer.rs"]
mod transformer;
#[path = "engine/traps.rs"]
mod traps;
#[path = "engine/values.rs"]
mod values;

use std::sync::Once;

use burn_backend::{DType, set_default_float_dtype};
use burn_flex::Flex;
use burn_ndarray::NdArray;

type Nd = NdArray<f64>;

/// f64 for every tensor of this process.
fn in_f64() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        set_default_float_dtype::<Flex>(&Default::default(), DType::F64).expect("no tensor exists yet");
        set_default_float_dtype::<Nd>(&Default::default(), DType::F64).expect("no tensor exists yet");
    });
}

#[test]
fn forward_mode_agrees_with_differences_on_ndarray() {
    in_f64();
    check::every::<Nd>(check::forward);
}

#[test]
fn forward_mode_agrees_with_differences_on_flex() {
    in_f64();
    check::every::<Flex>(check::forward);
}

#[test]
fn second_order_agrees_with_differences_on_ndarray() {
    in_f64();
    check::every::<Nd>(check::second);
}

#[test]
fn second_order_agrees_with_differences_on_flex() {
    in_f64();
    check::every::<Flex>(check::second);
}

#[test]
fn random_networks_have_a_symmetric_hessian_on_ndarray() {
    in_f64();
    networks::symmetric::<Nd>();
}

#[test]
fn random_networks_have_a_symmetric_hessian_on_flex() {
    in_f64();
    networks::symmetric::<Flex>();
}

#[test]
fn random_networks_agree_with_differences_of_burns_gradient() {
    in_f64();
    networks::agree_with_differences::<Flex>();
}

#[test]
fn blocks_at_different_depths_share_a_pass() {
    in_f64();
    depths::equal_separate_passes::<Nd>();
    depths::equal_separate_passes::<Flex>();
}
