//! Eigenvalues and eigenvectors of small symmetric matrices (m at most a few hundred), in f64.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::{Mat, Par};

use crate::krylov::{Tridiagonal, packed};
use crate::{Error, Result};

/// Eigenvalues in ascending order, and the eigenvectors.
pub struct Eigen {
    /// Eigenvalues, ascending.
    pub values: Vec<f64>,
    /// Column i belongs to `values[i]`.
    pub vectors: Mat<f64>,
}

/// Eigen-decomposition of the m x m Jacobi matrix T.
pub fn tridiagonal(t: &Tridiagonal) -> Result<Eigen> {
    symmetric(t.steps(), |i, j| match i - j {
        0 => t.alpha[i],
        1 => t.beta[j],
        _ => 0.0,
    })
}

/// Eigen-decomposition of a symmetric matrix whose lower triangle is packed by rows.
pub fn packed_symmetric(dim: usize, lower: &[f64]) -> Result<Eigen> {
    symmetric(dim, |i, j| lower[packed(i, j)])
}

/// From the lower triangle. The matrix is scaled to entries of at most 1, so that squares inside the solver
/// neither overflow nor vanish. Sequential: the same bits for any number of threads.
fn symmetric(dim: usize, lower: impl Fn(usize, usize) -> f64) -> Result<Eigen> {
    let lower_indices = || (0..dim).flat_map(|i| (0..=i).map(move |j| (i, j)));
    let largest = lower_indices().map(|(i, j)| lower(i, j).abs()).fold(0.0, f64::max);
    if dim == 0 || lower_indices().any(|(i, j)| !lower(i, j).is_finite()) {
        return Err(Error::Numerics(format!("eigenvalues of a {dim} x {dim} matrix that is empty or not finite")));
    }
    let scale = if largest > 0.0 { largest } else { 1.0 };
    let matrix = Mat::from_fn(dim, dim, |i, j| if i >= j { lower(i, j) / scale } else { 0.0 });
    let (values, vectors) = decompose(&matrix)?;
    Ok(Eigen { values: values.iter().map(|value| value * scale).collect(), vectors })
}

fn decompose(matrix: &Mat<f64>) -> Result<(Vec<f64>, Mat<f64>)> {
    let dim = matrix.nrows();
    let mut values = Diag::zeros(dim);
    let mut vectors = Mat::zeros(dim, dim);
    let scratch = self_adjoint_evd_scratch::<f64>(dim, ComputeEigenvectors::Yes, Par::Seq, Default::default());
    self_adjoint_evd(
        matrix.as_ref(),
        values.as_mut(),
        Some(vectors.as_mut()),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        Default::default(),
    )
    .map_err(|error| Error::Numerics(format!("eigenvalues of a {dim} x {dim} matrix: {error:?}")))?;
    Ok((values.column_vector().iter().copied().collect(), vectors))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second-difference matrix: 2 - 2 cos(k pi / (n + 1)).
    #[test]
    fn second_difference_matrix_at_any_scale() {
        for n in [1, 2, 7, 100, 150] {
            for scale in [1e-200, 1.0, 1e200] {
                let t = Tridiagonal { alpha: vec![2.0 * scale; n], beta: vec![-scale; n], ..Tridiagonal::default() };
                let eigen = tridiagonal(&t).unwrap();
                for (k, value) in eigen.values.iter().enumerate() {
                    let truth = 2.0 - 2.0 * (std::f64::consts::PI * (k + 1) as f64 / (n + 1) as f64).cos();
                    assert!((value / scale - truth).abs() < 1e-14 * n as f64, "n = {n}: {value} {truth}");
                }
            }
        }
    }

    #[test]
    fn zero_and_not_finite() {
        assert_eq!(packed_symmetric(2, &[0.0; 3]).unwrap().values, [0.0, 0.0]);
        assert!(packed_symmetric(2, &[0.0, f64::NAN, 1.0]).is_err());
    }
}
