//! What Lanczos returns: T, the residual norm behind it, and H's segments seen in the Krylov basis.

/// The Jacobi matrix T of one (block, probe), and what was measured on the way.
///
/// T has `alpha` on its diagonal and `beta[..m - 1]` beside it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tridiagonal {
    /// alpha_1 ... alpha_m.
    pub alpha: Vec<f64>,
    /// beta_2 ... beta_{m+1}: entry j is the norm *after* step j + 1. The last one gives the residual
    /// bounds; it is 0 on breakdown.
    pub beta: Vec<f64>,
    /// Estimate of max_i |v_i . v_{j+1}| after each step (see `orthogonality`); 0 on breakdown, where there is no next vector.
    pub orthogonality_loss: Vec<f64>,
    /// For each segment s the lower triangle of V^T H_s V, packed by rows (see [`packed`]); their sum is T
    /// to rounding. Empty where segments were not recorded.
    pub segments: Vec<Vec<f64>>,
    /// Jacobi matrices of the short recursions in the complement of this one's eigenvectors, where asked for (see [`Chain`](super::Chain)).
    pub complement: Vec<Tridiagonal>,
}

impl Tridiagonal {
    /// Number of steps done, m.
    pub fn steps(&self) -> usize {
        self.alpha.len()
    }

    /// Whether the Krylov space is exhausted: the quadrature is then exact for this probe.
    pub fn breakdown(&self) -> bool {
        self.beta.last() == Some(&0.0)
    }

    /// beta_{m+1}, the norm left after the last step.
    pub fn residual_norm(&self) -> f64 {
        self.beta.last().copied().unwrap_or(0.0)
    }

    /// Number of products H v that it took.
    pub fn products(&self) -> usize {
        self.steps() + self.complement.iter().map(Self::products).sum::<usize>()
    }

    /// The norm |T|_inf, an upper bound of |T|_2 and at most 3 times that.
    pub fn norm(&self) -> f64 {
        let beside = |j: usize| self.beta.get(j).map_or(0.0, |beta| beta.abs());
        let row = |j: usize| {
            let right = if j + 1 < self.steps() { beside(j) } else { 0.0 };
            let left = if j > 0 { beside(j - 1) } else { 0.0 };
            self.alpha[j].abs() + left + right
        };
        (0..self.steps()).map(row).fold(0.0, f64::max)
    }
}

/// Position of entry (i, j), i >= j, in a lower triangle packed by rows.
pub fn packed(i: usize, j: usize) -> usize {
    i * (i + 1) / 2 + j
}
