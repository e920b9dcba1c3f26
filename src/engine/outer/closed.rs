//! An operation with its reverse rule in closed form, as one node of burn's graph.

use std::fmt;

use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::NoCheckpointing;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind, broadcast_shape};
use burn_backend::Shape;
use burn_backend::tensor::FloatTensor;

use super::Inner;
use crate::engine::jvp::Jvp;
use crate::engine::kernels::{Dual, Kernels, Mask, not_computed};

/// A value in the reverse graph: a dual and its node.
pub(super) type Tracked<B> = FloatTensor<Inner<B>>;

/// (state, adjoint of the output, which parents want theirs) -> adjoints of the parents.
type Rule<B, S, const N: usize> = fn(S, Dual<B>, [bool; N]) -> [Option<Dual<B>>; N];

struct Closed<B: Kernels, S, const N: usize>(Rule<B, S, N>);

impl<B: Kernels, S, const N: usize> fmt::Debug for Closed<B, S, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Closed")
    }
}

impl<B: Kernels, S: Clone + Send + fmt::Debug + 'static, const N: usize> Backward<Jvp<B>, N> for Closed<B, S, N> {
    type State = S;

    fn backward(self, ops: Ops<S, N>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<Jvp<B>>(&ops.node);
        let wanted: [bool; N] = std::array::from_fn(|i| ops.parents[i].is_some());
        let adjoints = (self.0)(ops.state, grad, wanted);
        for (parent, adjoint) in ops.parents.into_iter().zip(adjoints) {
            if let (Some(parent), Some(adjoint)) = (parent, adjoint) {
                grads.register::<Jvp<B>>(parent.id, adjoint);
            }
        }
    }
}

/// Registers `output` as the result of an operation on `parents` whose reverse rule is `rule(state, ...)`.
/// `state` is built only if a parent is tracked.
pub(super) fn closed<B: Kernels, S: Clone + Send + fmt::Debug + 'static, const N: usize>(
    parents: [&Tracked<B>; N],
    output: Dual<B>,
    state: impl FnOnce() -> S,
    rule: Rule<B, S, N>,
) -> Tracked<B> {
    let nodes = parents.map(|parent| parent.node.clone());
    match Closed(rule).prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(state(), output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    }
}

/// What a reverse rule must know of an input to form no more than is needed of its adjoint.
#[derive(Debug, Clone)]
pub(super) struct Input {
    pub shape: Shape,
    pub mask: Mask,
    pub tangents_only: bool,
}

impl Input {
    pub fn of<B: Kernels>(x: &Dual<B>) -> Self {
        use burn_backend::TensorMetadata;
        Self { shape: x.shape(), mask: x.mask(), tangents_only: x.tangents_only }
    }

    /// An adjoint summed over what was broadcast, without the slots that the input does not depend on: in such a
    /// slot nothing below it has a parameter of the slot's block, so the adjoint's tangent is never read.
    pub fn receive<B: Kernels>(&self, adjoint: Dual<B>) -> Dual<B> {
        broadcast_shape::<Jvp<B>>(adjoint.only(&self.mask), &self.shape)
    }

    /// The primal of the adjoint, or NaN where the input is a leaf whose gradient is not asked for.
    pub fn primal<B: Kernels>(
        &self,
        like: &FloatTensor<B>,
        compute: impl FnOnce() -> FloatTensor<B>,
    ) -> FloatTensor<B> {
        if self.tangents_only { not_computed::<B>(like, self.shape.clone()) } else { compute() }
    }
}

/// The identity, whose reverse rule drops the adjoint tangents of every slot that x does not depend on.
pub(super) fn drop_slots<B: Kernels>(x: Tracked<B>) -> Tracked<B> {
    let output = Dual::new(x.primitive.primal.clone(), x.primitive.tangents.clone());
    closed([&x], output, || Input::of(&x.primitive), |input, grad, _| [Some(input.receive(grad))])
}
