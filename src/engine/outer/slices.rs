//! The reverse rule of a slice: its adjoint is added to a part of the adjoint of x, in place.
//!
//! burn's rule makes zeros of x's shape for every slice, writes the part, and adds these up. Queries, keys and values are
//! three slices of one product: that is nine passes over memory for every component where three do.

use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::NoCheckpointing;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_backend::ops::FloatTensorOps;
use burn_backend::tensor::FloatTensor;
use burn_backend::{AutodiffBackend, Slice, TensorMetadata};

use super::Inner;
use super::closed::{Input, Tracked};
use crate::engine::jvp::Jvp;
use crate::engine::kernels::{Dual, Kernels};

#[derive(Debug)]
struct Part;

impl<B: Kernels> Backward<Jvp<B>, 1> for Part {
    type State = (Input, Vec<Slice>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<Jvp<B>>(&ops.node);
        let ([Some(parent)], (input, slices)) = (ops.parents, ops.state) else { return };
        // a handle by which the parent's adjoint so far is taken out
        let mut handle: Tracked<B> = Inner::<B>::from_inner(grad.clone());
        handle.node = parent.clone();
        let total = grads.remove::<Jvp<B>>(&handle);
        grads.register::<Jvp<B>>(parent.id, added(total, &slices, grad.only(&input.mask), &input));
    }
}

/// `total[slices] += part`, where no total is zeros.
fn added<B: Kernels>(total: Option<Dual<B>>, slices: &[Slice], part: Dual<B>, input: &Input) -> Dual<B> {
    let zeros = || B::float_zeros(input.shape.clone(), &B::float_device(&part.primal), part.primal.dtype().into());
    let sum = |total: Option<FloatTensor<B>>, part: FloatTensor<B>| {
        B::add_to_slice(total.unwrap_or_else(zeros), slices, part)
    };
    let (total, mut tangents) = match total {
        None => (None, Vec::new()),
        Some(total) => (Some(total.primal), total.tangents),
    };
    let primal = input.primal::<B>(&part.primal, || sum(total, part.primal.clone()));
    tangents.resize(tangents.len().max(part.tangents.len()), None);
    for (total, part) in tangents.iter_mut().zip(part.tangents) {
        if let Some(part) = part {
            *total = Some(sum(total.take(), part));
        }
    }
    Dual::new(primal, tangents)
}

/// x[slices].
pub(super) fn slice<B: Kernels>(x: Tracked<B>, slices: &[Slice]) -> Tracked<B> {
    let output = Jvp::float_slice(x.primitive.clone(), slices);
    match Backward::<Jvp<B>, 1>::prepare::<NoCheckpointing>(Part, [x.node.clone()]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((Input::of(&x.primitive), slices.to_vec()), output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    }
}
