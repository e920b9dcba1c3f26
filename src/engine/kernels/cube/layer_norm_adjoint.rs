//! The adjoints of x and gamma under LayerNorm (in the words of `layer_norm`).
//!
//! With `u = gamma g`, `a = mean(u)`, `b = mean(u n)`: x gets `r (u - a - n b)`, gamma the sum over rows of `g n`. Along a
//! tangent, with `u' = gamma' g + gamma g'` and `r' = -r^2 c`, x gets
//! `-r c` times its adjoint plus `r (u' - mean(u') - n' b - n mean(u' n + u n'))`, gamma the sum of `g' n + g n'`.

use burn_backend::tensor::FloatTensor;
use burn_backend::{Shape, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::layer_norm::normalise;
use super::rows::{Grid, Pass, add_up, optional, read, width};
use super::{Cube, active_slots, slots};
use crate::engine::kernels::{Dual, Mask, not_computed};

/// The adjoint of x, its tangents only in the slots of `keep`.
pub(super) fn of_x<B: Cube>(x: &Dual<B>, gamma: &Dual<B>, grad: &Dual<B>, epsilon: f64, keep: &Mask) -> Dual<B> {
    let epsilon = epsilon as f32;
    let primals = || [x.primal.clone(), gamma.primal.clone(), grad.primal.clone()];
    let active = active_slots(&[x, gamma, grad]);
    let kept = active.iter().enumerate().map(|(slot, &on)| on && keep.get(slot).copied().unwrap_or(false)).collect();
    let tangent = |slot| {
        let moved = [x, gamma, grad].map(|dual| dual.tangent(slot).cloned());
        let [moved] = B::run(OfXMoved { epsilon }, primals(), moved, [x.shape()]);
        moved
    };
    let tangents = slots::<B>(&kept, tangent);
    let [primal] = B::run(OfX { epsilon }, primals(), [], [x.shape()]);
    Dual::new(primal, tangents)
}

/// The adjoint of gamma; of a `tangents_only` gamma only the tangents of its own slots.
pub(super) fn of_gamma<B: Cube>(x: &Dual<B>, gamma: &Dual<B>, grad: &Dual<B>, epsilon: f64) -> Dual<B> {
    let shape = x.shape();
    let width = width(&shape);
    let groups = (shape.num_elements() / width).div_ceil(ROWS_PER_SUM);
    let sum = |moved: [Option<FloatTensor<B>>; 2], primal: bool| {
        let pass = OfGamma { epsilon: epsilon as f32, primal };
        let primals = [x.primal.clone(), grad.primal.clone()];
        let [parts] = B::run(pass, primals, moved, [Shape::from(vec![groups, width])]);
        B::float_reshape(B::float_sum_dim(parts, 0), Shape::from(vec![width]))
    };
    let mut active = active_slots(&[x, grad]);
    if gamma.tangents_only {
        active.iter_mut().enumerate().for_each(|(slot, on)| *on &= gamma.tangent(slot).is_some());
    }
    let tangents = slots::<B>(&active, |slot| sum([x, grad].map(|dual| dual.tangent(slot).cloned()), false));
    let primal = match gamma.tangents_only {
        true => not_computed::<B>(&gamma.primal, gamma.shape()),
        false => sum([None, None], true),
    };
    Dual::new(primal, tangents)
}

/// (x, gamma, g) to the adjoint of x.
#[derive(Debug)]
struct OfX {
    epsilon: f32,
}

impl Pass<3, 0, 1> for OfX {
    const NAME: &'static str = "layer_norm_adjoint";

    fn launch<R: CubeRuntime>(
        &self,
        [x, gamma, g]: [CubeTensor<R>; 3],
        []: [Option<CubeTensor<R>>; 0],
        [out]: [CubeTensor<R>; 1],
    ) {
        let grid = Grid::of(&x);
        // SAFETY: threads of cubes within `rows` touch numbers of their row, and as many of gamma
        unsafe {
            of_x_rows::launch_unchecked(
                &grid.client,
                grid.count(),
                grid.dim(),
                x.into_array_arg(),
                gamma.into_array_arg(),
                g.into_array_arg(),
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
fn of_x_rows(
    x: &Array<f32>,
    gamma: &Array<f32>,
    g: &Array<f32>,
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
        let mut sum = 0.0f32;
        let mut upstream = 0.0f32;
        for at in range_stepped(unit, width, units) {
            sum += x[row + at];
            upstream += gamma[at] * g[row + at];
        }
        sums[unit] = sum;
        sums[units + unit] = upstream;
        add_up(&mut sums, 2usize, units);
        let share = 1.0 / f32::cast_from(width);
        let mean = sums[0] * share;
        let a = sums[units] * share;
        let mut square = 0.0f32;
        let mut product = 0.0f32;
        for at in range_stepped(unit, width, units) {
            let centred = x[row + at] - mean;
            square += centred * centred;
            product += centred * (gamma[at] * g[row + at] - a);
        }
        squares[unit] = square;
        squares[units + unit] = product;
        add_up(&mut squares, 2usize, units);
        let r = 1.0 / f32::sqrt(squares[0] * share + epsilon);
        let b = r * squares[units] * share;
        for at in range_stepped(unit, width, units) {
            let n = (x[row + at] - mean) * r;
            out[row + at] = r * (gamma[at] * g[row + at] - a - n * b);
        }
    }
}

/// (x, gamma, g; x', gamma', g') to a tangent of the adjoint of x.
#[derive(Debug)]
struct OfXMoved {
    epsilon: f32,
}

impl Pass<3, 3, 1> for OfXMoved {
    const NAME: &'static str = "layer_norm_adjoint_moved";

    fn launch<R: CubeRuntime>(
        &self,
        [x, gamma, g]: [CubeTensor<R>; 3],
        [moved_x, moved_gamma, moved_g]: [Option<CubeTensor<R>>; 3],
        [out]: [CubeTensor<R>; 1],
    ) {
        let grid = Grid::of(&x);
        // SAFETY: threads of cubes within `rows` touch numbers of their row, and as many of gamma and gamma'
        unsafe {
            of_x_moved_rows::launch_unchecked(
                &grid.client,
                grid.count(),
                grid.dim(),
                x.into_array_arg(),
                gamma.into_array_arg(),
                g.into_array_arg(),
                optional(moved_x),
                optional(moved_gamma),
                optional(moved_g),
                out.into_array_arg(),
                grid.rows,
                grid.width,
                self.epsilon,
                grid.units,
            )
        }
    }
}

/// With d = x - mean(x) and d' = x' - mean(x'), all of `c`, `b` and `mean(u' n + u n')` follow from sums over
/// d d, d d', d u, d u' and d' u.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)] // of a kernel: its buffers
fn of_x_moved_rows(
    x: &Array<f32>,
    gamma: &Array<f32>,
    g: &Array<f32>,
    moved_x: &ComptimeOption<Array<f32>>,
    moved_gamma: &ComptimeOption<Array<f32>>,
    moved_g: &ComptimeOption<Array<f32>>,
    out: &mut Array<f32>,
    rows: usize,
    width: usize,
    epsilon: f32,
    #[comptime] units: usize,
) {
    if CUBE_POS < rows {
        let unit = UNIT_POS as usize;
        let row = CUBE_POS * width;
        let share = 1.0 / f32::cast_from(width);
        let mut sums = SharedMemory::<f32>::new(4 * units);
        let mut products = SharedMemory::<f32>::new(5 * units);

        let mut sum = 0.0f32;
        let mut moved_sum = 0.0f32;
        let mut upstream = 0.0f32;
        let mut moved_upstream = 0.0f32;
        for at in range_stepped(unit, width, units) {
            sum += x[row + at];
            moved_sum += read(moved_x, row + at);
            upstream += gamma[at] * g[row + at];
            moved_upstream += read(moved_gamma, at) * g[row + at] + gamma[at] * read(moved_g, row + at);
        }
        sums[unit] = sum;
        sums[units + unit] = moved_sum;
        sums[2 * units + unit] = upstream;
        sums[3 * units + unit] = moved_upstream;
        add_up(&mut sums, 4usize, units);
        let mean = sums[0] * share;
        let moved_mean = sums[units] * share;
        let a = sums[2 * units] * share;
        let moved_a = sums[3 * units] * share;

        let mut square = 0.0f32;
        let mut d_moved = 0.0f32;
        let mut d_upstream = 0.0f32;
        let mut d_moved_upstream = 0.0f32;
        let mut moved_d_upstream = 0.0f32;
        for at in range_stepped(unit, width, units) {
            let d = x[row + at] - mean;
            let moved_d = read(moved_x, row + at) - moved_mean;
            let u = gamma[at] * g[row + at] - a;
            let moved_u = read(moved_gamma, at) * g[row + at] + gamma[at] * read(moved_g, row + at) - moved_a;
            square += d * d;
            d_moved += d * moved_d;
            d_upstream += d * u;
            d_moved_upstream += d * moved_u;
            moved_d_upstream += moved_d * u;
        }
        products[unit] = square;
        products[units + unit] = d_moved;
        products[2 * units + unit] = d_upstream;
        products[3 * units + unit] = d_moved_upstream;
        products[4 * units + unit] = moved_d_upstream;
        add_up(&mut products, 5usize, units);
        let r = 1.0 / f32::sqrt(products[0] * share + epsilon);
        let c = r * products[units] * share;
        let b = r * products[2 * units] * share;
        // mean(u n') = r (mean(u d') - c mean(u n))
        let moved_b = r * (products[3 * units] * share + products[4 * units] * share - c * b);

        for at in range_stepped(unit, width, units) {
            let n = (x[row + at] - mean) * r;
            let moved_n = r * (read(moved_x, row + at) - moved_mean - n * c);
            let u = gamma[at] * g[row + at] - a;
            let moved_u = read(moved_gamma, at) * g[row + at] + gamma[at] * read(moved_g, row + at) - moved_a;
            out[row + at] = r * (moved_u - moved_n * b - n * moved_b - c * r * (u - n * b));
        }
    }
}

/// Rows summed by one cube; partial sums are then added up.
const ROWS_PER_SUM: usize = 16;

/// (x, g; x', g') to the sums over groups of rows of g n, or of g' n + g n'.
#[derive(Debug)]
struct OfGamma {
    epsilon: f32,
    /// g n; else its tangent.
    primal: bool,
}

impl Pass<2, 2, 1> for OfGamma {
    const NAME: &'static str = "layer_norm_gamma_adjoint";

    fn launch<R: CubeRuntime>(
        &self,
        [x, g]: [CubeTensor<R>; 2],
        [moved_x, moved_g]: [Option<CubeTensor<R>>; 2],
        [out]: [CubeTensor<R>; 1],
    ) {
        let grid = Grid { rows_per_cube: ROWS_PER_SUM, ..Grid::of(&x) };
        // SAFETY: threads touch numbers of their cube's rows below `rows`, and of its row of partial sums
        unsafe {
            of_gamma_rows::launch_unchecked(
                &grid.client,
                grid.count(),
                grid.dim(),
                x.into_array_arg(),
                g.into_array_arg(),
                optional(moved_x),
                optional(moved_g),
                out.into_array_arg(),
                grid.rows,
                grid.width,
                self.epsilon,
                self.primal,
                grid.rows_per_cube,
                grid.units,
            )
        }
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)] // of a kernel: its buffers
fn of_gamma_rows(
    x: &Array<f32>,
    g: &Array<f32>,
    moved_x: &ComptimeOption<Array<f32>>,
    moved_g: &ComptimeOption<Array<f32>>,
    out: &mut Array<f32>,
    rows: usize,
    width: usize,
    epsilon: f32,
    #[comptime] primal: bool,
    #[comptime] rows_per_cube: usize,
    #[comptime] units: usize,
) {
    let unit = UNIT_POS as usize;
    let first = CUBE_POS * rows_per_cube;
    let mut sums = SharedMemory::<f32>::new(2 * units);
    let mut squares = SharedMemory::<f32>::new(2 * units);
    for index in first..min(first + rows_per_cube, rows) {
        let row = index * width;
        let moments = normalise(x, moved_x, row, width, epsilon, &mut sums, &mut squares, units);
        for at in range_stepped(unit, width, units) {
            let n = (x[row + at] - moments.mean) * moments.r;
            let moved_n = moments.r * (read(moved_x, row + at) - moments.moved_mean - n * moments.c);
            let added = if primal { g[row + at] * n } else { read(moved_g, row + at) * n + g[row + at] * moved_n };
            // a column has one thread, which alone reads what it wrote
            let column = CUBE_POS * width + at;
            if index == first {
                out[column] = added;
            } else {
                out[column] += added;
            }
        }
        // the next row's sums overwrite what this one's threads read
        sync_cube();
    }
}
