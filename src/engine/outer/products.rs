//! Reverse rules of matrix products: only the products that somebody reads.

use burn_backend::TensorMetadata;
use burn_backend::ops::{FloatTensorOps, ModuleOps};

use super::closed::{Input, Tracked, closed};
use crate::engine::jvp::{Jvp, alike, rows, unrows};
use crate::engine::kernels::{Dual, Kernels, not_computed, product_in, transposed};

/// a @ b as the adjoint of an input: its primal where wanted, its tangents where the input has them.
fn adjoint_product<B: Kernels>(a: &Dual<B>, b: &Dual<B>, input: &Input) -> Dual<B> {
    let unread = || input.tangents_only.then(|| not_computed::<B>(&a.primal, input.shape.clone()));
    product_in(a, b, &input.mask, unread)
}

#[derive(Debug, Clone)]
struct Factors<B: Kernels> {
    lhs: Dual<B>,
    rhs: Dual<B>,
    lhs_input: Input,
    rhs_input: Input,
}

/// C = A B: dA = dC B', dB = A' dC.
pub(super) fn matmul<B: Kernels>(lhs: Tracked<B>, rhs: Tracked<B>) -> Tracked<B> {
    let (a, b) = alike(lhs.primitive.clone(), rhs.primitive.clone());
    let output = Jvp::float_matmul(a.clone(), b.clone());
    let state =
        || Factors { lhs_input: Input::of(&lhs.primitive), rhs_input: Input::of(&rhs.primitive), lhs: a, rhs: b };
    closed([&lhs, &rhs], output, state, |state: Factors<B>, grad, [want_lhs, want_rhs]| {
        let lhs = want_lhs.then(|| {
            let full = adjoint_product(&grad, &state.rhs.clone().map(transposed::<B>), &whole(&state.lhs_input));
            state.lhs_input.receive(full)
        });
        let rhs = want_rhs.then(|| {
            let full = adjoint_product(&state.lhs.clone().map(transposed::<B>), &grad, &whole(&state.rhs_input));
            state.rhs_input.receive(full)
        });
        [lhs, rhs]
    })
}

/// The slots of an input, without its shape's claim on a NaN primal: a product may still be summed over batches.
fn whole(input: &Input) -> Input {
    Input { tangents_only: false, ..input.clone() }
}

#[derive(Debug, Clone)]
struct Linear<B: Kernels> {
    x: Dual<B>,
    weight: Dual<B>,
    x_input: Input,
    weight_input: Input,
}

/// y = x W + b over rows: dx = dy W', dW = x' dy, db = sum of dy over rows.
pub(super) fn linear<B: Kernels>(x: Tracked<B>, weight: Tracked<B>, bias: Option<Tracked<B>>) -> Tracked<B> {
    let (a, b) = alike(x.primitive.clone(), weight.primitive.clone());
    let output = Jvp::linear(a.clone(), b.clone(), bias.as_ref().map(|bias| bias.primitive.clone()));
    let state = || Linear {
        x_input: Input::of(&x.primitive),
        weight_input: Input::of(&weight.primitive),
        x: rows(a),
        weight: b,
    };
    match bias {
        None => closed([&x, &weight], output, state, |state: Linear<B>, grad, [want_x, want_weight]| {
            state.adjoints(&rows(grad), want_x, want_weight)
        }),
        Some(bias) => {
            let state = || (state(), Input::of(&bias.primitive));
            closed([&x, &weight, &bias], output, state, |(state, bias): (Linear<B>, Input), grad, wanted| {
                let grad = rows(grad);
                let [x, weight] = state.adjoints(&grad, wanted[0], wanted[1]);
                let bias = wanted[2].then(|| Jvp::linear_bias_backward(grad.only(&bias.mask)));
                [x, weight, bias]
            })
        }
    }
}

impl<B: Kernels> Linear<B> {
    fn adjoints(&self, grad: &Dual<B>, want_x: bool, want_weight: bool) -> [Option<Dual<B>>; 2] {
        let x = want_x.then(|| {
            let back = adjoint_product(grad, &self.weight.clone().map(transposed::<B>), &self.x_rows());
            unrows(back, &self.x_input.shape)
        });
        let weight =
            want_weight.then(|| adjoint_product(&self.x.clone().map(transposed::<B>), grad, &self.weight_input));
        [x, weight]
    }

    /// The input x as rows.
    fn x_rows(&self) -> Input {
        Input { shape: self.x.shape(), ..self.x_input.clone() }
    }
}
