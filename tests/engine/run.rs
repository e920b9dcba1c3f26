//! Running a function on host tensors in forward mode and in second order, slot by slot.

use burn_backend::ops::FloatTensorOps;
use burn_backend::{AutodiffBackend, Backend, Scalar};
use hesspec::engine::{Dual, Jvp, Kernels, SecondOrder};

use crate::cases::{Case, F};
use crate::values::{Random, Values, get, put};

/// Tangents of one slot, input by input; `None`: the input has none.
pub type Slot = Vec<Option<Values>>;
/// A function of tensors on a backend.
pub type Function<'a, B> = &'a dyn Fn(Vec<F<B>>) -> F<B>;
/// What one slot gives for each output: `None` is a structural zero.
pub type Tangents = Vec<Option<Values>>;

/// Three slots: all inputs; none; only one of the inputs (the last, or the first where `odd`).
pub fn slots(inputs: &[Values], odd: bool) -> Vec<Slot> {
    let mut random = Random::new(inputs.iter().map(|x| x.data.len() as u64).sum());
    let mut all = || inputs.iter().map(|x| Some(random.values(&x.shape))).collect::<Slot>();
    let (first, mut third) = (all(), all());
    let chosen = if odd { 0 } else { inputs.len() - 1 };
    for (i, tangent) in third.iter_mut().enumerate() {
        if i != chosen {
            *tangent = None;
        }
    }
    vec![first, vec![None; inputs.len()], third]
}

pub fn duals<B: Kernels>(inputs: &[Values], slots: &[Slot], tangents_only: bool) -> Vec<Dual<B>> {
    let tangent = |input: usize, slot: &Slot| slot[input].as_ref().map(put::<B>);
    let dual = |(input, x): (usize, &Values)| Dual {
        primal: put::<B>(x),
        tangents: slots.iter().map(|slot| tangent(input, slot)).collect(),
        tangents_only,
    };
    inputs.iter().enumerate().map(dual).collect()
}

pub fn tangents<B: Kernels>(dual: &Dual<B>, num_slots: usize) -> Tangents {
    (0..num_slots).map(|slot| dual.tangent(slot).cloned().map(get::<B>)).collect()
}

/// Value and tangents in forward mode.
pub fn push<B: Kernels>(case: &Case<Jvp<B>>, inputs: &[Values], slots: &[Slot]) -> (Values, Tangents) {
    let y = case.apply(duals::<B>(inputs, slots, false));
    (get::<B>(y.primal.clone()), tangents(&y, slots.len()))
}

pub fn same(a: &Option<Values>, b: &Option<Values>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.same_bits(b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

/// L(y) = sum(c y + y^2 / 2): its Hessian sees the operation's second derivatives (through c + y) and first ones.
pub fn loss<B: Backend>(y: F<B>, c: &Values) -> F<B> {
    let linear = B::float_mul(y.clone(), put::<B>(c));
    let square = B::float_mul_scalar(B::float_mul(y.clone(), y), Scalar::Float(0.5));
    B::float_sum(B::float_add(linear, square))
}

/// Adjoints of all inputs in second order: (gradient, H v slot by slot).
pub fn second_order<B: Kernels>(
    f: Function<SecondOrder<B>>,
    inputs: &[Values],
    slots: &[Slot],
    c: &Values,
    tangents_only: bool,
) -> Vec<(Values, Tangents)> {
    type S<B> = SecondOrder<B>;
    let track = |dual| S::<B>::float_set_require_grad(S::<B>::from_inner(dual), true);
    let leaves: Vec<_> = duals::<B>(inputs, slots, tangents_only).into_iter().map(track).collect();
    let grads = S::<B>::backward(loss::<S<B>>(f(leaves.clone()), c));
    let read = |(leaf, x): (&F<S<B>>, &Values)| match S::<B>::grad(leaf, &grads) {
        Some(adjoint) => (get::<B>(adjoint.primal.clone()), tangents(&adjoint, slots.len())),
        None => (Values { shape: x.shape.clone(), data: vec![0.0; x.data.len()] }, vec![None; slots.len()]),
    };
    leaves.iter().zip(inputs).map(read).collect()
}

/// The coefficients c of the loss for a row.
pub fn coefficients(shape: &[usize]) -> Values {
    Random::new(7).values(shape)
}

pub fn joined(parts: &[Values]) -> Values {
    let data: Vec<f64> = parts.iter().flat_map(|x| x.data.clone()).collect();
    Values { shape: vec![data.len()], data }
}
