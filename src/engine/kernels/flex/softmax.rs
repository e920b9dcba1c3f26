//! Softmax over the last dimension and its adjoint.

use burn_backend::TensorMetadata;
use burn_flex::Flex;

use super::dual_slices::{Operand, active_slots, fill_dual, last_dimension, rows_piece};
use super::element::{Element, vectorized};
use super::lanes::{dot, dot2, map, max, sum, update2, update3};
use crate::engine::kernels::Dual;

/// `y = e^x / sum(e^x)`, with tangents `y (x' - sum(y x'))`. A row of -inf alone gives 0.
pub(super) fn softmax<T: Element>(x: &Dual<Flex>) -> Dual<Flex> {
    let (active, shape, width) = (active_slots(&[x]), x.primal.shape(), last_dimension(&x.primal));
    let x = Operand::<T>::new(x);
    fill_dual(shape, &active, rows_piece(width), |piece| {
        let (y, range) = (piece.primal, piece.range);
        vectorized(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(width).zip(x.primal()[range.clone()].chunks_exact(width)) {
                    let largest = max(x).larger(T::MIN);
                    map(y, x, |x| x - largest);
                    normalize_exp(y);
                }
                for (slot, out) in piece.tangents {
                    let tangent = x.part(slot, &range).expect("active slots have a tangent");
                    let rows = out.chunks_exact_mut(width).zip(tangent.chunks_exact(width));
                    for ((out, tangent), y) in rows.zip(y.chunks_exact(width)) {
                        let centre = dot(y, tangent);
                        update2(out, tangent, y, |_, x, y| y * (x - centre));
                    }
                }
            },
        );
    })
}

/// `y (g - c)` with `c = sum(y g)`, with tangents `y' (g - c) + y (g' - c')`, `c' = sum(y' g + y g')`.
pub(super) fn softmax_backward<T: Element>(y: &Dual<Flex>, grad: &Dual<Flex>) -> Dual<Flex> {
    let (active, shape, width) = (active_slots(&[y, grad]), y.primal.shape(), last_dimension(&y.primal));
    let (y, grad) = (Operand::<T>::new(y), Operand::<T>::new(grad));
    fill_dual(shape, &active, rows_piece(width), |piece| {
        let (p, g) = (&y.primal()[piece.range.clone()], &grad.primal()[piece.range.clone()]);
        vectorized(
            #[inline(always)]
            || {
                for (row, out) in piece.primal.chunks_exact_mut(width).enumerate() {
                    let (p, g) = (nth(p, width, row), nth(g, width, row));
                    let centre = dot(p, g);
                    update2(out, p, g, |_, p, g| p * (g - centre));
                }
                for (slot, out) in piece.tangents {
                    let (moved_y, moved_g) = (y.part(slot, &piece.range), grad.part(slot, &piece.range));
                    for (row, out) in out.chunks_exact_mut(width).enumerate() {
                        let (p, g) = (nth(p, width, row), nth(g, width, row));
                        let moved = [moved_y, moved_g].map(|moved| moved.map(|m| nth(m, width, row)));
                        tangent_of_adjoint(out, p, g, moved);
                    }
                }
            },
        );
    })
}

/// The row of a given index.
#[inline(always)]
fn nth<T>(rows: &[T], width: usize, index: usize) -> &[T] {
    &rows[index * width..(index + 1) * width]
}

/// `out = y' (g - c) + y (g' - c')` over what is there of y' and g'.
#[inline(always)]
fn tangent_of_adjoint<T: Element>(out: &mut [T], y: &[T], g: &[T], moved: [Option<&[T]>; 2]) {
    match moved {
        [None, None] => out.fill(T::ZERO),
        [None, Some(moved_g)] => {
            let moved_centre = dot(y, moved_g);
            update2(out, y, moved_g, |_, y, g| y * (g - moved_centre));
        }
        [Some(moved_y), None] => {
            let (centre, moved_centre) = (dot(y, g), dot(moved_y, g));
            update3(out, y, g, moved_y, |_, y, g, moved| moved * (g - centre) - y * moved_centre);
        }
        [Some(moved_y), Some(moved_g)] => {
            let (centre, moved_centre) = (dot(y, g), dot2(y, moved_g, moved_y, g));
            update2(out, y, moved_g, |_, y, g| y * (g - moved_centre));
            update2(out, moved_y, g, |out, y, g| out + y * (g - centre));
        }
    }
}

/// `row_i = e^row_i / sum(e^row)`; 0 if every e^row_i is 0 (all entries masked).
#[inline(always)]
pub(super) fn normalize_exp<T: Element>(row: &mut [T]) {
    row.iter_mut().for_each(|x| *x = x.exp());
    let factor = T::ONE / sum(row).larger(T::MIN_POSITIVE);
    row.iter_mut().for_each(|x| *x *= factor);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, DIFFERENCE, dual, duals_close, laid_out, numbers, truth};
    use super::*;
    use burn_backend::ops::FloatTensorOps;
    use burn_flex::FlexTensor;

    fn plain_softmax(x: &[FlexTensor]) -> FlexTensor {
        let last = x[0].shape().num_dims() - 1;
        let exp = Flex::float_exp(x[0].clone());
        Flex::float_div(exp.clone(), Flex::float_sum_dim(exp, last))
    }

    fn plain_backward(x: &[FlexTensor]) -> FlexTensor {
        let last = x[0].shape().num_dims() - 1;
        let product = Flex::float_mul(x[0].clone(), x[1].clone());
        let sum = Flex::float_sum_dim(product, last);
        Flex::float_mul(x[0].clone(), Flex::float_sub(x[1].clone(), sum))
    }

    fn inputs<T: Element>(shape: &[usize], case: Case) -> [Dual<Flex>; 2] {
        [dual::<T>(shape, 1, &[true, false, true, false], case), dual::<T>(shape, 2, &[true, true, false], Case::Dense)]
    }

    #[test]
    fn both_match_differences() {
        for shape in [vec![9], vec![3, 5], vec![2, 17, 70]] {
            for case in Case::ALL {
                let (x, narrow) = (inputs::<f64>(&shape, case), inputs::<f32>(&shape, case));
                let forward = truth(&x[..1], plain_softmax);
                duals_close(&softmax::<f64>(&x[0]), &forward, DIFFERENCE);
                duals_close(&softmax::<f32>(&narrow[0]), &forward, 1e-6);
                let backward = truth(&x, plain_backward);
                duals_close(&softmax_backward::<f64>(&x[0], &x[1]), &backward, DIFFERENCE);
                duals_close(&softmax_backward::<f32>(&narrow[0], &narrow[1]), &backward, 2e-6);
            }
        }
    }

    #[test]
    fn large_and_masked_entries_are_safe() {
        let masked = f64::NEG_INFINITY;
        let x = laid_out::<f32>(&[1e4, masked, 1e4, -1e4, masked, masked, masked, masked], &[2, 4], Case::Dense);
        let expected = [0.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(numbers(&softmax::<f32>(&Dual::constant(x)).primal), expected);
    }
}
