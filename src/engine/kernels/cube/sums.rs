//! Running sums in f64 that stay on the device.
//!
//! Tensors of these backends are f32. A sum of n numbers is kept in one of 2 n, two for the bits of each f64, which nobody
//! reads as what it seems to be.

use burn_backend::tensor::FloatTensor;
use burn_backend::{Shape, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use cubecl::server::CubeCountSelection;

use super::Cube;
use super::rows::Pass;

/// Threads of a cube.
const UNITS: u32 = 256;

/// sum + factor x; 0 for a sum that is not there yet.
pub(super) fn add<B: Cube>(sum: Option<FloatTensor<B>>, x: FloatTensor<B>, factor: f64) -> FloatTensor<B> {
    let len = x.shape().num_elements();
    let [sum] = B::run(Add { factor }, [x], [sum], [Shape::from(vec![2 * len])]);
    sum
}

/// (x; sum) to sum + factor x.
#[derive(Debug)]
struct Add {
    factor: f64,
}

impl Pass<1, 1, 1> for Add {
    const NAME: &'static str = "add_in_f64";

    fn launch<R: CubeRuntime>(
        &self,
        [x]: [CubeTensor<R>; 1],
        [sum]: [Option<CubeTensor<R>>; 1],
        [out]: [CubeTensor<R>; 1],
    ) {
        let (client, len) = (x.client.clone(), x.shape().num_elements());
        let count = CubeCountSelection::new(&client, (len as u32).div_ceil(UNITS)).cube_count();
        // SAFETY: both hold 2 x len numbers of 4 bytes, and no thread touches what lies behind
        let wide = |x: CubeTensor<R>| unsafe { ArrayArg::from_raw_parts(x.handle, len) };
        let (sum, out) = (sum.map(wide).into(), wide(out));
        let dim = CubeDim::new_1d(UNITS);
        // SAFETY: threads from `len` on do nothing
        unsafe { add_wide::launch_unchecked(&client, count, dim, x.into_array_arg(), sum, out, self.factor, len) }
    }
}

#[cube(launch_unchecked)]
fn add_wide(x: &Array<f32>, sum: &ComptimeOption<Array<f64>>, out: &mut Array<f64>, factor: f64, len: usize) {
    let at = ABSOLUTE_POS;
    if at < len {
        #[comptime]
        let old = match sum {
            ComptimeOption::Some(sum) => sum[at],
            ComptimeOption::None => 0.0f64.runtime(),
        };
        out[at] = old + factor * f64::cast_from(x[at]);
    }
}
