//! The error eta of a product, block by block: |fl(H v) - H v| for one random unit v on one micro-batch.
//!
//! Reference: the same product in f64, by the tensors' own type, where the model allows it. Else two evaluations whose
//! roundings differ (v scaled by a number that is no power of two), times sqrt 2; this sees the tangents' roundings and
//! not those of the shared primal, so it reads low, and says so.

use std::panic::{self, AssertUnwindSafe};

use super::operator::BlockOperator;
use super::pass::Precision;
use super::problem::{MicroBatches, Problem};
use super::seed::cast;
use crate::Result;
use crate::block::Block;
use crate::engine::{Kernels, SecondOrder};
use crate::probe::{ProbeKind, probe};
use crate::spectrum::{error_from_reference, error_from_two};

/// Probe number of the vectors used here: far from those of any run.
pub(super) const TEST_PROBE: u32 = u32::MAX;
/// No power of two, so that every rounding differs.
const RESCALING: f64 = 1.37;

/// How far a block's products are from exact.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProductError {
    /// Absolute error of a product with a unit vector.
    pub eta: f64,
    /// What it was measured against: `f64`, or `rescaled` (reads low).
    pub reference: &'static str,
}

/// eta of each block of `operator.slots`, at most `at_once` slots in a pass.
pub fn product_errors<K, P, D, T>(
    operator: &BlockOperator<'_, K, P, D, T>,
    seed: u64,
    at_once: usize,
) -> Result<Vec<ProductError>>
where
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    D: MicroBatches<Batch = P::Batch>,
    T: Precision,
{
    let share = operator.share_of(0)?;
    let reference = (T::DTYPE != f64::DTYPE).then(|| cast::<K, _>(operator.model.clone(), f64::DTYPE));
    let mut found = Vec::new();
    for group in (0..operator.slots.len()).collect::<Vec<_>>().chunks(at_once.max(1)) {
        let vectors: Vec<(usize, Vec<T>)> =
            group.iter().map(|slot| (*slot, unit(operator.slots[*slot], operator, seed))).collect();
        let products = operator.on_micro_batch(0, &borrowed(&vectors))?;
        let exact = reference.as_ref().and_then(|model| in_f64(operator, model, &vectors));
        for (at, (_, v)) in vectors.iter().enumerate() {
            let norm = v.iter().map(|x| x.to_f64().powi(2)).sum::<f64>().sqrt();
            let (eta, reference) = match &exact {
                Some(exact) => (error_from_reference(&products[at], &exact[at], norm), "f64"),
                None => (rescaled(operator, &vectors[at], &products[at], norm)?, "rescaled"),
            };
            found.push(ProductError { eta: share * eta, reference });
        }
    }
    Ok(found)
}

/// A random unit vector of a block.
pub(super) fn unit<K, P, D, T>(block: &Block, operator: &BlockOperator<'_, K, P, D, T>, seed: u64) -> Vec<T>
where
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    T: Precision,
{
    let dim = block.num_params(operator.layout);
    let v = probe(ProbeKind::Gaussian, seed, &block.name, TEST_PROBE, 0..dim);
    let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
    v.iter().map(|x| T::from_f64(x / norm)).collect()
}

pub(super) fn borrowed<T>(vectors: &[(usize, Vec<T>)]) -> Vec<(usize, &[T])> {
    vectors.iter().map(|(slot, v)| (*slot, v.as_slice())).collect()
}

/// The products in f64; `None` if the model cannot be run in another type than the default one.
fn in_f64<K, P, D, T>(
    operator: &BlockOperator<'_, K, P, D, T>,
    model: &P::Model,
    vectors: &[(usize, Vec<T>)],
) -> Option<Vec<Vec<f64>>>
where
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    D: MicroBatches<Batch = P::Batch>,
    T: Precision,
{
    let wide: Vec<(usize, Vec<f64>)> =
        vectors.iter().map(|(slot, v)| (*slot, v.iter().map(|x| x.to_f64()).collect())).collect();
    quietly(|| operator.with_model::<f64>(model).on_micro_batch(0, &borrowed(&wide)))?.ok()
}

/// The result of `f`, or `None` if it panics (a model that mixes floating-point types).
pub(super) fn quietly<R>(f: impl FnOnce() -> R) -> Option<R> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(AssertUnwindSafe(f)).ok();
    panic::set_hook(hook);
    result
}

fn rescaled<K, P, D, T>(
    operator: &BlockOperator<'_, K, P, D, T>,
    (slot, v): &(usize, Vec<T>),
    product: &[T],
    norm: f64,
) -> Result<f64>
where
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    D: MicroBatches<Batch = P::Batch>,
    T: Precision,
{
    let longer: Vec<T> = v.iter().map(|x| T::from_f64(RESCALING * x.to_f64())).collect();
    let second = operator.on_micro_batch(0, &[(*slot, &longer)])?.remove(0);
    let second: Vec<T> = second.iter().map(|x| T::from_f64(x.to_f64() / RESCALING)).collect();
    Ok(error_from_two(product, &second, norm))
}
