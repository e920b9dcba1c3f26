//! Reverse rules of softmax, log-softmax and LayerNorm in closed form.

use burn_backend::ops::{ActivationOps, FloatTensorOps, ModuleOps};
use burn_backend::{Shape, TensorMetadata};

use super::closed::{Input, Tracked, closed};
use crate::engine::jvp::{Jvp, alike, normalised, row, rows};
use crate::engine::kernels::{Dual, Kernels};

/// y = softmax(x): dx = y (dy - sum(y dy)).
pub(super) fn softmax<B: Kernels>(x: Tracked<B>, dim: usize) -> Tracked<B> {
    let y = Jvp::softmax(x.primitive.clone(), dim);
    let state = || (y.clone(), dim);
    closed([&x], y.clone(), state, |(y, dim): (Dual<B>, usize), grad, _| [Some(softmax_backward(y, grad, dim))])
}

/// y (g - sum(y g)) along a dimension.
pub(super) fn softmax_backward<B: Kernels>(y: Dual<B>, grad: Dual<B>, dim: usize) -> Dual<B> {
    let fused = (dim + 1 == y.rank()).then(|| B::softmax_backward(&y, &grad)).flatten();
    fused.unwrap_or_else(|| {
        let mean = Jvp::float_sum_dim(Jvp::float_mul(y.clone(), grad.clone()), dim);
        Jvp::float_mul(y, Jvp::float_sub(grad, mean))
    })
}

/// y = x - logsumexp(x): dx = dy - softmax(x) sum(dy).
pub(super) fn log_softmax<B: Kernels>(x: Tracked<B>, dim: usize) -> Tracked<B> {
    let y = Jvp::log_softmax(x.primitive.clone(), dim);
    let state = || (y.clone(), dim);
    closed([&x], y.clone(), state, |(y, dim): (Dual<B>, usize), grad, _| {
        let total = Jvp::float_sum_dim(grad.clone(), dim);
        [Some(Jvp::float_sub(grad, Jvp::float_mul(Jvp::float_exp(y), total)))]
    })
}

#[derive(Debug, Clone)]
struct LayerNorm<B: Kernels> {
    x: Dual<B>,
    gamma: Dual<B>,
    epsilon: f64,
}

/// y = gamma x_hat + beta with x_hat = (x - mean) / sqrt(var + epsilon).
pub(super) fn layer_norm<B: Kernels>(
    x: Tracked<B>,
    gamma: Tracked<B>,
    beta: Option<Tracked<B>>,
    epsilon: f64,
) -> Tracked<B> {
    let beta_dual = beta.as_ref().map(|beta| beta.primitive.clone());
    let (like, scale) = alike(x.primitive.clone(), gamma.primitive.clone());
    let y = Jvp::layer_norm(like.clone(), scale.clone(), beta_dual, epsilon);
    let state = || LayerNorm { x: like, gamma: scale, epsilon };
    match beta {
        None => closed([&x, &gamma], y, state, |state: LayerNorm<B>, grad, wanted| state.adjoints(grad, wanted[1])),
        Some(beta) => {
            let state = || (state(), Input::of(&beta.primitive));
            closed([&x, &gamma, &beta], y, state, |(state, beta): (LayerNorm<B>, Input), grad, wanted| {
                let beta = wanted[2].then(|| Jvp::linear_bias_backward(grad.clone().only(&beta.mask)));
                let [x, gamma] = state.adjoints(grad, wanted[1]);
                [x, gamma, beta]
            })
        }
    }
}

impl<B: Kernels> LayerNorm<B> {
    /// With h = gamma dy and r = 1 / sqrt(var + epsilon): dx = r (h - mean(h) - x_hat mean(x_hat h)), dgamma = sum of x_hat dy.
    fn adjoints(self, grad: Dual<B>, want_gamma: bool) -> [Option<Dual<B>>; 2] {
        let keep = self.x.mask();
        if let Some((x, gamma)) = B::layer_norm_backward(&self.x, &self.gamma, &grad, self.epsilon, &keep, want_gamma) {
            return [Some(x), gamma];
        }
        let (rank, last) = (self.x.rank(), self.x.rank() - 1);
        let (x_hat, scale) = normalised(self.x, self.epsilon);
        let gamma = want_gamma.then(|| {
            let products = rows(Jvp::float_mul(x_hat.clone(), grad.clone()));
            let width = products.shape()[1];
            Jvp::float_reshape(Jvp::float_sum_dim(products, 0), Shape::new([width]))
        });
        let h = Jvp::float_mul(grad, row(self.gamma, rank));
        let mean = Jvp::float_mean_dim(h.clone(), last);
        let correlation = Jvp::float_mean_dim(Jvp::float_mul(x_hat.clone(), h.clone()), last);
        let centred = Jvp::float_sub(Jvp::float_sub(h, mean), Jvp::float_mul(x_hat, correlation));
        [Some(Jvp::float_mul(scale, centred).only(&keep)), gamma]
    }
}
