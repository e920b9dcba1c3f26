//! What a study of nested batches costs, beside its largest batch.

use serde::Serialize;

use crate::config::Convergence;

/// All batches of a study together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudyPlan {
    /// Predicted tokens of each batch, ascending.
    pub batches: Vec<usize>,
    /// Products H v, each over its own batch.
    pub num_products: usize,
    /// Floating-point operations.
    pub flop: f64,
    /// The same in units of the largest batch: a little below factor / (factor - 1).
    pub times_largest: f64,
    /// Predicted duration, seconds.
    pub seconds: Option<f64>,
}

impl StudyPlan {
    /// From the largest batch's products and operations.
    pub fn new(study: &Convergence, num_products: usize, flop: f64) -> Self {
        let batches = study.sizes();
        let tokens: f64 = batches.iter().map(|tokens| *tokens as f64).sum();
        let times_largest = tokens / study.to as f64;
        Self {
            num_products: num_products * batches.len(),
            flop: flop * times_largest,
            times_largest,
            batches,
            seconds: None,
        }
    }
}
