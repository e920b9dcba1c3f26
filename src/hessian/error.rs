//! The error eta of a product over the whole batch, block by block: |fl(H v) - H v| for one random unit v.
//!
//! It is measured on a few micro-batches, spread evenly. Their roundings are independent, so the squares of their shares
//! of it add up: of n equal micro-batches in a mean, eta is 1 / sqrt(n) of one micro-batch's error (not 1 / n).
//!
//! Reference: the same product in f64, by the tensors' own type, where the model allows it. Else two evaluations whose
//! roundings differ (v scaled by a number that is no power of two), times sqrt 2; this sees the tangents' roundings and
//! not those of the shared primal, so it reads low, and says so.

use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::operator::BlockOperator;
use super::pass::Precision;
use super::passes::Passes;
use crate::block::Block;
use crate::engine::Kernels;
use crate::probe::{ProbeKind, probe};
use crate::spectrum::{error_from_reference, error_from_two};
use crate::{Error, Result};

/// Probe number of the vectors used here: far from those of any run.
pub(super) const TEST_PROBE: u32 = u32::MAX;
/// Micro-batches that the error is measured on.
const MOST_SAMPLES: usize = 4;
/// What a product was measured against.
const F64: &str = "f64";
const RESCALED: &str = "rescaled";
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

/// eta of each block of `operator.slots`, in the order of `groups`: the slots of a group, by number, share their passes.
///
/// Every rank of the operator's world calls it; they take micro-batches and groups in turn. Where `stop` says so on any
/// of them, all leave early.
///
/// # Errors
/// [`Error::Interrupted`] on all ranks after `stop` on any; those of data and exchange.
pub fn product_errors<K: Kernels, T: Precision>(
    operator: &BlockOperator<'_, K, T>,
    seed: u64,
    groups: &[Vec<usize>],
    stop: &dyn Fn() -> bool,
) -> Result<Vec<ProductError>> {
    let (comm, reference) = (operator.comm, operator.passes.wide());
    let (len, count) = (operator.passes.num_micro_batches(), operator.passes.num_micro_batches().min(MOST_SAMPLES));
    let num_blocks: usize = groups.iter().map(Vec::len).sum();
    // of every (sample, block): share of eta, 1 if it was measured by rescaling. Each entry comes from one rank, so that the
    // sums are the same in every world. Last: how many ranks were asked to stop.
    let mut found = vec![0.0; 2 * count * num_blocks + 1];
    let asked = found.len() - 1;
    let (mut first, mut turn) = (0, 0);
    for group in groups {
        for sample in 0..count {
            let is_ours = turn % comm.size() == comm.rank();
            turn += 1;
            if !is_ours || found[asked] > 0.0 {
                continue;
            }
            if stop() {
                found[asked] = 1.0;
                continue;
            }
            let index = sample * len / count;
            let share = operator.share_of(index)?;
            if share == 0.0 {
                continue;
            }
            for (at, one) in errors_on(operator, index, group, reference.as_ref(), seed)?.iter().enumerate() {
                let entry = 2 * (sample * num_blocks + first + at);
                found[entry] = share * one.eta;
                found[entry + 1] = f64::from(u8::from(one.reference != F64));
            }
        }
        first += group.len();
    }
    comm.all_reduce_sum(&mut found)?;
    if found[asked] > 0.0 {
        let when =
            "asked to stop while the errors of products were measured: before the first step, so nothing is lost";
        return Err(Error::Interrupted(format!("{when}. Run the same command again")));
    }
    let all = (len as f64 / count as f64).sqrt();
    let of_block = |block: usize| {
        let samples = (0..count).map(|sample| 2 * (sample * num_blocks + block));
        let eta = samples.clone().fold(0.0, |eta: f64, entry| eta.hypot(found[entry]));
        let is_rescaled = samples.clone().any(|entry| found[entry + 1] > 0.0);
        ProductError { eta: all * eta, reference: if is_rescaled { RESCALED } else { F64 } }
    };
    Ok((0..num_blocks).map(of_block).collect())
}

/// The errors of the products of these slots on one micro-batch, unweighted. `reference`: [`Passes::wide`].
pub(super) fn errors_on<K: Kernels, T: Precision>(
    operator: &BlockOperator<'_, K, T>,
    index: usize,
    slots: &[usize],
    reference: Option<&Rc<dyn Passes<K, f64> + '_>>,
    seed: u64,
) -> Result<Vec<ProductError>> {
    let vectors: Vec<(usize, Vec<T>)> =
        slots.iter().map(|slot| (*slot, unit(operator.slots[*slot], operator, seed))).collect();
    let products = operator.on_micro_batch(index, &borrowed(&vectors))?;
    let exact = reference.and_then(|wide| in_f64(operator, index, wide, &vectors));
    let error = |(at, vector): (usize, &(usize, Vec<T>))| {
        let norm = vector.1.iter().map(|x| x.to_f64().powi(2)).sum::<f64>().sqrt();
        let (eta, reference) = match &exact {
            Some(exact) => (error_from_reference(&products[at], &exact[at], norm), F64),
            None => (rescaled(operator, index, vector, &products[at], norm)?, RESCALED),
        };
        Ok(ProductError { eta, reference })
    };
    vectors.iter().enumerate().map(error).collect()
}

/// A random unit vector of a block.
pub(super) fn unit<K: Kernels, T: Precision>(block: &Block, operator: &BlockOperator<'_, K, T>, seed: u64) -> Vec<T> {
    let dim = block.num_params(operator.passes.layout());
    let v = probe(ProbeKind::Gaussian, seed, &block.name, TEST_PROBE, 0..dim);
    let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
    v.iter().map(|x| T::from_f64(x / norm)).collect()
}

fn borrowed<T>(vectors: &[(usize, Vec<T>)]) -> Vec<(usize, &[T])> {
    vectors.iter().map(|(slot, v)| (*slot, v.as_slice())).collect()
}

/// The products in f64; `None` if the model cannot be run in another type than the default one.
fn in_f64<K: Kernels, T: Precision>(
    operator: &BlockOperator<'_, K, T>,
    index: usize,
    wide: &Rc<dyn Passes<K, f64> + '_>,
    vectors: &[(usize, Vec<T>)],
) -> Option<Vec<Vec<f64>>> {
    let in_f64: Vec<(usize, Vec<f64>)> =
        vectors.iter().map(|(slot, v)| (*slot, v.iter().map(|x| x.to_f64()).collect())).collect();
    quietly(|| operator.on(wide).on_micro_batch(index, &borrowed(&in_f64)))?.ok()
}

/// The result of `f`, or `None` if it panics (a model that mixes floating-point types). Meanwhile no panic of the process,
/// whose threads may work for `f`, is printed.
pub(super) fn quietly<R>(f: impl FnOnce() -> R) -> Option<R> {
    static SILENT: AtomicUsize = AtomicUsize::new(0);
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if SILENT.load(Ordering::SeqCst) == 0 {
                before(panic);
            }
        }));
    });
    SILENT.fetch_add(1, Ordering::SeqCst);
    let result = panic::catch_unwind(AssertUnwindSafe(f)).ok();
    SILENT.fetch_sub(1, Ordering::SeqCst);
    result
}

fn rescaled<K: Kernels, T: Precision>(
    operator: &BlockOperator<'_, K, T>,
    index: usize,
    (slot, v): &(usize, Vec<T>),
    product: &[T],
    norm: f64,
) -> Result<f64> {
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
    use crate::engine::SecondOrder;
    use crate::hessian::seed::cast_parameters;
    use crate::hessian::{Listed, Problem};
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
            let is_number = x.to_data().iter::<f64>().all(f64::is_finite);
            if is_number { x.dims()[0] as f64 } else { 0.0 }
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
            let mut operator = BlockOperator::<Plain, f32>::new(&Regression, &model, &layout, &data, &comm);
            operator.slots = vec![&block];
            let eta = product_errors(&operator, 5, &[vec![0]], &|| false).unwrap()[0];
            assert_eq!(eta.reference, "f64");
            let v = unit(&block, &operator, 6);
            let product = operator.products(std::slice::from_ref(&v)).unwrap().remove(0);
            let wide = operator.passes.wide().unwrap();
            let exact = operator
                .on(&wide)
                .products(&[v.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>()])
                .unwrap()
                .remove(0);
            let truth = error_from_reference(&product, &exact, 1.0);
            let ratio = eta.eta / truth;
            assert!((0.5..2.0).contains(&ratio), "{micro_batches} micro-batches: eta {:e}, error {truth:e}", eta.eta);
        }
    }

    /// A micro-batch of which nothing counts may have a loss that is no number.
    #[test]
    fn what_weighs_nothing_changes_nothing() {
        let device = Default::default();
        let linear = || LinearConfig::new(WIDTH, WIDTH).init::<B>(&device);
        let model = Network { first: linear(), second: linear() };
        let (layout, comm) = (parameters(&model, &Names::BURN), solo::comm());
        let block = layout.full();
        let rows = || Tensor::ones([2, WIDTH], &device);
        let found = |batches: Vec<Pair>| {
            let data = Listed::new(batches, |pair: &Pair| Regression.weight(pair));
            let mut operator = BlockOperator::<Plain, f32>::new(&Regression, &model, &layout, &data, &comm);
            operator.slots = vec![&block];
            let v = unit(&block, &operator, 6);
            let product = operator.products(std::slice::from_ref(&v)).unwrap().remove(0);
            let eta = product_errors(&operator, 5, &[vec![0]], &|| false).unwrap()[0].eta;
            let gradient = operator.gradient(&block).unwrap();
            let slices = operator.gradients_of_segment(0, &[&block]).unwrap().remove(0).values;
            (product, eta.is_finite(), gradient, slices, operator.loss().unwrap())
        };
        let nothing = || rows() * f32::NAN;
        assert_eq!(found(vec![(rows(), rows())]), found(vec![(rows(), rows()), (nothing(), rows())]));
    }

    /// A stop request ends it before the first product, on every rank.
    #[test]
    fn a_stop_request_ends_the_measurement() {
        let device = Default::default();
        let linear = || LinearConfig::new(WIDTH, WIDTH).init::<B>(&device);
        let model = Network { first: linear(), second: linear() };
        let (layout, comm) = (parameters(&model, &Names::BURN), solo::comm());
        let block = layout.full();
        let rows = Tensor::zeros([2, WIDTH], &device);
        let data = Listed::new(vec![(rows.clone(), rows)], |(x, _): &Pair| x.dims()[0] as f64);
        let mut operator = BlockOperator::<Plain, f32>::new(&Regression, &model, &layout, &data, &comm);
        operator.slots = vec![&block];
        let stopped = product_errors(&operator, 5, &[vec![0]], &|| true).unwrap_err();
        assert_eq!(stopped.exit_code(), 75);
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
