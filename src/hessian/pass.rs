//! One micro-batch: loss, gradient, and the products H v or G v of all slots from one forward and one backward pass.

use burn::tensor::{DType, Element, Tensor, TensorPrimitive};
use burn_backend::{AutodiffBackend, TensorMetadata};

use super::Problem;
use super::operator::Kind;
use super::seed::{Adjoints, values};
use crate::block::Layout;
use crate::cluster;
use crate::engine::{Dual, Gradients, Kernels, SecondOrder, in_f64, leaf, tangents_of};
use crate::krylov::Real;

/// Precision of vectors and of the whole computation.
pub trait Precision: Real + Element + cluster::Element + bytemuck::Pod {
    /// burn's type.
    const DTYPE: DType;
}

impl Precision for f32 {
    const DTYPE: DType = DType::F32;
}

impl Precision for f64 {
    const DTYPE: DType = DType::F64;
}

/// Runs a pass of this precision: in f64, what burn's modules would make in f32 is f64 too.
pub(super) fn in_precision<T: Precision, R>(pass: impl FnOnce() -> R) -> R {
    if T::DTYPE == f64::DTYPE { in_f64(pass) } else { pass() }
}

/// Where a pass begins: at the entry of a stage, with the activations there; `None`: at the bottom.
pub(super) type Start<K> = Option<(usize, Tensor<SecondOrder<K>, 2>)>;

/// A loss that may still be on its way: reading it waits for the device.
pub type Loss<K> = Tensor<SecondOrder<K>, 1>;

/// Runs a seeded model on a micro-batch: the micro-batch's mean loss, and the adjoints of its leaves.
///
/// `Kind::Hessian`: forward over reverse on the loss. `Kind::GaussNewton`: J' H_out J v. The loss alone, on a fresh
/// leaf with the tangents z' = J v of the outputs, gives H_out z'; the reverse pass through the network then starts with
/// a zero primal adjoint and these as adjoint tangents, so that all terms with second derivatives of the network vanish.
pub(super) fn run<K: Kernels, P: Problem<SecondOrder<K>>>(
    problem: &P,
    model: &P::Model,
    batch: &P::Batch,
    start: Start<K>,
    kind: Kind,
    layout: &Layout,
) -> (Loss<K>, Adjoints<K>) {
    let (loss, grads) = match kind {
        Kind::Hessian => {
            let loss = match (start, problem.stages()) {
                (Some((stage, entry)), Some(stages)) => stages.total_loss_from(model, stage, entry, batch),
                _ => problem.total_loss(model, batch),
            };
            let grads = loss.backward();
            (loss, grads)
        }
        Kind::GaussNewton => {
            let outputs = match (start, problem.stages()) {
                (Some((stage, entry)), Some(stages)) => stages.outputs_from(model, stage, entry, batch),
                _ => problem.outputs(model, batch),
            };
            gauss_newton(problem, outputs, batch)
        }
    };
    (loss, Adjoints::read(model, problem.names(), layout, &grads))
}

/// The micro-batch's loss, and the backward pass of J' H_out J v from the outputs and their tangents.
pub(super) fn gauss_newton<K: Kernels, P: Problem<SecondOrder<K>>>(
    problem: &P,
    outputs: Tensor<SecondOrder<K>, 2>,
    batch: &P::Batch,
) -> (Loss<K>, Gradients<K>) {
    let constant = Tensor::<SecondOrder<K>, 2>::from_inner(outputs.clone().inner()).detach();
    let fresh = leaf(constant, tangents_of(&outputs), false);
    let loss = problem.loss(fresh.clone(), batch);
    let adjoint = loss.backward();
    let curved = crate::engine::adjoint(&fresh, &adjoint).map(|dual| {
        let zero = K::float_zeros(dual.shape(), &K::float_device(&dual.primal), dual.dtype().into());
        Dual::new(zero, dual.tangents)
    });
    let start = match curved {
        Some(dual) => Tensor::from_primitive(TensorPrimitive::Float(SecondOrder::<K>::from_inner(dual))),
        None => outputs.zeros_like(),
    };
    (loss, (outputs * start).sum().backward())
}

/// The loss alone.
pub(super) fn loss<K: Kernels, P: Problem<SecondOrder<K>>>(problem: &P, model: &P::Model, batch: &P::Batch) -> f64 {
    value(&problem.total_loss(model, batch))
}

/// The loss, and of a classifier how many outputs are largest at the right class, and how many there are.
pub(super) fn evaluate<K: Kernels, P: Problem<SecondOrder<K>>>(
    problem: &P,
    model: &P::Model,
    batch: &P::Batch,
) -> (f64, Option<(usize, usize)>) {
    let Some(classes) = problem.classes(batch) else { return (loss(problem, model, batch), None) };
    let outputs = problem.outputs(model, batch);
    let width = outputs.dims()[1];
    let scores: Vec<f64> = values::<K, f64>(&outputs.clone().inner().into_primitive().tensor().primal);
    let is_right = |(scores, class): (&[f64], i64)| largest(scores) == usize::try_from(class).ok();
    let classes = classes.into_data();
    let rows = scores.chunks(width.max(1)).zip(classes.iter::<i64>());
    let right = rows.filter(|row| is_right(*row)).count();
    (value(&problem.loss(outputs, batch)), Some((right, scores.len() / width.max(1))))
}

/// Where the largest number stands, the first one of equal ones; `None` if a number is NaN.
fn largest(scores: &[f64]) -> Option<usize> {
    if scores.iter().any(|score| score.is_nan()) {
        return None;
    }
    let first = |best: usize, at: usize| if scores[at] > scores[best] { at } else { best };
    (0..scores.len()).reduce(first)
}

/// A loss as a number.
pub(super) fn value<K: Kernels>(loss: &Loss<K>) -> f64 {
    let dual = loss.clone().inner().into_primitive().tensor();
    values::<K, f64>(&dual.primal).first().copied().unwrap_or(f64::NAN)
}
