//! Kernels for GPUs, written in CubeCL: the passes over rows that fusion of elementwise operations cannot join.
//!
//! Owns softmax, LayerNorm and cross-entropy, forward and reverse, for a primal and all its tangents, attention made of them, sums
//! that stay on the device, and the way to a vendor's library of products, for every runtime of CubeCL (CUDA, wgpu), with burn's
//! fusion around them or without. A pass is one launch: a cube of threads for each row, which
//! reads the row twice or three times (the second time from a cache) and adds up in shared memory, in an order that depends on
//! the row's length alone. Primal and tangents are launches of their own, so that no shader binds more than eight buffers;
//! a tangent's launch forms the row's sums again from what it reads anyway. Only f32; anything else is composed.

mod attention;
mod backends;
mod cross_entropy;
#[cfg(feature = "cuda")]
mod cublas;
#[cfg(feature = "cuda")]
pub mod cuda;
mod layer_norm;
mod layer_norm_adjoint;
mod library;
mod rows;
mod softmax;
mod sums;

use burn_backend::ops::AttentionModuleOptions;
use burn_backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn_backend::{Backend, DType, Shape, TensorMetadata};

use super::arithmetic::{self, Arithmetic};
use super::{AttentionAdjoints, Dual, Kernels, LinearCrossEntropy, Mask, Terms};
use attention::Attention;
use rows::{Pass, fits};

/// A backend on a runtime of CubeCL.
pub trait Cube: Backend {
    /// Runs a pass. Whatever its layout, a tensor is handed over in one contiguous piece; outputs are new.
    fn run<P, const N: usize, const M: usize, const O: usize>(
        pass: P,
        inputs: [FloatTensor<Self>; N],
        optional: [Option<FloatTensor<Self>>; M],
        outputs: [Shape; O],
    ) -> [FloatTensor<Self>; O]
    where
        P: Pass<N, M, O>;

    /// Integers as an input of a pass.
    fn indices(targets: IntTensor<Self>) -> FloatTensor<Self>;

    /// The library that multiplies matrices, or why there is none.
    fn library() -> Result<String, String>;

    /// Whether the device's kernels compute in f64.
    const F64: bool;

    /// Sums of products of f32 matrices by the library, which rounds operands itself; 3 x TF32 are more terms.
    fn multiply(sums: Vec<Terms<Self>>, arithmetic: Arithmetic) -> Vec<FloatTensor<Self>>;
}

/// burn-wgpu without fusion of elementwise operations.
#[cfg(feature = "wgpu")]
pub type WgpuUnfused = burn_wgpu::CubeBackend<burn_wgpu::WgpuRuntime, f32, i32, u32>;
/// burn-cuda without fusion of elementwise operations.
#[cfg(feature = "cuda")]
pub type CudaUnfused = burn_cubecl::CubeBackend<cubecl::cuda::CudaRuntime, f32, i32, u8>;

// Nothing stops a launch at the end of a tensor, so that shapes which do not fit are left to the composition and its errors.
impl<B: Cube> Kernels for B {
    fn product_library() -> String {
        B::library().unwrap_or_else(|why| format!("CubeCL ({why})"))
    }

    fn sum_of_products(terms: Terms<Self>) -> FloatTensor<Self> {
        Self::sums_of_products(vec![terms]).pop().expect("one sum")
    }

    fn sums_of_products(sums: Vec<Terms<Self>>) -> Vec<FloatTensor<Self>> {
        // of any size: a library refuses what is too large for it, and does not round it to fewer bits
        let single = |x: &FloatTensor<B>| x.dtype() == DType::F32 && x.shape().num_elements() > 0;
        let fit = sums.iter().flatten().all(|(lhs, rhs)| single(lhs) && single(rhs));
        match Arithmetic::current() {
            _ if sums.is_empty() => Vec::new(),
            _ if B::library().is_err() || !fit => sums.into_iter().map(arithmetic::composed::<B>).collect(),
            // one sum's parts at a time
            Arithmetic::Tf32x3 => {
                let split = |terms: Terms<Self>| terms.into_iter().flat_map(|(a, b)| arithmetic::factors::<B>(a, b));
                let sum = |terms| B::multiply(vec![split(terms).collect()], Arithmetic::Tf32x3);
                sums.into_iter().flat_map(sum).collect()
            }
            arithmetic => B::multiply(sums, arithmetic),
        }
    }

    fn add_to_sum(sum: Option<FloatTensor<B>>, x: &FloatTensor<B>, factor: f64) -> Option<FloatTensor<B>> {
        (B::F64 && fits::<B>(x)).then(|| sums::add::<B>(sum, x.clone(), factor))
    }

    fn softmax(x: &Dual<Self>) -> Option<Dual<Self>> {
        fits::<B>(&x.primal).then(|| softmax::softmax(x, None))
    }

    fn softmax_backward(y: &Dual<Self>, grad: &Dual<Self>) -> Option<Dual<Self>> {
        (fits::<B>(&y.primal) && grad.shape() == y.shape()).then(|| softmax::softmax_backward(y, grad, None))
    }

    fn layer_norm(x: &Dual<Self>, gamma: &Dual<Self>, beta: Option<&Dual<Self>>, epsilon: f64) -> Option<Dual<Self>> {
        let fit = fits::<B>(&x.primal) && are_as_wide(x, &[Some(gamma), beta]);
        fit.then(|| layer_norm::layer_norm(x, gamma, beta, epsilon))
    }

    fn layer_norm_backward(
        x: &Dual<Self>,
        gamma: &Dual<Self>,
        grad: &Dual<Self>,
        epsilon: f64,
        keep: &Mask,
        gamma_needed: bool,
    ) -> Option<(Dual<Self>, Option<Dual<Self>>)> {
        let fit = fits::<B>(&x.primal) && are_as_wide(x, &[Some(gamma)]) && grad.shape() == x.shape();
        fit.then(|| {
            let gamma_adjoint = gamma_needed.then(|| layer_norm_adjoint::of_gamma(x, gamma, grad, epsilon));
            (layer_norm_adjoint::of_x(x, gamma, grad, epsilon, keep), gamma_adjoint)
        })
    }

    fn attention(
        query: &Dual<Self>,
        key: &Dual<Self>,
        value: &Dual<Self>,
        mask: Option<&BoolTensor<Self>>,
        bias: Option<&Dual<Self>>,
        options: &AttentionModuleOptions,
    ) -> Option<Dual<Self>> {
        let attention = Attention::new(query, key, value, options).filter(|_| mask.is_none() && bias.is_none())?;
        Some(attention.output())
    }

    fn attention_backward(
        query: &Dual<Self>,
        key: &Dual<Self>,
        value: &Dual<Self>,
        mask: Option<&BoolTensor<Self>>,
        options: &AttentionModuleOptions,
        grad: &Dual<Self>,
    ) -> Option<AttentionAdjoints<Self>> {
        let attention = Attention::new(query, key, value, options).filter(|_| mask.is_none())?;
        Some(attention.adjoints(grad))
    }

    fn linear_cross_entropy(
        hidden: &Dual<Self>,
        weight: &Dual<Self>,
        targets: &IntTensor<Self>,
        hidden_needed: bool,
        weight_needed: bool,
    ) -> Option<LinearCrossEntropy<Self>> {
        let fit = fits::<B>(&hidden.primal) && fits::<B>(&weight.primal);
        let indices = targets.dtype() == DType::I32 && targets.shape()[0] == hidden.shape()[0];
        (fit && indices)
            .then(|| cross_entropy::linear_cross_entropy(hidden, weight, targets, hidden_needed, weight_needed))
    }
}

/// Whether vectors have a number for each of a row of x.
fn are_as_wide<B: Backend>(x: &Dual<B>, vectors: &[Option<&Dual<B>>]) -> bool {
    let width = rows::width(&x.shape());
    vectors.iter().flatten().all(|vector| vector.shape().as_slice() == [width])
}

/// The slots in which any of the duals has a tangent.
fn active_slots<B: Backend>(duals: &[&Dual<B>]) -> Mask {
    let slots = duals.iter().map(|dual| dual.num_slots()).max().unwrap_or(0);
    (0..slots).map(|slot| duals.iter().any(|dual| dual.tangent(slot).is_some())).collect()
}

/// The tangents that `form` gives for the slots of a mask.
fn slots<B: Backend>(mask: &Mask, form: impl Fn(usize) -> FloatTensor<B>) -> Vec<Option<FloatTensor<B>>> {
    mask.iter().enumerate().map(|(slot, &on)| on.then(|| form(slot))).collect()
}
