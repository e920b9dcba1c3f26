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
    /// Operations in units of the largest batch's: a little below factor / (factor - 1).
    pub times_largest: f64,
    /// Predicted duration, seconds.
    pub seconds: Option<f64>,
}

impl StudyPlan {
    /// From the largest batch's products and operations.
    pub fn new(study: &Convergence, num_products: usize, flop: f64) -> Self {
        let (batches, times_largest) = (study.sizes(), Self::times_largest(study));
        Self {
            num_products: num_products * batches.len(),
            flop: flop * times_largest,
            times_largest,
            batches,
            seconds: None,
        }
    }

    /// Tokens of all batches over those of the largest.
    pub fn times_largest(study: &Convergence) -> f64 {
        study.sizes().iter().map(|tokens| *tokens as f64).sum::<f64>() / study.to as f64
    }
}
