//! Adjoints of attention, tile by tile, recomputing the probabilities.
//!
//! With g the upstream adjoint: `dv = P' g` (here ' is the transpose), `dP = g v'`, `C = dP - rowsum(dP P)`, `dS = P C`,
//! `dq = scale dS k`, `dk = scale dS' q`. Along a tangent (dot): `C. = dP. - rowsum(dP. P + C P.)` (rows of P. sum to 0),
//! `dS. = P. C + P C.`, and the products by the product rule.

use burn_backend::ops::AttentionModuleOptions;
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::attention::{HeadsBuffer, SharedHeads};
use super::attention_tiles::{Heads, Problem, Tile};
use super::dual_slices::{active_slots, to_be_filled};
use super::element::{Element, vectorized};
use super::lanes::{dot, dot2, update, update3};
use super::matrix::{Matrix, MatrixMut, Threads, Write, product};
use crate::engine::kernels::{AttentionAdjoints, Dual};

/// Adjoints of q, k and v. That of v does not depend on v, and has no tangent in slots where only v has one.
pub(super) fn attention_backward<T: Element>(
    query: &Dual<Flex>,
    key: &Dual<Flex>,
    value: &Dual<Flex>,
    mask: Option<&FlexTensor>,
    options: &AttentionModuleOptions,
    grad: &Dual<Flex>,
) -> Option<AttentionAdjoints<Flex>> {
    let problem = Problem::<T>::new([query, key, value], mask, options)?;
    let upstream = Heads::new(grad)?;
    let (active, of_value) = (active_slots(&[query, key, value, grad]), active_slots(&[query, key, grad]));
    let mut query_buffer = HeadsBuffer::new(problem.query.shape(), &active, false);
    let mut key_buffer = HeadsBuffer::new(problem.key.shape(), &active, true);
    let mut value_buffer = HeadsBuffer::new(problem.value.shape(), &of_value, true);
    {
        let backward = Backward {
            problem: &problem,
            upstream: &upstream,
            slots: query_buffer.slots(),
            value_slots: value_buffer.slots(),
            query: query_buffer.shared(),
            key: key_buffer.shared(),
            value: value_buffer.shared(),
        };
        // Tiles of one (batch, head) add to the same dk and dv: one task, in order.
        problem.places().par_iter().for_each(|&at| problem.tiles(at).for_each(|tile| backward.tile(&tile)));
    }
    Some((query_buffer.finish(), key_buffer.finish(), value_buffer.finish()))
}

struct Backward<'b, 'a, T> {
    problem: &'b Problem<'a, T>,
    upstream: &'b Heads<'a, T>,
    slots: Vec<usize>,
    value_slots: Vec<usize>,
    query: SharedHeads<'b, T>,
    key: SharedHeads<'b, T>,
    value: SharedHeads<'b, T>,
}

/// (rows, keys) matrices of a tile.
struct Scratch<T> {
    p: Vec<T>,
    /// C.
    centred: Vec<T>,
    /// dS.
    scores: Vec<T>,
    moved_p: Vec<T>,
    /// dP., then dS..
    moved_scores: Vec<T>,
}

impl<T: Element> Backward<'_, '_, T> {
    fn tile(&self, tile: &Tile<'_, '_, T>) {
        let buffer = || to_be_filled(tile.len());
        let mut scratch =
            Scratch { p: buffer(), centred: buffer(), scores: buffer(), moved_p: buffer(), moved_scores: buffer() };
        self.primal(tile, &mut scratch);
        for (index, &slot) in self.slots.iter().enumerate() {
            self.tangent(tile, index, slot, &mut scratch);
        }
    }

    fn primal(&self, tile: &Tile<'_, '_, T>, scratch: &mut Scratch<T>) {
        let problem = self.problem;
        let (query, key) = (tile.of_queries(&problem.query), tile.of_keys(&problem.key));
        let (value, grad) = (tile.of_keys(&problem.value), tile.of_queries(self.upstream));
        tile.probabilities(&mut scratch.p);
        let mut dp = tile.scores_mut(&mut scratch.centred);
        product(&mut dp, Write::Replace, T::ONE, grad, value.transposed(), Threads::This);
        centre_rows(tile, scratch);
        let (p, ds) = (tile.scores(&scratch.p), tile.scores(&scratch.scores));
        // SAFETY (here and in `tangent`): this task owns the (batch, head).
        let (mut dq, mut dk, mut dv) =
            unsafe { (self.query.primal(tile.at), self.key.primal(tile.at), self.value.primal(tile.at)) };
        product(&mut dq.rows(tile.rows.clone()), Write::Replace, problem.scale, ds, key, Threads::This);
        add_product(tile, &mut dk, problem.scale, ds, query);
        add_product(tile, &mut dv, T::ONE, p, grad);
    }

    fn tangent(&self, tile: &Tile<'_, '_, T>, index: usize, slot: usize, scratch: &mut Scratch<T>) {
        let problem = self.problem;
        let has_p = tile.moved_probabilities(slot, &scratch.p, &mut scratch.moved_p);
        let has_dp = self.moved_dp(tile, slot, &mut scratch.moved_scores);
        move_scores(tile, scratch, has_p, has_dp);
        let (query, key) = (tile.of_queries(&problem.query), tile.of_keys(&problem.key));
        let (ds, moved_ds) = (tile.scores(&scratch.scores), tile.scores(&scratch.moved_scores));
        let (mut dq, mut dk) = unsafe { (self.query.tangent(index, tile.at), self.key.tangent(index, tile.at)) };
        let mut dq = dq.rows(tile.rows.clone());
        product(&mut dq, Write::Replace, problem.scale, moved_ds, key, Threads::This);
        if let Some(moved_key) = tile.moved_of_keys(&problem.key, slot) {
            product(&mut dq, Write::Add, problem.scale, ds, moved_key, Threads::This);
        }
        add_product(tile, &mut dk, problem.scale, moved_ds, query);
        if let Some(moved_query) = tile.moved_of_queries(&problem.query, slot) {
            add_product(tile, &mut dk, problem.scale, ds, moved_query);
        }
        if let Some(index) = self.value_slots.iter().position(|&s| s == slot) {
            let mut dv = unsafe { self.value.tangent(index, tile.at) };
            if has_p {
                add_product(tile, &mut dv, T::ONE, tile.scores(&scratch.moved_p), tile.of_queries(self.upstream));
            }
            if let Some(moved_grad) = tile.moved_of_queries(self.upstream, slot) {
                add_product(tile, &mut dv, T::ONE, tile.scores(&scratch.p), moved_grad);
            }
        }
    }

    /// `dP. = g. v' + g v.'`; false if neither g nor v has the slot.
    fn moved_dp(&self, tile: &Tile<'_, '_, T>, slot: usize, out: &mut [T]) -> bool {
        let (value, grad) = (tile.of_keys(&self.problem.value), tile.of_queries(self.upstream));
        let (moved_value, moved_grad) =
            (tile.moved_of_keys(&self.problem.value, slot), tile.moved_of_queries(self.upstream, slot));
        let (mut out, mut write) = (tile.scores_mut(out), Write::Replace);
        for (grad, value) in [moved_grad.map(|g| (g, value)), moved_value.map(|v| (grad, v))].into_iter().flatten() {
            product(&mut out, write.then_add(), T::ONE, grad, value.transposed(), Threads::This);
        }
        write == Write::Add
    }
}

/// Adds `factor scores' rows` to the adjoint's rows of the visible keys.
fn add_product<T: Element>(
    tile: &Tile<'_, '_, T>,
    out: &mut MatrixMut<'_, T>,
    factor: T,
    scores: Matrix<'_, T>,
    rows: Matrix<'_, T>,
) {
    product(&mut out.rows(0..tile.num_keys), Write::Add, factor, scores.transposed(), rows, Threads::This);
}

/// Turns dP into C, and sets dS = P C.
fn centre_rows<T: Element>(tile: &Tile<'_, '_, T>, scratch: &mut Scratch<T>) {
    let cols = tile.num_keys.max(1);
    vectorized(
        #[inline(always)]
        || {
            let rows = scratch.centred.chunks_exact_mut(cols).zip(scratch.scores.chunks_exact_mut(cols));
            for ((centred, scores), p) in rows.zip(scratch.p.chunks_exact(cols)) {
                let centre = dot(centred, p);
                centred.iter_mut().for_each(|x| *x -= centre);
                for ((score, &c), &p) in scores.iter_mut().zip(centred.iter()).zip(p) {
                    *score = p * c;
                }
            }
        },
    );
}

/// Turns dP. into `dS. = P. C + P (dP. - rowsum(dP. P + C P.))`, over what is there of P. and dP..
fn move_scores<T: Element>(tile: &Tile<'_, '_, T>, scratch: &mut Scratch<T>, has_p: bool, has_dp: bool) {
    let cols = tile.num_keys.max(1);
    let Scratch { p, centred, moved_p, moved_scores, .. } = scratch;
    vectorized(
        #[inline(always)]
        || {
            let fixed = p.chunks_exact(cols).zip(centred.chunks_exact(cols));
            let moved = moved_scores.chunks_exact_mut(cols).zip(moved_p.chunks_exact(cols));
            for ((out, moved_p), (p, c)) in moved.zip(fixed) {
                match (has_p, has_dp) {
                    (true, true) => {
                        let centre = dot2(out, p, c, moved_p);
                        update3(out, p, c, moved_p, |dp, p, c, moved| moved * c + p * (dp - centre));
                    }
                    (true, false) => {
                        let centre = dot(c, moved_p);
                        update3(out, p, c, moved_p, |_, p, c, moved| moved * c - p * centre);
                    }
                    (false, true) => {
                        let centre = dot(out, p);
                        update(out, p, |dp, p| p * (dp - centre));
                    }
                    (false, false) => out.fill(T::ZERO),
                }
            }
        },
    );
}
