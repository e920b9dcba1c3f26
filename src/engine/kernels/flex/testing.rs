//! Random duals in several layouts, and comparisons, for the kernels' tests.

use burn_backend::{Shape, TensorMetadata};
use burn_flex::{Flex, FlexTensor};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::dual_slices::tensor;
use super::element::Element;
use crate::engine::kernels::Dual;

/// How a tensor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Case {
    Dense,
    /// The last two dimensions swapped in memory.
    Swapped,
    /// A slice of a longer last dimension, not starting at 0.
    Sliced,
    /// Contiguous, but starting inside its storage.
    Offset,
}

impl Case {
    pub(super) const ALL: [Self; 4] = [Self::Dense, Self::Swapped, Self::Sliced, Self::Offset];
}

/// `len` numbers in (-1.7, 1.7) with variance about 1, by seed.
pub(super) fn random(len: usize, seed: u64) -> Vec<f64> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| 3.4 * (generator.next_u32() as f64 / u32::MAX as f64 - 0.5)).collect()
}

/// A dense tensor of given numbers.
pub(super) fn dense<T: Element>(values: &[f64], shape: &[usize]) -> FlexTensor {
    tensor(values.iter().map(|&x| T::of(x)).collect::<Vec<T>>(), Shape::from(shape.to_vec()))
}

/// The random tensor of a seed, laid out as asked: equal numbers (to rounding) for every case and type.
pub(super) fn strided<T: Element>(shape: &[usize], seed: u64, case: Case) -> FlexTensor {
    laid_out::<T>(&random(shape.iter().product(), seed), shape, case)
}

/// Given numbers, laid out as asked.
pub(super) fn laid_out<T: Element>(values: &[f64], shape: &[usize], case: Case) -> FlexTensor {
    use burn_backend::ops::FloatTensorOps;
    let plain = dense::<T>(values, shape);
    let rank = shape.len();
    match case {
        Case::Dense => plain,
        Case::Swapped if rank < 2 => plain,
        Case::Swapped => {
            let swapped = Flex::float_swap_dims(plain, rank - 2, rank - 1).to_contiguous();
            Flex::float_swap_dims(swapped, rank - 2, rank - 1)
        }
        Case::Sliced | Case::Offset => {
            let dimension = if case == Case::Sliced { rank - 1 } else { 0 };
            let mut padded = shape.to_vec();
            padded[dimension] = 2;
            let padding = dense::<T>(&vec![f64::NAN; padded.iter().product()], &padded);
            let joined = Flex::float_cat(vec![padding.clone(), plain, padding], dimension);
            let layout = joined.layout().narrow(dimension, 2, shape[dimension]);
            joined.with_layout(layout)
        }
    }
}

/// A dual of random numbers whose slots are present as `slots` says.
pub(super) fn dual<T: Element>(shape: &[usize], seed: u64, slots: &[bool], case: Case) -> Dual<Flex> {
    let tangent =
        |(slot, &present): (usize, &bool)| present.then(|| strided::<T>(shape, seed + 1000 * (slot as u64 + 1), case));
    Dual::new(strided::<T>(shape, seed, case), slots.iter().enumerate().map(tangent).collect())
}

/// The numbers in logical order.
pub(super) fn numbers(x: &FlexTensor) -> Vec<f64> {
    x.to_contiguous().into_data().iter::<f64>().collect()
}

/// Asserts equal shapes and `|a - b| <= tolerance (1 + max |b|)`.
pub(super) fn close(a: &FlexTensor, b: &FlexTensor, tolerance: f64) {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (numbers(a), numbers(b));
    let scale = 1.0 + b.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        assert!((a - b).abs() <= tolerance * scale, "entry {i}: {a} and {b} differ by more than {tolerance:e}");
    }
}

/// Compares primal and every slot; slots must be present in the same places.
pub(super) fn duals_close(a: &Dual<Flex>, b: &Dual<Flex>, tolerance: f64) {
    close(&a.primal, &b.primal, tolerance);
    let slots = a.num_slots().max(b.num_slots());
    for slot in 0..slots {
        match (a.tangent(slot), b.tangent(slot)) {
            (Some(a), Some(b)) => close(a, b, tolerance),
            (a, b) => assert_eq!(a.is_some(), b.is_some(), "slot {slot}"),
        }
    }
}

/// The dual of the same numbers in f64.
fn as_f64(x: &Dual<Flex>) -> Dual<Flex> {
    let convert = |x: &FlexTensor| dense::<f64>(&numbers(x), x.shape().as_slice());
    Dual::new(convert(&x.primal), x.tangents.iter().map(|t| t.as_ref().map(convert)).collect())
}

/// The inputs moved by `step` along their tangents of one slot.
fn moved(inputs: &[Dual<Flex>], slot: usize, step: f64) -> Vec<FlexTensor> {
    let one = |x: &Dual<Flex>| {
        let mut values = numbers(&x.primal);
        if let Some(tangent) = x.tangent(slot) {
            values.iter_mut().zip(numbers(tangent)).for_each(|(x, t)| *x += step * t);
        }
        dense::<f64>(&values, x.primal.shape().as_slice())
    };
    inputs.iter().map(one).collect()
}

/// What `plain` (a function of f64 tensors, built without any kernel) and its central differences say about the
/// inputs' function: the dual that a kernel must return.
pub(super) fn truth(inputs: &[Dual<Flex>], plain: impl Fn(&[FlexTensor]) -> FlexTensor) -> Dual<Flex> {
    let inputs: Vec<_> = inputs.iter().map(as_f64).collect();
    let primal = plain(&moved(&inputs, 0, 0.0));
    let shape = primal.shape();
    let slots = inputs.iter().map(|x| x.num_slots()).max().unwrap_or(0);
    let tangent = |slot: usize| {
        inputs.iter().any(|x| x.tangent(slot).is_some()).then(|| {
            // Fourth order: (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12 h; error about h^4 + eps / h.
            let step = 1e-3;
            let at = |k: f64| numbers(&plain(&moved(&inputs, slot, k * step)));
            let (a, b, c, d) = (at(1.0), at(-1.0), at(2.0), at(-2.0));
            let slope = |i: usize| (8.0 * (a[i] - b[i]) - (c[i] - d[i])) / (12.0 * step);
            dense::<f64>(&(0..a.len()).map(slope).collect::<Vec<_>>(), shape.as_slice())
        })
    };
    Dual::new(primal, (0..slots).map(tangent).collect())
}

/// Error of the fourth-order central difference in f64 for functions with derivatives of order 1 to 100.
pub(super) const DIFFERENCE: f64 = 1e-9;
