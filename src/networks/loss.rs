//! Losses that several networks share.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, backend::Backend};

/// Mean cross-entropy of logits, (rows, classes), against the class of each row, (rows).
pub fn cross_entropy<B: Backend>(logits: Tensor<B, 2>, classes: &Tensor<B, 1, Int>) -> Tensor<B, 1> {
    let [rows] = classes.dims();
    log_softmax(logits, 1).gather(1, classes.clone().reshape([rows, 1])).mean().neg()
}
