//! The products and fused passes that second-order differentiation spends its time in.
//!
//! Owns [`Dual`] (a primal with its tangents) and the trait [`Kernels`]: per backend, fused versions of the hot
//! operations on duals. Every method has a default: the matrix products are built from tensor operations, and a
//! fused pass that a backend does not offer is `None`, in which case the rooms above compose it. Knows no
//! differentiation rule and no model.

mod arithmetic;
#[cfg(feature = "cubecl")]
mod cube;
mod dual;
#[cfg(feature = "flex")]
mod flex;
mod plain;
mod products;
#[cfg(any(test, feature = "cuda"))]
mod strided;

use burn_backend::ops::{AttentionModuleOptions, ConvOptions};
use burn_backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn_backend::{Backend, Shape, Slice, TensorMetadata};

pub use arithmetic::Arithmetic;
#[cfg(feature = "wgpu")]
pub use cube::WgpuUnfused;
#[cfg(feature = "cuda")]
pub use cube::{CudaUnfused, cuda};
pub use dual::{Dual, Mask};
pub(crate) use products::product_in;

/// Loss of a linear classifier head and the adjoints of its inputs, all as duals.
pub struct LinearCrossEntropy<B: Backend> {
    /// Mean cross-entropy over rows, shape `[1]`.
    pub loss: Dual<B>,
    /// Adjoint of the hidden rows, `(rows, width)`.
    pub hidden: Option<Dual<B>>,
    /// Adjoint of the head's weight, `(classes, width)`.
    pub weight: Option<Dual<B>>,
}

/// Pairs of matrices, or of equal batches of matrices.
pub type Terms<B> = Vec<(FloatTensor<B>, FloatTensor<B>)>;

/// Adjoints of query, key and value.
pub type AttentionAdjoints<B> = (Dual<B>, Dual<B>, Dual<B>);

/// Fused operations on duals, by backend. `None` means: no fused kernel for these arguments, compose it.
///
/// A user implements [`Problem`](crate::hessian::Problem), never a kernel; the project provides them for its backends.
pub trait Kernels: Backend {
    /// Whether its tensors may be f64 beside f32 (fusion on GPUs panics at the first).
    const HAS_F64: bool = false;

    /// What multiplies matrices.
    fn product_library() -> String {
        "the backend itself".into()
    }

    /// `sum_i lhs_i @ rhs_i` over pairs of matrices (or equal batches of matrices), accumulated in one buffer
    /// where the backend can. `terms` is never empty.
    fn sum_of_products(terms: Terms<Self>) -> FloatTensor<Self> {
        arithmetic::composed::<Self>(terms)
    }

    /// Several sums of products, those of all slots of one operation; a backend may compute them at the same time.
    fn sums_of_products(sums: Vec<Terms<Self>>) -> Vec<FloatTensor<Self>> {
        sums.into_iter().map(Self::sum_of_products).collect()
    }

    /// `sum + factor x` in f64 on the device, of numbers in the order of x's shape; 0 for no sum. A sum's tensor holds the bits
    /// of an f64 in every two of its numbers. `None`: this backend's tensors are added up on the host.
    fn add_to_sum(_sum: Option<FloatTensor<Self>>, _x: &FloatTensor<Self>, _factor: f64) -> Option<FloatTensor<Self>> {
        None
    }

    /// `total[slices] += part`, in place where the backend can.
    fn add_to_slice(total: FloatTensor<Self>, slices: &[Slice], part: FloatTensor<Self>) -> FloatTensor<Self> {
        let old = Self::float_slice(total.clone(), slices);
        Self::float_slice_assign(total, slices, Self::float_add(old, part))
    }

    /// Applies `f` to each of several tensors of equal shape, of which a backend may take some at the same time.
    fn each(
        components: Vec<FloatTensor<Self>>,
        f: &(dyn Fn(FloatTensor<Self>) -> FloatTensor<Self> + Sync),
    ) -> Vec<FloatTensor<Self>> {
        components.into_iter().map(f).collect()
    }

    /// Elementwise sum, or difference if `negative`, of duals of one type that broadcast to one shape.
    fn sum(_lhs: &Dual<Self>, _rhs: &Dual<Self>, _negative: bool) -> Option<Dual<Self>> {
        None
    }

    /// Elementwise product of duals of one type that broadcast to one shape.
    fn mul(_lhs: &Dual<Self>, _rhs: &Dual<Self>) -> Option<Dual<Self>> {
        None
    }

    /// x where `of`, which has its shape, is positive or NaN, else 0.
    fn where_positive(_of: &FloatTensor<Self>, _x: &Dual<Self>) -> Option<Dual<Self>> {
        None
    }

    /// `x * Phi(x)` (exact GELU).
    fn gelu(_x: &Dual<Self>) -> Option<Dual<Self>> {
        None
    }

    /// `g * (Phi(x) + x phi(x))`, the adjoint of [`Kernels::gelu`].
    fn gelu_backward(_x: &Dual<Self>, _grad: &Dual<Self>) -> Option<Dual<Self>> {
        None
    }

    /// Softmax over the last dimension. A row of -inf alone (all masked) gives 0, not 0 / 0.
    fn softmax(_x: &Dual<Self>) -> Option<Dual<Self>> {
        None
    }

    /// `y (g - sum(y g))` over the last dimension, the adjoint of [`Kernels::softmax`] in terms of its output.
    fn softmax_backward(_y: &Dual<Self>, _grad: &Dual<Self>) -> Option<Dual<Self>> {
        None
    }

    /// LayerNorm over the last dimension.
    fn layer_norm(
        _x: &Dual<Self>,
        _gamma: &Dual<Self>,
        _beta: Option<&Dual<Self>>,
        _epsilon: f64,
    ) -> Option<Dual<Self>> {
        None
    }

    /// Adjoints of x and gamma under [`Kernels::layer_norm`]; the adjoint of x only in the slots of `keep`,
    /// the adjoint of gamma only if `gamma_needed`. (That of beta is a plain sum of `grad` over rows.)
    fn layer_norm_backward(
        _x: &Dual<Self>,
        _gamma: &Dual<Self>,
        _grad: &Dual<Self>,
        _epsilon: f64,
        _keep: &Mask,
        _gamma_needed: bool,
    ) -> Option<(Dual<Self>, Option<Dual<Self>>)> {
        None
    }

    /// `softmax(scale q k' + masks) v` for `(batch, heads, time, head)` tensors, without keeping a (time, time) matrix.
    fn attention(
        _query: &Dual<Self>,
        _key: &Dual<Self>,
        _value: &Dual<Self>,
        _mask: Option<&BoolTensor<Self>>,
        _bias: Option<&Dual<Self>>,
        _options: &AttentionModuleOptions,
    ) -> Option<Dual<Self>> {
        None
    }

    /// Adjoints of q, k, v under [`Kernels::attention`], for cases without a differentiable bias; recomputes the tiles.
    fn attention_backward(
        _query: &Dual<Self>,
        _key: &Dual<Self>,
        _value: &Dual<Self>,
        _mask: Option<&BoolTensor<Self>>,
        _options: &AttentionModuleOptions,
        _grad: &Dual<Self>,
    ) -> Option<AttentionAdjoints<Self>> {
        None
    }

    /// Convolution without a bias: x, (images, channels in, height, width), with kernels,
    /// (channels out, channels in / groups, height, width). Both of one type.
    fn conv2d(_x: &Dual<Self>, _weight: &Dual<Self>, _options: &ConvOptions<2>) -> Option<Dual<Self>> {
        None
    }

    /// The adjoint of x, of the given shape, under [`Kernels::conv2d`]: its tangents in the slots of `keep`, its primal (else NaN)
    /// if asked for.
    fn conv2d_x_backward(
        _weight: &Dual<Self>,
        _grad: &Dual<Self>,
        _shape: &Shape,
        _options: &ConvOptions<2>,
        _keep: &Mask,
        _with_primal: bool,
    ) -> Option<Dual<Self>> {
        None
    }

    /// The adjoint of the kernels, of the given shape, under [`Kernels::conv2d`]: its tangents in the slots of `keep`, its primal
    /// (else NaN) if asked for.
    fn conv2d_weight_backward(
        _x: &Dual<Self>,
        _grad: &Dual<Self>,
        _shape: &Shape,
        _options: &ConvOptions<2>,
        _keep: &Mask,
        _with_primal: bool,
    ) -> Option<Dual<Self>> {
        None
    }

    /// Mean cross-entropy of `softmax(hidden weight')` against `targets`, with the adjoints of both for an upstream
    /// adjoint of 1, in chunks of rows, so that nothing of size (rows, classes) survives.
    fn linear_cross_entropy(
        _hidden: &Dual<Self>,
        _weight: &Dual<Self>,
        _targets: &IntTensor<Self>,
        _hidden_needed: bool,
        _weight_needed: bool,
    ) -> Option<LinearCrossEntropy<Self>> {
        None
    }
}

/// Swaps the last two dimensions.
pub(crate) fn transposed<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let rank = x.rank();
    B::float_swap_dims(x, rank - 2, rank - 1)
}

/// A NaN of the given shape, as a view of one number: the primal of an adjoint that nobody asked for.
/// Whoever reads it by mistake sees NaN, never a silent zero.
pub(crate) fn not_computed<B: Backend>(like: &FloatTensor<B>, shape: Shape) -> FloatTensor<B> {
    let ones = Shape::from(vec![1; shape.num_dims()]);
    let nan = B::float_full(ones, f64::NAN.into(), &B::float_device(like), like.dtype().into());
    B::float_expand(nan, shape)
}
