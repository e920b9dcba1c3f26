//! One quadratic problem: its Hessian block by block, its start, and its gradient.

use super::config::Config;
use crate::krylov::{Basis, Dense, Local, MatrixOperator, Operator, Space, dot};
use crate::probe::{ProbeKind, probe};
use crate::{Error, Result};

/// L(w) = w' H w / 2, H = diag(H_1, ..., H_L).
pub struct Quadratic {
    /// Eigenvalues of each block, ascending.
    pub spectra: Vec<Vec<f64>>,
    /// Each H_l.
    pub matrices: Vec<Dense>,
    /// w0, block by block.
    pub start: Vec<Vec<f64>>,
    /// H w0, block by block.
    pub gradient: Vec<Vec<f64>>,
}

impl Quadratic {
    /// The problem of a trial: a pure function of the seed, the blocks' names and the trial's number.
    ///
    /// # Errors
    /// [`Error::Numerics`] for random columns that are linearly dependent.
    pub fn draw(config: &Config, spectra: &[Vec<f64>], trial: usize) -> Result<Self> {
        let gaussian = |what: &str, block: &str, count: usize| {
            probe(ProbeKind::Gaussian, config.seed, &format!("quadratic/{block}/{what}"), trial as u32, 0..count)
        };
        let mut matrices = Vec::new();
        let mut start = Vec::new();
        for (block, eigenvalues) in config.blocks.iter().zip(spectra) {
            let dim = eigenvalues.len();
            let columns = orthogonal(&gaussian("orthogonal", &block.name, dim * dim), dim)?;
            matrices.push(with_eigenvectors(eigenvalues, &columns));
            start.push(block.start.clone().unwrap_or_else(|| gaussian("start", &block.name, dim)));
        }
        Self::new(spectra.to_vec(), matrices, start)
    }

    /// A problem of given blocks and a given start.
    ///
    /// # Errors
    /// Those of the operator.
    pub fn new(spectra: Vec<Vec<f64>>, matrices: Vec<Dense>, start: Vec<Vec<f64>>) -> Result<Self> {
        let mut problem = Self { spectra, matrices, start, gradient: Vec::new() };
        problem.gradient = apply(&mut problem.operator(), &problem.start)?;
        Ok(problem)
    }

    /// H as an operator, a slot for each block.
    pub fn operator(&self) -> MatrixOperator<f64> {
        MatrixOperator::new(self.matrices.iter().map(|matrix| [matrix.clone()].into()).collect())
    }

    /// Number of blocks.
    pub fn num_blocks(&self) -> usize {
        self.matrices.len()
    }

    /// Smallest and largest eigenvalue of a block.
    pub fn ends(&self, block: usize) -> (f64, f64) {
        let eigenvalues = &self.spectra[block];
        (eigenvalues[0], eigenvalues[eigenvalues.len() - 1])
    }

    /// Smallest and largest eigenvalue of H.
    pub fn ends_of_all(&self) -> (f64, f64) {
        let ends = (0..self.num_blocks()).map(|block| self.ends(block));
        ends.fold((f64::INFINITY, 0.0), |(low, high), (least, most)| (low.min(least), high.max(most)))
    }
}

/// H times a vector, block by block.
pub fn apply(operator: &mut MatrixOperator<f64>, w: &[Vec<f64>]) -> Result<Vec<Vec<f64>>> {
    let slots: Vec<(usize, &Vec<f64>)> = w.iter().enumerate().collect();
    operator.apply(&slots, &mut |_, _, _| Ok(()))
}

/// Columns of an orthogonal matrix that is uniformly distributed (Haar): Gram-Schmidt on a Gaussian matrix, which is its QR
/// decomposition with a positive diagonal of R (Mezzadri, How to generate random matrices from the classical compact groups,
/// arXiv math-ph/0609050).
fn orthogonal(gaussian: &[f64], dim: usize) -> Result<Vec<Vec<f64>>> {
    let space = Local::<f64>::new();
    let mut basis = space.new_basis(dim, dim)?;
    for column in gaussian.chunks(dim) {
        let mut column = column.to_vec();
        basis.project(&mut column)?;
        basis.project(&mut column)?; // twice is enough
        let norm = space.norm(&column)?;
        if norm.is_nan() || norm <= f64::EPSILON {
            return Err(Error::Numerics(format!("a random {dim} x {dim} matrix is singular; take another seed")));
        }
        space.scale(&mut column, 1.0 / norm);
        basis.push(column)?;
    }
    Ok(basis.columns().to_vec())
}

/// Q diag(eigenvalues) Q' from Q's columns, symmetric to the last bit.
fn with_eigenvectors(eigenvalues: &[f64], columns: &[Vec<f64>]) -> Dense {
    let row = |i: usize| -> Vec<f64> { columns.iter().zip(eigenvalues).map(|(q, x)| q[i] * x.sqrt()).collect() };
    let root: Vec<Vec<f64>> = (0..eigenvalues.len()).map(row).collect();
    Dense::from_fn(eigenvalues.len(), |i, j| dot(&root[i], &root[j]))
}
