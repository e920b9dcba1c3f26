//! Cross-entropy of a linear classifier head as one operation, for large vocabularies.
//!
//! loss = mean over rows of logsumexp(z) - z[target] with z = h W'. The adjoints of h and W for an upstream adjoint
//! of 1 are formed in the forward pass, chunk by chunk of rows, with all their tangents; nothing of size
//! (rows, classes) survives and nothing is recomputed.

use burn::tensor::{Int, Tensor, TensorPrimitive};
use burn_backend::ops::{ActivationOps, FloatTensorOps};
use burn_backend::tensor::IntTensor;
use burn_backend::{Scalar, Shape, Slice, TensorMetadata};

use super::SecondOrder;
use super::closed::{Input, closed};
use crate::engine::jvp::{Jvp, alike};
use crate::engine::kernels::{Dual, Kernels, LinearCrossEntropy, transposed};

/// At most this many logits of one chunk are held at once (per slot).
const CHUNK_LOGITS: usize = 1 << 22;

/// Mean cross-entropy of `hidden @ weight.T` against `targets`, shape `[1]`.
///
/// `hidden`: (rows, width). `weight`: (classes, width), as an embedding stores it. `targets`: (rows), below `classes`.
pub fn linear_cross_entropy<B: Kernels>(
    hidden: Tensor<SecondOrder<B>, 2>,
    weight: Tensor<SecondOrder<B>, 2>,
    targets: Tensor<SecondOrder<B>, 1, Int>,
) -> Tensor<SecondOrder<B>, 1> {
    let hidden = hidden.into_primitive().tensor();
    let weight = weight.into_primitive().tensor();
    let targets = targets.into_primitive();
    let (want_hidden, want_weight) = (!hidden.node.requirement.is_none(), !weight.node.requirement.is_none());
    let (h, w) = alike(hidden.primitive.clone(), weight.primitive.clone());
    let parts = B::linear_cross_entropy(&h, &w, &targets, want_hidden, want_weight)
        .unwrap_or_else(|| composed(&h, &w, &targets, want_hidden, want_weight));
    let inputs = (Input::of(&hidden.primitive), Input::of(&weight.primitive));
    let state = || (parts.hidden, parts.weight, inputs);
    let loss = closed([&hidden, &weight], parts.loss, state, |(h, w, (h_input, w_input)), grad: Dual<B>, _| {
        let upstream = Jvp::float_reshape(grad, Shape::new([1, 1]));
        let scaled =
            |adjoint: Option<Dual<B>>, input: &Input| Some(input.receive(Jvp::float_mul(adjoint?, upstream.clone())));
        [scaled(h, &h_input), scaled(w, &w_input)]
    });
    Tensor::from_primitive(TensorPrimitive::Float(loss))
}

/// Head and cross-entropy from tensor operations, in chunks of rows.
fn composed<B: Kernels>(
    hidden: &Dual<B>,
    weight: &Dual<B>,
    targets: &IntTensor<B>,
    want_hidden: bool,
    want_weight: bool,
) -> LinearCrossEntropy<B> {
    let num_rows = hidden.shape()[0];
    let chunk = (CHUNK_LOGITS / weight.shape()[0]).clamp(1, num_rows);
    let (mut loss, mut hidden_chunks, mut weight_sum) = (None, Vec::new(), None);
    for start in (0..num_rows).step_by(chunk) {
        let end = (start + chunk).min(num_rows);
        let h = slice_rows(hidden, start, end);
        let target = B::int_slice(targets.clone(), &[Slice::from(start..end)]);
        let (part, logits) = logits_adjoint(&h, weight, target, num_rows);
        loss = Some(added(loss, part));
        if want_hidden {
            hidden_chunks.push(Jvp::float_matmul(logits.clone(), weight.clone()));
        }
        if want_weight {
            weight_sum = Some(added(weight_sum, Jvp::float_matmul(logits.map(transposed::<B>), h)));
        }
    }
    LinearCrossEntropy {
        loss: loss.unwrap_or_else(|| Jvp::float_sum(hidden.clone())),
        hidden: want_hidden.then(|| Jvp::float_cat(hidden_chunks, 0)),
        weight: weight_sum,
    }
}

/// Share of the loss, and (softmax(z) - onehot(target)) / rows, of one chunk.
fn logits_adjoint<B: Kernels>(
    h: &Dual<B>,
    weight: &Dual<B>,
    target: IntTensor<B>,
    num_rows: usize,
) -> (Dual<B>, Dual<B>) {
    let count = h.shape()[0];
    let logits = Jvp::float_matmul(h.clone(), weight.clone().map(transposed::<B>));
    let log_p = Jvp::log_softmax(logits, 1);
    let index = B::int_reshape(target, Shape::new([count, 1]));
    let share = Scalar::Float(1.0 / num_rows as f64);
    let picked = Jvp::<B>::float_gather(1, log_p.clone(), index.clone());
    let loss = Jvp::float_neg(Jvp::float_mul_scalar(Jvp::float_sum(picked), share));
    let device = B::float_device(&h.primal);
    let minus_one = B::float_full(Shape::new([count, 1]), Scalar::Float(-1.0), &device, h.dtype().into());
    let adjoint = Jvp::<B>::float_scatter_add(1, Jvp::float_exp(log_p), index, Dual::constant(minus_one));
    (loss, Jvp::float_mul_scalar(adjoint, share))
}

fn added<B: Kernels>(sum: Option<Dual<B>>, part: Dual<B>) -> Dual<B> {
    match sum {
        Some(sum) => Jvp::float_add(sum, part),
        None => part,
    }
}

fn slice_rows<B: Kernels>(x: &Dual<B>, start: usize, end: usize) -> Dual<B> {
    let width = x.shape()[1];
    Jvp::float_slice(x.clone(), &[Slice::from(start..end), Slice::from(0..width)])
}
