//! A backend that counts the multiply-adds of its matrix products and convolutions.

use std::cell::Cell;
use std::ops::Range;

use burn_backend::ops::attention::attention_fallback;
use burn_backend::ops::*;
use burn_backend::quantization::{QuantScheme, QuantizationParametersPrimitive};
use burn_backend::tensor::{BoolTensor, Device, FloatTensor, IntTensor, QuantizedTensor};
use burn_backend::{
    Backend, BackendTypes, BoolDType, DType, DTypeUsageSet, Distribution, ExecutionError, FloatDType, IntDType, Scalar,
    Shape, Slice, TensorData, TensorMetadata,
};

use crate::counting_delegates::{
    delegate_activation, delegate_bool, delegate_float, delegate_int, delegate_module, delegate_quantised,
};

type Counted = burn_ndarray::NdArray<f64>;

/// `NdArray<f64>` with a count of multiply-adds per thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counting;

thread_local! {
    static MULTIPLY_ADDS: Cell<u64> = const { Cell::new(0) };
    static LARGEST_PRODUCT: Cell<usize> = const { Cell::new(0) };
}

/// Multiply-adds that `f` spends on this thread.
pub fn count(f: impl FnOnce()) -> u64 {
    let before = MULTIPLY_ADDS.get();
    f();
    MULTIPLY_ADDS.get() - before
}

/// Entries of the largest matrix product that `f` forms on this thread.
pub fn largest_product(f: impl FnOnce()) -> usize {
    LARGEST_PRODUCT.set(0);
    f();
    LARGEST_PRODUCT.get()
}

fn spend(multiply_adds: usize) {
    MULTIPLY_ADDS.set(MULTIPLY_ADDS.get() + multiply_adds as u64);
}

impl hesspec::engine::Kernels for Counting {}

impl BackendTypes for Counting {
    type Device = Device<Counted>;
    type FloatTensorPrimitive = FloatTensor<Counted>;
    type FloatElem = f64;
    type IntTensorPrimitive = IntTensor<Counted>;
    type IntElem = <Counted as BackendTypes>::IntElem;
    type BoolTensorPrimitive = BoolTensor<Counted>;
    type BoolElem = <Counted as BackendTypes>::BoolElem;
    type QuantizedTensorPrimitive = QuantizedTensor<Counted>;
}

impl Backend for Counting {
    fn name(device: &Self::Device) -> String {
        format!("counting<{}>", Counted::name(device))
    }

    fn seed(device: &Self::Device, seed: u64) {
        Counted::seed(device, seed);
    }

    fn dtype_usage(device: &Self::Device, dtype: DType) -> DTypeUsageSet {
        Counted::dtype_usage(device, dtype)
    }

    fn device_count(type_id: u16) -> usize {
        Counted::device_count(type_id)
    }
}

impl FloatTensorOps<Self> for Counting {
    delegate_float!();

    fn float_matmul(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        let shape = lhs.shape();
        let inner = shape[shape.num_dims() - 1];
        let product = Counted::float_matmul(lhs, rhs);
        let entries = product.shape().num_elements();
        LARGEST_PRODUCT.set(LARGEST_PRODUCT.get().max(entries));
        spend(entries * inner);
        product
    }
}

impl ActivationOps<Self> for Counting {
    delegate_activation!();
}

impl ModuleOps<Self> for Counting {
    delegate_module!();

    fn conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        let [_, channels, height, width] = weight.shape().dims();
        let y = Counted::conv2d(x, weight, bias, options);
        spend(y.shape().num_elements() * channels * height * width);
        y
    }

    fn attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        mask: Option<BoolTensor<Self>>,
        attn_bias: Option<FloatTensor<Self>>,
        options: AttentionModuleOptions,
    ) -> FloatTensor<Self> {
        attention_fallback::<Self>(query, key, value, mask, attn_bias, options)
    }
}

impl IntTensorOps<Self> for Counting {
    delegate_int!();
}

impl BoolTensorOps<Self> for Counting {
    delegate_bool!();
}

impl QTensorOps<Self> for Counting {
    delegate_quantised!();

    fn quantize(
        tensor: FloatTensor<Self>,
        scheme: &QuantScheme,
        qparams: QuantizationParametersPrimitive<Self>,
    ) -> QuantizedTensor<Self> {
        Counted::quantize(tensor, scheme, QuantizationParametersPrimitive { scales: qparams.scales })
    }
}

impl TransactionOps<Self> for Counting {}
