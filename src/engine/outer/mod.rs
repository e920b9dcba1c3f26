//! Forward mode under reverse mode: `SecondOrder<B>` is burn's `Autodiff` over [`Jvp<B>`], with better rules.
//!
//! One backward pass gives gradients whose tangents are Hessian-vector products (forward over reverse). Owns the
//! reverse rules that burn composes from small operations, in closed form ([`attention`], [`normalisation`],
//! [`products`], [`convolution`], [`cross_entropy`]): each is written once in `Jvp` operations, so its tangents come by themselves.
//! Everything else passes through to `Autodiff`.
//!
//! Also here: adjoint tangents are dropped in every slot that their input does not depend on, a stop-gradient
//! clears tangents and adjoints, and train or eval mode is explicit ([`training`]).

mod attention;
mod closed;
mod convolution;
mod cross_entropy;
mod delegates;
mod leaf;
mod normalisation;
mod products;
mod rules;
mod slices;

use std::cell::Cell;
use std::marker::PhantomData;

use burn_autodiff::Autodiff;
use burn_backend::tensor::{BoolTensor, FloatTensor, IntTensor, QuantizedTensor};
use burn_backend::{AutodiffBackend, Backend, BackendTypes, DType, DTypeUsageSet, ExecutionError};

use super::jvp::Jvp;
use super::kernels::Kernels;

pub use cross_entropy::linear_cross_entropy;
pub use leaf::{Gradients, adjoint, leaf, tangents_of};

/// burn's reverse mode over forward mode.
pub(crate) type Inner<B> = Autodiff<Jvp<B>>;

/// The backend on which second-order quantities of any burn model are computed.
///
/// Write the model for any `B: Backend`, instantiate it on `SecondOrder<Flex>`, and give the parameters tangents
/// with [`leaf`]. After `loss.backward()`, [`adjoint`] of a parameter is a [`Dual`](super::Dual): its primal is the
/// gradient, its tangents are the Hessian-vector products.
///
/// ```
/// use burn::tensor::{Tensor, TensorPrimitive};
/// use hesspec::engine::{SecondOrder, adjoint, leaf};
/// type Plain = burn_ndarray::NdArray<f64>;
/// type B = SecondOrder<Plain>;
/// let device = Default::default();
/// let x = Tensor::<B, 1>::from_floats([1.0, 2.0], &device);
/// let v = Tensor::<Plain, 1>::from_floats([1.0, 0.0], &device);
/// let x = leaf(x, vec![Some(v)], false);
/// let loss = (x.clone() * x.clone() * x.clone()).sum(); // H = diag(6 x)
/// let grads = loss.backward();
/// let adjoint = adjoint(&x, &grads).unwrap();
/// let hv = Tensor::<Plain, 1>::from_primitive(TensorPrimitive::Float(adjoint.tangents[0].clone().unwrap()));
/// assert_eq!(hv.into_data().to_vec::<f64>().unwrap(), [6.0, 0.0]);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SecondOrder<B>(PhantomData<B>);

thread_local! {
    static TRAINING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with modules in train mode (BatchNorm on batch statistics, which then take part in the derivative).
/// Outside of it modules are in eval mode. The mode belongs to the calling thread.
pub fn training<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            TRAINING.set(self.0);
        }
    }
    let _restore = Restore(TRAINING.replace(true));
    f()
}

impl<B: Kernels> BackendTypes for SecondOrder<B> {
    type Device = B::Device;
    type FloatTensorPrimitive = FloatTensor<Inner<B>>;
    type FloatElem = B::FloatElem;
    type IntTensorPrimitive = B::IntTensorPrimitive;
    type IntElem = B::IntElem;
    type BoolTensorPrimitive = B::BoolTensorPrimitive;
    type BoolElem = B::BoolElem;
    type QuantizedTensorPrimitive = B::QuantizedTensorPrimitive;
}

impl<B: Kernels> Backend for SecondOrder<B> {
    /// burn's modules read this as "train mode"; see [`training`].
    fn ad_enabled(_device: &Self::Device) -> bool {
        TRAINING.get()
    }

    fn name(device: &Self::Device) -> String {
        format!("second_order<{}>", B::name(device))
    }

    fn seed(device: &Self::Device, seed: u64) {
        B::seed(device, seed);
    }

    fn sync(device: &Self::Device) -> Result<(), ExecutionError> {
        B::sync(device)
    }

    fn memory_cleanup(device: &Self::Device) {
        B::memory_cleanup(device);
    }

    fn dtype_usage(device: &Self::Device, dtype: DType) -> DTypeUsageSet {
        B::dtype_usage(device, dtype)
    }

    fn device_count(type_id: u16) -> usize {
        B::device_count(type_id)
    }
}

impl<B: Kernels> AutodiffBackend for SecondOrder<B> {
    type InnerBackend = Jvp<B>;
    type Gradients = <Inner<B> as AutodiffBackend>::Gradients;

    fn backward(tensor: FloatTensor<Self>) -> Self::Gradients {
        Inner::<B>::backward(tensor)
    }

    fn grad(tensor: &FloatTensor<Self>, grads: &Self::Gradients) -> Option<FloatTensor<Jvp<B>>> {
        Inner::<B>::grad(tensor, grads)
    }

    fn grad_remove(tensor: &FloatTensor<Self>, grads: &mut Self::Gradients) -> Option<FloatTensor<Jvp<B>>> {
        Inner::<B>::grad_remove(tensor, grads)
    }

    fn grad_replace(tensor: &FloatTensor<Self>, grads: &mut Self::Gradients, grad: FloatTensor<Jvp<B>>) {
        Inner::<B>::grad_replace(tensor, grads, grad);
    }

    fn inner(tensor: FloatTensor<Self>) -> FloatTensor<Jvp<B>> {
        Inner::<B>::inner(tensor)
    }

    fn int_inner(tensor: IntTensor<Self>) -> IntTensor<Jvp<B>> {
        tensor
    }

    fn bool_inner(tensor: BoolTensor<Self>) -> BoolTensor<Jvp<B>> {
        tensor
    }

    fn q_inner(tensor: QuantizedTensor<Self>) -> QuantizedTensor<Jvp<B>> {
        tensor
    }

    fn from_inner(tensor: FloatTensor<Jvp<B>>) -> FloatTensor<Self> {
        Inner::<B>::from_inner(tensor)
    }

    fn int_from_inner(tensor: IntTensor<Jvp<B>>) -> IntTensor<Self> {
        tensor
    }

    fn bool_from_inner(tensor: BoolTensor<Jvp<B>>) -> BoolTensor<Self> {
        tensor
    }

    fn q_from_inner(tensor: QuantizedTensor<Jvp<B>>) -> QuantizedTensor<Self> {
        tensor
    }
}
