//! The operator Lanczos is given, and a dense one.

use std::sync::Arc;

use super::Real;
use crate::{Error, Result, probe};

/// Called with (segment, slot, H_s v) at the end of each segment s; the H_s sum to H, weights included.
pub type OnSegment<'a, V> = dyn FnMut(usize, usize, &V) -> Result<()> + 'a;

/// Symmetric linear operators, one per *slot*, applied together: for a network's Hessian one sweep over
/// the data serves all slots.
pub trait Operator {
    /// A vector, or this rank's slice of it.
    type Vector;
    /// Dimension of each slot's operator.
    fn dims(&self) -> Vec<usize>;
    /// The products H v for pairs (slot, v), in their order. Slots that are done are not passed.
    fn apply(
        &mut self,
        vectors: &[(usize, &Self::Vector)],
        on_segment: &mut OnSegment<Self::Vector>,
    ) -> Result<Vec<Self::Vector>>;
}

/// A dense symmetric matrix, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    dim: usize,
    values: Vec<f64>,
}

impl Dense {
    /// A matrix of `dim` rows from its entries, row by row.
    pub fn new(dim: usize, values: Vec<f64>) -> Result<Self> {
        if values.len() != dim * dim {
            let found = values.len();
            return Err(Error::Numerics(format!("dense matrix: {found} entries, expected {dim} x {dim}")));
        }
        Ok(Self { dim, values })
    }

    /// A matrix from a function of (row, column).
    pub fn from_fn(dim: usize, entry: impl Fn(usize, usize) -> f64) -> Self {
        Self { dim, values: (0..dim * dim).map(|k| entry(k / dim, k % dim)).collect() }
    }

    /// Q diag(eigenvalues) Q^T, where Q is a product of `reflections` random Householder reflections.
    ///
    /// A handful of reflections suffices to make every eigenvector dense, at O(n^2) each.
    pub fn with_spectrum(eigenvalues: &[f64], reflections: u32, seed: u64) -> Self {
        let dim = eigenvalues.len();
        let mut matrix = Self::from_fn(dim, |i, j| if i == j { eigenvalues[i] } else { 0.0 });
        for index in 0..reflections {
            matrix.reflect(&probe::probe(probe::ProbeKind::Gaussian, seed, "reflection", index, 0..dim));
        }
        matrix
    }

    /// A <- (I - 2 u u^T / u^T u) A (I - 2 u u^T / u^T u).
    fn reflect(&mut self, u: &[f64]) {
        let norm_squared: f64 = u.iter().map(|x| x * x).sum();
        let factor = 2.0 / norm_squared;
        let au = self.multiply(u);
        let uau: f64 = u.iter().zip(&au).map(|(x, y)| x * y).sum();
        // rank two: A - u q^T - q u^T with q = factor (A u - factor/2 (u^T A u) u)
        let q: Vec<f64> = au.iter().zip(u).map(|(a, x)| factor * (a - 0.5 * factor * uau * x)).collect();
        for i in 0..self.dim {
            for j in 0..self.dim {
                self.values[i * self.dim + j] -= u[i] * q[j] + q[i] * u[j];
            }
        }
    }

    /// Number of rows.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Entry (row, column).
    pub fn entry(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.dim + column]
    }

    /// Matrix times vector, in f64.
    pub fn multiply<T: Real>(&self, v: &[T]) -> Vec<f64> {
        self.values.chunks(self.dim).map(|row| row.iter().zip(v).map(|(a, x)| a * x.to_f64()).sum()).collect()
    }
}

/// Dense matrices as an [`Operator`]: each slot is a sum of segments.
#[derive(Debug, Clone)]
pub struct MatrixOperator<T> {
    slots: Vec<Arc<[Dense]>>,
    storage: std::marker::PhantomData<T>,
}

impl<T: Real> MatrixOperator<T> {
    /// One list of segments per slot; slots may share one.
    pub fn new(slots: Vec<Arc<[Dense]>>) -> Self {
        Self { slots, storage: std::marker::PhantomData }
    }

    /// One matrix, in one segment, in every slot.
    pub fn shared(matrix: Dense, num_slots: usize) -> Self {
        Self::new(vec![Arc::from([matrix]); num_slots])
    }
}

impl<T: Real> Operator for MatrixOperator<T> {
    type Vector = Vec<T>;

    fn dims(&self) -> Vec<usize> {
        self.slots.iter().map(|segments| segments.first().map_or(0, Dense::dim)).collect()
    }

    fn apply(&mut self, vectors: &[(usize, &Vec<T>)], on_segment: &mut OnSegment<Vec<T>>) -> Result<Vec<Vec<T>>> {
        let round = |product: &[f64]| product.iter().map(|x| T::from_f64(*x)).collect::<Vec<T>>();
        let mut products = Vec::with_capacity(vectors.len());
        for (slot, v) in vectors {
            let mut sum = vec![0.0; v.len()];
            for (segment, matrix) in self.slots[*slot].iter().enumerate() {
                let partial = matrix.multiply(v);
                on_segment(segment, *slot, &round(&partial))?;
                sum.iter_mut().zip(&partial).for_each(|(sum, x)| *sum += x);
            }
            products.push(round(&sum));
        }
        Ok(products)
    }
}
