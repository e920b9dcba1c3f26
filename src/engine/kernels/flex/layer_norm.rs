//! LayerNorm over the last dimension and its adjoints.
//!
//! Per row, with means over its `width` entries: `r = 1 / sqrt(var + eps)` (biased variance), `n = (x - mean(x)) r`,
//! `y = gamma n + beta`. Along a tangent x': `n' = r (x' - mean(x') - n c)` with `c = mean(n x')`, and `r' = -r^2 c`.

use burn_backend::{Shape, TensorMetadata};
use burn_flex::Flex;
use rayon::prelude::*;

use super::dual_slices::{Operand, Piece, active_slots, fill_dual, last_dimension, rows_piece, tensor};
use super::element::{Element, vectorized};
use super::lanes::{dot, dot2, map, sum, update, update2, update3};
use crate::engine::kernels::{Dual, Mask, not_computed};

/// `gamma n + beta`, with tangents `gamma' n + gamma n' + beta'`.
pub(super) fn layer_norm<T: Element>(
    x: &Dual<Flex>,
    gamma: &Dual<Flex>,
    beta: Option<&Dual<Flex>>,
    epsilon: f64,
) -> Dual<Flex> {
    let inputs: Vec<_> = [x, gamma].into_iter().chain(beta).collect();
    let (active, shape, width) = (active_slots(&inputs), x.primal.shape(), last_dimension(&x.primal));
    let (x, gamma, beta) = (Operand::<T>::new(x), Operand::<T>::new(gamma), beta.map(Operand::<T>::new));
    fill_dual(shape, &active, rows_piece(width), |mut piece| {
        let mut row = Row::new(width, T::of(epsilon));
        vectorized(
            #[inline(always)]
            || {
                for start in (0..piece.primal.len()).step_by(width) {
                    row.forward(&mut piece, start, &x, &gamma, beta.as_ref());
                }
            },
        );
    })
}

/// A row's statistics and scratch.
struct Row<T> {
    /// The normalised entries n.
    normal: Vec<T>,
    /// Their tangent n'.
    moved: Vec<T>,
    /// `u = gamma g`.
    upstream: Vec<T>,
    /// r.
    scale: T,
    epsilon: T,
}

impl<T: Element> Row<T> {
    fn new(width: usize, epsilon: T) -> Self {
        let zeros = || vec![T::ZERO; width];
        Self { normal: zeros(), moved: zeros(), upstream: zeros(), scale: T::ONE, epsilon }
    }

    /// 1 / width.
    #[inline(always)]
    fn share(&self) -> T {
        T::of(1.0 / self.normal.len() as f64)
    }

    /// Sets n and r.
    #[inline(always)]
    fn normalize(&mut self, x: &[T]) {
        let share = self.share();
        let mean = sum(x) * share;
        map(&mut self.normal, x, |x| x - mean);
        let scale = T::ONE / (dot(&self.normal, &self.normal) * share + self.epsilon).sqrt();
        self.normal.iter_mut().for_each(|n| *n *= scale);
        self.scale = scale;
    }

    /// Sets n' from x' and returns c; without x' both are 0.
    #[inline(always)]
    fn move_along(&mut self, tangent: Option<&[T]>) -> T {
        let Some(tangent) = tangent else {
            self.moved.fill(T::ZERO);
            return T::ZERO;
        };
        let (share, scale) = (self.share(), self.scale);
        let (mean, c) = (sum(tangent) * share, dot(&self.normal, tangent) * share);
        update2(&mut self.moved, tangent, &self.normal, |_, x, n| scale * (x - mean - n * c));
        c
    }

    /// One row of the primal and of all tangents.
    #[inline(always)]
    fn forward(
        &mut self,
        piece: &mut Piece<'_, T>,
        start: usize,
        x: &Operand<T>,
        gamma: &Operand<T>,
        beta: Option<&Operand<T>>,
    ) {
        let inside = start..start + self.normal.len();
        let range = piece.whole(&inside);
        self.normalize(&x.primal()[range.clone()]);
        let out = &mut piece.primal[inside.clone()];
        update2(out, &self.normal, gamma.primal(), |_, n, gamma| n * gamma);
        if let Some(beta) = beta {
            update(out, beta.primal(), |y, beta| y + beta);
        }
        for (slot, out) in &mut piece.tangents {
            let out = &mut out[inside.clone()];
            self.move_along(x.part(*slot, &range));
            update2(out, &self.moved, gamma.primal(), |_, n, gamma| n * gamma);
            if let Some(gamma) = gamma.tangent(*slot) {
                update2(out, &self.normal, gamma, |y, n, gamma| y + n * gamma);
            }
            if let Some(beta) = beta.and_then(|b| b.tangent(*slot)) {
                update(out, beta, |y, beta| y + beta);
            }
        }
    }
}

/// Adjoints of x and gamma. With `u = gamma g`, `a = mean(u)`, `b = mean(u n)`:
/// `x: r (u - a - n b)`, `gamma: sum over rows of g n`; tangents by the product rule.
pub(super) fn layer_norm_backward<T: Element>(
    x: &Dual<Flex>,
    gamma: &Dual<Flex>,
    grad: &Dual<Flex>,
    epsilon: f64,
    keep: &Mask,
    gamma_needed: bool,
) -> (Dual<Flex>, Option<Dual<Flex>>) {
    let gamma_adjoint = gamma_needed.then(|| gamma_adjoint::<T>(x, gamma, grad, epsilon));
    let active = active_slots(&[x, gamma, grad]);
    let kept = active.iter().enumerate().map(|(s, &on)| on && keep.get(s).copied().unwrap_or(false)).collect();
    let (shape, width) = (x.primal.shape(), last_dimension(&x.primal));
    let (x, gamma, grad) = (Operand::<T>::new(x), Operand::<T>::new(gamma), Operand::<T>::new(grad));
    let x_adjoint = fill_dual(shape, &kept, rows_piece(width), |mut piece| {
        let mut row = Row::new(width, T::of(epsilon));
        vectorized(
            #[inline(always)]
            || {
                for start in (0..piece.primal.len()).step_by(width) {
                    row.backward(&mut piece, start, &x, &gamma, &grad);
                }
            },
        );
    });
    (x_adjoint, gamma_adjoint)
}

impl<T: Element> Row<T> {
    /// One row of the adjoint of x and of all its tangents:
    /// `(r'/r) x_adjoint + r (u' - mean(u') - n' b - n mean(u' n + u n'))`, where `r'/r = -r c`.
    #[inline(always)]
    fn backward(
        &mut self,
        piece: &mut Piece<'_, T>,
        start: usize,
        x: &Operand<T>,
        gamma: &Operand<T>,
        grad: &Operand<T>,
    ) {
        let inside = start..start + self.normal.len();
        let range = piece.whole(&inside);
        let (share, upstream) = (self.share(), &grad.primal()[range.clone()]);
        self.normalize(&x.primal()[range.clone()]);
        let scale = self.scale;
        update2(&mut self.upstream, upstream, gamma.primal(), |_, g, gamma| g * gamma);
        let (a, b) = (sum(&self.upstream) * share, dot(&self.upstream, &self.normal) * share);
        let adjoint = &mut piece.primal[inside.clone()];
        update2(adjoint, &self.upstream, &self.normal, |_, u, n| scale * (u - a - n * b));
        for (slot, out) in &mut piece.tangents {
            let out = &mut out[inside.clone()];
            let shrink = -scale * self.move_along(x.part(*slot, &range));
            moved_upstream(out, upstream, grad.part(*slot, &range), gamma.primal(), gamma.tangent(*slot));
            let a = sum(out) * share;
            let moved_b = dot2(out, &self.normal, &self.upstream, &self.moved) * share;
            update3(out, &self.normal, &self.moved, adjoint, |u, n, moved, adjoint| {
                shrink * adjoint + scale * (u - a - moved * b - n * moved_b)
            });
        }
    }
}

/// `u' = g' gamma + g gamma'`.
#[inline(always)]
fn moved_upstream<T: Element>(
    out: &mut [T],
    grad: &[T],
    grad_tangent: Option<&[T]>,
    gamma: &[T],
    gamma_tangent: Option<&[T]>,
) {
    match grad_tangent {
        Some(tangent) => update2(out, tangent, gamma, |_, g, gamma| g * gamma),
        None => out.fill(T::ZERO),
    }
    if let Some(tangent) = gamma_tangent {
        update2(out, grad, tangent, |u, g, gamma| u + g * gamma);
    }
}

/// Rows summed by one task; partial sums are then added in order.
const ROWS_PER_SUM: usize = 64;

/// `sum over rows of g n`, with tangents `g' n + g n'`: of a `tangents_only` gamma only the tangents of its own slots.
fn gamma_adjoint<T: Element>(x: &Dual<Flex>, gamma: &Dual<Flex>, grad: &Dual<Flex>, epsilon: f64) -> Dual<Flex> {
    let width = last_dimension(&x.primal);
    let active = if gamma.tangents_only { gamma.mask() } else { active_slots(&[x, gamma, grad]) };
    let slots: Vec<usize> = (0..active.len()).filter(|&s| active[s]).collect();
    let (x, grad) = (Operand::<T>::new(x), Operand::<T>::new(grad));
    let rows = x.primal().len() / width.max(1);
    let groups = (0..rows.div_ceil(ROWS_PER_SUM)).into_par_iter().map(|group| {
        let mut sums = vec![vec![T::ZERO; width]; 1 + slots.len()];
        let mut row = Row::new(width, T::of(epsilon));
        vectorized(
            #[inline(always)]
            || {
                for index in group * ROWS_PER_SUM..rows.min((group + 1) * ROWS_PER_SUM) {
                    row.add_gamma(&mut sums, &slots, index * width, &x, &grad);
                }
            },
        );
        sums
    });
    let mut total = vec![vec![T::ZERO; width]; 1 + slots.len()];
    for group in groups.collect::<Vec<_>>() {
        for (total, part) in total.iter_mut().zip(&group) {
            update(total, part, |a, b| a + b);
        }
    }
    let shape = Shape::from(vec![width]);
    let mut sums = total.into_iter().map(|numbers| tensor(numbers, shape.clone()));
    let primal = sums.next().filter(|_| !gamma.tangents_only);
    let primal = primal.unwrap_or_else(|| not_computed::<Flex>(&gamma.primal, shape.clone()));
    Dual::new(primal, active.iter().map(|&on| if on { sums.next() } else { None }).collect())
}

impl<T: Element> Row<T> {
    /// Adds a row's `g n` to the first sum and `g' n + g n'` to the others.
    #[inline(always)]
    fn add_gamma(&mut self, sums: &mut [Vec<T>], slots: &[usize], start: usize, x: &Operand<T>, grad: &Operand<T>) {
        let range = start..start + self.normal.len();
        let upstream = &grad.primal()[range.clone()];
        self.normalize(&x.primal()[range.clone()]);
        update2(&mut sums[0], upstream, &self.normal, |sum, g, n| sum + g * n);
        for (sum, &slot) in sums[1..].iter_mut().zip(slots) {
            if let Some(tangent) = x.part(slot, &range) {
                self.move_along(Some(tangent));
                update2(sum, upstream, &self.moved, |sum, g, n| sum + g * n);
            }
            if let Some(tangent) = grad.part(slot, &range) {
                update2(sum, tangent, &self.normal, |sum, g, n| sum + g * n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Case, DIFFERENCE, close, dual, duals_close, numbers, truth};
    use super::*;
    use burn_backend::ops::FloatTensorOps;
    use burn_flex::FlexTensor;

    const EPSILON: f64 = 1e-2;

    /// (n, r) by tensor operations.
    fn normalized(x: &FlexTensor) -> (FlexTensor, FlexTensor) {
        let last = x.shape().num_dims() - 1;
        let centered = Flex::float_sub(x.clone(), Flex::float_mean_dim(x.clone(), last));
        let variance = Flex::float_mean_dim(Flex::float_mul(centered.clone(), centered.clone()), last);
        let scale = Flex::float_recip(Flex::float_sqrt(Flex::float_add_scalar(variance, EPSILON.into())));
        (Flex::float_mul(centered, scale.clone()), scale)
    }

    /// A vector as a row of x.
    fn row(v: &FlexTensor, x: &FlexTensor) -> FlexTensor {
        let mut shape = vec![1; x.shape().num_dims()];
        *shape.last_mut().unwrap() = v.shape()[0];
        Flex::float_reshape(v.clone(), Shape::from(shape))
    }

    fn plain_forward(x: &[FlexTensor]) -> FlexTensor {
        let scaled = Flex::float_mul(normalized(&x[0]).0, row(&x[1], &x[0]));
        if x.len() > 2 { Flex::float_add(scaled, row(&x[2], &x[0])) } else { scaled }
    }

    fn plain_x_adjoint(x: &[FlexTensor]) -> FlexTensor {
        let last = x[0].shape().num_dims() - 1;
        let (n, scale) = normalized(&x[0]);
        let u = Flex::float_mul(x[2].clone(), row(&x[1], &x[0]));
        let a = Flex::float_mean_dim(u.clone(), last);
        let b = Flex::float_mean_dim(Flex::float_mul(u.clone(), n.clone()), last);
        Flex::float_mul(Flex::float_sub(Flex::float_sub(u, a), Flex::float_mul(n, b)), scale)
    }

    fn plain_gamma_adjoint(x: &[FlexTensor]) -> FlexTensor {
        let width = x[1].shape()[0];
        let product = Flex::float_mul(x[2].clone(), normalized(&x[0]).0).to_contiguous();
        let rows = product.shape().num_elements() / width;
        let sum = Flex::float_sum_dim(Flex::float_reshape(product, Shape::from(vec![rows, width])), 0);
        Flex::float_reshape(sum, Shape::from(vec![width]))
    }

    const SHAPES: [&[usize]; 3] = [&[5, 7], &[2, 3, 33], &[150, 20]];

    /// x, and gamma and beta (or grad) with slots of their own.
    fn inputs<T: Element>(shape: &[usize], third: &[usize], case: Case) -> Vec<Dual<Flex>> {
        let width = &shape[shape.len() - 1..];
        vec![
            dual::<T>(shape, 1, &[true, false, true, false], case),
            dual::<T>(width, 2, &[true, true, false], Case::Dense),
            dual::<T>(third, 3, &[true], case),
        ]
    }

    #[test]
    fn forward_matches_differences() {
        for shape in SHAPES {
            for case in Case::ALL {
                let wide = inputs::<f64>(shape, &shape[shape.len() - 1..], case);
                let narrow = inputs::<f32>(shape, &shape[shape.len() - 1..], case);
                for count in [2, 3] {
                    let truth = truth(&wide[..count], plain_forward);
                    let y = layer_norm::<f64>(&wide[0], &wide[1], wide[..count].get(2), EPSILON);
                    duals_close(&y, &truth, DIFFERENCE);
                    let y = layer_norm::<f32>(&narrow[0], &narrow[1], narrow[..count].get(2), EPSILON);
                    duals_close(&y, &truth, 2e-6);
                }
            }
        }
    }

    #[test]
    fn backward_matches_differences() {
        let all = vec![true; 4];
        for shape in SHAPES {
            for case in Case::ALL {
                let x = inputs::<f64>(shape, shape, case);
                let (x_truth, gamma_truth) = (truth(&x, plain_x_adjoint), truth(&x, plain_gamma_adjoint));
                let (x_adjoint, gamma) = layer_norm_backward::<f64>(&x[0], &x[1], &x[2], EPSILON, &all, true);
                duals_close(&x_adjoint, &x_truth, DIFFERENCE);
                duals_close(&gamma.unwrap(), &gamma_truth, DIFFERENCE);
                let x = inputs::<f32>(shape, shape, case);
                let (x_adjoint, gamma) = layer_norm_backward::<f32>(&x[0], &x[1], &x[2], EPSILON, &all, true);
                duals_close(&x_adjoint, &x_truth, 3e-6);
                duals_close(&gamma.unwrap(), &gamma_truth, 3e-6);
            }
        }
    }

    #[test]
    fn only_kept_slots_and_own_slots_are_formed() {
        let mut x = inputs::<f64>(&[5, 7], &[5, 7], Case::Dense);
        let full = layer_norm_backward::<f64>(&x[0], &x[1], &x[2], EPSILON, &vec![true; 4], true);
        x[1].tangents_only = true;
        let keep = vec![false, true, false, true];
        let (x_adjoint, gamma) = layer_norm_backward::<f64>(&x[0], &x[1], &x[2], EPSILON, &keep, true);
        let gamma = gamma.unwrap();
        assert_eq!(x_adjoint.mask(), [false, true, false, false]);
        close(x_adjoint.tangent(1).unwrap(), full.0.tangent(1).unwrap(), 0.0);
        assert_eq!(gamma.mask(), [true, true, false]);
        close(gamma.tangent(0).unwrap(), full.1.as_ref().unwrap().tangent(0).unwrap(), 0.0);
        assert!(numbers(&gamma.primal).iter().all(|x| x.is_nan()));
        assert!(layer_norm_backward::<f64>(&x[0], &x[1], &x[2], EPSILON, &keep, false).1.is_none());
    }

    #[test]
    fn adjoint_is_the_transpose_of_the_tangent() {
        let inner =
            |a: &FlexTensor, b: &FlexTensor| -> f64 { numbers(a).iter().zip(numbers(b)).map(|(a, b)| a * b).sum() };
        let x = inputs::<f64>(&[2, 3, 33], &[2, 3, 33], Case::Dense);
        let y = layer_norm::<f64>(&x[0], &x[1], None, EPSILON);
        let (x_adjoint, gamma) = layer_norm_backward::<f64>(&x[0], &x[1], &x[2], EPSILON, &vec![], true);
        let left = inner(&x[2].primal, y.tangent(0).unwrap());
        let right = inner(&x_adjoint.primal, x[0].tangent(0).unwrap())
            + inner(&gamma.unwrap().primal, x[1].tangent(0).unwrap());
        assert!((left - right).abs() < 1e-12 * (1.0 + left.abs()), "{left} {right}");
    }
}
