//! Rules of `ModuleOps`. Where a backend has no kernel for the adjoints of convolutions, they are burn's defaults, built from
//! convolutions, which have rules.

use burn_backend::ops::attention::attention_fallback;
use burn_backend::ops::*;
use burn_backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn_backend::{Backend, Shape, TensorMetadata};

use super::rules::{bilinear, joint, product, selected, stop, sum};
use super::types::alike;
use super::{Jvp, kinks};
use crate::engine::kernels::{Dual, Kernels, not_computed, transposed};

/// A convolution: linear in x, in the weight and in the bias.
macro_rules! convolutions {
    ($($name:ident: $options:ty;)*) => {$(
        fn $name(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            bias: Option<FloatTensor<Self>>,
            options: $options,
        ) -> FloatTensor<Self> {
            let y = bilinear(x, weight, |x, w| B::$name(x, w, None, options.clone()));
            match bias {
                Some(bias) => biased(y, bias),
                None => y,
            }
        }
    )*};
}

/// y + bias, which has the shape (channels).
fn biased<B: Kernels>(y: Dual<B>, bias: Dual<B>) -> Dual<B> {
    let mut dims = vec![1; y.rank()];
    dims[1] = bias.shape()[0];
    sum(y, bias.map(|b| B::float_reshape(b, dims.clone().into())), false)
}

/// A convolution in one dimension as one in two, on planes of height 1.
pub(crate) fn conv1d<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    options: ConvOptions<1>,
) -> FloatTensor<B> {
    let plane = |x: FloatTensor<B>| {
        let [batch, channels, length] = x.shape().dims();
        B::float_reshape(x, Shape::new([batch, channels, 1, length]))
    };
    let ConvOptions { stride: [stride], padding: [padding], dilation: [dilation], groups } = options;
    let options = ConvOptions::new([1, stride], [0, padding], [1, dilation], groups);
    let y = B::conv2d(plane(x), plane(weight), bias, options);
    let [batch, channels, _, length] = y.shape().dims();
    B::float_reshape(y, Shape::new([batch, channels, length]))
}

/// x as a matrix of rows: all leading dimensions together.
pub(crate) fn rows<B: Kernels>(x: Dual<B>) -> Dual<B> {
    let shape = x.shape();
    let width = shape[shape.num_dims() - 1];
    let dims = Shape::new([shape.num_elements() / width.max(1), width]);
    if shape == dims { x } else { x.map(|t| B::float_reshape(t, dims.clone())) }
}

/// Rows back in the leading dimensions of `like`.
pub(crate) fn unrows<B: Kernels>(y: Dual<B>, like: &Shape) -> Dual<B> {
    let mut dims = like.clone();
    let rank = dims.num_dims();
    dims[rank - 1] = y.shape()[1];
    if y.shape() == dims { y } else { y.map(|t| B::float_reshape(t, dims.clone())) }
}

impl<B: Kernels> ModuleOps<Self> for Jvp<B> {
    fn embedding(weights: FloatTensor<Self>, indices: IntTensor<Self>) -> FloatTensor<Self> {
        weights.map(|w| B::embedding(w, indices.clone()))
    }

    fn embedding_backward(
        weights: FloatTensor<Self>,
        output_grad: FloatTensor<Self>,
        indices: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let back = |g| B::embedding_backward(weights.primal.clone(), g, indices.clone());
        if !weights.tangents_only {
            return output_grad.map(back);
        }
        let primal = not_computed::<B>(&weights.primal, weights.shape());
        let grad = output_grad.only(&weights.mask());
        Dual::new(primal, grad.tangents.into_iter().map(|t| t.map(back)).collect())
    }

    /// y = x W + b over rows: dy = dx W + x dW + db, the two products in one buffer.
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: Option<FloatTensor<Self>>) -> FloatTensor<Self> {
        let shape = x.shape();
        let y = product(rows(x), weight);
        let y = match bias {
            Some(bias) => {
                let width = bias.shape()[0];
                sum(y, bias.map(|b| B::float_reshape(b, Shape::new([1, width]))), false)
            }
            None => y,
        };
        unrows(y, &shape)
    }

    fn linear_x_backward(weight: FloatTensor<Self>, output_grad: FloatTensor<Self>) -> FloatTensor<Self> {
        let shape = output_grad.shape();
        unrows(product(rows(output_grad), weight.map(transposed::<B>)), &shape)
    }

    fn linear_weight_backward(x: FloatTensor<Self>, output_grad: FloatTensor<Self>) -> FloatTensor<Self> {
        product(rows(x).map(transposed::<B>), rows(output_grad))
    }

    fn linear_bias_backward(output_grad: FloatTensor<Self>) -> FloatTensor<Self> {
        let grad = rows(output_grad);
        let width = grad.shape()[1];
        grad.map(|g| B::float_reshape(B::float_sum_dim(g, 0), Shape::new([width])))
    }

    fn conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        let (x, weight) = alike(x, weight);
        let y = <B as Kernels>::conv2d(&x, &weight, &options)
            .unwrap_or_else(|| bilinear(x, weight, |x, w| <B as ModuleOps<B>>::conv2d(x, w, None, options.clone())));
        match bias {
            Some(bias) => biased(y, bias),
            None => y,
        }
    }

    fn conv1d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        options: ConvOptions<1>,
    ) -> FloatTensor<Self> {
        conv1d::<Self>(x, weight, bias, options)
    }

    convolutions! {
        conv3d: ConvOptions<3>;
        conv_transpose1d: ConvTransposeOptions<1>;
        conv_transpose2d: ConvTransposeOptions<2>;
        conv_transpose3d: ConvTransposeOptions<3>;
    }

    fn deform_conv2d(
        x: FloatTensor<Self>,
        offset: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        mask: Option<FloatTensor<Self>>,
        bias: Option<FloatTensor<Self>>,
        options: DeformConvOptions<2>,
    ) -> FloatTensor<Self> {
        let plain = |x| stop("deform_conv2d", x);
        Dual::constant(B::deform_conv2d(
            plain(x),
            plain(offset),
            plain(weight),
            mask.map(plain),
            bias.map(plain),
            options,
        ))
    }

    fn deform_conv2d_backward(
        x: FloatTensor<Self>,
        offset: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        mask: Option<FloatTensor<Self>>,
        bias: Option<FloatTensor<Self>>,
        output_grad: FloatTensor<Self>,
        options: DeformConvOptions<2>,
    ) -> DeformConv2dBackward<Self> {
        let plain = |x| stop("deform_conv2d_backward", x);
        let grads = B::deform_conv2d_backward(
            plain(x),
            plain(offset),
            plain(weight),
            mask.map(plain),
            bias.map(plain),
            plain(output_grad),
            options,
        );
        DeformConv2dBackward::new(
            Dual::constant(grads.x_grad),
            Dual::constant(grads.offset_grad),
            Dual::constant(grads.weight_grad),
            grads.mask_grad.map(Dual::constant),
            grads.bias_grad.map(Dual::constant),
        )
    }

    fn avg_pool1d(
        x: FloatTensor<Self>,
        kernel_size: usize,
        stride: usize,
        padding: usize,
        count_include_pad: bool,
        ceil_mode: bool,
    ) -> FloatTensor<Self> {
        x.map(|x| B::avg_pool1d(x, kernel_size, stride, padding, count_include_pad, ceil_mode))
    }

    fn avg_pool1d_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        kernel_size: usize,
        stride: usize,
        padding: usize,
        count_include_pad: bool,
        ceil_mode: bool,
    ) -> FloatTensor<Self> {
        let x = x.primal;
        grad.map(|g| B::avg_pool1d_backward(x.clone(), g, kernel_size, stride, padding, count_include_pad, ceil_mode))
    }

    fn avg_pool2d(
        x: FloatTensor<Self>,
        kernel_size: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
        count_include_pad: bool,
        ceil_mode: bool,
    ) -> FloatTensor<Self> {
        x.map(|x| B::avg_pool2d(x, kernel_size, stride, padding, count_include_pad, ceil_mode))
    }

    fn avg_pool2d_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        kernel_size: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
        count_include_pad: bool,
        ceil_mode: bool,
    ) -> FloatTensor<Self> {
        let x = x.primal;
        grad.map(|g| B::avg_pool2d_backward(x.clone(), g, kernel_size, stride, padding, count_include_pad, ceil_mode))
    }

    fn adaptive_avg_pool1d(x: FloatTensor<Self>, output_size: usize) -> FloatTensor<Self> {
        x.map(|x| B::adaptive_avg_pool1d(x, output_size))
    }

    fn adaptive_avg_pool1d_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        grad.map(|g| B::adaptive_avg_pool1d_backward(x.primal.clone(), g))
    }

    fn adaptive_avg_pool2d(x: FloatTensor<Self>, output_size: [usize; 2]) -> FloatTensor<Self> {
        x.map(|x| B::adaptive_avg_pool2d(x, output_size))
    }

    fn adaptive_avg_pool2d_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        grad.map(|g| B::adaptive_avg_pool2d_backward(x.primal.clone(), g))
    }

    fn max_pool2d(
        x: FloatTensor<Self>,
        kernel_size: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
        dilation: [usize; 2],
        ceil_mode: bool,
    ) -> FloatTensor<Self> {
        Self::max_pool2d_with_indices(x, kernel_size, stride, padding, dilation, ceil_mode).output
    }

    /// The tangents are taken at the positions of the maxima, which are indices into each (height x width) plane.
    fn max_pool2d_with_indices(
        x: FloatTensor<Self>,
        kernel_size: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
        dilation: [usize; 2],
        ceil_mode: bool,
    ) -> MaxPool2dWithIndices<Self> {
        let [batch, channels, height, width] = x.shape().dims();
        let pooled = B::max_pool2d_with_indices(x.primal.clone(), kernel_size, stride, padding, dilation, ceil_mode);
        let [_, _, out_height, out_width] = pooled.output.shape().dims();
        let flat = Shape::new([batch, channels, out_height * out_width]);
        let positions = kinks::positions::<B>(B::int_reshape(pooled.indices.clone(), flat));
        let planes = x.map(|t| B::float_reshape(t, Shape::new([batch, channels, height * width])));
        let shape = pooled.output.shape();
        let tangents = selected(planes, 2, &positions).map(|t| B::float_reshape(t, shape.clone())).tangents;
        MaxPool2dWithIndices::new(Dual::new(pooled.output, tangents), pooled.indices)
    }

    fn max_pool2d_with_indices_backward(
        x: FloatTensor<Self>,
        kernel_size: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
        dilation: [usize; 2],
        ceil_mode: bool,
        output_grad: FloatTensor<Self>,
        indices: IntTensor<Self>,
    ) -> MaxPool2dBackward<Self> {
        let x = x.primal;
        MaxPool2dBackward::new(output_grad.map(|g| {
            let indices = indices.clone();
            B::max_pool2d_with_indices_backward(
                x.clone(),
                kernel_size,
                stride,
                padding,
                dilation,
                ceil_mode,
                g,
                indices,
            )
            .x_grad
        }))
    }

    fn interpolate(x: FloatTensor<Self>, output_size: [usize; 2], options: InterpolateOptions) -> FloatTensor<Self> {
        x.map(|x| B::interpolate(x, output_size, options.clone()))
    }

    fn interpolate_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        output_size: [usize; 2],
        options: InterpolateOptions,
    ) -> FloatTensor<Self> {
        grad.map(|g| B::interpolate_backward(x.primal.clone(), g, output_size, options.clone()))
    }

    fn attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        mask: Option<BoolTensor<Self>>,
        attn_bias: Option<FloatTensor<Self>>,
        options: AttentionModuleOptions,
    ) -> FloatTensor<Self> {
        let [query, key, value] = three_alike([query, key, value]);
        <B as Kernels>::attention(&query, &key, &value, mask.as_ref(), attn_bias.as_ref(), &options)
            .unwrap_or_else(|| attention_fallback::<Self>(query, key, value, mask, attn_bias, options))
    }

    fn layer_norm(
        tensor: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: Option<FloatTensor<Self>>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let (tensor, gamma) = alike(tensor, gamma);
        <B as Kernels>::layer_norm(&tensor, &gamma, beta.as_ref(), epsilon).unwrap_or_else(|| {
            let rank = tensor.rank();
            let y = Self::float_mul(normalised(tensor, epsilon).0, row(gamma, rank));
            match beta {
                Some(beta) => sum(y, row(beta, rank), false),
                None => y,
            }
        })
    }

    fn rfft(signal: FloatTensor<Self>, dim: usize, n: Option<usize>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (re, im) = B::rfft(signal.primal, dim, n);
        let parts = signal.tangents.into_iter().map(|t| t.map(|t| B::rfft(t, dim, n)).unzip());
        let (re_tangents, im_tangents) = parts.unzip();
        (Dual::new(re, re_tangents), Dual::new(im, im_tangents))
    }

    fn irfft(
        spectrum_re: FloatTensor<Self>,
        spectrum_im: FloatTensor<Self>,
        dim: usize,
        n: Option<usize>,
    ) -> FloatTensor<Self> {
        joint(spectrum_re, spectrum_im, |re, im| B::irfft(re, im, dim, n))
    }
}

/// Three operands in one type.
pub(crate) fn three_alike<B: Kernels>(operands: [Dual<B>; 3]) -> [Dual<B>; 3] {
    let [a, b, c] = operands;
    let (a, b) = alike(a, b);
    let (b, c) = alike(b, c);
    let (a, b) = alike(a, b);
    [a, b, c]
}

/// A parameter of shape (width) as (1, ..., 1, width).
pub(crate) fn row<B: Kernels>(parameter: Dual<B>, rank: usize) -> Dual<B> {
    let mut dims = vec![1; rank];
    dims[rank - 1] = parameter.shape()[0];
    parameter.map(|t| B::float_reshape(t, dims.clone().into()))
}

/// ((x - mean) / sqrt(var + epsilon), 1 / sqrt(var + epsilon)) over the last dimension, biased variance.
pub(crate) fn normalised<B: Kernels>(x: Dual<B>, epsilon: f64) -> (Dual<B>, Dual<B>) {
    let last = x.rank() - 1;
    let mean = Jvp::float_mean_dim(x.clone(), last);
    let centred = Jvp::float_sub(x, mean);
    let variance = Jvp::float_mean_dim(Jvp::float_mul(centred.clone(), centred.clone()), last);
    let scale = Jvp::float_recip(Jvp::float_sqrt(Jvp::float_add_scalar(variance, epsilon.into())));
    (Jvp::float_mul(centred, scale.clone()), scale)
}
