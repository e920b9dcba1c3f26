//! Condition numbers of a block before and after Adam's preconditioner at the start, directions without curvature apart.
//!
//! The paper (arXiv 2402.16788, Section 3.3) leaves open whether 1 / |g| lowers the condition numbers of real blocks. These are
//! indefinite and have directions without curvature, so that a condition number needs a rank: k is the number of |eigenvalues| of H
//! above a share of the largest, kappa = |lambda|_1 / |lambda|_k by falling size, and kappa_adam the same of D^-1/2 H D^-1/2, D = diag(|g|), with the
//! same k.

use crate::Result;
use crate::spectrum::eigen;

/// Rows and columns of the largest matrix that is decomposed: some seconds.
pub const MOST_ROWS: usize = 1_500;
/// Share of the largest |eigenvalue| below which there is no curvature.
const NO_CURVATURE: f64 = 1e-6;
/// Roundings that an eigenvalue may consist of.
const ROUNDINGS: f64 = 1e3;

/// Condition numbers of a block.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Condition {
    /// Number of |eigenvalues| above 1e-6 of the largest, or above a thousand roundings of it.
    pub rank: usize,
    /// |lambda|_1 / |lambda|_rank of H.
    pub kappa: f64,
    /// Condition number of D^-1/2 H D^-1/2, D = diag(|g|).
    pub kappa_adam: f64,
}

/// Condition numbers of a matrix, whose lower triangle is read, with the gradient beside it. Parameters whose gradient is exactly 0 are left out: Adam does not move
/// them. `None` for a matrix that is too large, or without curvature.
///
/// # Errors
/// [`Error::Numerics`](crate::Error::Numerics) for eigenvalues that cannot be computed.
pub fn condition(matrix: &[Vec<f64>], gradient: &[f64], unit_roundoff: f64) -> Result<Option<Condition>> {
    let moving: Vec<usize> = (0..gradient.len()).filter(|at| gradient[*at] != 0.0).collect();
    if matrix.len() > MOST_ROWS || moving.is_empty() {
        return Ok(None);
    }
    let sizes = |factor: &dyn Fn(usize) -> f64| -> Result<Vec<f64>> {
        let lower = moving.iter().enumerate().flat_map(|(at, i)| {
            moving[..=at].iter().map(move |j| matrix[*i.max(j)][*i.min(j)] * factor(*i) * factor(*j))
        });
        let values = eigen::packed_symmetric(moving.len(), &lower.collect::<Vec<_>>())?.values;
        let mut sizes: Vec<f64> = values.into_iter().map(f64::abs).collect();
        sizes.sort_by(|a, b| b.total_cmp(a));
        Ok(sizes)
    };
    let plain = sizes(&|_| 1.0)?;
    let least = plain[0] * NO_CURVATURE.max(ROUNDINGS * unit_roundoff);
    let rank = plain.iter().filter(|size| **size > least).count();
    if rank == 0 {
        return Ok(None);
    }
    let preconditioned = sizes(&|at| 1.0 / gradient[at].abs().sqrt())?;
    let ratio = |sizes: &[f64]| sizes[0] / sizes[rank - 1];
    Ok(Some(Condition { rank, kappa: ratio(&plain), kappa_adam: ratio(&preconditioned) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// diag(4, -1, 0) with gradients (4, 1, 1): kappa 4, and 1 after the preconditioner; a fourth parameter that does not move.
    #[test]
    fn directions_without_curvature_do_not_count() {
        let diagonal = [4.0, -1.0, 0.0, 9.0];
        let matrix: Vec<Vec<f64>> =
            (0..4).map(|i| (0..4).map(|j| if i == j { diagonal[i] } else { 0.0 }).collect()).collect();
        let found = condition(&matrix, &[4.0, 1.0, 1.0, 0.0], f64::EPSILON).unwrap().unwrap();
        assert_eq!((found.rank, found.kappa), (2, 4.0));
        assert!((found.kappa_adam - 1.0).abs() < 1e-12);
        assert_eq!(condition(&[vec![0.0]], &[1.0], f64::EPSILON).unwrap(), None);
        assert_eq!(condition(&[vec![1.0]], &[0.0], f64::EPSILON).unwrap(), None);
    }
}
