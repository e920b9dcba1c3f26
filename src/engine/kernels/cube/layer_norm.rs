//! LayerNorm over the last dimension.
//!
//! Per row, with means over its numbers: `r = 1 / sqrt(var + eps)` (biased variance), `n = (x - mean(x)) r`,
//! `y = gamma n + beta`. Along a tangent x': `n' = r (x' - mean(x') - n c)` with `c = mean(n x')`.

use burn_backend::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::rows::{Grid, Pass, add_up, optional, read};
use super::{Cube, active_slots, slots};
use crate::engine::kernels::Dual;

/// `gamma n + beta`, with tangents `gamma' n + gamma n' + beta'`.
pub(super) fn layer_norm<B: Cube>(x: &Dual<B>, gamma: &Dual<B>, beta: Option<&Dual<B>>, epsilon: f64) -> Dual<B> {
    let epsilon = epsilon as f32;
    let primals = || [x.primal.clone(), gamma.primal.clone()];
    let inputs: Vec<_> = [x, gamma].into_iter().chain(beta).collect();
    let tangent = |slot| {
        let of = |dual: &Dual<B>| dual.tangent(slot).cloned();
        let moved = [of(x), of(gamma), beta.and_then(of)];
        let [moved] = B::run(Moved { epsilon }, primals(), moved, [x.shape()]);
        moved
    };
    let tangents = slots::<B>(&active_slots(&inputs), tangent);
    let shift = beta.map(|beta| beta.primal.clone());
    let [y] = B::run(LayerNorm { epsilon }, primals(), [shift], [x.shape()]);
    Dual::new(y, tangents)
}

/// (x, gamma; beta) to y.
#[derive(Debug)]
struct LayerNorm {
    epsilon: f32,
}

impl Pass<2, 1, 1> for LayerNorm {
    const NAME: &'static str = "layer_norm";

    fn launch<R: CubeRuntime>(
        &self,
        [x, gamma]: [CubeTensor<R>; 2],
        [beta]: [Option<CubeTensor<R>>; 1],
        [y]: [CubeTensor<R>; 1],
    ) {
        let grid = Grid::of(&x);
        // SAFETY: threads of cubes within `rows` touch numbers of their row, and as many of gamma and beta
        unsafe {
            layer_norm_rows::launch_unchecked(
                &grid.client,
                grid.count(),
                grid.dim(),
                x.into_array_arg(),
                gamma.into_array_arg(),
                optional(beta),
                y.into_array_arg(),
                grid.rows,
                grid.width,
                self.epsilon,
                grid.units,
            )
        }
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)] // of a kernel: its buffers
fn layer_norm_rows(
    x: &Array<f32>,
    gamma: &Array<f32>,
    beta: &ComptimeOption<Array<f32>>,
    y: &mut Array<f32>,
    rows: usize,
    width: usize,
    epsilon: f32,
    #[comptime] units: usize,
) {
    if CUBE_POS < rows {
        let unit = UNIT_POS as usize;
        let row = CUBE_POS * width;
        let mut sums = SharedMemory::<f32>::new(units);
        let mut squares = SharedMemory::<f32>::new(units);
        let mut sum = 0.0f32;
        for at in range_stepped(unit, width, units) {
            sum += x[row + at];
        }
        sums[unit] = sum;
        add_up(&mut sums, 1usize, units);
        let share = 1.0 / f32::cast_from(width);
        let mean = sums[0] * share;
        let mut square = 0.0f32;
        for at in range_stepped(unit, width, units) {
            let centred = x[row + at] - mean;
            square += centred * centred;
        }
        squares[unit] = square;
        add_up(&mut squares, 1usize, units);
        let r = 1.0 / f32::sqrt(squares[0] * share + epsilon);
        for at in range_stepped(unit, width, units) {
            y[row + at] = (x[row + at] - mean) * r * gamma[at] + read(beta, at);
        }
    }
}

/// (x, gamma; x', gamma', beta') to y'.
#[derive(Debug)]
struct Moved {
    epsilon: f32,
}

impl Pass<2, 3, 1> for Moved {
    const NAME: &'static str = "layer_norm_moved";

    fn launch<R: CubeRuntime>(
        &self,
        [x, gamma]: [CubeTensor<R>; 2],
        [moved_x, moved_gamma, moved_beta]: [Option<CubeTensor<R>>; 3],
        [out]: [CubeTensor<R>; 1],
    ) {
        let grid = Grid::of(&x);
        // SAFETY: threads of cubes within `rows` touch numbers of their row, and as many of gamma' and beta'
        unsafe {
            moved_rows::launch_unchecked(
                &grid.client,
                grid.count(),
                grid.dim(),
                x.into_array_arg(),
                gamma.into_array_arg(),
                optional(moved_x),
                optional(moved_gamma),
                optional(moved_beta),
                out.into_array_arg(),
                grid.rows,
                grid.width,
                self.epsilon,
                grid.units,
            )
        }
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)] // of a kernel: its buffers
fn moved_rows(
    x: &Array<f32>,
    gamma: &Array<f32>,
    moved_x: &ComptimeOption<Array<f32>>,
    moved_gamma: &ComptimeOption<Array<f32>>,
    moved_beta: &ComptimeOption<Array<f32>>,
    out: &mut Array<f32>,
    rows: usize,
    width: usize,
    epsilon: f32,
    #[comptime] units: usize,
) {
    if CUBE_POS < rows {
        let unit = UNIT_POS as usize;
        let row = CUBE_POS * width;
        let mut sums = SharedMemory::<f32>::new(2 * units);
        let mut squares = SharedMemory::<f32>::new(2 * units);
        let moments = normalise(x, moved_x, row, width, epsilon, &mut sums, &mut squares, units);
        for at in range_stepped(unit, width, units) {
            let n = (x[row + at] - moments.mean) * moments.r;
            let moved_n = moments.r * (read(moved_x, row + at) - moments.moved_mean - n * moments.c);
            out[row + at] = gamma[at] * moved_n + read(moved_gamma, at) * n + read(moved_beta, at);
        }
    }
}

/// What a row's normalisation and its tangent need.
#[derive(CubeType)]
pub(super) struct Moments {
    pub mean: f32,
    pub moved_mean: f32,
    pub r: f32,
    pub c: f32,
}

/// The moments of the row that starts at `row`. Both shared memories hold two lists.
#[cube]
#[allow(clippy::too_many_arguments)]
pub(super) fn normalise(
    x: &Array<f32>,
    moved_x: &ComptimeOption<Array<f32>>,
    row: usize,
    width: usize,
    epsilon: f32,
    sums: &mut SharedMemory<f32>,
    squares: &mut SharedMemory<f32>,
    #[comptime] units: usize,
) -> Moments {
    let unit = UNIT_POS as usize;
    let mut sum = 0.0f32;
    let mut moved_sum = 0.0f32;
    for at in range_stepped(row + unit, row + width, units) {
        sum += x[at];
        moved_sum += read(moved_x, at);
    }
    sums[unit] = sum;
    sums[units + unit] = moved_sum;
    add_up(sums, 2usize, units);
    let share = 1.0 / f32::cast_from(width);
    let mean = sums[0] * share;
    let moved_mean = sums[units] * share;
    let mut square = 0.0f32;
    let mut product = 0.0f32;
    for at in range_stepped(row + unit, row + width, units) {
        let centred = x[at] - mean;
        square += centred * centred;
        product += centred * (read(moved_x, at) - moved_mean);
    }
    squares[unit] = square;
    squares[units + unit] = product;
    add_up(squares, 2usize, units);
    let r = 1.0 / f32::sqrt(squares[0] * share + epsilon);
    Moments { mean, moved_mean, r, c: r * squares[units] * share }
}
