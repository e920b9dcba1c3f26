//! Sums of products by the library of a device's vendor, in place of CubeCL's own kernels, where a runtime has one.

use burn_backend::Shape;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::engine::kernels::Arithmetic;

/// A sum of products of f32 matrices, and where it goes: contiguous, and overwritten.
pub struct Sum<R: CubeRuntime> {
    pub terms: Vec<(CubeTensor<R>, CubeTensor<R>)>,
    pub output: CubeTensor<R>,
}

/// A runtime with a library of matrix products, if it is installed.
pub trait Library: CubeRuntime {
    /// Whether kernels compute in f64.
    const F64: bool = false;

    /// Its name and version, or why it cannot be used.
    fn library() -> Result<String, String> {
        Err("there is none for this kind of device".into())
    }

    /// Whether it reads x as it lies in memory, as matrices of a batch of this shape.
    fn accepts(_x: &CubeTensor<Self>, _batch: &Shape) -> bool {
        false
    }

    /// Has the sums computed, operands read at least as `arithmetic` says, after all that was enqueued before.
    fn enqueue(_sums: Vec<Sum<Self>>, _arithmetic: Arithmetic) {
        unreachable!("asked of a runtime without a library")
    }
}

#[cfg(feature = "wgpu")]
impl Library for burn_wgpu::WgpuRuntime {}

/// Shape of a product, batches broadcast.
pub(super) fn product_shape(lhs: &Shape, rhs: &Shape) -> Shape {
    let rank = lhs.num_dims();
    let batch = (0..rank - 2).map(|dim| lhs[dim].max(rhs[dim]));
    Shape::from(batch.chain([lhs[rank - 2], rhs[rank - 1]]).collect::<Vec<_>>())
}

/// Enqueues sums; operands that the library cannot read are copied.
pub(super) fn enqueue<R: Library>(mut sums: Vec<Sum<R>>, arithmetic: Arithmetic) {
    for sum in &mut sums {
        let shape = sum.output.meta.shape();
        let batch = Shape::from(shape.as_slice()[..shape.num_dims() - 2].to_vec());
        let readable = |x: CubeTensor<R>| {
            let x = if is_one(&x) { x } else { expanded(x, &batch) };
            if R::accepts(&x, &batch) { x } else { into_contiguous(x) }
        };
        let terms = std::mem::take(&mut sum.terms);
        sum.terms = terms.into_iter().map(|(lhs, rhs)| (readable(lhs), readable(rhs))).collect();
    }
    R::enqueue(sums, arithmetic);
}

/// One matrix, for all of a batch.
fn is_one<R: CubeRuntime>(x: &CubeTensor<R>) -> bool {
    let shape = x.meta.shape().as_slice();
    shape[..shape.len() - 2].iter().all(|&length| length == 1)
}

/// A view of all matrices of a batch, repeated where the tensor has one for several.
fn expanded<R: CubeRuntime>(mut x: CubeTensor<R>, batch: &Shape) -> CubeTensor<R> {
    for (dim, &length) in batch.as_slice().iter().enumerate() {
        if x.meta.shape()[dim] != length {
            x.meta.shape_mut()[dim] = length;
            x.meta.strides_mut()[dim] = 0;
        }
    }
    x
}
