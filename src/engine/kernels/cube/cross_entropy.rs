//! Mean cross-entropy of a linear head with its adjoints, in chunks of rows: logits exist for one chunk and one slot at a time.
//!
//! Per chunk: `z = h W'`, `Q = softmax(z) / rows`, `E = Q - onehot / rows` (the adjoint of z), `dh = E W`,
//! `dW += E' h`. Along a tangent (dot): `z. = h. W' + h W.'`, `m = rowsum(P z.)`, loss: `mean(m - z._target)`,
//! `E. = Q (z. - m)`, and the products by the product rule. Rows are passes.

use std::ops::Range;

use burn_backend::tensor::{FloatTensor, IntTensor};
use burn_backend::{Shape, Slice, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::rows::{Grid, Pass, add_up, largest};
use super::{Cube, active_slots};
use crate::engine::kernels::{Dual, Kernels, LinearCrossEntropy, Mask, not_computed, transposed};

/// Logits of a chunk: 128 MiB, of which four lie in memory at once; 667 rows of GPT-2's vocabulary.
const LOGITS: usize = 1 << 25;

/// Loss, and the adjoints of `hidden` and `weight` for an upstream adjoint of 1. A target that is no class makes all NaN.
pub(super) fn linear_cross_entropy<B: Cube>(
    hidden: &Dual<B>,
    weight: &Dual<B>,
    targets: &IntTensor<B>,
    hidden_needed: bool,
    weight_needed: bool,
) -> LinearCrossEntropy<B> {
    let active = active_slots(&[hidden, weight]);
    let of_weight = if weight.tangents_only { weight.mask() } else { active.clone() };
    let mut head = Head {
        hidden,
        weight,
        rows: hidden.shape()[0],
        loss: Adjoint::new(Join::Add, true, &active),
        hidden_adjoint: hidden_needed.then(|| Adjoint::new(Join::Rows, true, &active)),
        weight_adjoint: weight_needed.then(|| Adjoint::new(Join::Add, !weight.tangents_only, &of_weight)),
        active,
    };
    let chunk = (LOGITS / weight.shape()[0]).clamp(1, head.rows);
    for start in (0..head.rows).step_by(chunk) {
        head.chunk(start..head.rows.min(start + chunk), targets);
    }
    LinearCrossEntropy {
        loss: head.loss.finish(&hidden.primal, Shape::from(vec![1])),
        hidden: head.hidden_adjoint.map(|adjoint| adjoint.finish(&hidden.primal, hidden.shape())),
        weight: head.weight_adjoint.map(|adjoint| adjoint.finish(&weight.primal, weight.shape())),
    }
}

/// How the parts of chunks become one.
#[derive(Clone, Copy)]
enum Join {
    Add,
    Rows,
}

/// A dual under construction: its primal, if wanted, and wanted slots, as a sum or in parts.
struct Adjoint<B: Cube> {
    join: Join,
    primal: Option<Vec<FloatTensor<B>>>,
    tangents: Vec<Option<Vec<FloatTensor<B>>>>,
}

impl<B: Cube> Adjoint<B> {
    fn new(join: Join, primal: bool, slots: &Mask) -> Self {
        let wanted = |&wanted: &bool| wanted.then(Vec::new);
        Self { join, primal: wanted(&primal), tangents: slots.iter().map(wanted).collect() }
    }

    fn add_primal(&mut self, part: impl FnOnce() -> FloatTensor<B>) {
        if let Some(parts) = &mut self.primal {
            add::<B>(self.join, parts, part());
        }
    }

    fn add_tangent(&mut self, slot: usize, part: impl FnOnce() -> FloatTensor<B>) {
        if let Some(Some(parts)) = self.tangents.get_mut(slot) {
            add::<B>(self.join, parts, part());
        }
    }

    /// As a dual; the primal is NaN if it was not wanted.
    fn finish(self, like: &FloatTensor<B>, shape: Shape) -> Dual<B> {
        let whole =
            |parts: Vec<_>| if parts.len() == 1 { parts.into_iter().next() } else { Some(B::float_cat(parts, 0)) };
        let primal = self.primal.and_then(whole).unwrap_or_else(|| not_computed::<B>(like, shape));
        Dual::new(primal, self.tangents.into_iter().map(|parts| parts.and_then(whole)).collect())
    }
}

fn add<B: Cube>(join: Join, parts: &mut Vec<FloatTensor<B>>, part: FloatTensor<B>) {
    match (join, parts.pop()) {
        (Join::Add, Some(sum)) => parts.push(B::float_add(sum, part)),
        (_, last) => parts.extend(last.into_iter().chain([part])),
    }
}

struct Head<'a, B: Cube> {
    hidden: &'a Dual<B>,
    weight: &'a Dual<B>,
    rows: usize,
    active: Mask,
    loss: Adjoint<B>,
    hidden_adjoint: Option<Adjoint<B>>,
    weight_adjoint: Option<Adjoint<B>>,
}

/// A chunk's primal: its rows of h, their targets, E, and Q at the target.
struct Chunk<B: Cube> {
    rows: Range<usize>,
    hidden: FloatTensor<B>,
    targets: FloatTensor<B>,
    adjoint: FloatTensor<B>,
    target_share: FloatTensor<B>,
}

impl<B: Cube> Head<'_, B> {
    fn chunk(&mut self, rows: Range<usize>, targets: &IntTensor<B>) {
        let hidden = rows_of::<B>(&self.hidden.primal, &rows);
        let targets = B::indices(B::int_slice(targets.clone(), &[Slice::from(rows.clone())]));
        let logits = B::sum_of_products(vec![(hidden.clone(), transposed::<B>(self.weight.primal.clone()))]);
        let (shape, column) = (logits.shape(), Shape::from(vec![rows.len()]));
        let pass = Scores { share: 1.0 / self.rows as f32 };
        let [adjoint, target_share, losses] =
            B::run(pass, [logits, targets.clone()], [], [shape, column.clone(), column]);
        self.loss.add_primal(|| B::float_sum(losses));
        if let Some(sum) = &mut self.hidden_adjoint {
            sum.add_primal(|| B::sum_of_products(vec![(adjoint.clone(), self.weight.primal.clone())]));
        }
        if let Some(sum) = &mut self.weight_adjoint {
            sum.add_primal(|| B::sum_of_products(vec![(transposed::<B>(adjoint.clone()), hidden.clone())]));
        }
        let chunk = Chunk { rows, hidden, targets, adjoint, target_share };
        for slot in (0..self.active.len()).filter(|&slot| self.active[slot]).collect::<Vec<_>>() {
            self.slot(slot, &chunk);
        }
    }

    fn slot(&mut self, slot: usize, chunk: &Chunk<B>) {
        let weight = &self.weight.primal;
        let moved_hidden = self.hidden.tangent(slot).map(|hidden| rows_of::<B>(hidden, &chunk.rows));
        let moved_weight = self.weight.tangent(slot);
        let terms = [
            moved_hidden.clone().map(|hidden| (hidden, transposed::<B>(weight.clone()))),
            moved_weight.map(|moved| (chunk.hidden.clone(), transposed::<B>(moved.clone()))),
        ];
        let logits = B::sum_of_products(terms.into_iter().flatten().collect());
        let (shape, column) = (logits.shape(), Shape::from(vec![chunk.rows.len()]));
        let (adjoint, share) = (&chunk.adjoint, chunk.target_share.clone());
        let inputs = [logits, adjoint.clone(), share, chunk.targets.clone()];
        let [moved, losses] = B::run(ScoresMoved { rows: self.rows as f32 }, inputs, [], [shape, column]);
        let mean = |losses| B::float_mul_scalar(B::float_sum(losses), (1.0 / self.rows as f64).into());
        self.loss.add_tangent(slot, || mean(losses));
        if let Some(sum) = &mut self.hidden_adjoint {
            let product = Some((moved.clone(), weight.clone()));
            let terms = [product, moved_weight.map(|moved| (adjoint.clone(), moved.clone()))];
            sum.add_tangent(slot, || B::sum_of_products(terms.into_iter().flatten().collect()));
        }
        if let Some(sum) = &mut self.weight_adjoint {
            let product = Some((transposed::<B>(moved), chunk.hidden.clone()));
            let terms = [product, moved_hidden.map(|hidden| (transposed::<B>(adjoint.clone()), hidden))];
            sum.add_tangent(slot, || B::sum_of_products(terms.into_iter().flatten().collect()));
        }
    }
}

/// A range of rows of a matrix.
fn rows_of<B: Cube>(x: &FloatTensor<B>, rows: &Range<usize>) -> FloatTensor<B> {
    B::float_slice(x.clone(), &[Slice::from(rows.clone()), Slice::from(0..x.shape()[1])])
}

/// (z, targets) to E, Q at the target, and the rows' shares of the loss.
#[derive(Debug)]
struct Scores {
    /// 1 / rows of all chunks.
    share: f32,
}

impl Pass<2, 0, 3> for Scores {
    const NAME: &'static str = "cross_entropy";

    fn launch<R: CubeRuntime>(
        &self,
        [z, targets]: [CubeTensor<R>; 2],
        []: [Option<CubeTensor<R>>; 0],
        [adjoint, target_share, losses]: [CubeTensor<R>; 3],
    ) {
        let grid = Grid::of(&z);
        // SAFETY: threads of cubes within `rows` touch numbers of their row alone, a target beyond it is not followed
        unsafe {
            scores_rows::launch_unchecked(
                &grid.client,
                grid.count(),
                grid.dim(),
                z.into_array_arg(),
                targets.into_array_arg(),
                adjoint.into_array_arg(),
                target_share.into_array_arg(),
                losses.into_array_arg(),
                grid.rows,
                grid.width,
                self.share,
                f32::NAN,
                grid.units,
            )
        }
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)] // of a kernel: its buffers
fn scores_rows(
    z: &Array<f32>,
    targets: &Array<i32>,
    adjoint: &mut Array<f32>,
    target_share: &mut Array<f32>,
    losses: &mut Array<f32>,
    rows: usize,
    width: usize,
    share: f32,
    not_a_number: f32,
    #[comptime] units: usize,
) {
    if CUBE_POS < rows {
        let unit = UNIT_POS as usize;
        let row = CUBE_POS * width;
        let mut tops = SharedMemory::<f32>::new(units);
        let mut sums = SharedMemory::<f32>::new(units);
        let mut top = f32::min_value();
        for at in range_stepped(unit, width, units) {
            top = max(top, z[row + at]);
        }
        tops[unit] = top;
        largest(&mut tops, units);
        let top = tops[0];
        let mut sum = 0.0f32;
        for at in range_stepped(unit, width, units) {
            sum += f32::exp(z[row + at] - top);
        }
        sums[unit] = sum;
        add_up(&mut sums, 1usize, units);
        let total = sums[0];
        // a negative one is large as an unsigned number
        let target = u32::cast_from(targets[CUBE_POS]) as usize;
        let mut factor = share / total;
        if target >= width {
            factor = not_a_number;
        }
        for at in range_stepped(unit, width, units) {
            let q = f32::exp(z[row + at] - top) * factor;
            let mut e = q;
            if at == target {
                e = q - share;
                target_share[CUBE_POS] = q;
                losses[CUBE_POS] = share * (f32::ln(total) - (z[row + at] - top));
            }
            adjoint[row + at] = e;
        }
        if target >= width && unit == 0 {
            target_share[CUBE_POS] = not_a_number;
            losses[CUBE_POS] = not_a_number;
        }
    }
}

/// (z., E, Q at the target, targets) to E., and the rows' loss tangents m - z._target.
#[derive(Debug)]
struct ScoresMoved {
    /// Those of all chunks.
    rows: f32,
}

impl Pass<4, 0, 2> for ScoresMoved {
    const NAME: &'static str = "cross_entropy_moved";

    fn launch<R: CubeRuntime>(
        &self,
        [z, adjoint, target_share, targets]: [CubeTensor<R>; 4],
        []: [Option<CubeTensor<R>>; 0],
        [moved, losses]: [CubeTensor<R>; 2],
    ) {
        let grid = Grid::of(&z);
        // SAFETY: threads of cubes within `rows` touch numbers of their row alone, a target beyond it is not followed
        unsafe {
            scores_moved_rows::launch_unchecked(
                &grid.client,
                grid.count(),
                grid.dim(),
                z.into_array_arg(),
                adjoint.into_array_arg(),
                target_share.into_array_arg(),
                targets.into_array_arg(),
                moved.into_array_arg(),
                losses.into_array_arg(),
                grid.rows,
                grid.width,
                self.rows,
                grid.units,
            )
        }
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)] // of a kernel: its buffers
fn scores_moved_rows(
    z: &Array<f32>,
    adjoint: &Array<f32>,
    target_share: &Array<f32>,
    targets: &Array<i32>,
    moved: &mut Array<f32>,
    losses: &mut Array<f32>,
    rows: usize,
    width: usize,
    all_rows: f32,
    #[comptime] units: usize,
) {
    if CUBE_POS < rows {
        let unit = UNIT_POS as usize;
        let row = CUBE_POS * width;
        let mut sums = SharedMemory::<f32>::new(units);
        let mut sum = 0.0f32;
        for at in range_stepped(unit, width, units) {
            sum += adjoint[row + at] * z[row + at];
        }
        sums[unit] = sum;
        add_up(&mut sums, 1usize, units);
        // rowsum(E z.) rows = m - z._target
        let change = sums[0] * all_rows;
        let target = min(u32::cast_from(targets[CUBE_POS]) as usize, width - 1);
        let at_target = z[row + target];
        let centre = change + at_target;
        for at in range_stepped(unit, width, units) {
            let mut e = adjoint[row + at];
            if at == target {
                e = target_share[CUBE_POS];
            }
            moved[row + at] = e * (z[row + at] - centre);
        }
        if unit == 0 {
            losses[CUBE_POS] = change;
        }
    }
}
