//! The reverse rule of attention in closed form.
//!
//! S = scale Q K' + bias, P = softmax(S) under the masks, O = P V. With g the adjoint of O:
//! dV = P' g, dP = g V', dS = P (dP - sum(P dP)), dQ = scale dS K, dK = scale dS' Q, dbias = dS.

use burn_backend::ops::attention::attention_fallback;
use burn_backend::ops::{AttentionModuleOptions, FloatTensorOps};
use burn_backend::tensor::BoolTensor;
use burn_backend::{Scalar, Shape, TensorMetadata, get_device_settings};

use super::SecondOrder;
use super::closed::{Input, Tracked, closed};
use super::normalisation::softmax_backward;
use crate::engine::jvp::{Jvp, masked_softmax, three_alike};
use crate::engine::kernels::{Dual, Kernels, transposed};

#[derive(Debug, Clone)]
struct Attention<B: Kernels> {
    query: Dual<B>,
    key: Dual<B>,
    value: Dual<B>,
    mask: Option<BoolTensor<B>>,
    options: AttentionModuleOptions,
    /// P, where the backend has no kernel that recomputes it.
    weights: Option<Dual<B>>,
}

pub(super) fn attention<B: Kernels>(
    query: Tracked<B>,
    key: Tracked<B>,
    value: Tracked<B>,
    mask: Option<BoolTensor<B>>,
    bias: Option<Tracked<B>>,
    options: AttentionModuleOptions,
) -> Tracked<B> {
    if options.softcap.is_some() {
        return attention_fallback::<SecondOrder<B>>(query, key, value, mask, bias, options);
    }
    let [q, k, v] = three_alike([&query, &key, &value].map(|x| x.primitive.clone()));
    let bias_dual = bias.as_ref().map(|bias| bias.primitive.clone());
    let fused = match &bias_dual {
        None => <B as Kernels>::attention(&q, &k, &v, mask.as_ref(), None, &options),
        Some(_) => None,
    };
    let mut state = Attention { query: q, key: k, value: v, mask, options, weights: None };
    let output = fused.unwrap_or_else(|| {
        let weights = state.softmax_weights(bias_dual);
        state.weights = Some(weights.clone());
        Jvp::float_matmul(weights, state.value.clone())
    });
    match bias {
        None => closed(
            [&query, &key, &value],
            output,
            || state,
            |state: Attention<B>, grad, _| {
                let [q, k, v, _] = state.adjoints(grad, None);
                [q, k, v]
            },
        ),
        Some(bias) => {
            let state = || (state, Input::of(&bias.primitive));
            closed([&query, &key, &value, &bias], output, state, |(state, bias): (Attention<B>, Input), grad, _| {
                state.adjoints(grad, Some(&bias))
            })
        }
    }
}

impl<B: Kernels> Attention<B> {
    fn scale(&self) -> Scalar {
        let width = self.query.shape()[3] as f64;
        Scalar::Float(self.options.scale.unwrap_or_else(|| 1.0 / width.sqrt()))
    }

    /// P of shape (batch, heads, queries, keys); a row that is masked altogether is zero.
    fn softmax_weights(&self, bias: Option<Dual<B>>) -> Dual<B> {
        let raw = Jvp::float_matmul(self.query.clone(), self.key.clone().map(transposed::<B>));
        let mut scores = Jvp::float_mul_scalar(raw, self.scale());
        for mask in self.mask.clone().into_iter().chain(self.causal_mask(&scores.shape())) {
            scores = Jvp::float_mask_fill(scores, mask, Scalar::Float(f64::NEG_INFINITY));
        }
        if let Some(bias) = bias {
            scores = Jvp::float_add(scores, bias);
        }
        masked_softmax(scores, 3)
    }

    /// True above the diagonal, which ends at the bottom right corner.
    fn causal_mask(&self, scores: &Shape) -> Option<BoolTensor<B>> {
        if !self.options.is_causal {
            return None;
        }
        let [batch, heads, queries, keys] = scores.dims();
        let device = B::float_device(&self.query.primal);
        let settings = get_device_settings::<B>(&device);
        let first = keys as i64 - queries as i64;
        let rows = B::int_arange(first..first + queries as i64, &device, settings.int_dtype);
        let columns = B::int_arange(0..keys as i64, &device, settings.int_dtype);
        let rows = B::int_reshape(rows, Shape::new([1, 1, queries, 1]));
        let columns = B::int_reshape(columns, Shape::new([1, 1, 1, keys]));
        let future = B::int_lower(
            B::int_expand(rows, Shape::new([1, 1, queries, keys])),
            B::int_expand(columns, Shape::new([1, 1, queries, keys])),
            settings.bool_dtype,
        );
        Some(B::bool_expand(future, Shape::new([batch, heads, queries, keys])))
    }

    fn adjoints(self, grad: Dual<B>, bias: Option<&Input>) -> [Option<Dual<B>>; 4] {
        let (q_mask, k_mask, v_mask) = (self.query.mask(), self.key.mask(), self.value.mask());
        if bias.is_none()
            && let Some((q, k, v)) =
                B::attention_backward(&self.query, &self.key, &self.value, self.mask.as_ref(), &self.options, &grad)
        {
            return [Some(q.only(&q_mask)), Some(k.only(&k_mask)), Some(v.only(&v_mask)), None];
        }
        let scale = self.scale();
        let weights = match &self.weights {
            Some(weights) => weights.clone(),
            None => self.softmax_weights(None),
        };
        let value = Jvp::float_matmul(weights.clone().map(transposed::<B>), grad.clone());
        let weights_adjoint = Jvp::float_matmul(grad, self.value.map(transposed::<B>));
        let scores = softmax_backward(weights, weights_adjoint, 3);
        let scaled = Jvp::float_mul_scalar(scores.clone(), scale);
        let query = Jvp::float_matmul(scaled.clone(), self.key);
        let key = Jvp::float_matmul(scaled.map(transposed::<B>), self.query);
        [
            Some(query.only(&q_mask)),
            Some(key.only(&k_mask)),
            Some(value.only(&v_mask)),
            bias.map(|bias| bias.receive(scores)),
        ]
    }
}
