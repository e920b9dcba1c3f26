//! What Lanczos needs of vectors: a space with norm and scaling, and a basis with *block* operations.
//!
//! Block operations, because a basis can be sharded over ranks or lie in a file: one pass of Gram-Schmidt
//! is then two matrix-vector products and one reduction of `len` scalars, not `len` reductions. All
//! operations can fail for the same reason (a rank is gone, a file cannot be read).

use crate::Result;

/// A Euclidean vector space.
pub trait Space: Clone {
    /// A vector, or this rank's slice of it.
    type Vector;
    /// A growing list of vectors of this space.
    type Basis: Basis<Vector = Self::Vector>;

    /// Unit roundoff of the vectors' storage.
    fn unit_roundoff(&self) -> f64;
    /// Global dimension of the space that `vector` belongs to.
    fn dim(&self, vector: &Self::Vector) -> usize;
    /// Euclidean norm, accumulated in f64.
    fn norm(&self, vector: &Self::Vector) -> Result<f64>;
    /// `vector *= factor`.
    fn scale(&self, vector: &mut Self::Vector, factor: f64);
    /// An empty basis that is going to hold up to `capacity` vectors of dimension `dim`.
    fn new_basis(&self, dim: usize, capacity: usize) -> Result<Self::Basis>;
}

/// The columns V = [v_1 ... v_len].
pub trait Basis {
    /// The type of a column.
    type Vector;

    /// Number of columns held.
    fn len(&self) -> usize;
    /// Whether there is no column.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Appends a column.
    fn push(&mut self, vector: Self::Vector) -> Result<()>;
    /// The newest column.
    fn last(&self) -> Option<&Self::Vector>;
    /// A copy of a column, for checkpoints.
    fn get(&self, index: usize) -> Result<Self::Vector>;
    /// Forgets all but the newest `count` columns.
    fn keep_last(&mut self, count: usize);
    /// `V^T w`, accumulated in f64: one matrix-vector product, one reduction.
    fn dots(&self, w: &Self::Vector) -> Result<Vec<f64>>;
    /// `w -= V coefficients`, accumulated in f64, rounded once.
    fn subtract(&self, coefficients: &[f64], w: &mut Self::Vector);
    /// One pass of classical Gram-Schmidt: `c = V^T w`, `w -= V c`, returns c.
    fn project(&self, w: &mut Self::Vector) -> Result<Vec<f64>> {
        let coefficients = self.dots(w)?;
        self.subtract(&coefficients, w);
        Ok(coefficients)
    }
}
