//! The operations that the outer backend replaces, beside the ones that pass through to `Autodiff`.

use std::ops::Range;

use burn_backend::ops::*;
use burn_backend::quantization::{QuantScheme, QuantizationParametersPrimitive};
use burn_backend::tensor::{BoolTensor, Device, FloatTensor, IntTensor, QuantizedTensor};
use burn_backend::{
    AutodiffBackend, BoolDType, Distribution, ExecutionError, FloatDType, IntDType, Scalar, Shape, Slice, TensorData,
    TensorMetadata,
};

use super::closed::{Input, closed, drop_slots};
use super::delegates::{
    delegate_activation, delegate_bool, delegate_float, delegate_int, delegate_module, delegate_quantised,
};
use super::{Inner, SecondOrder, attention, convolution, normalisation, products, slices};
use crate::engine::jvp::{Jvp, conv1d, gelu_backward, hard_sigmoid, scan, stop};
use crate::engine::kernels::{Dual, Kernels};

impl<B: Kernels> FloatTensorOps<Self> for SecondOrder<B> {
    delegate_float!();

    /// A stop-gradient: neither adjoints nor tangents pass (burn's `Autodiff` lets tangents through).
    fn float_detach(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        let required = Self::float_is_require_grad(&tensor);
        let constant = Inner::<B>::from_inner(Jvp::float_detach(tensor.primitive));
        if required { Self::float_set_require_grad(constant, true) } else { constant }
    }

    /// a + b, where each side's adjoint keeps only the slots that it depends on.
    fn float_add(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        let output = Jvp::float_add(lhs.primitive.clone(), rhs.primitive.clone());
        let state = || (Input::of(&lhs.primitive), Input::of(&rhs.primitive));
        closed([&lhs, &rhs], output, state, |(lhs, rhs): (Input, Input), grad, [want_lhs, want_rhs]| {
            [want_lhs.then(|| lhs.receive(grad.clone())), want_rhs.then(|| rhs.receive(grad))]
        })
    }

    /// x / c with adjoint g / c (burn's rounds 1 / c to f32, also in f64).
    fn float_div_scalar(lhs: FloatTensor<Self>, rhs: Scalar) -> FloatTensor<Self> {
        let output = Jvp::float_div_scalar(lhs.primitive.clone(), rhs);
        closed([&lhs], output, || rhs, |rhs, grad, _| [Some(Jvp::<B>::float_div_scalar(grad, rhs))])
    }

    fn float_matmul(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        products::matmul(lhs, rhs)
    }

    /// y = x, times times over: dx = the sum over the copies (burn's rule sums neighbours instead).
    fn float_repeat_dim(tensor: FloatTensor<Self>, dim: usize, times: usize) -> FloatTensor<Self> {
        let output = Jvp::float_repeat_dim(tensor.primitive.clone(), dim, times);
        let state = || (tensor.primitive.shape(), dim, times);
        closed([&tensor], output, state, |(shape, dim, times): (Shape, usize, usize), grad: Dual<B>, _| {
            let mut copies = shape.clone();
            copies.insert(dim, times);
            let total = Jvp::float_sum_dim(Jvp::float_reshape(grad, copies), dim);
            [Some(Jvp::float_reshape(total, shape))]
        })
    }

    fn float_slice(tensor: FloatTensor<Self>, slices: &[Slice]) -> FloatTensor<Self> {
        slices::slice(tensor, slices)
    }

    fn float_topk(tensor: FloatTensor<Self>, dim: usize, k: usize) -> FloatTensor<Self> {
        scan::largest::<Self>(tensor, dim, k)
    }

    fn float_prod(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        let count = tensor.shape().num_elements();
        scan::product::<Self>(Self::float_reshape(tensor, Shape::new([count])), 0)
    }

    fn float_prod_dim(tensor: FloatTensor<Self>, dim: usize) -> FloatTensor<Self> {
        scan::product::<Self>(tensor, dim)
    }

    fn float_cumprod(tensor: FloatTensor<Self>, dim: usize) -> FloatTensor<Self> {
        scan::cumulative_product::<Self>(tensor, dim)
    }

    fn float_cummax(tensor: FloatTensor<Self>, dim: usize) -> FloatTensor<Self> {
        scan::cumulative_maximum::<Self>(tensor, dim)
    }

    fn float_cummin(tensor: FloatTensor<Self>, dim: usize) -> FloatTensor<Self> {
        scan::cumulative_minimum::<Self>(tensor, dim)
    }
}

impl<B: Kernels> ActivationOps<Self> for SecondOrder<B> {
    delegate_activation!();

    fn gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        gelu_backward::<Self>(x, grad)
    }

    fn hard_sigmoid(tensor: FloatTensor<Self>, alpha: Scalar, beta: Scalar) -> FloatTensor<Self> {
        hard_sigmoid::<Self>(tensor, alpha, beta)
    }

    fn softmax(tensor: FloatTensor<Self>, dim: usize) -> FloatTensor<Self> {
        normalisation::softmax(tensor, dim)
    }

    fn log_softmax(tensor: FloatTensor<Self>, dim: usize) -> FloatTensor<Self> {
        normalisation::log_softmax(tensor, dim)
    }
}

/// Other convolutions pass through behind an identity that drops the slots which x does not depend on.
macro_rules! convolutions {
    ($($name:ident: $options:ty;)*) => {$(
        fn $name(
            x: FloatTensor<Self>,
            weight: FloatTensor<Self>,
            bias: Option<FloatTensor<Self>>,
            options: $options,
        ) -> FloatTensor<Self> {
            Inner::<B>::$name(drop_slots(x), weight, bias, options)
        }
    )*};
}

impl<B: Kernels> ModuleOps<Self> for SecondOrder<B> {
    delegate_module!();

    convolutions! {
        conv3d: ConvOptions<3>;
        conv_transpose1d: ConvTransposeOptions<1>;
        conv_transpose2d: ConvTransposeOptions<2>;
        conv_transpose3d: ConvTransposeOptions<3>;
    }

    fn conv1d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        options: ConvOptions<1>,
    ) -> FloatTensor<Self> {
        conv1d::<Self>(x, weight, bias, options)
    }

    fn conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        let y = convolution::conv2d(x, weight, options);
        match bias {
            Some(bias) => {
                let channels = bias.shape()[0];
                Self::float_add(y, Self::float_reshape(bias, Shape::new([1, channels, 1, 1])))
            }
            None => y,
        }
    }

    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: Option<FloatTensor<Self>>) -> FloatTensor<Self> {
        products::linear(x, weight, bias)
    }

    fn layer_norm(
        tensor: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: Option<FloatTensor<Self>>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        normalisation::layer_norm(tensor, gamma, beta, epsilon)
    }

    fn attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        mask: Option<BoolTensor<Self>>,
        attn_bias: Option<FloatTensor<Self>>,
        options: AttentionModuleOptions,
    ) -> FloatTensor<Self> {
        attention::attention(query, key, value, mask, attn_bias, options)
    }
}

impl<B: Kernels> IntTensorOps<Self> for SecondOrder<B> {
    delegate_int!();
}

impl<B: Kernels> BoolTensorOps<Self> for SecondOrder<B> {
    delegate_bool!();
}

impl<B: Kernels> QTensorOps<Self> for SecondOrder<B> {
    delegate_quantised!();

    fn quantize(
        tensor: FloatTensor<Self>,
        scheme: &QuantScheme,
        qparams: QuantizationParametersPrimitive<Self>,
    ) -> QuantizedTensor<Self> {
        let scales = Dual::constant(stop("quantize", qparams.scales.primitive));
        let tensor = Dual::constant(stop("quantize", tensor.primitive));
        Jvp::<B>::quantize(tensor, scheme, QuantizationParametersPrimitive { scales })
    }
}

impl<B: Kernels> TransactionOps<Self> for SecondOrder<B> {
    fn tr_execute(
        transaction: TransactionPrimitive<Self>,
    ) -> impl Future<Output = Result<TransactionPrimitiveData, ExecutionError>> + Send {
        Jvp::<B>::tr_execute(TransactionPrimitive::new(
            transaction.read_floats.into_iter().map(|x| x.primitive).collect(),
            transaction.read_qfloats,
            transaction.read_ints,
            transaction.read_bools,
        ))
    }
}
