//! Forward mode as a backend decorator: `Jvp<B>` computes with [`Dual`]s, a primal and k tangent slots.
//!
//! Owns one Jacobian-vector-product rule for every float operation of burn's traits, in families: linear maps,
//! jointly linear, bilinear, unary with derivative, selections ([`rules`]). Integer, boolean and quantised tensors
//! pass through unchanged. An operation without a rule stops with its name as soon as a tangent reaches it: never a
//! silent zero. Knows nothing of reverse mode: `Autodiff<Jvp<B>>` is burn's own decorator on top.

mod activation;
mod delegates;
mod float;
mod kinks;
mod module;
mod rules;
pub(super) mod scan;
mod types;

use std::marker::PhantomData;
use std::ops::Range;

use burn_backend::ops::{
    BoolTensorOps, IntTensorOps, QTensorOps, TransactionOps, TransactionPrimitive, TransactionPrimitiveData,
};
use burn_backend::quantization::{QuantScheme, QuantizationParametersPrimitive};
use burn_backend::tensor::{BoolTensor, Device, FloatTensor, IntTensor, QuantizedTensor};
use burn_backend::{
    Backend, BackendTypes, BoolDType, DType, DTypeUsageSet, Distribution, ExecutionError, FloatDType, IntDType, Scalar,
    Shape, Slice, TensorData,
};

use super::kernels::{Dual, Kernels};
pub(super) use activation::{gelu_backward, hard_sigmoid, masked_softmax};
pub(super) use module::{conv1d, normalised, row, rows, three_alike, unrows};
pub(super) use rules::stop;

pub use kinks::{Choices, recorded};
pub(super) use types::alike;
pub use types::in_f64;

/// Forward mode over the backend `B`, with any number of tangent slots sharing one primal.
///
/// ```
/// use burn::tensor::{Tensor, TensorPrimitive};
/// use hesspec::engine::{Dual, Jvp};
/// type Plain = burn_ndarray::NdArray<f64>;
/// let device = Default::default();
/// let plain = |values| Tensor::<Plain, 1>::from_floats(values, &device).into_primitive().tensor();
/// let x = Dual::<Plain>::new(plain([3.0]), vec![Some(plain([1.0]))]);
/// let x = Tensor::<Jvp<Plain>, 1>::from_primitive(TensorPrimitive::Float(x));
/// let y = (x.clone() * x).into_primitive().tensor(); // y = x^2, so dy = 2 x dx
/// let tangent = Tensor::<Plain, 1>::from_primitive(TensorPrimitive::Float(y.tangents[0].clone().unwrap()));
/// assert_eq!(tangent.into_scalar(), 6.0);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Jvp<B>(PhantomData<B>);

impl<B: Kernels> BackendTypes for Jvp<B> {
    type Device = B::Device;
    type FloatTensorPrimitive = Dual<B>;
    type FloatElem = B::FloatElem;
    type IntTensorPrimitive = B::IntTensorPrimitive;
    type IntElem = B::IntElem;
    type BoolTensorPrimitive = B::BoolTensorPrimitive;
    type BoolElem = B::BoolElem;
    type QuantizedTensorPrimitive = B::QuantizedTensorPrimitive;
}

impl<B: Kernels> Backend for Jvp<B> {
    fn name(device: &Self::Device) -> String {
        format!("jvp<{}>", B::name(device))
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

impl<B: Kernels> IntTensorOps<Self> for Jvp<B> {
    delegates::delegate_int!();

    fn int_into_float(tensor: IntTensor<Self>, out_dtype: FloatDType) -> FloatTensor<Self> {
        types::constant::<B>(B::int_into_float(tensor, types::asked(out_dtype)))
    }
}

impl<B: Kernels> BoolTensorOps<Self> for Jvp<B> {
    delegates::delegate_bool!();

    fn bool_into_float(tensor: BoolTensor<Self>, out_dtype: FloatDType) -> FloatTensor<Self> {
        types::constant::<B>(B::bool_into_float(tensor, types::asked(out_dtype)))
    }
}

impl<B: Kernels> QTensorOps<Self> for Jvp<B> {
    delegates::delegate_quantised!();

    fn quantize(
        tensor: FloatTensor<Self>,
        scheme: &QuantScheme,
        qparams: QuantizationParametersPrimitive<Self>,
    ) -> QuantizedTensor<Self> {
        let scales = stop("quantize", qparams.scales);
        B::quantize(stop("quantize", tensor), scheme, QuantizationParametersPrimitive { scales })
    }

    fn dequantize(tensor: QuantizedTensor<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        types::constant::<B>(B::dequantize(tensor, dtype))
    }
}

impl<B: Kernels> TransactionOps<Self> for Jvp<B> {
    /// Reads values to the host: the primals (tangents are read through [`Dual`]).
    fn tr_execute(
        transaction: TransactionPrimitive<Self>,
    ) -> impl Future<Output = Result<TransactionPrimitiveData, ExecutionError>> + Send {
        B::tr_execute(TransactionPrimitive::new(
            transaction.read_floats.into_iter().map(|x| x.primal).collect(),
            transaction.read_qfloats,
            transaction.read_ints,
            transaction.read_bools,
        ))
    }
}
