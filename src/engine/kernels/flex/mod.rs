//! Fused kernels on flex's slices (CPU), for f32 and f64.
//!
//! Owns one file per family of kernels: each computes a primal and all tangent slots that are present in one pass over
//! memory, in parallel over pieces that depend on the shapes only, so that results do not depend on the number of threads.
//! Other float types return `None` (or, for products, go to flex's own matmul).

mod attention;
mod attention_backward;
#[cfg(test)]
mod attention_tests;
mod attention_tiles;
mod columns;
mod convolution;
#[cfg(test)]
mod convolution_tests;
mod cross_entropy;
#[cfg(test)]
mod cross_entropy_tests;
mod dual_slices;
mod element;
mod elementwise;
mod lanes;
mod layer_norm;
mod math;
mod matrix;
mod products;
mod repeated;
mod slices;
mod softmax;
#[cfg(test)]
mod testing;

use burn_backend::ops::{AttentionModuleOptions, ConvOptions, FloatTensorOps};
use burn_backend::{DType, Shape, Slice, TensorMetadata};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::{AttentionAdjoints, Dual, Kernels, LinearCrossEntropy, Mask, Terms};

/// Numbers of a tensor from which on one pass over it is worth a second thread.
const PARALLEL_FROM: usize = 1 << 16;

/// Calls a generic kernel for the dtype of `$x`; `None` for anything but f32 and f64.
macro_rules! by_dtype {
    ($x:expr, $($kernel:ident)::+, $($argument:expr),*) => {
        match $x.primal.dtype() {
            DType::F32 => Some($($kernel)::+::<f32>($($argument),*)),
            DType::F64 => Some($($kernel)::+::<f64>($($argument),*)),
            _ => None,
        }
    };
}

impl Kernels for Flex {
    const HAS_F64: bool = true;

    fn sum_of_products(terms: Vec<(FlexTensor, FlexTensor)>) -> FlexTensor {
        match terms[0].0.dtype() {
            DType::F32 => products::sum_of_products::<f32>(&terms),
            DType::F64 => products::sum_of_products::<f64>(&terms),
            _ => {
                let products = terms.into_iter().map(|(lhs, rhs)| Self::float_matmul(lhs, rhs));
                products.reduce(Self::float_add).expect("a sum of products has at least one term")
            }
        }
    }

    fn product_library() -> String {
        matrix::LIBRARY.into()
    }

    fn sums_of_products(sums: Vec<Terms<Self>>) -> Vec<FlexTensor> {
        match sums.first().map(|terms| terms[0].0.dtype()) {
            Some(DType::F32) => products::sums_of_products::<f32>(&sums),
            Some(DType::F64) => products::sums_of_products::<f64>(&sums),
            _ => sums.into_iter().map(Self::sum_of_products).collect(),
        }
    }

    fn add_to_slice(total: FlexTensor, slices: &[Slice], part: FlexTensor) -> FlexTensor {
        match (slices::columns(&total, slices, &part), total.dtype()) {
            (Some(columns), DType::F32) => slices::add_to_columns::<f32>(total, &columns, &part),
            (Some(columns), DType::F64) => slices::add_to_columns::<f64>(total, &columns, &part),
            _ => {
                let old = Self::float_slice(total.clone(), slices);
                Self::float_slice_assign(total, slices, Self::float_add(old, part))
            }
        }
    }

    fn mul(lhs: &Dual<Self>, rhs: &Dual<Self>) -> Option<Dual<Self>> {
        let shape = repeated::common_shape(&lhs.shape(), &rhs.shape())?;
        by_dtype!(lhs, elementwise::mul, lhs, rhs, shape)
    }

    /// Few numbers of equal shapes: by flex, which reuses memory.
    fn sum(lhs: &Dual<Self>, rhs: &Dual<Self>, negative: bool) -> Option<Dual<Self>> {
        let shape = repeated::common_shape(&lhs.shape(), &rhs.shape())?;
        if lhs.shape() == rhs.shape() && shape.num_elements() < PARALLEL_FROM {
            return None;
        }
        by_dtype!(lhs, elementwise::sum, lhs, rhs, negative, shape)
    }

    fn each(components: Vec<FlexTensor>, f: &(dyn Fn(FlexTensor) -> FlexTensor + Sync)) -> Vec<FlexTensor> {
        match &components[..] {
            [first, _, ..] if first.shape().num_elements() >= PARALLEL_FROM => {
                components.into_par_iter().with_max_len(1).map(f).collect()
            }
            _ => components.into_iter().map(f).collect(),
        }
    }

    fn where_positive(of: &FlexTensor, x: &Dual<Self>) -> Option<Dual<Self>> {
        if of.shape() == x.shape() && of.dtype() == x.dtype() {
            by_dtype!(x, elementwise::where_positive, of, x)
        } else {
            None
        }
    }

    fn gelu(x: &Dual<Self>) -> Option<Dual<Self>> {
        by_dtype!(x, elementwise::gelu, x)
    }

    fn gelu_backward(x: &Dual<Self>, grad: &Dual<Self>) -> Option<Dual<Self>> {
        by_dtype!(x, elementwise::gelu_backward, x, grad)
    }

    fn softmax(x: &Dual<Self>) -> Option<Dual<Self>> {
        by_dtype!(x, softmax::softmax, x)
    }

    fn softmax_backward(y: &Dual<Self>, grad: &Dual<Self>) -> Option<Dual<Self>> {
        by_dtype!(y, softmax::softmax_backward, y, grad)
    }

    fn layer_norm(x: &Dual<Self>, gamma: &Dual<Self>, beta: Option<&Dual<Self>>, epsilon: f64) -> Option<Dual<Self>> {
        by_dtype!(x, layer_norm::layer_norm, x, gamma, beta, epsilon)
    }

    fn layer_norm_backward(
        x: &Dual<Self>,
        gamma: &Dual<Self>,
        grad: &Dual<Self>,
        epsilon: f64,
        keep: &Mask,
        gamma_needed: bool,
    ) -> Option<(Dual<Self>, Option<Dual<Self>>)> {
        by_dtype!(x, layer_norm::layer_norm_backward, x, gamma, grad, epsilon, keep, gamma_needed)
    }

    fn attention(
        query: &Dual<Self>,
        key: &Dual<Self>,
        value: &Dual<Self>,
        mask: Option<&FlexTensor>,
        bias: Option<&Dual<Self>>,
        options: &AttentionModuleOptions,
    ) -> Option<Dual<Self>> {
        if bias.is_some() {
            return None;
        }
        by_dtype!(query, attention::attention, query, key, value, mask, options).flatten()
    }

    fn attention_backward(
        query: &Dual<Self>,
        key: &Dual<Self>,
        value: &Dual<Self>,
        mask: Option<&FlexTensor>,
        options: &AttentionModuleOptions,
        grad: &Dual<Self>,
    ) -> Option<AttentionAdjoints<Self>> {
        by_dtype!(query, attention_backward::attention_backward, query, key, value, mask, options, grad).flatten()
    }

    fn conv2d(x: &Dual<Self>, weight: &Dual<Self>, options: &ConvOptions<2>) -> Option<Dual<Self>> {
        by_dtype!(x, convolution::conv2d, x, weight, options)
    }

    fn conv2d_x_backward(
        weight: &Dual<Self>,
        grad: &Dual<Self>,
        shape: &Shape,
        options: &ConvOptions<2>,
        keep: &Mask,
        with_primal: bool,
    ) -> Option<Dual<Self>> {
        by_dtype!(weight, convolution::x_adjoint, weight, grad, shape, options, keep, with_primal)
    }

    fn conv2d_weight_backward(
        x: &Dual<Self>,
        grad: &Dual<Self>,
        shape: &Shape,
        options: &ConvOptions<2>,
        keep: &Mask,
        with_primal: bool,
    ) -> Option<Dual<Self>> {
        by_dtype!(x, convolution::weight_adjoint, x, grad, shape, options, keep, with_primal)
    }

    fn linear_cross_entropy(
        hidden: &Dual<Self>,
        weight: &Dual<Self>,
        targets: &FlexTensor,
        hidden_needed: bool,
        weight_needed: bool,
    ) -> Option<LinearCrossEntropy<Self>> {
        let kernel = by_dtype!(
            hidden,
            cross_entropy::linear_cross_entropy,
            hidden,
            weight,
            targets,
            hidden_needed,
            weight_needed
        );
        kernel.flatten()
    }
}
