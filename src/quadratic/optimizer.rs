//! Gradient descent, gradient descent with a rate for each block, and Adam without momentum, on a quadratic problem.

use super::problem::{Quadratic, apply};
use crate::Result;

/// An iteration whose loss exceeds that of the start by this factor has diverged.
const DIVERGED: f64 = 1e12;

/// How a step is taken.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// w <- w - rate g.
    Descent {
        /// One rate for all blocks, or one for each.
        rates: Vec<f64>,
    },
    /// Adam without momentum, bias correction and epsilon: v <- beta2 v + (1 - beta2) g^2, w <- w - rate g / sqrt(v), from
    /// v = g^2 at the start. With beta2 = 1 the preconditioner stays 1 / |g| of the start.
    Adam {
        /// Decay of v.
        beta2: f64,
        /// The learning rate.
        rate: f64,
    },
}

/// The losses of an optimizer, from the start on.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    /// Entry t is the loss after t iterations.
    pub losses: Vec<f64>,
    /// The first iteration after which the loss is at most the accuracy times that of the start.
    pub reached: Option<usize>,
}

impl Path {
    /// Largest ratio of a loss to the one before it, where both are numbers above 0.
    pub fn largest_ratio(&self) -> Option<f64> {
        let ratios = self.losses.windows(2).filter(|pair| pair[0] > 0.0 && pair[1].is_finite());
        ratios.map(|pair| pair[1] / pair[0]).max_by(f64::total_cmp)
    }

    /// Ratio of the last loss to the one before it.
    pub fn last_ratio(&self) -> Option<f64> {
        match self.losses.as_slice() {
            [.., before, last] if *before > 0.0 => Some(last / before),
            _ => None,
        }
    }
}

/// Iterates from the problem's start: at most `most` times, no longer than a number can hold the loss, and, where `stops`, no longer than
/// until the accuracy is reached.
///
/// # Errors
/// Those of the operator.
pub fn descend(problem: &Quadratic, method: &Method, accuracy: f64, most: usize, stops: bool) -> Result<Path> {
    let mut operator = problem.operator();
    let (mut w, mut g) = (problem.start.clone(), problem.gradient.clone());
    let mut v: Vec<Vec<f64>> = g.iter().map(|g| g.iter().map(|x| x * x).collect()).collect();
    let first = loss(&w, &g);
    let mut path = Path { losses: vec![first], reached: None };
    for iteration in 1..=most {
        match method {
            Method::Descent { rates } => step(&mut w, &g, |block, _, g| rates[block.min(rates.len() - 1)] * g),
            Method::Adam { beta2, rate } => {
                if iteration > 1 {
                    average(&mut v, &g, *beta2);
                }
                // at an exact 0 of the gradient there is nothing to do, and 0 / 0 would be no number
                step(&mut w, &g, |block, at, g| if g == 0.0 { 0.0 } else { rate * (g / v[block][at].sqrt()) });
            }
        }
        g = apply(&mut operator, &w)?;
        let loss = loss(&w, &g);
        path.losses.push(loss);
        if loss <= accuracy * first && path.reached.is_none() {
            path.reached = Some(iteration);
            if stops {
                break;
            }
        }
        if !loss.is_finite() || loss > DIVERGED * first {
            break;
        }
    }
    Ok(path)
}

/// w' g / 2.
fn loss(w: &[Vec<f64>], g: &[Vec<f64>]) -> f64 {
    0.5 * w.iter().flatten().zip(g.iter().flatten()).map(|(w, g)| w * g).sum::<f64>()
}

/// w <- w - change(block, index, g).
fn step(w: &mut [Vec<f64>], g: &[Vec<f64>], change: impl Fn(usize, usize, f64) -> f64) {
    for (block, (w, g)) in w.iter_mut().zip(g).enumerate() {
        for (at, (w, g)) in w.iter_mut().zip(g).enumerate() {
            *w -= change(block, at, *g);
        }
    }
}

/// v <- beta2 v + (1 - beta2) g^2.
fn average(v: &mut [Vec<f64>], g: &[Vec<f64>], beta2: f64) {
    for (v, g) in v.iter_mut().flatten().zip(g.iter().flatten()) {
        *v = beta2 * *v + (1.0 - beta2) * g * g;
    }
}
