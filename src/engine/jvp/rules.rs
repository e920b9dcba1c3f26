//! The families of Jacobian-vector-product rules.
//!
//! With x, y primals and dx_s, dy_s the tangents of slot s; a slot that no argument has stays absent.

use burn_backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn_backend::{BoolDType, IntDType, Scalar, TensorMetadata, get_device_settings};

use super::types::alike;
use crate::engine::kernels::{Dual, Kernels, product_in};

pub(super) type Primal<B> = FloatTensor<B>;

/// The primal of an argument that no rule can differentiate.
///
/// # Panics
/// With the operation's name, if a tangent has reached it.
pub(crate) fn stop<B: Kernels>(operation: &str, x: Dual<B>) -> Primal<B> {
    assert!(
        !x.is_active(),
        "{operation}: no second-order rule for this operation; detach its input if it is meant to be a constant"
    );
    x.primal
}

/// Boolean dtype of the device that holds x.
pub(super) fn bool_dtype<B: Kernels>(x: &Primal<B>) -> BoolDType {
    get_device_settings::<B>(&B::float_device(x)).bool_dtype
}

/// Integer dtype of the device that holds x.
pub(super) fn int_dtype<B: Kernels>(x: &Primal<B>) -> IntDType {
    get_device_settings::<B>(&B::float_device(x)).int_dtype
}

/// Zeros of the shape and dtype of x.
pub(super) fn zeros_like<B: Kernels>(x: &Primal<B>) -> Primal<B> {
    B::float_zeros(x.shape(), &B::float_device(x), x.dtype().into())
}

/// x where the mask is false, 0 where it is true.
pub(super) fn masked<B: Kernels>(x: Primal<B>, mask: &BoolTensor<B>) -> Primal<B> {
    B::float_mask_fill(x, mask.clone(), Scalar::Float(0.0))
}

/// A piecewise constant function: no tangents.
pub(super) fn constant<B: Kernels>(x: Dual<B>, f: impl FnOnce(Primal<B>) -> Primal<B>) -> Dual<B> {
    Dual::constant(f(x.primal))
}

/// y = f(x) elementwise: dy = f'(x) dx. `derivative` gets x and y and is not called without a tangent.
pub(super) fn unary<B: Kernels>(
    x: Dual<B>,
    f: impl FnOnce(Primal<B>) -> Primal<B>,
    derivative: impl FnOnce(Primal<B>, Primal<B>) -> Primal<B>,
) -> Dual<B> {
    let y = f(x.primal.clone());
    if !x.is_active() {
        return Dual::constant(y);
    }
    let slope = derivative(x.primal, y.clone());
    let scaled = |t: Primal<B>| B::float_mul(t, slope.clone());
    Dual::new(y, x.tangents.into_iter().map(|t| t.map(scaled)).collect())
}

/// A function whose tangents pass through another linear map than its primal.
pub(super) fn with_tangents<B: Kernels>(x: Dual<B>, y: Primal<B>, linear: impl Fn(Primal<B>) -> Primal<B>) -> Dual<B> {
    Dual::new(y, x.tangents.into_iter().map(|t| t.map(&linear)).collect())
}

/// y = f(a, b), linear in (a, b) together: dy = f(da, db), zeros for what is absent.
pub(super) fn joint<B: Kernels>(a: Dual<B>, b: Dual<B>, f: impl Fn(Primal<B>, Primal<B>) -> Primal<B>) -> Dual<B> {
    let (a, b) = alike(a, b);
    let tangents = slots(&a, &b, |da, db| match (da, db) {
        (None, None) => None,
        (da, db) => Some(f(or_zeros::<B>(da, &a.primal), or_zeros::<B>(db, &b.primal))),
    });
    Dual::new(f(a.primal, b.primal), tangents)
}

/// y = a + sign * b with broadcasting; a slot that only one side has is not added to zeros.
pub(super) fn sum<B: Kernels>(a: Dual<B>, b: Dual<B>, negative: bool) -> Dual<B> {
    let (a, b) = alike(a, b);
    if let Some(sum) = B::sum(&a, &b, negative) {
        return sum;
    }
    let f = if negative { B::float_sub } else { B::float_add };
    let tangents = slots(&a, &b, |da, db| match (da, db) {
        (None, None) => None,
        (Some(da), Some(db)) => Some(f(da, db)),
        (Some(da), None) => Some(broadcast::<B>(da, &b.primal)),
        (None, Some(db)) => {
            let db = broadcast::<B>(db, &a.primal);
            Some(if negative { B::float_neg(db) } else { db })
        }
    });
    Dual::new(f(a.primal, b.primal), tangents)
}

/// y = f(a, b), linear in each: dy = f(da, b) + f(a, db).
pub(super) fn bilinear<B: Kernels>(a: Dual<B>, b: Dual<B>, f: impl Fn(Primal<B>, Primal<B>) -> Primal<B>) -> Dual<B> {
    let (a, b) = alike(a, b);
    let tangents = slots(&a, &b, |da, db| {
        let left = da.map(|da| f(da, b.primal.clone()));
        let right = db.map(|db| f(a.primal.clone(), db));
        plus::<B>(left, right)
    });
    Dual::new(f(a.primal, b.primal), tangents)
}

/// y = a @ b (matrices or batches of matrices): both products of a tangent go into one buffer.
pub(crate) fn product<B: Kernels>(a: Dual<B>, b: Dual<B>) -> Dual<B> {
    let (a, b) = alike(a, b);
    let mask = vec![true; a.num_slots().max(b.num_slots())];
    product_in(&a, &b, &mask, || None)
}

/// y = f(a, b) elementwise with partial derivatives: dy = f_a da + f_b db. The partials get (a, b, y).
pub(super) fn binary<B: Kernels>(
    a: Dual<B>,
    b: Dual<B>,
    f: impl FnOnce(Primal<B>, Primal<B>) -> Primal<B>,
    partial_a: impl FnOnce(Primal<B>, Primal<B>, Primal<B>) -> Primal<B>,
    partial_b: impl FnOnce(Primal<B>, Primal<B>, Primal<B>) -> Primal<B>,
) -> Dual<B> {
    let (a, b) = alike(a, b);
    let y = f(a.primal.clone(), b.primal.clone());
    let slope_a = a.is_active().then(|| partial_a(a.primal.clone(), b.primal.clone(), y.clone()));
    let slope_b = b.is_active().then(|| partial_b(a.primal.clone(), b.primal.clone(), y.clone()));
    let scaled = |t: Option<Primal<B>>, slope: &Option<Primal<B>>| Some(B::float_mul(t?, slope.clone()?));
    let tangents = slots(&a, &b, |da, db| plus::<B>(scaled(da, &slope_a), scaled(db, &slope_b)));
    Dual::new(y, tangents)
}

/// y = x at integer positions along a dimension (maximum, sort, top-k): the tangents are taken at the same positions.
pub(super) fn selected<B: Kernels>(x: Dual<B>, dim: usize, positions: &IntTensor<B>) -> Dual<B> {
    x.map(|t| B::float_gather(dim, t, positions.clone()))
}

/// Calls `f` with the tangents of each slot.
pub(super) fn slots<B: Kernels>(
    a: &Dual<B>,
    b: &Dual<B>,
    f: impl Fn(Option<Primal<B>>, Option<Primal<B>>) -> Option<Primal<B>>,
) -> Vec<Option<Primal<B>>> {
    let num_slots = a.num_slots().max(b.num_slots());
    (0..num_slots).map(|slot| f(a.tangent(slot).cloned(), b.tangent(slot).cloned())).collect()
}

pub(super) fn plus<B: Kernels>(a: Option<Primal<B>>, b: Option<Primal<B>>) -> Option<Primal<B>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(B::float_add(a, b)),
        (a, b) => a.or(b),
    }
}

fn or_zeros<B: Kernels>(tangent: Option<Primal<B>>, primal: &Primal<B>) -> Primal<B> {
    tangent.unwrap_or_else(|| zeros_like::<B>(primal))
}

/// t expanded to the shape of t + other.
fn broadcast<B: Kernels>(t: Primal<B>, other: &Primal<B>) -> Primal<B> {
    let (own, other) = (t.shape(), other.shape());
    if own == other {
        return t;
    }
    let dims: Vec<usize> = (0..own.num_dims()).map(|d| own[d].max(other[d])).collect();
    if dims.iter().enumerate().all(|(d, &n)| own[d] == n) { t } else { B::float_expand(t, dims.into()) }
}
