//! The engine's matrix work against the formulas of the design ("The HVP engine"), in multiply-adds.

use burn::module::Module;
use burn_backend::AutodiffBackend;
use hesspec::engine::SecondOrder;

use crate::counting::{Counting, count};
use crate::transformer::{Activate, BATCH, CLASSES, LAYERS, Seen, TIME, Transformer, WIDTH};
use crate::values::Random;

/// Multiply-adds of one forward pass: products with weights, per layer and in the head; attention, per layer.
const QKV: usize = BATCH * TIME * WIDTH * 3 * WIDTH;
const PROJECTION: usize = BATCH * TIME * WIDTH * WIDTH;
const FC: usize = BATCH * TIME * WIDTH * 4 * WIDTH;
const HEAD: usize = BATCH * TIME * WIDTH * CLASSES;
/// Masked positions are computed by the composed attention, on both sides of the comparison.
const ATTENTION: usize = 2 * BATCH * TIME * TIME * WIDTH;
const LAYER: usize = QKV + PROJECTION + 2 * FC;
const FORWARD: usize = LAYERS * (LAYER + ATTENTION) + HEAD;

/// Multiply-adds of forward and reverse pass where slot s has a tangent in the parameters that `slots[s]` names.
fn spent(slots: &[&dyn Fn(&str) -> bool]) -> u64 {
    let tangents = |seen: &Seen| {
        let direction = |(s, active): (usize, &&dyn Fn(&str) -> bool)| {
            active(&seen.path).then(|| Random::new(s as u64).values(&seen.shape))
        };
        slots.iter().any(|active| active(&seen.path)).then(|| slots.iter().enumerate().map(direction).collect())
    };
    let mut activate = Activate::<Counting>::new(&tangents, true);
    let model = Transformer::<SecondOrder<Counting>>::new().map(&mut activate);
    assert!(!activate.leaves.is_empty(), "no parameter has this name");
    count(|| {
        let gradients = model.loss().backward();
        for (path, leaf) in &activate.leaves {
            let adjoint = SecondOrder::<Counting>::grad(leaf, &gradients).expect("the loss depends on it");
            let read = |(s, active): (usize, &&dyn Fn(&str) -> bool)| !active(path) || adjoint.tangent(s).is_some();
            assert!(slots.iter().enumerate().all(read), "{path} has no H v");
        }
    })
}

/// The same parameters in all of k slots.
fn product(active: &dyn Fn(&str) -> bool, num_slots: usize) -> u64 {
    spent(&vec![active; num_slots])
}

fn passes(multiply_adds: u64, num_slots: usize) -> f64 {
    multiply_adds as f64 / FORWARD as f64 / num_slots as f64
}

fn within_5_percent(what: &str, measured: f64, formula: f64) {
    let ratio = measured / formula;
    assert!(
        (0.95..=1.05).contains(&ratio),
        "{what}: {measured:.3} forward passes per slot, the formula says {formula:.3}"
    );
}

#[test]
fn a_forward_pass_is_what_the_formulas_count_in() {
    crate::in_f64();
    let spent = count(|| drop(Transformer::<Counting>::new().loss()));
    assert_eq!(spent, FORWARD as u64);
}

#[test]
fn a_full_product_costs_what_the_design_says() {
    crate::in_f64();
    let a = (LAYERS * ATTENTION) as f64 / FORWARD as f64;
    for k in [1, 2, 4] {
        let measured = passes(product(&|_| true, k), k);
        within_5_percent(&format!("k = {k}"), measured, 6.0 + (2.0 + a) / k as f64);
    }
}

/// Work above a block, the block included: (name, f_w, f_a, the block's own share) in multiply-adds.
fn blocks() -> Vec<(String, usize, usize, usize)> {
    let mut blocks = Vec::new();
    for layer in 0..LAYERS {
        let (above_w, above_a) = ((LAYERS - 1 - layer) * LAYER + HEAD, (LAYERS - 1 - layer) * ATTENTION);
        let name = |weight: &str| format!("layers.{layer}.{weight}.weight");
        blocks.push((name("c_proj"), above_w + FC, above_a, FC));
        blocks.push((name("fc"), above_w + 2 * FC, above_a, FC));
        blocks.push((name("projection"), above_w + 2 * FC + PROJECTION, above_a, PROJECTION));
        blocks.push((name("qkv"), above_w + LAYER, above_a + ATTENTION, QKV));
    }
    blocks
}

/// The design's formula counts the adjoint of the block's own input, which nobody reads: own / k may be missing.
#[test]
fn a_block_costs_what_the_design_says_and_nothing_below_it_is_propagated() {
    crate::in_f64();
    for (name, weights, attention, own) in blocks() {
        for k in [1, 2, 4] {
            let share = |work: usize| work as f64 / FORWARD as f64;
            let (f_w, f_a, inverse_k) = (share(weights), share(attention), 1.0 / k as f64);
            let formula = 2.0 * f_w + 6.0 * f_a + (1.0 + f_w + 2.0 * f_a) * inverse_k;
            let measured = passes(product(&|path| path == name, k), k);
            within_5_percent(&format!("{name}, k = {k}"), measured, formula - share(own) * inverse_k);
            assert!(measured <= 1.05 * formula, "{name}, k = {k}: {measured} above {formula}");
        }
    }
}

/// In exact numbers: beside the primal forward pass, the last projection costs k products for its tangent and k for
/// its adjoint's tangent, and the head its tangents and the adjoint with its tangents; below it nothing is touched.
#[test]
fn the_last_projection_touches_nothing_below_it() {
    crate::in_f64();
    let name = format!("layers.{}.c_proj.weight", LAYERS - 1);
    for k in [1, 3] {
        let expected = FORWARD + 2 * k * FC + (k + 1 + k) * HEAD;
        assert_eq!(product(&|path| path == name, k), expected as u64);
    }
}

/// Two blocks in one pass cost the lower one's pass and one more slot of the upper one: in the upper block's slot
/// nothing below it is formed, in the lower block's slot nothing of the upper weight.
#[test]
fn a_slot_costs_in_a_shared_pass_what_it_costs_alone() {
    crate::in_f64();
    let named = |name: &'static str| move |path: &str| path == name;
    let lower = named("layers.0.qkv.weight");
    for upper in ["layers.1.projection.weight", "layers.2.fc.weight", "layers.3.qkv.weight", "head.weight"] {
        let upper_block = named(upper);
        let one_slot_more = product(&upper_block, 2) - product(&upper_block, 1);
        assert_eq!(spent(&[&lower, &upper_block]), product(&lower, 1) + one_slot_more, "{upper}");
    }
}
