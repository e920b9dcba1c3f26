//! Convolutions and transposed convolutions in one to three dimensions.

use burn_backend::Backend;
use burn_backend::ops::{ConvOptions, ConvTransposeOptions, UnfoldOptions};

use super::Table;
use crate::values::{real, unit};

pub fn cases<B: Backend>(t: &mut Table<B>) {
    forward(t);
    transposed(t);
    t.one("unfold4d", real([1, 2, 3, 3]), |x| B::unfold4d(x, [2, 2], UnfoldOptions::new([1, 1], [0, 0], [1, 1])));
    t.one("unfold4d with padding", real([1, 2, 3, 3]), |x| {
        B::unfold4d(x, [2, 2], UnfoldOptions::new([2, 1], [1, 1], [1, 2]))
    });
}

fn forward<B: Backend>(t: &mut Table<B>) {
    t.three("conv1d", [real([2, 2, 5]), unit([3, 2, 3]), unit([3])], |x, w, b| {
        B::conv1d(x, w, Some(b), ConvOptions::new([1], [0], [1], 1))
    });
    t.two("conv1d strided, padded, grouped", [real([1, 2, 6]), unit([4, 1, 3])], |x, w| {
        B::conv1d(x, w, None, ConvOptions::new([2], [1], [1], 2))
    });
    t.own("burn's adjoint of the weight is too long by what the stride leaves over");
    t.two("conv1d dilated", [real([1, 1, 7]), unit([2, 1, 3])], |x, w| {
        B::conv1d(x, w, None, ConvOptions::new([1], [1], [2], 1))
    });
    t.three("conv2d", [real([2, 2, 4, 3]), unit([2, 2, 2, 3]), unit([2])], |x, w, b| {
        B::conv2d(x, w, Some(b), ConvOptions::new([1, 1], [0, 0], [1, 1], 1))
    });
    t.two("conv2d 1x1", [real([1, 2, 3, 3]), unit([3, 2, 1, 1])], |x, w| {
        B::conv2d(x, w, None, ConvOptions::new([1, 1], [0, 0], [1, 1], 1))
    });
    t.two("conv2d strided and padded", [real([1, 2, 5, 4]), unit([2, 2, 3, 3])], |x, w| {
        B::conv2d(x, w, None, ConvOptions::new([2, 2], [1, 1], [1, 1], 1))
    });
    t.three("conv2d dilated, grouped", [real([1, 2, 5, 5]), unit([2, 1, 2, 2]), unit([2])], |x, w, b| {
        B::conv2d(x, w, Some(b), ConvOptions::new([1, 2], [1, 0], [2, 1], 2))
    });
    t.three("conv3d", [real([1, 2, 3, 3, 2]), unit([2, 2, 2, 2, 2]), unit([2])], |x, w, b| {
        B::conv3d(x, w, Some(b), ConvOptions::new([1, 1, 1], [0, 0, 0], [1, 1, 1], 1))
    });
    t.two("conv3d strided, padded, grouped", [real([1, 2, 3, 2, 2]), unit([2, 1, 2, 2, 2])], |x, w| {
        B::conv3d(x, w, None, ConvOptions::new([2, 1, 1], [1, 1, 0], [1, 1, 1], 2))
    });
}

fn transposed<B: Backend>(t: &mut Table<B>) {
    t.three("conv_transpose1d", [real([2, 2, 4]), unit([2, 3, 3]), unit([3])], |x, w, b| {
        B::conv_transpose1d(x, w, Some(b), ConvTransposeOptions::new([1], [0], [0], [1], 1))
    });
    t.two("conv_transpose1d strided, padded, grouped", [real([1, 2, 3]), unit([2, 2, 3])], |x, w| {
        B::conv_transpose1d(x, w, None, ConvTransposeOptions::new([2], [1], [1], [1], 2))
    });
    t.three("conv_transpose2d", [real([1, 2, 3, 2]), unit([2, 2, 2, 2]), unit([2])], |x, w, b| {
        B::conv_transpose2d(x, w, Some(b), ConvTransposeOptions::new([1, 1], [0, 0], [0, 0], [1, 1], 1))
    });
    t.two("conv_transpose2d strided, padded, dilated", [real([1, 2, 3, 2]), unit([2, 1, 2, 3])], |x, w| {
        B::conv_transpose2d(x, w, None, ConvTransposeOptions::new([2, 1], [1, 1], [1, 0], [1, 2], 1))
    });
    t.three("conv_transpose3d", [real([1, 2, 2, 2, 2]), unit([2, 1, 2, 2, 2]), unit([2])], |x, w, b| {
        B::conv_transpose3d(x, w, Some(b), ConvTransposeOptions::new([1, 2, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1], 2))
    });
}
