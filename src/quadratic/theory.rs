//! What the paper's theorems say of a quadratic problem, as printed and as they must read to hold.
//!
//! Write c_l for the smallest and C_l for the largest entry of |g_l(w0)| / lambda_l, where g_l(w0) is the gradient in block l at
//! the start and lambda_l the block's largest eigenvalue. Adam without momentum and with beta2 = 1 is gradient descent
//! preconditioned by D = diag(|g(w0)|). In block l the matrix eta D_l^-1/2 H_l D_l^-1/2 has eigenvalues of at most eta / c_l and of at
//! least eta / (C_l kappa_l), so that eta = min_l c_l gives, step by step,
//!
//! ```text
//! L(w+) <= max_l (1 - 1 / (s kappa_l))^2 L(w),   s = max_l C_l / min_l c_l
//! ```
//!
//! which implies Theorem 2 of the paper (arXiv 2402.16788) with r' = s^2 in the place of r. The paper's r = max_l (C_l / c_l)^2 takes each
//! block's own smallest entry, although one rate serves all blocks.

use super::optimizer::Method;
use super::problem::Quadratic;

/// Bounds of one problem.
#[derive(Debug, Clone, PartialEq)]
pub struct Theory {
    /// Condition number of H.
    pub kappa: f64,
    /// Condition number of each H_l.
    pub kappas: Vec<f64>,
    /// (C_l / c_l)^2 of each block.
    pub r_of_blocks: Vec<f64>,
    /// The paper's r: the largest of these.
    pub r: f64,
    /// r' = (max_l C_l / min_l c_l)^2.
    pub r_prime: f64,
    /// min_l c_l: the largest rate that the proof of Theorem 2 allows.
    pub adam_rate: f64,
}

impl Theory {
    /// The constants of a problem and its start.
    pub fn of(problem: &Quadratic) -> Self {
        let ratio = |(least, most): (f64, f64)| most / least;
        let entries = |block: usize| {
            let largest = problem.ends(block).1;
            let sizes = problem.gradient[block].iter().map(|g| g.abs() / largest);
            sizes.fold((f64::INFINITY, 0.0f64), |(least, most), x| (least.min(x), most.max(x)))
        };
        let bounds: Vec<(f64, f64)> = (0..problem.num_blocks()).map(entries).collect();
        let r_of_blocks: Vec<f64> = bounds.iter().map(|bounds| ratio(*bounds).powi(2)).collect();
        let least = bounds.iter().map(|bounds| bounds.0).fold(f64::INFINITY, f64::min);
        let most = bounds.iter().map(|bounds| bounds.1).fold(0.0, f64::max);
        Self {
            kappa: ratio(problem.ends_of_all()),
            kappas: (0..problem.num_blocks()).map(|block| ratio(problem.ends(block))).collect(),
            r: r_of_blocks.iter().copied().fold(0.0, f64::max),
            r_of_blocks,
            r_prime: (most / least).powi(2),
            adam_rate: least,
        }
    }

    /// The largest of the blocks' condition numbers.
    pub fn largest_kappa(&self) -> f64 {
        self.kappas.iter().copied().fold(1.0, f64::max)
    }

    /// Gradient descent with one rate, 2 / (lambda_min + lambda_max): the loss falls by this factor or more in each step, and in the
    /// end by no more. Equation (10) of the paper has no square.
    pub fn gd_ratio(&self) -> f64 {
        contraction(self.kappa).powi(2)
    }

    /// Equation (10) as printed.
    pub fn gd_ratio_as_printed(&self) -> f64 {
        contraction(self.kappa)
    }

    /// Gradient descent with the rate 2 / (lambda_min + lambda_max) of each block.
    pub fn blockwise_gd_ratio(&self) -> f64 {
        contraction(self.largest_kappa()).powi(2)
    }

    /// Theorem 2 as printed, with r.
    pub fn adam_ratio_as_printed(&self) -> f64 {
        1.0 - 1.0 / (self.r * self.largest_kappa())
    }

    /// Theorem 2 with r'.
    pub fn adam_ratio(&self) -> f64 {
        1.0 - 1.0 / (self.r_prime * self.largest_kappa())
    }

    /// What the proof gives: the square of 1 - 1 / (sqrt(r') kappa).
    pub fn adam_ratio_sharp(&self) -> f64 {
        (1.0 - 1.0 / (self.r_prime.sqrt() * self.largest_kappa())).powi(2)
    }
}

/// 1 - 2 / (kappa + 1).
fn contraction(kappa: f64) -> f64 {
    1.0 - 2.0 / (kappa + 1.0)
}

/// Iterations until a loss that falls by `ratio` in each is at most `accuracy` times what it was.
pub fn iterations(ratio: f64, accuracy: f64) -> f64 {
    if ratio <= 0.0 { 1.0 } else { (accuracy.ln() / ratio.ln()).ceil() }
}

/// Gradient descent with the best single rate.
pub fn gd(problem: &Quadratic) -> Method {
    let (least, most) = problem.ends_of_all();
    Method::Descent { rates: vec![2.0 / (least + most)] }
}

/// Gradient descent with the best rate for each block.
pub fn blockwise_gd(problem: &Quadratic) -> Method {
    let ends = (0..problem.num_blocks()).map(|block| problem.ends(block));
    Method::Descent { rates: ends.map(|(least, most)| 2.0 / (least + most)).collect() }
}
