//! Softmax over the last dimension and its adjoint, of whole rows or under a causal mask: of `queries` rows that follow each
//! other, the last sees all numbers of a row, the one before all but the last, and so on. What is masked counts as -inf,
//! whatever lies there.

use burn_backend::TensorMetadata;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::rows::{Grid, Pass, add_up, largest, optional, read};
use super::{Cube, active_slots, slots};
use crate::engine::kernels::Dual;

/// `y = e^x / sum(e^x)`, with tangents `y (x' - sum(y x'))`. A row of -inf alone gives 0.
pub(super) fn softmax<B: Cube>(x: &Dual<B>, causal: Option<usize>) -> Dual<B> {
    let [y] = B::run(Softmax { causal }, [x.primal.clone()], [], [x.shape()]);
    let centred = |tangent| {
        let [moved] = B::run(Centred { causal }, [y.clone(), tangent], [], [x.shape()]);
        moved
    };
    let tangents = x.tangents.iter().map(|tangent| tangent.clone().map(centred)).collect();
    Dual::new(y, tangents)
}

/// `y (g - c)` with `c = sum(y g)`, with tangents `y' (g - c) + y (g' - c')`, `c' = sum(y' g + y g')`.
pub(super) fn softmax_backward<B: Cube>(y: &Dual<B>, grad: &Dual<B>, causal: Option<usize>) -> Dual<B> {
    let primals = || [y.primal.clone(), grad.primal.clone()];
    let tangent = |slot| {
        let moved = [y.tangent(slot).cloned(), grad.tangent(slot).cloned()];
        let [moved] = B::run(CentredMoved { causal }, primals(), moved, [y.shape()]);
        moved
    };
    let tangents = slots::<B>(&active_slots(&[y, grad]), tangent);
    let [primal] = B::run(Centred { causal }, primals(), [], [y.shape()]);
    Dual::new(primal, tangents)
}

/// x to y.
#[derive(Debug)]
struct Softmax {
    causal: Option<usize>,
}

impl Pass<1, 0, 1> for Softmax {
    const NAME: &'static str = "softmax";

    fn launch<R: CubeRuntime>(&self, [x]: [CubeTensor<R>; 1], []: [Option<CubeTensor<R>>; 0], [y]: [CubeTensor<R>; 1]) {
        let grid = Grid::of(&x);
        let (x, y) = (x.into_array_arg(), y.into_array_arg());
        // SAFETY: threads of cubes within `rows` touch numbers of their row alone
        unsafe {
            softmax_rows::launch_unchecked(
                &grid.client,
                grid.count(),
                grid.dim(),
                x,
                y,
                grid.rows,
                grid.width,
                self.causal.unwrap_or(0),
                self.causal.is_some(),
                grid.units,
            )
        }
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)] // of a kernel: its buffers
fn softmax_rows(
    x: &Array<f32>,
    y: &mut Array<f32>,
    rows: usize,
    width: usize,
    queries: usize,
    #[comptime] causal: bool,
    #[comptime] units: usize,
) {
    if CUBE_POS < rows {
        let unit = UNIT_POS as usize;
        let (start, end) = (CUBE_POS * width + unit, (CUBE_POS + 1) * width);
        let stop = end - masked(queries, causal);
        let mut tops = SharedMemory::<f32>::new(units);
        let mut sums = SharedMemory::<f32>::new(units);
        let mut top = f32::min_value();
        for at in range_stepped(start, stop, units) {
            top = max(top, x[at]);
        }
        tops[unit] = top;
        largest(&mut tops, units);
        let top = tops[0];
        let mut sum = 0.0f32;
        for at in range_stepped(start, stop, units) {
            sum += f32::exp(x[at] - top);
        }
        sums[unit] = sum;
        add_up(&mut sums, 1usize, units);
        // not max, which would hide a NaN
        let total = if sums[0] < f32::MIN_POSITIVE { f32::MIN_POSITIVE.runtime() } else { sums[0] };
        let factor = 1.0 / total;
        for at in range_stepped(start, end, units) {
            if at < stop {
                y[at] = f32::exp(x[at] - top) * factor;
            } else {
                y[at] = 0.0;
            }
        }
    }
}

/// (y, t) to y (t - sum(y t)): a tangent of softmax, and its adjoint.
#[derive(Debug)]
struct Centred {
    causal: Option<usize>,
}

impl Pass<2, 0, 1> for Centred {
    const NAME: &'static str = "softmax_centred";

    fn launch<R: CubeRuntime>(
        &self,
        [y, t]: [CubeTensor<R>; 2],
        []: [Option<CubeTensor<R>>; 0],
        [out]: [CubeTensor<R>; 1],
    ) {
        let grid = Grid::of(&y);
        let (y, t, out) = (y.into_array_arg(), t.into_array_arg(), out.into_array_arg());
        // SAFETY: threads of cubes within `rows` touch numbers of their row alone
        unsafe {
            centred_rows::launch_unchecked(
                &grid.client,
                grid.count(),
                grid.dim(),
                y,
                t,
                out,
                grid.rows,
                grid.width,
                self.causal.unwrap_or(0),
                self.causal.is_some(),
                grid.units,
            )
        }
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)] // of a kernel: its buffers
fn centred_rows(
    y: &Array<f32>,
    t: &Array<f32>,
    out: &mut Array<f32>,
    rows: usize,
    width: usize,
    queries: usize,
    #[comptime] causal: bool,
    #[comptime] units: usize,
) {
    if CUBE_POS < rows {
        let unit = UNIT_POS as usize;
        let (start, end) = (CUBE_POS * width + unit, (CUBE_POS + 1) * width);
        let stop = end - masked(queries, causal);
        let mut sums = SharedMemory::<f32>::new(units);
        let mut sum = 0.0f32;
        for at in range_stepped(start, stop, units) {
            sum += y[at] * t[at];
        }
        sums[unit] = sum;
        add_up(&mut sums, 1usize, units);
        let centre = sums[0];
        for at in range_stepped(start, end, units) {
            if at < stop {
                out[at] = y[at] * (t[at] - centre);
            } else {
                out[at] = 0.0;
            }
        }
    }
}

/// (y, g; y', g') to the tangent of [`Centred`].
#[derive(Debug)]
struct CentredMoved {
    causal: Option<usize>,
}

impl Pass<2, 2, 1> for CentredMoved {
    const NAME: &'static str = "softmax_centred_moved";

    fn launch<R: CubeRuntime>(
        &self,
        [y, g]: [CubeTensor<R>; 2],
        [moved_y, moved_g]: [Option<CubeTensor<R>>; 2],
        [out]: [CubeTensor<R>; 1],
    ) {
        let grid = Grid::of(&y);
        // SAFETY: threads of cubes within `rows` touch numbers of their row alone
        unsafe {
            centred_moved_rows::launch_unchecked(
                &grid.client,
                grid.count(),
                grid.dim(),
                y.into_array_arg(),
                g.into_array_arg(),
                optional(moved_y),
                optional(moved_g),
                out.into_array_arg(),
                grid.rows,
                grid.width,
                self.causal.unwrap_or(0),
                self.causal.is_some(),
                grid.units,
            )
        }
    }
}

#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)] // of a kernel: its buffers
fn centred_moved_rows(
    y: &Array<f32>,
    g: &Array<f32>,
    moved_y: &ComptimeOption<Array<f32>>,
    moved_g: &ComptimeOption<Array<f32>>,
    out: &mut Array<f32>,
    rows: usize,
    width: usize,
    queries: usize,
    #[comptime] causal: bool,
    #[comptime] units: usize,
) {
    if CUBE_POS < rows {
        let unit = UNIT_POS as usize;
        let (start, end) = (CUBE_POS * width + unit, (CUBE_POS + 1) * width);
        let stop = end - masked(queries, causal);
        let mut sums = SharedMemory::<f32>::new(2 * units);
        let mut sum = 0.0f32;
        let mut moved_sum = 0.0f32;
        for at in range_stepped(start, stop, units) {
            sum += y[at] * g[at];
            moved_sum += read(moved_y, at) * g[at] + y[at] * read(moved_g, at);
        }
        sums[unit] = sum;
        sums[units + unit] = moved_sum;
        add_up(&mut sums, 2usize, units);
        let centre = sums[0];
        let moved_centre = sums[units];
        for at in range_stepped(start, end, units) {
            if at < stop {
                out[at] = read(moved_y, at) * (g[at] - centre) + y[at] * (read(moved_g, at) - moved_centre);
            } else {
                out[at] = 0.0;
            }
        }
    }
}

/// How many numbers at the end of the cube's row are masked.
#[cube]
fn masked(queries: usize, #[comptime] causal: bool) -> usize {
    if causal { queries - 1 - CUBE_POS % queries } else { 0usize.runtime() }
}
