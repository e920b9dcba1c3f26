//! What attention and its adjoint share: views of the heads, and the probabilities of one tile of query rows.
//!
//! A tile is a run of query rows of one (batch, head) against the keys that any of them sees. Queries, keys and values
//! are read through their strides: usually they are slices of one fused projection.

use std::ops::Range;

use burn_backend::ops::AttentionModuleOptions;
use burn_backend::{BoolStore, DType};
use burn_flex::{Flex, FlexTensor};

use super::element::{Element, vectorized};
use super::lanes::{dot, max, update};
use super::matrix::{Matrix, MatrixMut, Threads, Write, product};
use super::softmax::normalize_exp;
use crate::engine::kernels::Dual;

/// Query rows of a tile (measured): small ones waste less above the diagonal, large ones make better products.
fn tile_rows(queries: usize) -> usize {
    if queries > 512 { 128 } else { 64 }
}

/// A (batch, heads, time, head) tensor.
#[derive(Clone, Copy)]
struct View<'a, N> {
    data: &'a [N],
    offset: usize,
    shape: [usize; 4],
    strides: [isize; 4],
}

impl<'a, N: burn_backend::Element + bytemuck::Pod> View<'a, N> {
    fn new(x: &'a FlexTensor) -> Option<Self> {
        let layout = x.layout();
        let shape = layout.shape().as_slice().try_into().ok()?;
        let strides = layout.strides().try_into().ok()?;
        Some(Self { data: x.storage(), offset: layout.start_offset(), shape, strides })
    }

    /// Where the matrix of a (batch, head) starts; dimensions of size 1 serve every index.
    fn start(&self, at: [usize; 2]) -> usize {
        let step = |d: usize| if self.shape[d] > 1 { at[d] as isize * self.strides[d] } else { 0 };
        (self.offset as isize + step(0) + step(1)) as usize
    }
}

impl<'a, T: Element> View<'a, T> {
    fn matrix(&self, at: [usize; 2]) -> Matrix<'a, T> {
        let ([_, _, rows, cols], [_, _, row_stride, col_stride]) = (self.shape, self.strides);
        Matrix::new(self.data, self.start(at), [rows, cols], [row_stride, col_stride])
    }
}

/// Views of a dual's primal and tangents.
pub(super) struct Heads<'a, T> {
    primal: View<'a, T>,
    tangents: Vec<Option<View<'a, T>>>,
}

impl<'a, T: Element> Heads<'a, T> {
    /// None unless the dual has rank 4.
    pub(super) fn new(dual: &'a Dual<Flex>) -> Option<Self> {
        let primal = View::new(&dual.primal)?;
        let tangents = dual.tangents.iter().map(|t| t.as_ref().and_then(View::new)).collect();
        Some(Self { primal, tangents })
    }

    /// (time, head) of a (batch, head).
    pub(super) fn primal(&self, at: [usize; 2]) -> Matrix<'a, T> {
        self.primal.matrix(at)
    }

    /// The tangent's (time, head), in a slot that has one.
    pub(super) fn tangent(&self, slot: usize, at: [usize; 2]) -> Option<Matrix<'a, T>> {
        Some(self.tangents.get(slot)?.as_ref()?.matrix(at))
    }

    /// (batch, heads, time, head).
    pub(super) fn shape(&self) -> [usize; 4] {
        self.primal.shape
    }
}

/// An attention's inputs.
pub(super) struct Problem<'a, T> {
    pub(super) query: Heads<'a, T>,
    pub(super) key: Heads<'a, T>,
    pub(super) value: Heads<'a, T>,
    mask: Option<View<'a, u8>>,
    causal: bool,
    /// Factor of the scores.
    pub(super) scale: T,
}

impl<'a, T: Element> Problem<'a, T> {
    /// None if the arguments ask for what the kernels do not do: a softcap, or heads that broadcast.
    pub(super) fn new(
        [query, key, value]: [&'a Dual<Flex>; 3],
        mask: Option<&'a FlexTensor>,
        options: &AttentionModuleOptions,
    ) -> Option<Self> {
        let (query, key, value) = (Heads::new(query)?, Heads::new(key)?, Heads::new(value)?);
        let ([batch, heads, _, width], [.., keys, _]) = (query.shape(), key.shape());
        let fits = key.shape() == [batch, heads, keys, width] && value.shape()[..3] == [batch, heads, keys];
        if options.softcap.is_some() || !fits {
            return None;
        }
        let mask = match mask {
            Some(mask) if !matches!(mask.dtype(), DType::Bool(BoolStore::Native | BoolStore::U8)) => return None,
            Some(mask) => Some(View::new(mask)?),
            None => None,
        };
        let scale = T::of(options.scale.unwrap_or(1.0 / (width as f64).sqrt()));
        Some(Self { query, key, value, mask, causal: options.is_causal, scale })
    }

    pub(super) fn num_queries(&self) -> usize {
        self.query.shape()[2]
    }

    fn num_keys(&self) -> usize {
        self.key.shape()[2]
    }

    /// Every (batch, head), in order.
    pub(super) fn places(&self) -> Vec<[usize; 2]> {
        let [batch, heads, ..] = self.query.shape();
        (0..batch).flat_map(|b| (0..heads).map(move |h| [b, h])).collect()
    }

    /// The tiles of one (batch, head).
    pub(super) fn tiles(&self, at: [usize; 2]) -> impl Iterator<Item = Tile<'_, 'a, T>> {
        let queries = self.num_queries();
        let step = tile_rows(queries);
        (0..queries).step_by(step).map(move |start| self.tile(at, start..queries.min(start + step)))
    }

    fn tile(&self, at: [usize; 2], rows: Range<usize>) -> Tile<'_, 'a, T> {
        Tile { problem: self, at, num_keys: self.visible(rows.end - 1), rows }
    }

    /// How many keys a query row sees: the last row of a causal attention sees all.
    fn visible(&self, row: usize) -> usize {
        let keys = self.num_keys();
        if self.causal { (row + 1 + keys).saturating_sub(self.num_queries()).min(keys) } else { keys }
    }
}

/// Query rows of one (batch, head), and the keys that any of them sees: always the first ones.
pub(super) struct Tile<'p, 'a, T> {
    problem: &'p Problem<'a, T>,
    pub(super) at: [usize; 2],
    pub(super) rows: Range<usize>,
    pub(super) num_keys: usize,
}

impl<'a, T: Element> Tile<'_, 'a, T> {
    /// Numbers in a (rows, keys) matrix.
    pub(super) fn len(&self) -> usize {
        self.rows.len() * self.num_keys
    }

    /// A (rows, keys) matrix to read.
    pub(super) fn scores<'s>(&self, numbers: &'s [T]) -> Matrix<'s, T> {
        Matrix::dense(numbers, self.rows.len(), self.num_keys)
    }

    /// A (rows, keys) matrix to write.
    pub(super) fn scores_mut<'s>(&self, numbers: &'s mut [T]) -> MatrixMut<'s, T> {
        MatrixMut::dense(numbers, self.rows.len(), self.num_keys)
    }

    /// The rows of a query-like dual (query, upstream adjoint).
    pub(super) fn of_queries(&self, heads: &Heads<'a, T>) -> Matrix<'a, T> {
        heads.primal(self.at).rows(self.rows.clone())
    }

    /// A tangent of the tile's queries.
    pub(super) fn moved_of_queries(&self, heads: &Heads<'a, T>, slot: usize) -> Option<Matrix<'a, T>> {
        Some(heads.tangent(slot, self.at)?.rows(self.rows.clone()))
    }

    /// The visible rows of keys or values.
    pub(super) fn of_keys(&self, heads: &Heads<'a, T>) -> Matrix<'a, T> {
        heads.primal(self.at).rows(0..self.num_keys)
    }

    /// A tangent of the keys that the tile meets.
    pub(super) fn moved_of_keys(&self, heads: &Heads<'a, T>, slot: usize) -> Option<Matrix<'a, T>> {
        Some(heads.tangent(slot, self.at)?.rows(0..self.num_keys))
    }

    /// P = softmax(scale q k'), 0 where masked; a row that sees nothing is 0.
    pub(super) fn probabilities(&self, out: &mut [T]) {
        let problem = self.problem;
        let (query, key) = (self.of_queries(&problem.query), self.of_keys(&problem.key));
        let mut scores = self.scores_mut(out);
        product(&mut scores, Write::Replace, problem.scale, query, key.transposed(), Threads::This);
        if let Some(mask) = &problem.mask {
            self.hide(out, mask);
        }
        vectorized(
            #[inline(always)]
            || {
                for (row, scores) in self.rows.clone().zip(out.chunks_exact_mut(self.num_keys.max(1))) {
                    let (seen, unseen) = scores.split_at_mut(problem.visible(row));
                    // The finite bound turns "all masked" into e^-inf = 0 instead of NaN.
                    let largest = max(seen).larger(T::MIN);
                    seen.iter_mut().for_each(|x| *x -= largest);
                    normalize_exp(seen);
                    unseen.fill(T::ZERO);
                }
            },
        );
    }

    /// Sets masked scores to -inf.
    fn hide(&self, scores: &mut [T], mask: &View<'_, u8>) {
        let ([_, _, rows, cols], [.., row_stride, col_stride]) = (mask.shape, mask.strides);
        let (row_stride, col_stride) = (if rows > 1 { row_stride } else { 0 }, if cols > 1 { col_stride } else { 0 });
        let start = mask.start(self.at) as isize;
        for (row, scores) in self.rows.clone().zip(scores.chunks_exact_mut(self.num_keys.max(1))) {
            for (col, score) in scores.iter_mut().enumerate() {
                let index = start + row as isize * row_stride + col as isize * col_stride;
                if mask.data[index as usize] != 0 {
                    *score = T::NEG_INFINITY;
                }
            }
        }
    }

    /// `P' = P (S' - rowsum(P S'))` with `S' = scale (q' k + q k')`; false if neither q nor k has the slot.
    pub(super) fn moved_probabilities(&self, slot: usize, p: &[T], out: &mut [T]) -> bool {
        let problem = self.problem;
        let (query, key) = (self.of_queries(&problem.query), self.of_keys(&problem.key));
        let (moved_query, moved_key) =
            (self.moved_of_queries(&problem.query, slot), self.moved_of_keys(&problem.key, slot));
        let terms = [moved_query.map(|q| (q, key)), moved_key.map(|k| (query, k))];
        if terms.iter().all(Option::is_none) {
            return false;
        }
        let (mut scores, mut write) = (self.scores_mut(out), Write::Replace);
        for (query, key) in terms.into_iter().flatten() {
            product(&mut scores, write.then_add(), problem.scale, query, key.transposed(), Threads::This);
        }
        let cols = self.num_keys.max(1);
        vectorized(
            #[inline(always)]
            || {
                for (out, p) in out.chunks_exact_mut(cols).zip(p.chunks_exact(cols)) {
                    let centre = dot(p, out);
                    update(out, p, |s, p| p * (s - centre));
                }
            },
        );
        true
    }
}
