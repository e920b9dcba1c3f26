//! Products and exact GELU, entry by entry.

use burn_backend::TensorMetadata;
use burn_flex::Flex;

use super::dual_slices::{Operand, PIECE, active_slots, fill_dual};
use super::element::{Element, vectorized};
use super::lanes::{map, update, update2};
use crate::engine::kernels::Dual;

/// `a b`, with tangents `a' b + a b'`.
pub(super) fn mul<T: Element>(lhs: &Dual<Flex>, rhs: &Dual<Flex>) -> Dual<Flex> {
    let active = active_slots(&[lhs, rhs]);
    let shape = lhs.primal.shape();
    let (lhs, rhs) = (Operand::<T>::new(lhs), Operand::<T>::new(rhs));
    fill_dual(shape, &active, PIECE, |piece| {
        let (a, b) = (&lhs.primal()[piece.range.clone()], &rhs.primal()[piece.range.clone()]);
        vectorized(
            #[inline(always)]
            || {
                map2(piece.primal, a, b, |a, b| a * b);
                for (slot, out) in piece.tangents {
                    weighted_sum(out, (b, lhs.part(slot, &piece.range)), (a, rhs.part(slot, &piece.range)));
                }
            },
        );
    })
}

/// `x Phi(x)`, with tangents `(Phi + x phi) x'`.
pub(super) fn gelu<T: Element>(x: &Dual<Flex>) -> Dual<Flex> {
    let active = active_slots(&[x]);
    let shape = x.primal.shape();
    let x = Operand::<T>::new(x);
    fill_dual(shape, &active, PIECE, |piece| {
        let values = &x.primal()[piece.range.clone()];
        let mut slope = [T::ZERO; PIECE];
        let slope = &mut slope[..values.len()];
        vectorized(
            #[inline(always)]
            || {
                for ((out, slope), &x) in piece.primal.iter_mut().zip(slope.iter_mut()).zip(values) {
                    let (cdf, density) = x.normal();
                    *out = x * cdf;
                    *slope = cdf + x * density;
                }
                for (slot, out) in piece.tangents {
                    weighted_sum(out, (slope, x.part(slot, &piece.range)), (slope, None));
                }
            },
        );
    })
}

/// `g (Phi + x phi)`, with tangents `g' (Phi + x phi) + g (2 - x^2) phi x'`.
pub(super) fn gelu_backward<T: Element>(x: &Dual<Flex>, grad: &Dual<Flex>) -> Dual<Flex> {
    let active = active_slots(&[x, grad]);
    let shape = x.primal.shape();
    let (x, grad) = (Operand::<T>::new(x), Operand::<T>::new(grad));
    fill_dual(shape, &active, PIECE, |piece| {
        let (values, upstream) = (&x.primal()[piece.range.clone()], &grad.primal()[piece.range.clone()]);
        let (mut slope, mut curvature) = ([T::ZERO; PIECE], [T::ZERO; PIECE]);
        let (slope, curvature) = (&mut slope[..values.len()], &mut curvature[..values.len()]);
        vectorized(
            #[inline(always)]
            || {
                for ((slope, curvature), &x) in slope.iter_mut().zip(curvature.iter_mut()).zip(values) {
                    let (cdf, density) = x.normal();
                    *slope = cdf + x * density;
                    *curvature = (T::of(2.0) - x * x) * density;
                }
                map2(piece.primal, upstream, slope, |g, slope| g * slope);
                update(curvature, upstream, |curvature, g| g * curvature);
                for (slot, out) in piece.tangents {
                    let (grad, x) = (grad.part(slot, &piece.range), x.part(slot, &piece.range));
                    weighted_sum(out, (slope, grad), (curvature, x));
                }
            },
        );
    })
}

/// `out = f(a, b)`.
#[inline(always)]
fn map2<T: Element>(out: &mut [T], a: &[T], b: &[T], f: impl Fn(T, T) -> T) {
    update2(out, a, b, |_, a, b| f(a, b));
}

/// `out = u x + v y` over those of x and y that are there, of which there is at least one.
#[inline(always)]
fn weighted_sum<T: Element>(out: &mut [T], (u, x): (&[T], Option<&[T]>), (v, y): (&[T], Option<&[T]>)) {
    match (x, y) {
        (Some(x), Some(y)) => {
            let (u, x, v, y) = (&u[..out.len()], &x[..out.len()], &v[..out.len()], &y[..out.len()]);
            for i in 0..out.len() {
                out[i] = u[i] * x[i] + v[i] * y[i];
            }
        }
        (Some(x), None) => map2(out, u, x, |u, x| u * x),
        (None, Some(y)) => map2(out, v, y, |v, y| v * y),
        (None, None) => map(out, u, |_| T::ZERO),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, DIFFERENCE, dense, dual, duals_close, numbers, truth};
    use super::*;
    use burn_flex::FlexTensor;

    /// `f` entry by entry over one or two tensors.
    fn by_entry(x: &[FlexTensor], f: impl Fn(f64, f64) -> f64) -> FlexTensor {
        let (a, b) = (numbers(&x[0]), numbers(x.last().unwrap()));
        let values: Vec<f64> = a.iter().zip(&b).map(|(&a, &b)| f(a, b)).collect();
        dense::<f64>(&values, x[0].shape().as_slice())
    }

    fn cdf(x: f64) -> f64 {
        x.normal().0
    }

    fn gelu_slope(x: f64) -> f64 {
        cdf(x) + x * x.normal().1
    }

    /// Runs a kernel on f64 and f32 inputs with different slots, sizes and layouts against plain f64 and differences.
    fn check(
        kernel: impl Fn(&[Dual<Flex>]) -> Dual<Flex>,
        kernel32: impl Fn(&[Dual<Flex>]) -> Dual<Flex>,
        plain: impl Fn(f64, f64) -> f64,
    ) {
        for shape in [vec![7], vec![3, 5], vec![2, 37, 70]] {
            for case in Case::ALL {
                let (a, b) = ([true, false, true, false], [true, true, false]);
                let inputs = [dual::<f64>(&shape, 1, &a, case), dual::<f64>(&shape, 2, &b, Case::Dense)];
                let truth = truth(&inputs, |x| by_entry(x, &plain));
                duals_close(&kernel(&inputs), &truth, DIFFERENCE);
                let inputs = [dual::<f32>(&shape, 1, &a, case), dual::<f32>(&shape, 2, &b, Case::Dense)];
                duals_close(&kernel32(&inputs), &truth, 1e-6);
            }
        }
    }

    #[test]
    fn mul_matches_differences() {
        check(|x| mul::<f64>(&x[0], &x[1]), |x| mul::<f32>(&x[0], &x[1]), |a, b| a * b);
    }

    #[test]
    fn gelu_matches_differences() {
        check(
            |x| gelu::<f64>(&mul::<f64>(&x[0], &x[1])),
            |x| gelu::<f32>(&mul::<f32>(&x[0], &x[1])),
            |a, b| a * b * cdf(a * b),
        );
    }

    #[test]
    fn gelu_backward_matches_differences() {
        check(|x| gelu_backward::<f64>(&x[0], &x[1]), |x| gelu_backward::<f32>(&x[0], &x[1]), |x, g| g * gelu_slope(x));
    }

    #[test]
    fn absent_slots_stay_absent() {
        let x = dual::<f64>(&[4], 1, &[false, true], Case::Dense);
        let y = mul::<f64>(&x, &dual::<f64>(&[4], 2, &[], Case::Dense));
        assert_eq!(y.mask(), [false, true]);
    }
}
