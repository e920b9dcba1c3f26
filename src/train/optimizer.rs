//! Updates of parameters from their gradient, with PyTorch's conventions: `torch.optim.SGD`, `Adam`, `AdamW`, and
//! `torch.nn.utils.clip_grad_norm_`.
//!
//! Parameters and moments are flat vectors in the network's order and the run's precision; an entry's arithmetic is f64, rounded
//! once where it is stored. Every entry is updated by itself, so that bits depend neither on threads nor on ranks.

use rayon::prelude::*;

use crate::config::{self, Moments, Train};
use crate::krylov::Real;

/// Entries that a thread takes at a time; also what a norm is summed up by.
const PIECE: usize = 1 << 16;
/// What PyTorch adds to a norm before it divides by it.
const CLIP_EPSILON: f64 = 1e-6;

/// What an update is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// b <- momentum b + g; w <- w - rate b, with Nesterov's variant w <- w - rate (g + momentum b).
    Sgd {
        /// Share of the last direction that is kept.
        momentum: f64,
        /// Nesterov's variant.
        nesterov: bool,
        /// Added to the gradient, times the parameter.
        weight_decay: f64,
    },
    /// m <- beta1 m + (1 - beta1) g; v <- beta2 v + (1 - beta2) g^2; w <- w - rate m' / (sqrt(v') + epsilon), with
    /// m' = m / (1 - beta1^t) and v' = v / (1 - beta2^t), or m and v themselves.
    Adam {
        /// Shares of the first and the second moment that are kept.
        betas: [f64; 2],
        /// Keeps the quotient finite.
        epsilon: f64,
        /// Whether moments that begin with zero are divided by 1 - beta^t.
        bias_correction: bool,
        /// What the moments begin with.
        moments: Moments,
        /// Times the parameter: added to the gradient or, decoupled, to the quotient.
        weight_decay: f64,
        /// AdamW's way (Loshchilov and Hutter 2019, arXiv 1711.05101).
        decoupled: bool,
    },
}

impl Rule {
    /// The rule of a configuration.
    pub fn of(train: &Train) -> Self {
        let Train { momentum, nesterov, beta1, beta2, epsilon, bias_correction, moments, weight_decay, .. } = *train;
        let number = |value: Option<f64>| value.unwrap_or(0.0); // a resolved configuration has all those of its optimizer
        match train.optimizer {
            config::Optimizer::Sgd => {
                Self::Sgd { momentum: number(momentum), nesterov: nesterov == Some(true), weight_decay }
            }
            config::Optimizer::Adam | config::Optimizer::AdamW => Self::Adam {
                betas: [number(beta1), number(beta2)],
                epsilon: number(epsilon),
                bias_correction: bias_correction == Some(true),
                moments: moments.unwrap_or_default(),
                weight_decay,
                decoupled: train.optimizer == config::Optimizer::AdamW,
            },
        }
    }

    /// PyTorch's names of the vectors that it keeps from step to step.
    pub fn vectors(&self) -> &'static [&'static str] {
        match self {
            Self::Sgd { momentum: 0.0, .. } => &[],
            Self::Sgd { .. } => &["momentum_buffer"],
            Self::Adam { .. } => &["exp_avg", "exp_avg_sq"],
        }
    }
}

/// A rule and what it keeps from step to step.
#[derive(Debug, Clone, PartialEq)]
pub struct Optimizer<T> {
    rule: Rule,
    /// Updates so far.
    steps: usize,
    /// As [`Rule::vectors`] names them.
    vectors: Vec<Vec<T>>,
}

impl<T: Real> Optimizer<T> {
    /// Before the first of its updates, for so many parameters.
    pub fn new(rule: Rule, num_params: usize) -> Self {
        let vectors = rule.vectors().iter().map(|_| vec![T::default(); num_params]).collect();
        Self { rule, steps: 0, vectors }
    }

    /// As it was after `steps` updates.
    pub fn resumed(rule: Rule, steps: usize, vectors: Vec<Vec<T>>) -> Self {
        Self { rule, steps, vectors }
    }

    /// The vectors that are kept, with PyTorch's names.
    pub fn vectors(&self) -> impl Iterator<Item = (&'static str, &[T])> {
        self.rule.vectors().iter().copied().zip(self.vectors.iter().map(Vec::as_slice))
    }

    /// Updates the parameters along their gradient.
    pub fn update(&mut self, parameters: &mut [T], gradient: &[f64], rate: f64) {
        self.steps += 1;
        match (self.rule, &mut self.vectors[..]) {
            (Rule::Sgd { weight_decay, .. }, []) => {
                each([parameters], gradient, |[w], g| [w - rate * (g + weight_decay * w)])
            }
            (Rule::Sgd { momentum, nesterov, weight_decay }, [buffer]) => {
                each([parameters, buffer], gradient, |[w, b], g| {
                    let g = g + weight_decay * w;
                    let b = momentum * b + g;
                    [w - rate * if nesterov { g + momentum * b } else { b }, b]
                });
            }
            (Rule::Adam { betas, epsilon, bias_correction, moments, weight_decay, decoupled }, [first, second]) => {
                let is_begun = self.steps > 1 || moments == Moments::Zero;
                let [beta1, beta2] = if is_begun { betas } else { [0.0, 0.0] };
                let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
                let correction = |beta: f64| if bias_correction { 1.0 - beta.powi(steps) } else { 1.0 };
                let (first_correction, second_root) = (correction(beta1), correction(beta2).sqrt());
                each([parameters, first, second], gradient, |[w, m, v], g| {
                    let (w, g) = match decoupled {
                        true => (w * (1.0 - rate * weight_decay), g),
                        false => (w, g + weight_decay * w),
                    };
                    let (m, v) = (beta1 * m + (1.0 - beta1) * g, beta2 * v + (1.0 - beta2) * g * g);
                    let denominator = v.sqrt() / second_root + epsilon;
                    // 0 / 0 where nothing has moved and there is no epsilon: nothing moves
                    let step = if m == 0.0 { 0.0 } else { m / first_correction / denominator };
                    [w - rate * step, m, v]
                });
            }
            (rule, vectors) => unreachable!("{rule:?} keeps {} vectors", vectors.len()), // `new` and `resumed` see to it
        }
    }
}

/// Replaces the entries of N vectors by what `update` makes of them and of the gradient's entry.
fn each<const N: usize, T: Real>(
    vectors: [&mut [T]; N],
    gradient: &[f64],
    update: impl Fn([f64; N], f64) -> [f64; N] + Sync,
) {
    let mut pieces = vectors.map(|vector| vector.chunks_mut(PIECE));
    let mut next = || pieces.each_mut().map(|pieces| pieces.next().unwrap_or_default());
    let pieces: Vec<_> = gradient.chunks(PIECE).map(|gradient| (next(), gradient)).collect();
    pieces.into_par_iter().for_each(|(mut vectors, gradient)| {
        for (at, g) in gradient.iter().enumerate() {
            let values: [f64; N] = std::array::from_fn(|vector| vectors[vector][at].to_f64());
            let updated = update(values, *g);
            vectors.iter_mut().zip(updated).for_each(|(vector, value)| vector[at] = T::from_f64(value));
        }
    });
}

/// Norm of a gradient, and whether it was longer than `most` and is now scaled down to that.
pub fn clip(gradient: &mut [f64], most: Option<f64>) -> (f64, bool) {
    let pieces: Vec<f64> = gradient.par_chunks(PIECE).map(|piece| piece.iter().map(|g| g * g).sum()).collect();
    let norm = pieces.iter().sum::<f64>().sqrt();
    let factor = most.map_or(1.0, |most| most / (norm + CLIP_EPSILON));
    let is_longer = factor < 1.0;
    if is_longer {
        gradient.par_iter_mut().with_min_len(PIECE).for_each(|g| *g *= factor);
    }
    (norm, is_longer)
}

#[cfg(test)]
#[path = "optimizer_tests.rs"]
mod tests;
