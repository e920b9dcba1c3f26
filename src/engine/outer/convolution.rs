//! The reverse rule of convolutions in two dimensions.
//!
//! y = x * w is linear in both: the adjoint of each is a linear map of the upstream adjoint and the other one, so that its
//! tangent is a sum of two. Only what somebody reads is formed.

use burn_backend::ops::{ConvOptions, ModuleOps};

use super::closed::{Input, Tracked, closed};
use crate::engine::jvp::{Jvp, alike};
use crate::engine::kernels::{Dual, Kernels};

#[derive(Debug, Clone)]
struct Convolution<B: Kernels> {
    x: Dual<B>,
    weight: Dual<B>,
    x_input: Input,
    weight_input: Input,
    options: ConvOptions<2>,
}

/// y without a bias: x, (images, channels in, height, width), with kernels, (channels out, channels in / groups, height, width).
pub(super) fn conv2d<B: Kernels>(x: Tracked<B>, weight: Tracked<B>, options: ConvOptions<2>) -> Tracked<B> {
    let (a, b) = alike(x.primitive.clone(), weight.primitive.clone());
    let output = Jvp::conv2d(a.clone(), b.clone(), None, options.clone());
    let state = || Convolution {
        x: a,
        weight: b,
        x_input: Input::of(&x.primitive),
        weight_input: Input::of(&weight.primitive),
        options,
    };
    closed([&x, &weight], output, state, |state: Convolution<B>, grad, [want_x, want_weight]| {
        [want_x.then(|| state.x_adjoint(&grad)), want_weight.then(|| state.weight_adjoint(&grad))]
    })
}

impl<B: Kernels> Convolution<B> {
    fn x_adjoint(&self, grad: &Dual<B>) -> Dual<B> {
        let Self { x, weight, x_input: Input { shape, mask, tangents_only }, options, .. } = self;
        <B as Kernels>::conv2d_x_backward(weight, grad, shape, options, mask, !tangents_only).unwrap_or_else(|| {
            Jvp::conv2d_x_backward(x.clone(), weight.clone(), grad.clone(), options.clone()).only(mask)
        })
    }

    fn weight_adjoint(&self, grad: &Dual<B>) -> Dual<B> {
        let Self { x, weight, weight_input: Input { shape, mask, tangents_only }, options, .. } = self;
        <B as Kernels>::conv2d_weight_backward(x, grad, shape, options, mask, !tangents_only).unwrap_or_else(|| {
            Jvp::conv2d_weight_backward(x.clone(), weight.clone(), grad.clone(), options.clone()).only(mask)
        })
    }
}
