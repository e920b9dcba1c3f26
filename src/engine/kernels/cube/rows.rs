//! One pass over rows: how it is cut into cubes, and the sums that the threads of a cube form together.

use std::fmt::Debug;

use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, DType, Shape, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use cubecl::server::CubeCountSelection;

/// An optional input of a kernel.
pub(super) type Optional<R> = ComptimeOptionArgs<Array<f32>, R>;

/// One launch on N tensors, M that may be absent and O outputs, all contiguous, and f32 but for indices (i32).
pub trait Pass<const N: usize, const M: usize, const O: usize>: Debug + Send + Sync + 'static {
    /// What it is called in traces.
    const NAME: &'static str;

    /// Overwrites the outputs from end to end.
    fn launch<R: CubeRuntime>(
        &self,
        inputs: [CubeTensor<R>; N],
        optional: [Option<CubeTensor<R>>; M],
        outputs: [CubeTensor<R>; O],
    );
}

/// Whether passes take it: f32, not empty, and one step beyond its end is an index of 32 bits.
pub(super) fn fits<B: Backend>(x: &FloatTensor<B>) -> bool {
    let (shape, dtype) = (x.shape(), x.dtype());
    dtype == DType::F32 && shape.num_dims() > 0 && (1..=i32::MAX as usize).contains(&shape.num_elements())
}

/// Length of the last dimension.
pub(super) fn width(shape: &Shape) -> usize {
    shape.as_slice().last().copied().unwrap_or(1)
}

/// An optional input as an argument.
pub(super) fn optional<R: CubeRuntime>(x: Option<CubeTensor<R>>) -> Optional<R> {
    x.map(CubeTensor::into_array_arg).into()
}

/// The cubes of a launch.
pub(super) struct Grid<R: CubeRuntime> {
    pub client: ComputeClient<R>,
    /// Rows, and numbers in one.
    pub rows: usize,
    pub width: usize,
    /// Threads of a cube, a power of two.
    pub units: usize,
    /// Rows that a cube goes through.
    pub rows_per_cube: usize,
}

/// Numbers that a thread has of a row, before a cube gets more threads: reads in flight hide the memory's latency.
const NUMBERS_PER_UNIT: usize = 4;
/// Threads of a cube: a warp at least, and no more than every device with Vulkan has.
const UNITS: (usize, usize) = (32, 256);

impl<R: CubeRuntime> Grid<R> {
    /// One cube for each row of x.
    pub fn of(x: &CubeTensor<R>) -> Self {
        let width = width(&x.shape());
        let units = width.div_ceil(NUMBERS_PER_UNIT).next_power_of_two().clamp(UNITS.0, UNITS.1);
        Self { client: x.client.clone(), rows: x.shape().num_elements() / width, width, units, rows_per_cube: 1 }
    }

    /// The cubes, spread over dimensions where a device has a limit for one: there may be a few too many.
    pub fn count(&self) -> CubeCount {
        CubeCountSelection::new(&self.client, self.rows.div_ceil(self.rows_per_cube) as u32).cube_count()
    }

    /// The threads of one.
    pub fn dim(&self) -> CubeDim {
        CubeDim::new_1d(self.units as u32)
    }
}

/// Adds up several lists of one number a thread that lie in shared memory one after the other; a list's sum is then its
/// first number, for every thread to read. In two steps, for barriers cost more than short sums: `lanes` threads add up
/// what lies at their place in every group of as many, then a thread for each list adds up those.
#[cube]
pub(super) fn add_up(shared: &mut SharedMemory<f32>, #[comptime] lists: usize, #[comptime] units: usize) {
    let unit = UNIT_POS as usize;
    let lanes = comptime!(lanes(units));
    let groups = comptime!(units / lanes);
    sync_cube();
    if unit < lanes {
        #[unroll]
        for list in 0..lists {
            let mut sum = shared[list * units + unit];
            #[unroll]
            for group in 1..groups {
                sum += shared[list * units + group * lanes + unit];
            }
            shared[list * units + unit] = sum;
        }
    }
    sync_cube();
    if unit < lists {
        let mut sum = shared[unit * units];
        #[unroll]
        for lane in 1..lanes {
            sum += shared[unit * units + lane];
        }
        shared[unit * units] = sum;
    }
    sync_cube();
}

/// The largest number of one list, found by all threads of a cube together.
#[cube]
pub(super) fn largest(shared: &mut SharedMemory<f32>, #[comptime] units: usize) {
    let unit = UNIT_POS as usize;
    let lanes = comptime!(lanes(units));
    let groups = comptime!(units / lanes);
    sync_cube();
    if unit < lanes {
        let mut top = shared[unit];
        #[unroll]
        for group in 1..groups {
            top = max(top, shared[group * lanes + unit]);
        }
        shared[unit] = top;
    }
    sync_cube();
    if unit == 0 {
        let mut top = shared[0];
        #[unroll]
        for lane in 1..lanes {
            top = max(top, shared[lane]);
        }
        shared[0] = top;
    }
    sync_cube();
}

/// About the square root of a cube's threads, both powers of two.
fn lanes(units: usize) -> usize {
    1 << units.ilog2().div_ceil(2)
}

/// A number of an input that may be absent, which is then zero.
#[cube]
pub(super) fn read(x: &ComptimeOption<Array<f32>>, at: usize) -> f32 {
    #[comptime]
    match x {
        ComptimeOption::Some(x) => x[at],
        ComptimeOption::None => 0.0,
    }
}
