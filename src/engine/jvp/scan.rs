//! Cumulative and total products, maxima and minima from differentiable pieces.
//!
//! burn's own rules divide by the input (wrong at zeros) or go through logarithms (wrong for negatives). These are
//! written once for any backend, so the same functions serve forward mode (`Jvp`) and reverse mode (`SecondOrder`).

use burn_backend::tensor::{BoolTensor, FloatTensor};
use burn_backend::{Backend, BoolDType, Scalar, Slice, TensorMetadata, get_device_settings};

/// Product along a dimension (kept with size 1), by halving: exact at zeros, log2(n) multiplications deep.
pub(crate) fn product<B: Backend>(x: FloatTensor<B>, dim: usize) -> FloatTensor<B> {
    let n = x.shape()[dim];
    if n <= 1 {
        return x;
    }
    let half = n / 2;
    let pairs = B::float_mul(part::<B>(&x, dim, 0, half), part::<B>(&x, dim, half, 2 * half));
    let folded = product::<B>(pairs, dim);
    if n.is_multiple_of(2) { folded } else { B::float_mul(folded, part::<B>(&x, dim, n - 1, n)) }
}

/// Cumulative product along a dimension (Hillis and Steele's scan): exact at zeros.
pub(crate) fn cumulative_product<B: Backend>(x: FloatTensor<B>, dim: usize) -> FloatTensor<B> {
    scan::<B>(x, dim, B::float_mul)
}

/// Cumulative maximum; of equal values the first counts.
pub(crate) fn cumulative_maximum<B: Backend>(x: FloatTensor<B>, dim: usize) -> FloatTensor<B> {
    scan::<B>(x, dim, |earlier, later| choose::<B>(earlier, later, B::float_greater_equal))
}

/// Cumulative minimum; of equal values the first counts.
pub(crate) fn cumulative_minimum<B: Backend>(x: FloatTensor<B>, dim: usize) -> FloatTensor<B> {
    scan::<B>(x, dim, |earlier, later| choose::<B>(earlier, later, B::float_lower_equal))
}

type Compare<B> = fn(FloatTensor<B>, FloatTensor<B>, BoolDType) -> BoolTensor<B>;

fn choose<B: Backend>(earlier: FloatTensor<B>, later: FloatTensor<B>, wins: Compare<B>) -> FloatTensor<B> {
    let dtype = get_device_settings::<B>(&B::float_device(&earlier)).bool_dtype;
    let mask = wins(earlier.clone(), later.clone(), dtype);
    B::float_mask_where(later, mask, earlier)
}

fn scan<B: Backend>(
    x: FloatTensor<B>,
    dim: usize,
    combine: impl Fn(FloatTensor<B>, FloatTensor<B>) -> FloatTensor<B>,
) -> FloatTensor<B> {
    let n = x.shape()[dim];
    let mut y = x;
    let mut shift = 1;
    while shift < n {
        let head = part::<B>(&y, dim, 0, shift);
        let tail = combine(part::<B>(&y, dim, 0, n - shift), part::<B>(&y, dim, shift, n));
        y = B::float_cat(vec![head, tail], dim);
        shift *= 2;
    }
    y
}

fn part<B: Backend>(x: &FloatTensor<B>, dim: usize, start: usize, end: usize) -> FloatTensor<B> {
    let shape = x.shape();
    let slices: Vec<Slice> = (0..shape.num_dims())
        .map(|d| if d == dim { Slice::from(start..end) } else { Slice::from(0..shape[d]) })
        .collect();
    B::float_slice(x.clone(), &slices)
}

/// The k largest values along a dimension, largest first (burn's CPU backends have no top-k, `Autodiff` neither).
pub(crate) fn largest<B: Backend>(x: FloatTensor<B>, dim: usize, k: usize) -> FloatTensor<B> {
    let dtype = get_device_settings::<B>(&B::float_device(&x)).int_dtype;
    let order = B::float_argsort(x.clone(), dim, true, dtype);
    let shape = x.shape();
    let size = |d: usize| if d == dim { k } else { shape[d] };
    let slices: Vec<Slice> = (0..shape.num_dims()).map(|d| Slice::from(0..size(d))).collect();
    B::float_gather(dim, x, B::int_slice(order, &slices))
}

/// Sum over all entries of a boolean-selected power: x^0 has slope 0 everywhere, also at x = 0.
pub(crate) fn power_slope<B: Backend>(x: FloatTensor<B>, exponent: f64) -> FloatTensor<B> {
    if exponent == 0.0 {
        return B::float_zeros(x.shape(), &B::float_device(&x), x.dtype().into());
    }
    B::float_mul_scalar(B::float_powf_scalar(x, Scalar::Float(exponent - 1.0)), Scalar::Float(exponent))
}
