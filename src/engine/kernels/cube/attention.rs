//! Attention and its adjoints, by products of matrices and passes over rows of scores.
//!
//! `S = scale q k'`, `P = softmax(S)`, `O = P v`; with g the adjoint of O: `dv = P' g`, `dS = P (g v' - sum(P g v'))`,
//! `dq = scale dS k`, `dk = dS' (scale q)`. Scores exist for one call at a time: the reverse pass forms them again, so that
//! nothing of size (time, time) is kept for it. A causal mask is a matter of the passes, which stop at the row's last column.

use burn_backend::TensorMetadata;
use burn_backend::ops::AttentionModuleOptions;

use super::softmax::{softmax, softmax_backward};
use super::{Cube, rows};
use crate::engine::kernels::{AttentionAdjoints, Dual, Mask, product_in, transposed};

/// The last column of a row, for queries that see no later key.
type Causal = Option<usize>;

/// q, k and v of one call.
pub(super) struct Attention<'a, B: Cube> {
    /// `scale q`
    query: Dual<B>,
    key: &'a Dual<B>,
    value: &'a Dual<B>,
    scale: f64,
    /// Queries of a window, where the mask is causal.
    causal: Causal,
}

impl<'a, B: Cube> Attention<'a, B> {
    /// `None` for what the passes do not have: a cap, causal queries before the first key, more scores than they can count.
    pub fn new(
        query: &Dual<B>,
        key: &'a Dual<B>,
        value: &'a Dual<B>,
        options: &AttentionModuleOptions,
    ) -> Option<Self> {
        let [batch, heads, queries, width] = query.shape().dims();
        let [_, _, keys, _] = key.shape().dims();
        let countable = batch * heads * queries * keys <= i32::MAX as usize;
        let fit = countable && [query, key, value].iter().all(|dual| rows::fits::<B>(&dual.primal));
        if !fit || options.softcap.is_some() || (options.is_causal && keys < queries) {
            return None;
        }
        let scale = options.scale.unwrap_or_else(|| 1.0 / (width as f64).sqrt());
        let query = scaled(query.clone(), scale);
        Some(Self { query, key, value, scale, causal: options.is_causal.then_some(queries) })
    }

    /// P, of shape (batch, heads, queries, keys).
    fn weights(&self) -> Dual<B> {
        softmax(&product(&self.query, &self.key.clone().map(transposed::<B>)), self.causal)
    }

    /// O.
    pub fn output(&self) -> Dual<B> {
        product(&self.weights(), self.value)
    }

    /// The adjoints of q, k and v for g, each with tangents in the slots in which it has some itself.
    pub fn adjoints(&self, grad: &Dual<B>) -> AttentionAdjoints<B> {
        let weights = self.weights();
        let value = product_in(&weights.clone().map(transposed::<B>), grad, &self.value.mask(), || None);
        let of_weights = product(grad, &self.value.clone().map(transposed::<B>));
        let scores = softmax_backward(&weights, &of_weights, self.causal);
        let query = product_in(&scores, self.key, &self.query.mask(), || None);
        let key = product_in(&scores.map(transposed::<B>), &self.query, &self.key.mask(), || None);
        (scaled(query, self.scale), key, value)
    }
}

fn scaled<B: Cube>(x: Dual<B>, factor: f64) -> Dual<B> {
    x.map(|x| B::float_mul_scalar(x, factor.into()))
}

/// a @ b in all slots.
fn product<B: Cube>(a: &Dual<B>, b: &Dual<B>) -> Dual<B> {
    let all: Mask = vec![true; a.num_slots().max(b.num_slots())];
    product_in(a, b, &all, || None)
}
