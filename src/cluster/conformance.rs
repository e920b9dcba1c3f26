//! What every implementation of [`Comm`](super::Comm) must do, written once.
//!
//! Runs in `cargo test` on one rank and on threads, under `mpirun` by tests/mpi/run.sh, on NCCL where there is a GPU.
//! Sums are of small integers, so they are exact in f32 in any order of addition and are compared bit by bit.

use super::{Comm, Element, PIECE_BYTES, Traffic};
use crate::{Error, Result};

/// Lengths to try: none, one, fewer than ranks, odd, uneven padding.
const SHORT: [usize; 9] = [0, 1, 2, 3, 5, 7, 16, 101, 1025];

/// Runs all checks on all ranks of `comm` and returns their number.
///
/// # Errors
/// The first thing that is not as it should be; the other ranks may then be waiting, so end the job.
pub fn conformance(comm: &Comm) -> Result<usize> {
    let mut suite = Suite { comm, checks: 0 };
    suite.floats::<f32>()?;
    suite.floats::<f64>()?;
    suite.same_bits::<f32>()?;
    suite.same_bits::<f64>()?;
    suite.bytes()?;
    suite.wrong_calls()?;
    suite.traffic()?;
    comm.barrier()?;
    Ok(suite.checks)
}

struct Suite<'a> {
    comm: &'a Comm,
    checks: usize,
}

/// Entry `index` of the test vector of `rank`: an integer below 64.
fn entry(rank: usize, index: usize) -> f64 {
    ((index * 7 + rank * 13 + index / 64) % 64) as f64
}

impl Suite<'_> {
    fn floats<T: Element>(&mut self) -> Result<()> {
        let piece = PIECE_BYTES / size_of::<T>();
        for len in SHORT.into_iter().chain([piece, 2 * piece + 3]) {
            self.reductions::<T>(len)?;
        }
        for root in 0..self.comm.size() {
            for len in [0, 1, 17, piece + 1] {
                let mut values = self.vector::<T>(len, self.comm.rank());
                self.comm.broadcast(root, &mut values)?;
                self.check("broadcast", &values, |index| T::from_number(entry(root, index)))?;
            }
        }
        Ok(())
    }

    fn reductions<T: Element>(&mut self, len: usize) -> Result<()> {
        let (rank, size) = (self.comm.rank(), self.comm.size());
        let total = |index| T::from_number((0..size).map(|rank| entry(rank, index)).sum());
        let mine = self.vector::<T>(len, rank);

        let mut values = mine.clone();
        self.comm.all_reduce_sum(&mut values)?;
        self.check("all_reduce_sum", &values, total)?;

        let mut values = mine.clone();
        self.comm.reduce_sum(&mut values)?;
        self.check("reduce_sum", &values, |index| if rank == 0 { total(index) } else { mine[index] })?;

        let shard = self.comm.shard(len);
        let mut slice = vec![T::from_number(-1.0); shard.slice_len()];
        self.comm.reduce_scatter_sum(&mine, &mut slice)?;
        let start = shard.rank * shard.slice_len();
        self.check("reduce_scatter_sum", &slice, |index| {
            if start + index < len { total(start + index) } else { T::default() }
        })?;

        let mut vector = vec![T::from_number(-1.0); len];
        self.comm.all_gather(&slice, &mut vector)?;
        self.check("all_gather", &vector, total)
    }

    /// Sums that depend on the order of addition come out with the same bits on all ranks, short and long.
    fn same_bits<T: Element>(&mut self) -> Result<()> {
        for len in [3, PIECE_BYTES / size_of::<T>() / 16 + 1] {
            let uneven = |index: usize| 0.1 * (self.comm.rank() as f64 + 1.0) / (index as f64 + 3.0);
            let mut values: Vec<T> = (0..len).map(|index| T::from_number(uneven(index))).collect();
            self.comm.all_reduce_sum(&mut values)?;
            let mut first = values.clone();
            self.comm.broadcast(0, &mut first)?;
            self.check("all_reduce_sum, bits against rank 0", &values, |index| first[index])?;
        }
        Ok(())
    }

    fn bytes(&mut self) -> Result<()> {
        let (rank, size) = (self.comm.rank(), self.comm.size());
        let message = |rank: usize, len: usize| (0..len).map(|i| (i * 31 + rank) as u8).collect::<Vec<u8>>();
        for root in 0..size {
            for len in [0, 1, 4097, PIECE_BYTES + 5] {
                let mut bytes = if rank == root { message(root, len) } else { vec![7; rank] };
                self.comm.broadcast_bytes(root, &mut bytes)?;
                self.check_that("broadcast_bytes", bytes == message(root, len))?;
            }
            // rank 0 sends nothing, the last more than one piece
            let length = |rank: usize| if rank + 1 == size { PIECE_BYTES + 3 } else { 3 * rank };
            let expected =
                (rank == root).then(|| (0..size).map(|rank| message(rank, length(rank))).collect::<Vec<_>>());
            let found = self.comm.gather_bytes(root, &message(rank, length(rank)))?;
            self.check_that("gather_bytes", found == expected)?;
        }
        Ok(())
    }

    /// Refused before anything is sent: the world goes on.
    fn wrong_calls(&mut self) -> Result<()> {
        let comm = self.comm;
        let (vector, mut slice) = (vec![1.0_f64; 10], vec![0.0_f64; 11]);
        let refused = comm.reduce_scatter_sum(&vector, &mut slice).is_err()
            && comm.all_gather(&slice, &mut [0.0; 10]).is_err()
            && comm.broadcast(comm.size(), &mut slice).is_err()
            && comm.broadcast_bytes(comm.size(), &mut Vec::new()).is_err()
            && comm.gather_bytes(comm.size(), &[]).is_err();
        self.check_that("wrong lengths and roots are refused", refused)
    }

    /// The counts of [`Traffic`]'s formulas.
    fn traffic(&mut self) -> Result<()> {
        let (comm, len) = (self.comm, 1001_usize);
        let before = comm.traffic();
        let mut slice = vec![0.0_f32; comm.shard(len).slice_len()];
        comm.reduce_scatter_sum(&vec![1.0; len], &mut slice)?;
        comm.all_gather(&slice, &mut vec![0.0; len])?;
        comm.all_reduce_sum(&mut [0.0_f64; 3])?;
        comm.broadcast(0, &mut [0.0_f64; 5])?;
        comm.barrier()?;
        let padded = (len.div_ceil(comm.size()) * comm.size() * 4) as u64;
        let expected = Traffic { collectives: before.collectives + 5, bytes: before.bytes + 2 * padded + 8 * 8 };
        self.check_that("traffic", comm.traffic() == expected)
    }

    fn vector<T: Element>(&self, len: usize, rank: usize) -> Vec<T> {
        (0..len).map(|index| T::from_number(entry(rank, index))).collect()
    }

    fn check<T: Element>(&mut self, what: &str, found: &[T], expected: impl Fn(usize) -> T) -> Result<()> {
        let wrong = found.iter().enumerate().find(|(index, value)| **value != expected(*index));
        self.checks += 1;
        let Some((index, value)) = wrong else { return Ok(()) };
        let (rank, size, len) = (self.comm.rank(), self.comm.size(), found.len());
        Err(Error::Environment(format!(
            "conformance of {what} ({}, {len} entries) on rank {rank} of {size}: entry {index} is {value:?}, expected {:?}",
            T::NAME,
            expected(index)
        )))
    }

    fn check_that(&mut self, what: &str, holds: bool) -> Result<()> {
        self.checks += 1;
        if holds {
            return Ok(());
        }
        let (rank, size) = (self.comm.rank(), self.comm.size());
        Err(Error::Environment(format!("conformance of {what} on rank {rank} of {size}: not as it should be")))
    }
}
