//! Rules of `ActivationOps`. What is not here is composed by burn's defaults from operations that have rules.

use burn_backend::ops::{ActivationOps, FloatTensorOps};
use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, Scalar, TensorMetadata};

use super::rules::{bool_dtype, masked, unary, with_tangents};
use super::{Jvp, kinks};
use crate::engine::kernels::{Dual, Kernels};

fn number(value: f64) -> Scalar {
    Scalar::Float(value)
}

/// 1 / (1 + exp(-x)), in the dtype of x (burn's default goes through f32).
fn logistic<B: Kernels>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_recip(B::float_add_scalar(B::float_exp(B::float_neg(x)), number(1.0)))
}

/// 1 - y.
fn complement<B: Kernels>(y: FloatTensor<B>) -> FloatTensor<B> {
    B::float_add_scalar(B::float_neg(y), number(1.0))
}

/// Phi(x) = (1 + erf(x / sqrt 2)) / 2.
fn normal_distribution<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let erf = B::float_erf(B::float_mul_scalar(x, number(std::f64::consts::FRAC_1_SQRT_2)));
    B::float_mul_scalar(B::float_add_scalar(erf, number(1.0)), number(0.5))
}

/// phi(x) = exp(-x^2 / 2) / sqrt(2 pi).
fn normal_density<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let square = B::float_mul(x.clone(), x);
    let bell = B::float_exp(B::float_mul_scalar(square, number(-0.5)));
    B::float_mul_scalar(bell, number(1.0 / (2.0 * std::f64::consts::PI).sqrt()))
}

/// g (Phi(x) + x phi(x)): the exact derivative of GELU (burn's default is that of the tanh form).
pub(crate) fn gelu_backward<B: Backend>(x: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    let bell = B::float_mul(x.clone(), normal_density::<B>(x.clone()));
    B::float_mul(grad, B::float_add(normal_distribution::<B>(x), bell))
}

/// alpha x + beta between 0 and 1, in the dtype of x (burn's default goes through f32).
pub(crate) fn hard_sigmoid<B: Backend>(x: FloatTensor<B>, alpha: Scalar, beta: Scalar) -> FloatTensor<B> {
    B::float_clamp(B::float_add_scalar(B::float_mul_scalar(x, alpha), beta), number(0.0), number(1.0))
}

/// x - max(x) along a dimension.
fn shifted<B: Kernels>(x: FloatTensor<B>, dim: usize) -> FloatTensor<B> {
    let top = B::float_max_dim(x.clone(), dim);
    B::float_sub(x, top)
}

/// Each tangent t becomes `t - sum(p t)`.
fn centred<B: Kernels>(t: FloatTensor<B>, p: &FloatTensor<B>, dim: usize) -> FloatTensor<B> {
    let mean = B::float_sum_dim(B::float_mul(p.clone(), t.clone()), dim);
    B::float_sub(t, mean)
}

/// The backend's softmax, where it has one: over the last dimension.
fn fused_softmax<B: Kernels>(x: &Dual<B>, dim: usize) -> Option<Dual<B>> {
    (dim + 1 == x.rank()).then(|| <B as Kernels>::softmax(x)).flatten()
}

/// Softmax of scores that may be -inf; where a whole row is, the result is 0 (not 0 / 0), as in burn's attention.
pub(crate) fn masked_softmax<B: Kernels>(scores: Dual<B>, dim: usize) -> Dual<B> {
    if let Some(y) = fused_softmax(&scores, dim) {
        return y;
    }
    let (lowest, smallest) = match scores.dtype() {
        burn_backend::DType::F64 => (f64::MIN, f64::MIN_POSITIVE),
        _ => (f64::from(f32::MIN), f64::from(f32::MIN_POSITIVE)),
    };
    let top = B::float_clamp_min(B::float_max_dim(scores.primal.clone(), dim), number(lowest));
    let e = B::float_exp(B::float_sub(scores.primal.clone(), top));
    let total = B::float_clamp_min(B::float_sum_dim(e.clone(), dim), number(smallest));
    let y = B::float_div(e, total);
    let p = y.clone();
    with_tangents(scores, y, |t| B::float_mul(p.clone(), centred::<B>(t, &p, dim)))
}

impl<B: Kernels> ActivationOps<Self> for Jvp<B> {
    fn relu(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        let fused = if kinks::is_recording() { None } else { B::where_positive(&tensor.primal, &tensor) };
        fused.unwrap_or_else(|| {
            let off = B::float_lower_equal_elem(tensor.primal.clone(), number(0.0), bool_dtype::<B>(&tensor.primal));
            let off = kinks::sides::<B>(off);
            let y = B::relu(tensor.primal.clone());
            with_tangents(tensor, y, |t| masked::<B>(t, &off))
        })
    }

    fn relu_backward(output: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        B::where_positive(&output.primal, &grad)
            .unwrap_or_else(|| grad.map(|g| B::relu_backward(output.primal.clone(), g)))
    }

    fn gelu(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        <B as Kernels>::gelu(&tensor)
            .unwrap_or_else(|| Self::float_mul(tensor.clone(), normal_distribution::<Self>(tensor)))
    }

    fn gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        <B as Kernels>::gelu_backward(&x, &grad).unwrap_or_else(|| gelu_backward::<Self>(x, grad))
    }

    fn hard_sigmoid(tensor: FloatTensor<Self>, alpha: Scalar, beta: Scalar) -> FloatTensor<Self> {
        hard_sigmoid::<Self>(tensor, alpha, beta)
    }

    fn sigmoid(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        unary(tensor, logistic::<B>, |_, y| B::float_mul(y.clone(), complement::<B>(y)))
    }

    fn sigmoid_backward(output: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        let complement = Self::float_add_scalar(Self::float_neg(output.clone()), number(1.0));
        Self::float_mul(grad, Self::float_mul(output, complement))
    }

    /// min(x, 0) - log(1 + exp(-|x|)), slope sigmoid(-x).
    fn log_sigmoid(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        let value = |x: FloatTensor<B>| {
            let tail = B::float_log1p(B::float_exp(B::float_neg(B::float_abs(x.clone()))));
            B::float_sub(B::float_clamp_max(x, number(0.0)), tail)
        };
        unary(tensor, value, |x, _| logistic::<B>(B::float_neg(x)))
    }

    fn log_sigmoid_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_mul(grad, Self::sigmoid(Self::float_neg(x)))
    }

    /// y = softmax(x): dy = y (dx - sum(y dx)).
    fn softmax(tensor: FloatTensor<Self>, dim: usize) -> FloatTensor<Self> {
        if let Some(y) = fused_softmax(&tensor, dim) {
            return y;
        }
        let e = B::float_exp(shifted::<B>(tensor.primal.clone(), dim));
        let y = B::float_div(e.clone(), B::float_sum_dim(e, dim));
        let p = y.clone();
        with_tangents(tensor, y, |t| B::float_mul(p.clone(), centred::<B>(t, &p, dim)))
    }

    /// y = x - logsumexp(x): dy = dx - sum(softmax(x) dx).
    fn log_softmax(tensor: FloatTensor<Self>, dim: usize) -> FloatTensor<Self> {
        let x = shifted::<B>(tensor.primal.clone(), dim);
        let y = B::float_sub(x.clone(), B::float_log(B::float_sum_dim(B::float_exp(x), dim)));
        if !tensor.is_active() {
            return Dual::constant(y);
        }
        let p = B::float_exp(y.clone());
        with_tangents(tensor, y, |t| centred::<B>(t, &p, dim))
    }
}
