//! Pooling, interpolation, sampling, CTC, Fourier transforms.

use burn_backend::Backend;
use burn_backend::ops::{GridSampleOptions, GridSamplePaddingMode, InterpolateMode, InterpolateOptions};

use super::{Table, ints};
use crate::values::{real, spread};

pub fn cases<B: Backend>(t: &mut Table<B>) {
    average(t);
    maximum(t);
    interpolate(t);
    grid_sample(t);
    t.one("ctc_loss", spread(&[5, 2, 4], -2.0, -0.3), |log_p| {
        let targets = ints::<B, 2>([2, 2], &[1, 2, 3, 3]);
        B::ctc_loss(log_p, targets, ints::<B, 1>([2], &[5, 4]), ints::<B, 1>([2], &[2, 1]), 0)
    });
    fourier(t);
}

fn average<B: Backend>(t: &mut Table<B>) {
    t.one("avg_pool1d", real([1, 2, 6]), |x| B::avg_pool1d(x, 3, 2, 1, true, false));
    t.one("avg_pool1d without padding in the count", real([1, 2, 6]), |x| B::avg_pool1d(x, 3, 2, 1, false, false));
    t.one("avg_pool2d", real([1, 2, 4, 4]), |x| B::avg_pool2d(x, [2, 2], [2, 1], [0, 0], true, false));
    t.one("avg_pool2d padded", real([1, 2, 4, 3]), |x| B::avg_pool2d(x, [3, 2], [2, 2], [1, 1], false, false));
    t.one("adaptive_avg_pool1d", real([1, 2, 6]), |x| B::adaptive_avg_pool1d(x, 3));
    t.one("adaptive_avg_pool1d uneven", real([1, 2, 5]), |x| B::adaptive_avg_pool1d(x, 3));
    t.one("adaptive_avg_pool2d", real([1, 2, 4, 5]), |x| B::adaptive_avg_pool2d(x, [2, 3]));
}

fn maximum<B: Backend>(t: &mut Table<B>) {
    t.one("max_pool1d", real([1, 2, 6]), |x| B::max_pool1d(x, 2, 2, 0, 1, false));
    t.one("max_pool1d padded, dilated", real([1, 2, 7]), |x| B::max_pool1d(x, 2, 1, 1, 2, false));
    t.one("max_pool1d_with_indices", real([1, 2, 6]), |x| B::max_pool1d_with_indices(x, 3, 2, 1, 1, false).output);
    t.one("max_pool2d", real([2, 2, 4, 4]), |x| B::max_pool2d(x, [2, 2], [2, 2], [0, 0], [1, 1], false));
    t.one("max_pool2d overlapping, padded", real([1, 2, 5, 4]), |x| {
        B::max_pool2d(x, [3, 2], [1, 2], [1, 1], [1, 1], false)
    });
    t.one("max_pool2d_with_indices dilated", real([1, 1, 5, 5]), |x| {
        B::max_pool2d_with_indices(x, [2, 2], [1, 1], [0, 0], [2, 2], false).output
    });
}

fn interpolate<B: Backend>(t: &mut Table<B>) {
    fn run<B: Backend>(x: super::F<B>, size: [usize; 2], mode: InterpolateMode, corners: bool) -> super::F<B> {
        B::interpolate(x, size, InterpolateOptions::new(mode).with_align_corners(corners))
    }
    const WHY: &str = "the CPU backends have no adjoint for this mode";
    t.one("interpolate nearest", real([1, 2, 3, 2]), |x| run::<B>(x, [5, 4], InterpolateMode::Nearest, true));
    t.one("interpolate nearest down", real([1, 2, 4, 4]), |x| run::<B>(x, [2, 3], InterpolateMode::Nearest, true));
    t.one("interpolate bilinear", real([1, 2, 3, 2]), |x| run::<B>(x, [5, 4], InterpolateMode::Bilinear, true));
    t.forward_only(WHY);
    t.one("interpolate bilinear, half pixels", real([1, 2, 3, 2]), |x| {
        run::<B>(x, [5, 4], InterpolateMode::Bilinear, false)
    });
    t.forward_only(WHY);
    t.one("interpolate bicubic", real([1, 1, 3, 3]), |x| run::<B>(x, [5, 4], InterpolateMode::Bicubic, true));
    t.forward_only(WHY);
    t.one("interpolate lanczos3", real([1, 1, 3, 3]), |x| run::<B>(x, [5, 4], InterpolateMode::Lanczos3, true));
    t.forward_only(WHY);
}

/// Grid points away from pixel borders, where the sample has a kink.
fn grid_sample<B: Backend>(t: &mut Table<B>) {
    let grid = || spread(&[1, 2, 3, 2], -0.63, 0.61);
    t.two("float_grid_sample_2d", [real([1, 2, 4, 4]), grid()], |x, grid| {
        B::float_grid_sample_2d(x, grid, GridSampleOptions::default())
    });
    t.two("float_grid_sample_2d border, corners", [real([1, 2, 4, 4]), grid()], |x, grid| {
        let options = GridSampleOptions::default().with_padding_mode(GridSamplePaddingMode::Border);
        B::float_grid_sample_2d(x, grid, options.with_align_corners(true))
    });
}

fn fourier<B: Backend>(t: &mut Table<B>) {
    const WHY: &str = "burn's Autodiff has no adjoint of the Fourier transforms";
    t.one("rfft", real([2, 4]), |x| {
        let (re, im) = B::rfft(x, 1, None);
        B::float_cat(vec![re, im], 1)
    });
    t.forward_only(WHY);
    t.missing_on("ndarray");
    t.one("rfft padded", real([3, 2]), |x| {
        let (re, im) = B::rfft(x, 0, Some(4));
        B::float_mul(re, im)
    });
    t.forward_only(WHY);
    t.missing_on("ndarray");
}
