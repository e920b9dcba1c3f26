//! Matrix products, linear layers, embeddings, LayerNorm.

use burn_backend::Backend;

use super::{Table, ints};
use crate::values::{positive, real, unit};

pub fn cases<B: Backend>(t: &mut Table<B>) {
    t.two("float_matmul", [real([2, 3]), real([3, 4])], |a, b| B::float_matmul(a, b));
    t.two("float_matmul batched", [real([2, 2, 3]), unit([2, 3, 2])], |a, b| B::float_matmul(a, b));
    t.two("float_matmul broadcast left", [real([1, 2, 3]), unit([2, 3, 2])], |a, b| B::float_matmul(a, b));
    t.two("float_matmul broadcast right", [real([3, 2, 3]), unit([1, 3, 2])], |a, b| B::float_matmul(a, b));
    t.two("float_matmul broadcast both", [real([2, 1, 2, 3]), unit([1, 3, 3, 2])], |a, b| B::float_matmul(a, b));
    t.two("float_matmul of a view", [real([3, 2]), real([3, 4])], |a, b| {
        B::float_matmul(B::float_swap_dims(a, 0, 1), b)
    });
    t.two("float_matmul vector", [real([1, 3]), real([3, 1])], |a, b| B::float_matmul(a, b));
    t.one("float_matmul with itself", real([3, 3]), |a| B::float_matmul(a.clone(), a));
    t.two("float_cross", [real([2, 3]), unit([2, 3])], |a, b| B::float_cross(a, b, 1));
    linear(t);
    t.one("embedding", real([4, 3]), |w| B::embedding(w, ints::<B, 2>([2, 3], &[0, 2, 1, 3, 2, 2])));
    layer_norm(t);
}

fn linear<B: Backend>(t: &mut Table<B>) {
    t.two("linear", [real([4, 3]), unit([3, 2])], |x, w| B::linear(x, w, None));
    t.three("linear with bias", [real([4, 3]), unit([3, 2]), unit([2])], |x, w, b| B::linear(x, w, Some(b)));
    t.three("linear of rank 3", [real([2, 2, 3]), unit([3, 2]), unit([2])], |x, w, b| B::linear(x, w, Some(b)));
    t.three("linear of rank 4", [real([2, 1, 2, 3]), unit([3, 2]), unit([2])], |x, w, b| B::linear(x, w, Some(b)));
    const WHY: &str = "an adjoint: burn's Autodiff does not differentiate it again";
    t.two("linear_x_backward", [unit([3, 2]), real([2, 2, 2])], |w, g| B::linear_x_backward(w, g));
    t.forward_only(WHY);
    t.two("linear_weight_backward", [real([2, 2, 3]), unit([2, 2, 2])], |x, g| B::linear_weight_backward(x, g));
    t.forward_only(WHY);
    t.one("linear_bias_backward", real([2, 2, 3]), |g| B::linear_bias_backward(g));
    t.forward_only(WHY);
    t.two("embedding_backward", [real([4, 3]), unit([2, 3, 3])], |w, g| {
        B::embedding_backward(w, g, ints::<B, 2>([2, 3], &[0, 2, 1, 3, 2, 2]))
    });
    t.forward_only(WHY);
}

fn layer_norm<B: Backend>(t: &mut Table<B>) {
    t.three("layer_norm", [real([3, 4]), positive([4]), unit([4])], |x, g, b| B::layer_norm(x, g, Some(b), 1e-5));
    t.two("layer_norm without beta", [real([3, 4]), positive([4])], |x, g| B::layer_norm(x, g, None, 1e-5));
    t.three("layer_norm of rank 3", [real([2, 2, 4]), positive([4]), unit([4])], |x, g, b| {
        B::layer_norm(x, g, Some(b), 1e-2)
    });
    t.three("layer_norm of rank 1", [real([4]), positive([4]), unit([4])], |x, g, b| {
        B::layer_norm(x, g, Some(b), 1e-5)
    });
}
