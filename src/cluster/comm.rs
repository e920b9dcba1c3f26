//! Collectives over any transport: pieces, padding, checks and counting, written once.
//!
//! Long vectors travel in pieces of at most [`PIECE_BYTES`], so that no call needs scratch memory of the vector's size
//! (an MPI library allocates as much as it is handed). A transport sees pieces only and can stay thin.

use std::cell::Cell;
use std::time::Duration;

use super::timed::Timed;
use super::{Element, Pair, Shard};
use crate::{Error, Result};

/// Most bytes handed to a transport at once.
pub const PIECE_BYTES: usize = 4 << 20;
/// Up to here an all-reduce is a reduction to rank 0 and a broadcast; above, a reduce-scatter and an all-gather, which
/// move 2 (R - 1) / R of the vector per rank instead of twice the whole of it at rank 0.
const SHORT_BYTES: usize = 32 << 10;

/// What moves bytes between ranks: calls on pieces of at most [`PIECE_BYTES`], the same on all ranks in the same order.
pub trait Transport {
    /// This process's number, from 0.
    fn rank(&self) -> usize;
    /// Number of ranks.
    fn size(&self) -> usize;
    /// Returns when every rank has called it.
    fn barrier(&self) -> Result<()>;
    /// Copies `bytes` of `root` to all.
    fn broadcast(&self, root: usize, bytes: &mut [u8]) -> Result<()>;
    /// Adds the ranks' send buffers into rank 0's receive buffer; the others' are left alone.
    fn reduce_sum(&self, pair: Pair<'_>) -> Result<()>;
    /// Adds the ranks' send buffers (size x k entries) and leaves the r-th k of them in rank r's receive buffer (k).
    fn reduce_scatter_sum(&self, pair: Pair<'_>) -> Result<()>;
    /// Puts the ranks' `send` (k bytes) one after the other into `receive` (size x k).
    fn all_gather(&self, send: &[u8], receive: &mut [u8]) -> Result<()>;
    /// Sends to one rank, in order.
    fn send(&self, to: usize, bytes: &[u8]) -> Result<()>;
    /// Receives exactly `bytes.len()` from one rank, in order.
    fn receive(&self, from: usize, bytes: &mut [u8]) -> Result<()>;
    /// Ends the whole job, all ranks, with this exit code.
    fn abort(&self, code: i32, message: &str) -> !;
}

/// What one rank has exchanged, by the numbers handed over and not by a transport's algorithm: a function of the
/// program alone, the same for every transport.
///
/// Bytes of a call on n entries of w bytes, R ranks: reduce-scatter and all-gather R ceil(n / R) w (of which a ring
/// moves (R - 1) / R over the wire per rank), all-reduce, reduce and broadcast n w, gather the own part and at the root
/// all parts. A barrier has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Calls of a collective, whatever the number of pieces.
    pub collectives: u64,
    /// Bytes handed over.
    pub bytes: u64,
}

/// A communicator. Calls are collective: every rank makes them, in the same order, with the same lengths.
///
/// # Errors
/// [`Error::Environment`] when a length does not fit (found before anything is sent) or the transport fails.
pub struct Comm {
    transport: Timed,
    traffic: Cell<Traffic>,
}

impl Comm {
    /// A communicator over a transport.
    pub fn new(transport: Box<dyn Transport>) -> Self {
        Self { transport: Timed::new(transport), traffic: Cell::default() }
    }

    /// What moves its bytes.
    #[cfg(feature = "nccl")]
    pub(super) fn transport(&self) -> &dyn Transport {
        &self.transport
    }

    /// This process's number, from 0.
    pub fn rank(&self) -> usize {
        self.transport.rank()
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.transport.size()
    }

    /// Whether this is rank 0, the coordinator.
    pub fn is_root(&self) -> bool {
        self.rank() == 0
    }

    /// This rank's slice of a vector of `len` entries.
    pub fn shard(&self, len: usize) -> Shard {
        Shard::new(self.rank(), self.size(), len)
    }

    /// What this rank has exchanged so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic.get()
    }

    /// Time this rank has spent exchanging, the wait for slower ranks included.
    pub fn spent(&self) -> Duration {
        self.transport.spent()
    }

    /// Returns when every rank has called it.
    pub fn barrier(&self) -> Result<()> {
        self.count(0);
        self.transport.barrier()
    }

    /// Copies `bytes` of `root` to all ranks; the others' length follows.
    pub fn broadcast_bytes(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()> {
        self.check_root(root)?;
        let mut length = (bytes.len() as u64).to_le_bytes();
        self.transport.broadcast(root, &mut length)?;
        bytes.resize(to_usize(length)?, 0);
        self.count(bytes.len());
        bytes.chunks_mut(PIECE_BYTES).try_for_each(|piece| self.transport.broadcast(root, piece))
    }

    /// Copies `values` of `root` to all ranks.
    pub fn broadcast<T: Element>(&self, root: usize, values: &mut [T]) -> Result<()> {
        self.check_root(root)?;
        self.count(size_of_val(values));
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(values);
        bytes.chunks_mut(PIECE_BYTES).try_for_each(|piece| self.transport.broadcast(root, piece))
    }

    /// Leaves the sum over ranks in rank 0's `values`; the others keep theirs.
    pub fn reduce_sum<T: Element>(&self, values: &mut [T]) -> Result<()> {
        self.count(size_of_val(values));
        self.sum_to_root(values)
    }

    /// Leaves the sum over ranks in `values`, the same bits on every rank (not the same from run to run: a library may
    /// add in any order).
    pub fn all_reduce_sum<T: Element>(&self, values: &mut [T]) -> Result<()> {
        self.count(size_of_val(values));
        if size_of_val(values) <= SHORT_BYTES {
            self.sum_to_root(values)?;
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(values);
            return if bytes.is_empty() { Ok(()) } else { self.transport.broadcast(0, bytes) };
        }
        let share = self.share::<T>().min(values.len().div_ceil(self.size()));
        let (mut piece, mut sum) = (vec![T::default(); share * self.size()], vec![T::default(); share]);
        for values in values.chunks_mut(share * self.size()) {
            piece[..values.len()].copy_from_slice(values);
            piece[values.len()..].fill(T::default());
            self.transport.reduce_scatter_sum(T::pair(&piece, &mut sum))?;
            self.transport.all_gather(bytemuck::cast_slice(&sum), bytemuck::cast_slice_mut(&mut piece))?;
            values.copy_from_slice(&piece[..values.len()]);
        }
        Ok(())
    }

    /// Sums `vector` (any length, not padded) over ranks and leaves this rank's slice of the sum in `slice`
    /// ([`Shard::slice_len`] entries, padding 0).
    pub fn reduce_scatter_sum<T: Element>(&self, vector: &[T], slice: &mut [T]) -> Result<()> {
        let shard = self.shard(vector.len());
        check_slice::<T>("reduce_scatter_sum", shard, slice.len())?;
        self.count(shard.padded_len() * size_of::<T>());
        let share = self.share::<T>().min(slice.len());
        let mut piece = vec![T::default(); share * self.size()];
        for (index, slice) in slice.chunks_mut(share.max(1)).enumerate() {
            let width = slice.len();
            for (rank, part) in piece.chunks_mut(width).take(self.size()).enumerate() {
                let window = shard.of(rank).window(index * share, width);
                part[window.len()..].fill(T::default());
                part[..window.len()].copy_from_slice(&vector[window]);
            }
            self.transport.reduce_scatter_sum(T::pair(&piece[..width * self.size()], slice))?;
        }
        Ok(())
    }

    /// Puts the ranks' slices ([`Shard::slice_len`] entries) together to `vector` (any length; padding is dropped).
    pub fn all_gather<T: Element>(&self, slice: &[T], vector: &mut [T]) -> Result<()> {
        let shard = self.shard(vector.len());
        check_slice::<T>("all_gather", shard, slice.len())?;
        self.count(shard.padded_len() * size_of::<T>());
        let share = self.share::<T>().min(slice.len());
        let mut piece = vec![T::default(); share * self.size()];
        for (index, slice) in slice.chunks(share.max(1)).enumerate() {
            let piece = &mut piece[..slice.len() * self.size()];
            self.transport.all_gather(bytemuck::cast_slice(slice), bytemuck::cast_slice_mut(piece))?;
            for (rank, part) in piece.chunks(slice.len()).enumerate() {
                let window = shard.of(rank).window(index * share, slice.len());
                vector[window.clone()].copy_from_slice(&part[..window.len()]);
            }
        }
        Ok(())
    }

    /// Collects each rank's bytes, of any length, at `root`, in rank order; `None` elsewhere.
    pub fn gather_bytes(&self, root: usize, mine: &[u8]) -> Result<Option<Vec<Vec<u8>>>> {
        self.check_root(root)?;
        let mut lengths = vec![[0_u8; 8]; self.size()];
        self.transport.all_gather(&(mine.len() as u64).to_le_bytes(), lengths.as_flattened_mut())?;
        if self.rank() != root {
            self.count(mine.len());
            mine.chunks(PIECE_BYTES).try_for_each(|piece| self.transport.send(root, piece))?;
            return Ok(None);
        }
        let mut all = Vec::with_capacity(self.size());
        for (rank, length) in lengths.into_iter().enumerate() {
            all.push(if rank == root { mine.to_vec() } else { self.receive_bytes(rank, to_usize(length)?)? });
        }
        self.count(all.iter().map(Vec::len).sum());
        Ok(Some(all))
    }

    /// Ends the whole job with this exit code; the message goes to stderr with rank and host.
    pub fn abort(&self, code: i32, message: &str) -> ! {
        self.transport.abort(code, message)
    }

    /// Waits for all ranks and leaves the world; after it the process may exit with any code.
    pub fn finish(self) -> Result<()> {
        self.transport.barrier()
    }

    fn receive_bytes(&self, from: usize, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        bytes.chunks_mut(PIECE_BYTES).try_for_each(|piece| self.transport.receive(from, piece))?;
        Ok(bytes)
    }

    fn sum_to_root<T: Element>(&self, values: &mut [T]) -> Result<()> {
        let mut sum = vec![T::default(); values.len().min(PIECE_BYTES / size_of::<T>())];
        for values in values.chunks_mut(PIECE_BYTES / size_of::<T>()) {
            let sum = &mut sum[..values.len()];
            self.transport.reduce_sum(T::pair(values, sum))?;
            if self.is_root() {
                values.copy_from_slice(sum);
            }
        }
        Ok(())
    }

    /// Entries of one rank in a piece.
    fn share<T>(&self) -> usize {
        (PIECE_BYTES / size_of::<T>() / self.size()).max(1)
    }

    fn count(&self, bytes: usize) {
        let Traffic { collectives, bytes: before } = self.traffic.get();
        self.traffic.set(Traffic { collectives: collectives + 1, bytes: before + bytes as u64 });
    }

    fn check_root(&self, root: usize) -> Result<()> {
        if root < self.size() {
            return Ok(());
        }
        Err(Error::Environment(format!(
            "root {root} in a world of {} ranks; expected 0 to {}",
            self.size(),
            self.size() - 1
        )))
    }
}

fn check_slice<T: Element>(call: &str, shard: Shard, found: usize) -> Result<()> {
    if found == shard.slice_len() {
        return Ok(());
    }
    Err(Error::Environment(format!(
        "{call}: a slice of {found} {} entries for a vector of {} on {} ranks; expected {}",
        T::NAME,
        shard.len,
        shard.size,
        shard.slice_len()
    )))
}

fn to_usize(length: [u8; 8]) -> Result<usize> {
    let length = u64::from_le_bytes(length);
    usize::try_from(length)
        .map_err(|_| Error::Environment(format!("a message of {length} bytes does not fit in memory")))
}
