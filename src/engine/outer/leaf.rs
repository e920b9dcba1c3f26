//! Putting tangents in, and reading gradients and Hessian-vector products out.

use burn::tensor::{Tensor, TensorPrimitive};
use burn_backend::AutodiffBackend;
use burn_backend::ops::FloatTensorOps;
use burn_backend::tensor::FloatTensor;

use super::SecondOrder;
use crate::engine::kernels::{Dual, Kernels};

/// The result of a backward pass.
pub type Gradients<B> = <SecondOrder<B> as AutodiffBackend>::Gradients;

/// A parameter that requires a gradient, with the tangents of each slot (`None`: the slot's block does not contain it).
///
/// With `tangents_only` the reverse pass forms only what Hessian-vector products need of its adjoint: the tangents,
/// in the slots given here; the adjoint's primal (the gradient) is then NaN.
///
/// # Panics
/// If a tangent's shape is not the parameter's.
pub fn leaf<B: Kernels, const D: usize>(
    parameter: Tensor<SecondOrder<B>, D>,
    tangents: Vec<Option<Tensor<B, D>>>,
    tangents_only: bool,
) -> Tensor<SecondOrder<B>, D> {
    for tangent in tangents.iter().flatten() {
        assert_eq!(tangent.dims(), parameter.dims(), "leaf: a tangent has the shape of its parameter");
    }
    let primal = SecondOrder::<B>::inner(parameter.into_primitive().tensor()).primal;
    let tangents = tangents.into_iter().map(|t| t.map(|t| t.into_primitive().tensor())).collect();
    let dual = Dual { primal: B::float_detach(primal), tangents, tangents_only };
    let tracked = SecondOrder::<B>::float_set_require_grad(SecondOrder::<B>::from_inner(dual), true);
    Tensor::from_primitive(TensorPrimitive::Float(tracked))
}

/// The adjoint of a leaf: gradient (primal) and Hessian-vector products (tangents); `None` if the loss does not
/// depend on it.
pub fn adjoint<B: Kernels, const D: usize>(
    parameter: &Tensor<SecondOrder<B>, D>,
    gradients: &Gradients<B>,
) -> Option<Dual<B>> {
    SecondOrder::<B>::grad(&parameter.clone().into_primitive().tensor(), gradients)
}

/// The tangents that a value carries, slot by slot.
pub fn tangents_of<B: Kernels, const D: usize>(x: &Tensor<SecondOrder<B>, D>) -> Vec<Option<Tensor<B, D>>> {
    let dual = SecondOrder::<B>::inner(x.clone().into_primitive().tensor());
    let wrap = |t: FloatTensor<B>| Tensor::from_primitive(TensorPrimitive::Float(t));
    dual.tangents.into_iter().map(|t| t.map(wrap)).collect()
}
