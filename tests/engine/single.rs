//! The engine in f32 on a backend against f64 on NdArray (composed).
//!
//! The inputs are rounded to f32 first, so that both sides differentiate at the same point. What is left is the
//! rounding of a few operations.

use burn::module::Module;
use burn_backend::AutodiffBackend;
use burn_backend::ops::ActivationOps;
use burn_ndarray::NdArray;
use hesspec::engine::{Jvp, Kernels, SecondOrder};

use super::cases::{self, Case, Reference};
use super::run::{Slot, Tangents, coefficients, joined, push, same, second_order, slots};
use super::transformer::{Activate, Seen, Transformer};
use super::values::{Random, Values, get};

type Nd = NdArray<f64>;

/// What is accepted.
pub struct Accept {
    /// Of the largest entry, or of 1, the size of the intermediate values, where that is larger.
    pub relative: f64,
    /// One slot alone has the bits that it has among three.
    pub exact: bool,
    /// Operations whose own values the device is allowed to give less exactly, and how exactly.
    pub loose: &'static [(&'static str, f64)],
}

fn rounded(x: &Values) -> Values {
    Values { shape: x.shape.clone(), data: x.data.iter().map(|&x| f64::from(x as f32)).collect() }
}

impl Accept {
    /// What is accepted of an operation.
    fn of(&self, operation: &str) -> Self {
        let loose = self.loose.iter().find(|(name, _)| *name == operation).map(|(_, relative)| *relative);
        Self { relative: loose.unwrap_or(self.relative), ..*self }
    }

    fn compare(&self, what: &str, single: &Values, double: &Values) -> Result<(), String> {
        let error = single.distance(double) / double.largest().max(1.0);
        if error <= self.relative { Ok(()) } else { Err(format!("{what} off by {error:.1e}")) }
    }

    fn compare_tangents(&self, what: &str, single: &Tangents, double: &Tangents, read: &[bool]) -> Result<(), String> {
        for (slot, (single, double)) in single.iter().zip(double).enumerate() {
            match (single, double) {
                (Some(single), Some(double)) if read[slot] => {
                    self.compare(&format!("{what}, slot {slot}"), single, double)?
                }
                (Some(_), None) | (None, Some(_)) if read[slot] => {
                    return Err(format!("{what}: slot {slot} on one side"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

type Row<B> = (Case<Jvp<B>>, Case<SecondOrder<B>>);

/// The table's rows on a backend, under both decorators.
fn rows<B: Kernels>() -> Vec<Row<B>> {
    cases::all::<Jvp<B>>().into_iter().zip(cases::all::<SecondOrder<B>>()).collect()
}

/// Runs a check on every row that both backends have.
fn every(
    accept: &Accept,
    check: impl Fn(usize, &[Values], &[Slot], &Accept) -> Result<(), String>,
    keep: impl Fn(&Case<Nd>) -> bool,
) {
    let mut failures = Vec::new();
    for (at, case) in cases::all::<Nd>().iter().enumerate().filter(|(_, case)| case.missing_on.is_none() && keep(case))
    {
        let inputs: Vec<Values> = case.inputs.iter().map(rounded).collect();
        for odd in [false, true] {
            let slots: Vec<Slot> = slots(&inputs, odd)
                .into_iter()
                .map(|slot| slot.iter().map(|t| t.as_ref().map(rounded)).collect())
                .collect();
            if let Err(message) = check(at, &inputs, &slots, &accept.of(case.name)) {
                failures.push(format!("{}: {message}", case.name));
            }
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

pub fn forward_mode_in_f32_is_that_in_f64_rounded<Single: Kernels>(accept: &Accept) {
    let (single, double) = (rows::<Single>(), rows::<Nd>());
    let check = |at: usize, inputs: &[Values], slots: &[Slot], accept: &Accept| {
        let (y, tangents) = push(&single[at].0, inputs, slots);
        let (expected, expected_tangents) = push(&double[at].0, inputs, slots);
        accept.compare("value", &y, &expected)?;
        accept.compare_tangents("tangent", &tangents, &expected_tangents, &[true; 3])
    };
    every(accept, check, |_| true);
}

pub fn second_order_in_f32_is_that_in_f64_rounded<Single: Kernels>(accept: &Accept) {
    let (single, double) = (rows::<Single>(), rows::<Nd>());
    let check = |at: usize, inputs: &[Values], slots: &[Slot], accept: &Accept| {
        let shape = push(&double[at].0, inputs, &[]).0.shape;
        let c = rounded(&coefficients(&shape));
        let ours = second_order::<Single>(&|x| single[at].1.apply(x), inputs, slots, &c, false);
        let theirs = second_order::<Nd>(&|x| double[at].1.apply(x), inputs, slots, &c, false);
        let alone = second_order::<Single>(&|x| single[at].1.apply(x), inputs, &slots[2..], &c, false);
        if accept.exact && !alone.iter().zip(&ours).all(|(one, all)| same(&one.1[0], &all.1[2])) {
            return Err("k = 1 differs from slot 2 of k = 3".into());
        }
        for (input, ((gradient, hv), (expected, expected_hv))) in ours.iter().zip(&theirs).enumerate() {
            accept.compare(&format!("gradient of input {input}"), gradient, expected)?;
            let read: Vec<bool> = slots.iter().map(|slot| slot[input].is_some()).collect();
            accept.compare_tangents(&format!("H v of input {input}"), hv, expected_hv, &read)?;
        }
        Ok(())
    };
    every(accept, check, |case| !matches!(case.reference, Reference::ForwardOnly(_)));
}

/// Gradients and products of all parameters of the transformer: path, gradient, H v by slot.
fn transformer<B: Kernels>(tangents_only: bool) -> Vec<(String, Values, Tangents)> {
    let directions = |seen: &Seen| Some((0..2).map(|s| Some(rounded(&Random::new(s).values(&seen.shape)))).collect());
    let mut activate = Activate::<B>::new(&directions, tangents_only);
    let model = Transformer::<SecondOrder<B>>::new().map(&mut activate);
    let gradients = model.loss().backward();
    let read = |(path, leaf): &(String, _)| {
        let adjoint = SecondOrder::<B>::grad(leaf, &gradients).expect("the loss depends on it");
        let hv = (0..2).map(|slot| adjoint.tangent(slot).cloned().map(get::<B>)).collect();
        (path.clone(), get::<B>(adjoint.primal), hv)
    };
    activate.leaves.iter().map(read).collect()
}

/// The parameters are rounded to f32 on one side only; their effect is of the same size as the arithmetic's.
pub fn a_transformer_in_f32_is_that_in_f64_rounded<Single: Kernels>(accept: &Accept) {
    for tangents_only in [false, true] {
        let (single, double) = (transformer::<Single>(tangents_only), transformer::<Nd>(tangents_only));
        let norm = |parts: &dyn Fn(usize) -> Option<Values>| {
            let parts: Vec<Values> = (0..double.len()).filter_map(parts).collect();
            let all = joined(&parts);
            all.dot(&all).sqrt()
        };
        for slot in 0..2 {
            let error = norm(&|i| Some(single[i].2[slot].as_ref()?.plus(-1.0, double[i].2[slot].as_ref()?)));
            let size = norm(&|i| double[i].2[slot].clone());
            assert!(size > 0.0 && error <= accept.relative * size, "H v in slot {slot} off by {:.1e}", error / size);
        }
        if !tangents_only {
            let error = norm(&|i| Some(single[i].1.plus(-1.0, &double[i].1)));
            let size = norm(&|i| Some(double[i].1.clone()));
            assert!(error <= accept.relative * size, "gradient off by {:.1e}", error / size);
        }
    }
}

/// Softmax of scores that overflow exp in f32.
pub fn large_scores_stay_finite<Single: Kernels>() {
    let scores = Values { shape: vec![1, 4], data: vec![300.0, -300.0, 299.0, 0.0] };
    let slots = slots(std::slice::from_ref(&scores), false);
    let c = coefficients(&[1, 4]);
    let f = |x: Vec<_>| SecondOrder::<Single>::softmax(x.into_iter().next().expect("one input"), 1);
    let softmax = second_order::<Single>(&f, std::slice::from_ref(&scores), &slots, &c, false);
    let finite = |x: &Values| x.data.iter().all(|x| x.is_finite());
    assert!(finite(&softmax[0].0) && softmax[0].1.iter().flatten().all(finite));
}
