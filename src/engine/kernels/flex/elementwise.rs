//! Products, sums and exact GELU, entry by entry.

use burn_backend::{Shape, TensorMetadata};
use burn_flex::{Flex, FlexTensor};

use super::dual_slices::{Operand, PIECE, active_slots, fill_dual};
use super::element::{Element, vectorized};
use super::lanes::{map, update, update2};
use super::repeated::Repeated;
use crate::engine::kernels::Dual;

/// `a b`, with tangents `a' b + a b'`; both broadcast to the shape of the result.
pub(super) fn mul<T: Element>(lhs: &Dual<Flex>, rhs: &Dual<Flex>, shape: Shape) -> Dual<Flex> {
    let active = active_slots(&[lhs, rhs]);
    let (lhs, rhs) = (Repeated::<T>::new(lhs, &shape), Repeated::<T>::new(rhs, &shape));
    fill_dual(shape, &active, PIECE, |piece| {
        let mut buffers: [Vec<T>; 4] = Default::default();
        let [a, b, da, db] = &mut buffers;
        let (a, b) = (lhs.primal(&piece.range, a), rhs.primal(&piece.range, b));
        vectorized(
            #[inline(always)]
            || map2(piece.primal, a, b, |a, b| a * b),
        );
        for (slot, out) in piece.tangents {
            let (da, db) = (lhs.tangent(slot, &piece.range, da), rhs.tangent(slot, &piece.range, db));
            vectorized(
                #[inline(always)]
                || weighted_sum(out, (b, da), (a, db)),
            );
        }
    })
}

/// `a + b`, or `a - b` if `negative`; both broadcast to the shape of the result.
pub(super) fn sum<T: Element>(lhs: &Dual<Flex>, rhs: &Dual<Flex>, negative: bool, shape: Shape) -> Dual<Flex> {
    // a tangent that nothing is added to is what it was
    let alone = |slot| lhs.tangent(slot).filter(|da| da.shape() == shape && rhs.tangent(slot).is_none()).cloned();
    let mut active = active_slots(&[lhs, rhs]);
    let unchanged: Vec<_> = (0..active.len()).map(alone).collect();
    active.iter_mut().zip(&unchanged).for_each(|(active, unchanged)| *active &= unchanged.is_none());
    let (lhs, rhs) = (Repeated::<T>::new(lhs, &shape), Repeated::<T>::new(rhs, &shape));
    let mut sum = fill_dual(shape, &active, PIECE, |piece| {
        let mut buffers: [Vec<T>; 2] = Default::default();
        let [left, right] = &mut buffers;
        add_or_subtract(
            piece.primal,
            Some(lhs.primal(&piece.range, left)),
            Some(rhs.primal(&piece.range, right)),
            negative,
        );
        for (slot, out) in piece.tangents {
            let (da, db) = (lhs.tangent(slot, &piece.range, left), rhs.tangent(slot, &piece.range, right));
            add_or_subtract(out, da, db, negative);
        }
    });
    sum.tangents.iter_mut().zip(unchanged).for_each(|(tangent, unchanged)| *tangent = unchanged.or(tangent.take()));
    sum
}

/// x where `of` is positive (or NaN), else 0.
pub(super) fn where_positive<T: Element>(of: &FlexTensor, x: &Dual<Flex>) -> Dual<Flex> {
    let active = active_slots(&[x]);
    let shape = x.primal.shape();
    let (of, x) = (Operand::<T>::new(&Dual::constant(of.clone())), Operand::<T>::new(x));
    fill_dual(shape, &active, PIECE, |piece| {
        let of = &of.primal()[piece.range.clone()];
        let kept = |out: &mut [T], x: &[T]| {
            vectorized(
                #[inline(always)]
                || map2(out, of, x, |of, x| if of <= T::ZERO { T::ZERO } else { x }),
            );
        };
        kept(piece.primal, &x.primal()[piece.range.clone()]);
        for (slot, out) in piece.tangents {
            x.part(slot, &piece.range).into_iter().for_each(|t| kept(out, t));
        }
    })
}

/// `out = a + b` or `out = a - b`, where what is absent is zero.
fn add_or_subtract<T: Element>(out: &mut [T], a: Option<&[T]>, b: Option<&[T]>, negative: bool) {
    vectorized(
        #[inline(always)]
        || match (a, b) {
            (Some(a), Some(b)) if negative => map2(out, a, b, |a, b| a - b),
            (Some(a), Some(b)) => map2(out, a, b, |a, b| a + b),
            (None, Some(b)) if negative => map(out, b, |b| -b),
            (Some(x), None) | (None, Some(x)) => out.copy_from_slice(x),
            (None, None) => out.fill(T::ZERO),
        },
    );
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
    use super::super::repeated::common_shape;
    use super::super::testing::{Case, DIFFERENCE, dense, dual, duals_close, numbers, truth};
    use super::*;
    use burn_backend::ops::FloatTensorOps;

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

    fn product<T: Element>(x: &[Dual<Flex>]) -> Dual<Flex> {
        mul::<T>(&x[0], &x[1], x[0].shape())
    }

    #[test]
    fn mul_matches_differences() {
        check(product::<f64>, product::<f32>, |a, b| a * b);
    }

    #[test]
    fn sum_matches_differences() {
        for (negative, sign) in [(false, 1.0), (true, -1.0)] {
            let kernel = |x: &[Dual<Flex>]| sum::<f64>(&x[0], &x[1], negative, x[0].shape());
            let kernel32 = |x: &[Dual<Flex>]| sum::<f32>(&x[0], &x[1], negative, x[0].shape());
            check(kernel, kernel32, |a, b| a + sign * b);
        }
    }

    /// One by one with what flex makes of expanded tensors, on shapes of more than a piece.
    #[test]
    fn operands_are_repeated() {
        let shape = [3, 5, 20, 30];
        let shapes = [shape, [1, 5, 1, 1], [1, 1, 1, 30], [3, 1, 20, 1], [1, 1, 1, 1]];
        let slots = [[true, false, true, false], [true, true, false, false]];
        for (a, b) in shapes.iter().flat_map(|a| shapes.iter().map(move |b| (a, b))) {
            let (a, b) = (dual::<f64>(a, 1, &slots[0], Case::Dense), dual::<f64>(b, 2, &slots[1], Case::Dense));
            let Some(common) = common_shape(&a.shape(), &b.shape()) else { continue };
            let whole = |x: &Dual<Flex>| x.clone().map(|t| Flex::float_expand(t, common.clone()).to_contiguous());
            let (wide_a, wide_b) = (whole(&a), whole(&b));
            let bits = |d: &Dual<Flex>| {
                assert_eq!(d.shape(), common);
                std::iter::once(&d.primal).chain(d.tangents.iter().flatten()).map(numbers).collect::<Vec<_>>()
            };
            let together = mul::<f64>(&a, &b, common.clone());
            assert_eq!(together.mask(), [true, true, true, false]);
            assert!(bits(&together) == bits(&mul::<f64>(&wide_a, &wide_b, common.clone())));
            for negative in [false, true] {
                let together = sum::<f64>(&a, &b, negative, common.clone());
                assert_eq!(together.mask(), [true, true, true, false]);
                assert!(bits(&together) == bits(&sum::<f64>(&wide_a, &wide_b, negative, common.clone())));
            }
        }
    }

    #[test]
    fn what_is_not_positive_is_dropped_in_all_components() {
        let of = dense::<f64>(&[1.0, 0.0, -0.0, -2.0, f64::NAN, 3.0], &[2, 3]);
        let x = dual::<f64>(&[2, 3], 1, &[true, false, true], Case::Swapped);
        let y = where_positive::<f64>(&of, &x);
        assert_eq!(y.mask(), [true, false, true]);
        for (y, x) in [(&y.primal, &x.primal), (y.tangent(2).unwrap(), x.tangent(2).unwrap())] {
            let (y, x) = (numbers(y), numbers(x));
            assert_eq!(y, [x[0], 0.0, 0.0, 0.0, x[4], x[5]]);
        }
    }

    #[test]
    fn gelu_matches_differences() {
        check(|x| gelu::<f64>(&product::<f64>(x)), |x| gelu::<f32>(&product::<f32>(x)), |a, b| a * b * cdf(a * b));
    }

    #[test]
    fn gelu_backward_matches_differences() {
        check(|x| gelu_backward::<f64>(&x[0], &x[1]), |x| gelu_backward::<f32>(&x[0], &x[1]), |x, g| g * gelu_slope(x));
    }

    #[test]
    fn absent_slots_stay_absent() {
        let x = dual::<f64>(&[4], 1, &[false, true], Case::Dense);
        let y = product::<f64>(&[x, dual::<f64>(&[4], 2, &[], Case::Dense)]);
        assert_eq!(y.mask(), [false, true]);
    }
}
