//! Vectors and basis in this process's memory.
//!
//! Work is cut into fixed tiles of entries, and partial sums are added in tile order, so results do not
//! depend on the number of threads. A tile of `w` stays in cache while the basis streams past it once.

use std::marker::PhantomData;

use rayon::prelude::*;

use super::{Basis, Real, Space};
use crate::Result;

/// Entries in a tile: 32 KiB of f64.
const TILE: usize = 4096;
/// Independent partial sums in a dot product, so that it vectorises.
const LANES: usize = 8;

/// The space of `Vec<T>` with the Euclidean inner product.
#[derive(Debug, Clone, Copy, Default)]
pub struct Local<T>(PhantomData<T>);

impl<T> Local<T> {
    /// The space; it has no state.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: Real> Space for Local<T> {
    type Vector = Vec<T>;
    type Basis = LocalBasis<T>;

    fn unit_roundoff(&self) -> f64 {
        T::UNIT_ROUNDOFF
    }

    fn dim(&self, vector: &Vec<T>) -> usize {
        vector.len()
    }

    fn norm(&self, vector: &Vec<T>) -> Result<f64> {
        Ok(dot(vector, vector).sqrt())
    }

    fn scale(&self, vector: &mut Vec<T>, factor: f64) {
        vector.par_chunks_mut(TILE).for_each(|tile| {
            for entry in tile {
                *entry = T::from_f64(entry.to_f64() * factor);
            }
        });
    }

    fn new_basis(&self, dim: usize, capacity: usize) -> Result<LocalBasis<T>> {
        Ok(LocalBasis::with_room(capacity, dim))
    }
}

/// A basis held as separate columns, each contiguous: vectors, or slices `V` of them.
///
/// Columns move into memory that was set aside at the start. If they stayed where a product happened to be computed, they
/// would lie scattered between a sweep's short-lived sums and keep the allocator from using that space again (measured:
/// the basis of the whole network took nearly twice its size).
#[derive(Debug, Clone)]
pub struct LocalBasis<T, V = Vec<T>> {
    columns: Vec<V>,
    /// Set aside, not yet touched.
    room: Vec<Vec<T>>,
}

impl<T: Real> Basis for LocalBasis<T> {
    type Vector = Vec<T>;

    fn len(&self) -> usize {
        self.columns.len()
    }

    fn push(&mut self, vector: Vec<T>) -> Result<()> {
        let column = self.settled(vector);
        self.columns.push(column);
        Ok(())
    }

    fn last(&self) -> Option<&Vec<T>> {
        self.columns.last()
    }

    fn get(&self, index: usize) -> Result<Vec<T>> {
        Ok(self.columns[index].clone())
    }

    fn keep_last(&mut self, count: usize) {
        self.columns.drain(..self.columns.len().saturating_sub(count));
    }

    fn dots(&self, w: &Vec<T>) -> Result<Vec<f64>> {
        Ok(self.local_dots(w))
    }

    fn subtract(&self, coefficients: &[f64], w: &mut Vec<T>) {
        self.local_subtract(coefficients, w);
    }
}

impl<T: Real, V: AsRef<[T]> + Sync> LocalBasis<T, V> {
    /// No columns, with room for `capacity` of `len` entries each.
    pub fn with_room(capacity: usize, len: usize) -> Self {
        let room = (0..capacity).map(|_| Vec::with_capacity(len)).collect();
        Self { columns: Vec::with_capacity(capacity), room }
    }

    /// A column's entries in the memory that was set aside for them.
    pub fn settled(&mut self, entries: Vec<T>) -> Vec<T> {
        match self.room.pop() {
            Some(mut room) if room.capacity() >= entries.len() => {
                room.extend_from_slice(&entries);
                room
            }
            _ => entries,
        }
    }

    /// The columns.
    pub fn columns(&self) -> &[V] {
        &self.columns
    }

    /// The columns, to add to or to take from.
    pub fn columns_mut(&mut self) -> &mut Vec<V> {
        &mut self.columns
    }

    /// `V^T w` over these entries.
    pub fn local_dots(&self, w: &[T]) -> Vec<f64> {
        let tiles: Vec<Vec<f64>> = w
            .par_chunks(TILE)
            .enumerate()
            .map(|(tile, w)| self.tile(tile, w.len()).map(|column| tile_dot(column, w)).collect())
            .collect();
        let mut sums = vec![0.0; self.columns.len()];
        for tile in &tiles {
            sums.iter_mut().zip(tile).for_each(|(sum, partial)| *sum += partial);
        }
        sums
    }

    /// `w -= V coefficients` on these entries.
    pub fn local_subtract(&self, coefficients: &[f64], w: &mut [T]) {
        w.par_chunks_mut(TILE).enumerate().for_each(|(tile, w)| {
            let mut sum = [0.0; TILE];
            let sum = &mut sum[..w.len()];
            for (column, coefficient) in self.tile(tile, w.len()).zip(coefficients) {
                sum.iter_mut().zip(column).for_each(|(sum, v)| *sum += coefficient * v.to_f64());
            }
            w.iter_mut().zip(sum).for_each(|(w, sum)| *w = T::from_f64(w.to_f64() - *sum));
        });
    }

    /// Entries of one tile in every column.
    fn tile(&self, tile: usize, len: usize) -> impl Iterator<Item = &[T]> {
        self.columns.iter().map(move |column| &column.as_ref()[tile * TILE..][..len])
    }
}

/// Inner product in f64, the same bits for any number of threads.
pub fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    let tiles: Vec<f64> = a.par_chunks(TILE).zip(b.par_chunks(TILE)).map(|(a, b)| tile_dot(a, b)).collect();
    tiles.iter().sum()
}

fn tile_dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    let mut sums = [0.0; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x.to_f64() * y.to_f64()).sum();
    for (x, y) in a.zip(b) {
        for lane in 0..LANES {
            sums[lane] += x[lane].to_f64() * y[lane].to_f64();
        }
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{ProbeKind, probe};

    fn vector(index: u32, n: usize) -> Vec<f32> {
        probe(ProbeKind::Gaussian, 5, "local", index, 0..n).iter().map(|x| *x as f32).collect()
    }

    fn basis(n: usize) -> LocalBasis<f32> {
        LocalBasis { columns: (0..7).map(|i| vector(i, n)).collect(), room: Vec::new() }
    }

    #[test]
    fn block_operations_equal_plain_loops() {
        for n in [1, 7, TILE, 2 * TILE + 13] {
            let (basis, w) = (basis(n), vector(9, n));
            let mut projected = w.clone();
            let c = basis.project(&mut projected).unwrap();
            for (i, c) in c.iter().enumerate() {
                let plain: f64 = basis.columns[i].iter().zip(&w).map(|(v, w)| f64::from(*v) * f64::from(*w)).sum();
                assert!((plain - c).abs() <= 1e-13 * n as f64, "{plain} {c}");
            }
            for k in 0..n {
                let sum: f64 = basis.columns.iter().zip(&c).map(|(v, c)| c * f64::from(v[k])).sum();
                assert!((f64::from(w[k]) - sum - f64::from(projected[k])).abs() < 1e-6 * (1.0 + sum.abs()));
            }
        }
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        let n = 5 * TILE + 1;
        let (basis, w) = (basis(n), vector(9, n));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut w = w.clone();
                (basis.project(&mut w).unwrap(), dot(&w, &w), w)
            })
        };
        assert_eq!(run(1), run(4));
    }
}
