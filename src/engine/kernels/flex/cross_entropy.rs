//! Mean cross-entropy of a linear head with its adjoints, in chunks of rows: logits exist for one chunk at a time.
//!
//! Per chunk: `z = h W'`, `Q = softmax(z) / rows`, `E = Q - onehot / rows` (the adjoint of z), `dh = E W`,
//! `dW += E' h`. Along a tangent (dot): `z. = h. W' + h W.'`, `m = rowsum(P z.)`, loss: `mean(m - z._target)`,
//! `E. = Q (z. - m)`, and the products by the product rule.

use std::ops::Range;

use burn_backend::{DType, Shape, TensorMetadata};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::dual_slices::{active_slots, tensor, to_be_filled};
use super::element::{Element, vectorized};
use super::lanes::{dot, max, sum};
use super::matrix::{Matrix, MatrixMut, Threads, Write, product};
use crate::engine::kernels::{Dual, LinearCrossEntropy, Mask, not_computed};

/// Logits of a chunk: 16 MiB in f32, but at least `MIN_ROWS` rows, which the products need to run at full rate.
pub(super) const LOGITS: usize = 1 << 22;
pub(super) const MIN_ROWS: usize = 256;
/// Logits that one task handles.
const LOGITS_PER_TASK: usize = 1 << 14;

/// Loss, and the adjoints of `hidden` and `weight` for an upstream adjoint of 1. None unless the targets are i32 or i64.
pub(super) fn linear_cross_entropy<T: Element>(
    hidden: &Dual<Flex>,
    weight: &Dual<Flex>,
    targets: &FlexTensor,
    hidden_needed: bool,
    weight_needed: bool,
) -> Option<LinearCrossEntropy<Flex>> {
    let targets = class_indices(targets, weight.primal.shape()[0])?;
    let mut head = Head::<T>::new(hidden, weight, &targets, hidden_needed, weight_needed);
    let rows = targets.len();
    let chunk = (LOGITS / head.classes.max(1)).max(MIN_ROWS);
    let mut scratch = Scratch::new(chunk.min(rows), head.classes);
    for start in (0..rows).step_by(chunk) {
        head.chunk(start..rows.min(start + chunk), &mut scratch);
    }
    Some(head.finish(hidden, weight))
}

/// The targets as checked indices.
fn class_indices(targets: &FlexTensor, classes: usize) -> Option<Vec<usize>> {
    let targets = targets.to_contiguous();
    let indices: Vec<i64> = match targets.dtype() {
        DType::I32 => targets.storage::<i32>().iter().map(|&t| t as i64).collect(),
        DType::I64 => targets.storage::<i64>().to_vec(),
        _ => return None,
    };
    let index = |(row, &target): (usize, &i64)| {
        assert!(0 <= target && target < classes as i64, "target {target} of row {row}: there are {classes} classes");
        target as usize
    };
    Some(indices.iter().enumerate().map(index).collect())
}

/// The matrix that a rank-2 tensor is, through its strides.
fn matrix<T: Element>(x: &FlexTensor) -> Matrix<'_, T> {
    let (layout, shape) = (x.layout(), x.shape());
    let strides = layout.strides();
    Matrix::new(x.storage(), layout.start_offset(), [shape[0], shape[1]], [strides[0], strides[1]])
}

/// A matrix operand with its tangents.
struct Operand<'a, T> {
    primal: Matrix<'a, T>,
    tangents: Vec<Option<Matrix<'a, T>>>,
}

impl<'a, T: Element> Operand<'a, T> {
    fn new(dual: &'a Dual<Flex>) -> Self {
        let tangents = dual.tangents.iter().map(|t| t.as_ref().map(matrix)).collect();
        Self { primal: matrix(&dual.primal), tangents }
    }

    fn tangent(&self, slot: usize) -> Option<Matrix<'a, T>> {
        self.tangents.get(slot).copied().flatten()
    }
}

/// Logit-sized matrices and one number a row, for one chunk.
struct Scratch<T> {
    /// z, then E.
    adjoint: Vec<T>,
    /// z., then E..
    moved: Vec<T>,
    /// Q at the target.
    target_share: Vec<T>,
    /// A row's contribution to a loss.
    losses: Vec<f64>,
}

impl<T: Element> Scratch<T> {
    fn new(rows: usize, classes: usize) -> Self {
        let (adjoint, moved) = (to_be_filled(rows * classes), to_be_filled(rows * classes));
        Self { adjoint, moved, target_share: to_be_filled(rows), losses: vec![0.0; rows] }
    }
}

/// The adjoint of one operand under construction: of the primal, if wanted, and of wanted slots.
struct Adjoint<T> {
    primal: Option<Vec<T>>,
    tangents: Vec<Option<Vec<T>>>,
}

impl<T: Element> Adjoint<T> {
    fn new(len: usize, primal: bool, slots: &Mask) -> Self {
        let zeros = |&wanted: &bool| wanted.then(|| vec![T::ZERO; len]);
        Self { primal: zeros(&primal), tangents: slots.iter().map(zeros).collect() }
    }

    /// As a dual; the primal is NaN if it was not wanted.
    fn finish(self, like: &FlexTensor) -> Dual<Flex> {
        let tensor = |numbers| tensor::<T>(numbers, like.shape());
        let primal = self.primal.map(tensor).unwrap_or_else(|| not_computed::<Flex>(like, like.shape()));
        Dual::new(primal, self.tangents.into_iter().map(|t| t.map(tensor)).collect())
    }
}

struct Head<'a, T> {
    hidden: Operand<'a, T>,
    weight: Operand<'a, T>,
    targets: &'a [usize],
    classes: usize,
    width: usize,
    active: Mask,
    loss: f64,
    moved_loss: Vec<f64>,
    hidden_adjoint: Option<Adjoint<T>>,
    weight_adjoint: Option<Adjoint<T>>,
}

impl<'a, T: Element> Head<'a, T> {
    fn new(
        hidden: &'a Dual<Flex>,
        weight: &'a Dual<Flex>,
        targets: &'a [usize],
        hidden_needed: bool,
        weight_needed: bool,
    ) -> Self {
        let active = active_slots(&[hidden, weight]);
        let shape = weight.primal.shape();
        let (classes, width) = (shape[0], shape[1]);
        let hidden_adjoint = hidden_needed.then(|| Adjoint::new(targets.len() * width, true, &active));
        let of_weight = if weight.tangents_only { weight.mask() } else { active.clone() };
        let weight_adjoint = weight_needed.then(|| Adjoint::new(classes * width, !weight.tangents_only, &of_weight));
        let (moved_loss, hidden, weight) = (vec![0.0; active.len()], Operand::new(hidden), Operand::new(weight));
        Self { hidden, weight, targets, classes, width, active, loss: 0.0, moved_loss, hidden_adjoint, weight_adjoint }
    }

    fn chunk(&mut self, rows: Range<usize>, scratch: &mut Scratch<T>) {
        let hidden = self.hidden.primal.rows(rows.clone());
        let terms = [(hidden, self.weight.primal)];
        self.logits(&mut scratch.adjoint, rows.len(), &terms);
        self.loss += self.softmax_rows(&rows, scratch);
        if let Some(numbers) = self.hidden_adjoint.as_mut().and_then(|a| a.primal.as_mut()) {
            let terms = [(scores(&scratch.adjoint, rows.len(), self.classes), self.weight.primal)];
            add_products(rows_of(numbers, &rows, self.width), rows.len(), self.width, &terms);
        }
        if let Some(numbers) = self.weight_adjoint.as_mut().and_then(|a| a.primal.as_mut()) {
            let terms = [(scores(&scratch.adjoint, rows.len(), self.classes).transposed(), hidden)];
            add_products(numbers, self.classes, self.width, &terms);
        }
        for slot in (0..self.active.len()).filter(|&s| self.active[s]).collect::<Vec<_>>() {
            self.slot(slot, &rows, scratch);
        }
    }

    fn slot(&mut self, slot: usize, rows: &Range<usize>, scratch: &mut Scratch<T>) {
        let (hidden, weight) = (self.hidden.primal.rows(rows.clone()), self.weight.primal);
        let moved_hidden = self.hidden.tangent(slot).map(|h| h.rows(rows.clone()));
        let moved_weight = self.weight.tangent(slot);
        let terms = [moved_hidden.map(|h| (h, weight)), moved_weight.map(|w| (hidden, w))];
        self.logits(&mut scratch.moved, rows.len(), &terms.into_iter().flatten().collect::<Vec<_>>());
        self.moved_loss[slot] += self.move_rows(rows, scratch);
        let (adjoint, moved) =
            (scores(&scratch.adjoint, rows.len(), self.classes), scores(&scratch.moved, rows.len(), self.classes));
        if let Some(numbers) = wanted(&mut self.hidden_adjoint, slot) {
            let terms = [Some((moved, weight)), moved_weight.map(|w| (adjoint, w))];
            let terms: Vec<_> = terms.into_iter().flatten().collect();
            add_products(rows_of(numbers, rows, self.width), rows.len(), self.width, &terms);
        }
        if let Some(numbers) = wanted(&mut self.weight_adjoint, slot) {
            let terms = [Some((moved.transposed(), hidden)), moved_hidden.map(|h| (adjoint.transposed(), h))];
            add_products(numbers, self.classes, self.width, &terms.into_iter().flatten().collect::<Vec<_>>());
        }
    }

    /// `sum h W'` over (h, W).
    fn logits(&self, out: &mut [T], rows: usize, terms: &[(Matrix<'_, T>, Matrix<'_, T>)]) {
        let mut out = MatrixMut::dense(&mut out[..rows * self.classes], rows, self.classes);
        let mut write = Write::Replace;
        for &(hidden, weight) in terms {
            product(&mut out, write.then_add(), T::ONE, hidden, weight.transposed(), Threads::All);
        }
    }

    /// Turns z into E; returns the sum of the rows' losses.
    fn softmax_rows(&self, rows: &Range<usize>, scratch: &mut Scratch<T>) -> f64 {
        let share = T::of(1.0 / self.targets.len() as f64);
        let tasks = scratch.adjoint.par_chunks_exact_mut(self.classes).zip(&mut scratch.target_share);
        let tasks = tasks.zip(&mut scratch.losses).zip(&self.targets[rows.clone()]);
        tasks.with_min_len(LOGITS_PER_TASK.div_ceil(self.classes)).for_each(|(((z, at_target), loss), &target)| {
            vectorized(
                #[inline(always)]
                || {
                    let (largest, score) = (max(z), z[target]);
                    z.iter_mut().for_each(|z| *z = (*z - largest).exp());
                    let total = sum(z);
                    let factor = share / total;
                    z.iter_mut().for_each(|z| *z *= factor);
                    *loss = total.wide().ln() - (score - largest).wide();
                    *at_target = z[target];
                    z[target] -= share;
                },
            );
        });
        scratch.losses[..rows.len()].iter().sum()
    }

    /// Turns z. into E.; returns the sum of the rows' loss tangents `m - z._target`.
    fn move_rows(&self, rows: &Range<usize>, scratch: &mut Scratch<T>) -> f64 {
        let count = T::of(self.targets.len() as f64);
        let tasks = scratch.moved.par_chunks_exact_mut(self.classes);
        let tasks = tasks.zip(scratch.adjoint.par_chunks_exact(self.classes)).zip(&scratch.target_share);
        let tasks = tasks.zip(&mut scratch.losses).zip(&self.targets[rows.clone()]);
        let tasks = tasks.with_min_len(LOGITS_PER_TASK.div_ceil(self.classes));
        tasks.for_each(|((((moved, adjoint), &at_target), loss), &target)| {
            vectorized(
                #[inline(always)]
                || {
                    // rowsum(E z.) rows = m - z._target
                    let at = moved[target];
                    let change = dot(adjoint, moved) * count;
                    let centre = change + at;
                    for (moved, &adjoint) in moved.iter_mut().zip(adjoint) {
                        *moved = adjoint * (*moved - centre);
                    }
                    moved[target] = at_target * (at - centre);
                    *loss = change.wide();
                },
            );
        });
        scratch.losses[..rows.len()].iter().sum()
    }

    fn finish(self, hidden: &Dual<Flex>, weight: &Dual<Flex>) -> LinearCrossEntropy<Flex> {
        let rows = self.targets.len() as f64;
        let number = |total: f64| tensor(vec![T::of(total / rows)], Shape::from(vec![1]));
        let moved = self.active.iter().zip(&self.moved_loss).map(|(&on, &total)| on.then(|| number(total)));
        LinearCrossEntropy {
            loss: Dual::new(number(self.loss), moved.collect()),
            hidden: self.hidden_adjoint.map(|a| a.finish(&hidden.primal)),
            weight: self.weight_adjoint.map(|a| a.finish(&weight.primal)),
        }
    }
}

/// The numbers of a slot that is wanted.
fn wanted<T>(adjoint: &mut Option<Adjoint<T>>, slot: usize) -> Option<&mut Vec<T>> {
    adjoint.as_mut()?.tangents.get_mut(slot)?.as_mut()
}

/// The first rows of a logit-sized buffer.
fn scores<T: Element>(numbers: &[T], rows: usize, classes: usize) -> Matrix<'_, T> {
    Matrix::dense(&numbers[..rows * classes], rows, classes)
}

/// A range of rows.
fn rows_of<'a, T>(numbers: &'a mut [T], rows: &Range<usize>, width: usize) -> &'a mut [T] {
    &mut numbers[rows.start * width..rows.end * width]
}

/// `out += sum lhs rhs`.
fn add_products<T: Element>(out: &mut [T], rows: usize, cols: usize, terms: &[(Matrix<'_, T>, Matrix<'_, T>)]) {
    let mut out = MatrixMut::dense(out, rows, cols);
    for &(lhs, rhs) in terms {
        product(&mut out, Write::Add, T::ONE, lhs, rhs, Threads::All);
    }
}
