//! Vectors cut into slices over ranks, and the space they live in.
//!
//! Every rank holds its slice of every vector and of every basis column; an inner product is a local sum and one small
//! reduction. Sums are formed at rank 0 and broadcast, so that all ranks see the same bits and take the same branches.
//! In a world of one rank a slice is the whole vector.

use std::marker::PhantomData;

use super::Precision;
use crate::Result;
use crate::cluster::Comm;
use crate::krylov::{Basis, LocalBasis, Space, dot};

/// This rank's slice of a vector, its padding left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice<T> {
    /// The entries of [`Shard::range`](crate::cluster::Shard::range).
    pub values: Vec<T>,
    /// Entries of the whole vector.
    pub len: usize,
}

impl<T> AsRef<[T]> for Slice<T> {
    fn as_ref(&self) -> &[T] {
        &self.values
    }
}

/// The space of sharded vectors.
pub struct Sharded<'c, T> {
    comm: &'c Comm,
    entries: PhantomData<T>,
}

impl<'c, T> Sharded<'c, T> {
    /// Over the ranks of a communicator.
    pub fn new(comm: &'c Comm) -> Self {
        Self { comm, entries: PhantomData }
    }
}

impl<T> Clone for Sharded<'_, T> {
    fn clone(&self) -> Self {
        Self::new(self.comm)
    }
}

impl<'c, T: Precision> Space for Sharded<'c, T> {
    type Vector = Slice<T>;
    type Basis = ShardedBasis<'c, T>;

    fn unit_roundoff(&self) -> f64 {
        T::UNIT_ROUNDOFF
    }

    fn dim(&self, vector: &Slice<T>) -> usize {
        vector.len
    }

    fn norm(&self, vector: &Slice<T>) -> Result<f64> {
        let mut square = [dot(&vector.values, &vector.values)];
        self.comm.all_reduce_sum(&mut square)?;
        Ok(square[0].sqrt())
    }

    fn scale(&self, vector: &mut Slice<T>, factor: f64) {
        crate::krylov::Local::<T>::new().scale(&mut vector.values, factor);
    }

    fn new_basis(&self, dim: usize, capacity: usize) -> Result<ShardedBasis<'c, T>> {
        Ok(ShardedBasis { comm: self.comm, local: LocalBasis::with_room(capacity, self.comm.shard(dim).range().len()) })
    }
}

/// This rank's slices of the columns.
pub struct ShardedBasis<'c, T> {
    comm: &'c Comm,
    local: LocalBasis<T, Slice<T>>,
}

impl<T> ShardedBasis<'_, T>
where
    T: Precision,
{
    /// Bytes that this rank holds.
    pub fn num_bytes(&self) -> usize {
        self.local.columns().iter().map(|slice| size_of_val(slice.values.as_slice())).sum()
    }
}

impl<T: Precision> Basis for ShardedBasis<'_, T> {
    type Vector = Slice<T>;

    fn len(&self) -> usize {
        self.local.columns().len()
    }

    fn push(&mut self, vector: Slice<T>) -> Result<()> {
        let values = self.local.settled(vector.values);
        self.local.columns_mut().push(Slice { values, ..vector });
        Ok(())
    }

    fn last(&self) -> Option<&Slice<T>> {
        self.local.columns().last()
    }

    fn get(&self, index: usize) -> Result<Slice<T>> {
        Ok(self.local.columns()[index].clone())
    }

    fn keep_last(&mut self, count: usize) {
        let columns = self.local.columns_mut();
        columns.drain(..columns.len().saturating_sub(count));
    }

    fn dots(&self, w: &Slice<T>) -> Result<Vec<f64>> {
        let mut sums = self.local.local_dots(&w.values);
        self.comm.all_reduce_sum(&mut sums)?;
        Ok(sums)
    }

    fn subtract(&self, coefficients: &[f64], w: &mut Slice<T>) {
        self.local.local_subtract(coefficients, &mut w.values);
    }
}
