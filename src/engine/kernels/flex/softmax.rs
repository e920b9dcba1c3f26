//! Softmax over the last dimension and its adjoint.

use std::ops::Range;

use burn_backend::{Shape, TensorMetadata};
use burn_flex::Flex;

use super::dual_slices::{Operand, Piece, active_slots, fill_dual, last_dimension, rows_piece};
use super::element::{Element, vectorized};
use super::lanes::{dot, dot2, max, sum, update, update2};
use crate::engine::kernels::{Dual, Mask};

/// `y = e^x / sum(e^x)`, with tangents `y (x' - sum(y x'))`.
pub(super) fn softmax<T: Element>(x: &Dual<Flex>) -> Dual<Flex> {
    let (active, shape, width) = (active_slots(&[x]), x.primal.shape(), last_dimension(&x.primal));
    let x = Operand::<T>::new(x);
    by_row(
        shape,
        &active,
        width,
        #[inline(always)]
        |piece, row| {
            let range = piece.whole(&row);
            let y = &mut piece.primal[row.clone()];
            y.copy_from_slice(&x.primal()[range.clone()]);
            let largest = max(y);
            normalize_exp(y, largest);
            for (slot, out) in &mut piece.tangents {
                if let Some(tangent) = x.part(*slot, &range) {
                    let out = &mut out[row.clone()];
                    out.copy_from_slice(tangent);
                    tangent_of_softmax(out, y);
                }
            }
        },
    )
}

/// `y (g - sum(y g))`, with tangents `y' (g - sum(y g)) + y (g' - sum(y' g + y g'))`.
pub(super) fn softmax_backward<T: Element>(y: &Dual<Flex>, grad: &Dual<Flex>) -> Dual<Flex> {
    let (active, shape, width) = (active_slots(&[y, grad]), y.primal.shape(), last_dimension(&y.primal));
    let (y, grad) = (Operand::<T>::new(y), Operand::<T>::new(grad));
    by_row(
        shape,
        &active,
        width,
        #[inline(always)]
        |piece, row| {
            let range = piece.whole(&row);
            let (p, g) = (&y.primal()[range.clone()], &grad.primal()[range.clone()]);
            let centre = dot(p, g);
            update2(&mut piece.primal[row.clone()], p, g, |_, p, g| p * (g - centre));
            for (slot, out) in &mut piece.tangents {
                let out = &mut out[row.clone()];
                match grad.part(*slot, &range) {
                    Some(tangent) => tangent_of_adjoint(out, (p, y.part(*slot, &range)), (g, tangent), centre),
                    None => {
                        let moved = y.part(*slot, &range).expect("a slot is active if y or the gradient is");
                        let moved_centre = dot(moved, g);
                        out.copy_from_slice(moved);
                        update2(out, p, g, |moved, p, g| moved * (g - centre) - p * moved_centre);
                    }
                }
            }
        },
    )
}

/// `out = y' (g - centre) + y (g' - sum(y' g + y g'))`, y' being 0 if absent.
#[inline(always)]
fn tangent_of_adjoint<T: Element>(
    out: &mut [T],
    (y, moved): (&[T], Option<&[T]>),
    (g, tangent): (&[T], &[T]),
    centre: T,
) {
    let moved_centre = match moved {
        Some(moved) => dot2(y, tangent, moved, g),
        None => dot(y, tangent),
    };
    update2(out, y, tangent, |_, y, tangent| y * (tangent - moved_centre));
    if let Some(moved) = moved {
        update2(out, moved, g, |out, moved, g| out + moved * (g - centre));
    }
}

/// `row_i = e^(row_i - largest) / sum`.
#[inline(always)]
pub(super) fn normalize_exp<T: Element>(row: &mut [T], largest: T) {
    row.iter_mut().for_each(|x| *x = (*x - largest).exp());
    let factor = T::ONE / sum(row).larger(T::MIN_POSITIVE);
    row.iter_mut().for_each(|x| *x *= factor);
}

/// Turns x' into `y (x' - sum(y x'))`.
#[inline(always)]
pub(super) fn tangent_of_softmax<T: Element>(tangent: &mut [T], y: &[T]) {
    let centre = dot(y, tangent);
    update(tangent, y, |x, y| y * (x - centre));
}

/// Fills a dual row by row; `row` gets a piece and the row's place in it.
fn by_row<T: Element>(
    shape: Shape,
    active: &Mask,
    width: usize,
    row: impl Fn(&mut Piece<'_, T>, Range<usize>) + Sync,
) -> Dual<Flex> {
    fill_dual(shape, active, rows_piece(width), |mut piece| {
        vectorized(
            #[inline(always)]
            || {
                for start in (0..piece.primal.len()).step_by(width) {
                    row(&mut piece, start..start + width);
                }
            },
        );
    })
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
        let x = laid_out::<f32>(&[1e4, f64::NEG_INFINITY, 1e4, -1e4], &[1, 4], Case::Dense);
        assert_eq!(numbers(&softmax::<f32>(&Dual::constant(x)).primal), [0.5, 0.0, 0.5, 0.0]);
    }
}
