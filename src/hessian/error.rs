//! The error eta of a product over the whole batch, block by block: |fl(H v) - H v| for one random unit v.
//!
//! It is measured on a few micro-batches, spread evenly. Their roundings are independent, so the squares of their shares
//! of it add up: of n equal micro-batches in a mean, eta is 1 / sqrt(n) of one micro-batch's error (not 1 / n).
//!
//! Reference: the same product in f64, by the tensors' own type, where the model allows it. Else two evaluations whose
//! roundings differ (v scaled by a number that is no power of two), times sqrt 2; this sees the tangents' roundings and
//! not those of the shared primal, so it reads low, and says so.

use std::panic::{self, AssertUnwindSafe};

use super::operator::BlockOperator;
use super::pass::Precision;
use super::problem::{MicroBatches, Problem};
use super::seed::cast_parameters;
use crate::Result;
use crate::block::Block;
use crate::engine::{Kernels, SecondOrder};
use crate::probe::{ProbeKind, probe};
use crate::spectrum::{error_from_reference, error_from_two};

/// Probe number of the vectors used here: far from those of any run.
pub(super) const TEST_PROBE: u32 = u32::MAX;
/// Micro-batches that the error is measured on.
const MOST_SAMPLES: usize = 4;
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

/// eta of each block of `operator.slots`; the slots of a group, by number, share their passes.
pub fn product_errors<K, P, D, T>(
    operator: &BlockOperator<'_, K, P, D, T>,
    seed: u64,
    groups: &[Vec<usize>],
) -> Result<Vec<ProductError>>
where
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    D: MicroBatches<Batch = P::Batch>,
    T: Precision,
{
    let reference = wide_model(operator);
    let (len, count) = (operator.data.len(), operator.data.len().min(MOST_SAMPLES));
    let mut found = Vec::new();
    for group in groups {
        let mut errors = vec![ProductError { eta: 0.0, reference: "f64" }; group.len()];
        for sample in 0..count {
            let index = sample * len / count;
            let share = operator.share_of(index)?;
            for (error, one) in errors.iter_mut().zip(errors_on(operator, index, group, reference.as_ref(), seed)?) {
                *error = ProductError { eta: error.eta.hypot(share * one.eta), reference: one.reference };
            }
        }
        let all = (len as f64 / count as f64).sqrt();
        found.extend(errors.iter().map(|error| ProductError { eta: all * error.eta, ..*error }));
    }
    Ok(found)
}

/// The model in f64, where the backend has it and it is more than the run's precision. BatchNorm's running statistics, which all clones of a
/// model share, stay as they are: such a model is then measured by rescaling.
pub(super) fn wide_model<K, P, D, T>(operator: &BlockOperator<'_, K, P, D, T>) -> Option<P::Model>
where
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    T: Precision,
{
    (K::HAS_F64 && T::DTYPE != f64::DTYPE).then(|| cast_parameters::<K, _>(operator.model.clone(), f64::DTYPE))
}

/// The errors of the products of these slots on one micro-batch, unweighted. `reference`: [`wide_model`].
pub(super) fn errors_on<K, P, D, T>(
    operator: &BlockOperator<'_, K, P, D, T>,
    index: usize,
    slots: &[usize],
    reference: Option<&P::Model>,
    seed: u64,
) -> Result<Vec<ProductError>>
where
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    D: MicroBatches<Batch = P::Batch>,
    T: Precision,
{
    let vectors: Vec<(usize, Vec<T>)> =
        slots.iter().map(|slot| (*slot, unit(operator.slots[*slot], operator, seed))).collect();
    let products = operator.on_micro_batch(index, &borrowed(&vectors))?;
    let exact = reference.and_then(|model| in_f64(operator, index, model, &vectors));
    let error = |(at, vector): (usize, &(usize, Vec<T>))| {
        let norm = vector.1.iter().map(|x| x.to_f64().powi(2)).sum::<f64>().sqrt();
        let (eta, reference) = match &exact {
            Some(exact) => (error_from_reference(&products[at], &exact[at], norm), "f64"),
            None => (rescaled(operator, index, vector, &products[at], norm)?, "rescaled"),
        };
        Ok(ProductError { eta, reference })
    };
    vectors.iter().enumerate().map(error).collect()
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
    index: usize,
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
    quietly(|| operator.with_model::<f64>(model).on_micro_batch(index, &borrowed(&wide)))?.ok()
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
    index: usize,
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
    let second = operator.on_micro_batch(index, &[(*slot, &longer)])?.remove(0);
    let second: Vec<T> = second.iter().map(|x| T::from_f64(x.to_f64() / RESCALING)).collect();
    Ok(error_from_two(product, &second, norm))
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
    use burn::tensor::backend::Backend;
    use burn::tensor::{Tensor, TensorData};

    use super::*;
    use crate::cluster::solo;
    use crate::hessian::Listed;
    use crate::models::{Names, parameters};

    type Plain = burn_flex::Flex;
    type B = SecondOrder<Plain>;
    type Pair = (Tensor<B, 2>, Tensor<B, 2>);

    const WIDTH: usize = 12;

    #[derive(Module, Debug)]
    struct Network<B: Backend> {
        first: Linear<B>,
        second: Linear<B>,
    }

    struct Regression;

    impl Problem<B> for Regression {
        type Model = Network<B>;
        type Batch = Pair;

        fn outputs(&self, model: &Network<B>, (x, _): &Pair) -> Tensor<B, 2> {
            // in the parameters' type, so that the model runs in f64 too
            model.second.forward(model.first.forward(x.clone().cast(model.first.weight.dtype())).tanh())
        }

        fn loss(&self, outputs: Tensor<B, 2>, (_, y): &Pair) -> Tensor<B, 1> {
            let target = y.clone().cast(outputs.dtype());
            (outputs - target).powi_scalar(2).mean()
        }

        fn weight(&self, (x, _): &Pair) -> f64 {
            x.dims()[0] as f64
        }
    }

    /// However the batch is cut, eta is the error of the whole batch's product, not of one micro-batch's share.
    #[test]
    fn eta_is_the_error_of_the_whole_sum_for_any_cut() {
        let device = Default::default();
        let linear = |seed: u64| {
            let mut linear = LinearConfig::new(WIDTH, WIDTH).with_bias(false).init::<B>(&device);
            let weights = probe(ProbeKind::Gaussian, seed, "weights", 0, 0..WIDTH * WIDTH);
            let data = TensorData::new(weights, [WIDTH, WIDTH]).convert::<f32>();
            linear.weight = linear.weight.map(|_| Tensor::from_data(data, &device).require_grad());
            linear
        };
        let model = Network { first: linear(1), second: linear(2) };
        let (layout, comm) = (parameters(&model, &Names::BURN), solo::comm());
        let block = layout.full();
        for (micro_batches, rows) in [(1, 64), (8, 8), (64, 1)] {
            let values = |number: usize, index: usize| {
                let entries = probe(
                    ProbeKind::Gaussian,
                    3,
                    "data",
                    number as u32,
                    index * rows * WIDTH..(index + 1) * rows * WIDTH,
                );
                Tensor::from_data(TensorData::new(entries, [rows, WIDTH]).convert::<f32>(), &device)
            };
            let batches = (0..micro_batches).map(|index| (values(0, index), values(1, index))).collect();
            let data = Listed::new(batches, |(x, _): &Pair| x.dims()[0] as f64);
            let mut operator = BlockOperator::<Plain, _, _, f32>::new(&Regression, &model, &layout, &data, &comm);
            operator.slots = vec![&block];
            let eta = product_errors(&operator, 5, &[vec![0]]).unwrap()[0];
            assert_eq!(eta.reference, "f64");
            let (wide_model, v) = (wide_model(&operator).unwrap(), unit(&block, &operator, 6));
            let product = operator.products(std::slice::from_ref(&v)).unwrap().remove(0);
            let exact = operator
                .with_model::<f64>(&wide_model)
                .products(&[v.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>()])
                .unwrap()
                .remove(0);
            let truth = error_from_reference(&product, &exact, 1.0);
            let ratio = eta.eta / truth;
            assert!((0.5..2.0).contains(&ratio), "{micro_batches} micro-batches: eta {:e}, error {truth:e}", eta.eta);
        }
    }

    /// burn shares running statistics between the clones of a module.
    #[test]
    fn the_reference_leaves_the_running_statistics_alone() {
        let norm: BatchNorm<B> = BatchNormConfig::new(WIDTH).init(&Default::default());
        let wide = cast_parameters::<Plain, _>(norm.clone(), f64::DTYPE);
        assert_eq!(wide.gamma.val().dtype(), f64::DTYPE);
        assert_eq!(norm.running_mean.value().dtype(), f32::DTYPE);
        assert_eq!(norm.running_var.value().dtype(), f32::DTYPE);
    }
}
