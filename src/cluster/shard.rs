//! How a vector is cut into slices: the one place that knows about padding.
//!
//! A vector of `len` entries on `size` ranks is padded with zeros at its end to `size * slice_len` entries,
//! slice_len = ceil(len / size). Rank r owns the entries [r * slice_len, (r + 1) * slice_len). So all slices have the same
//! length, only the last ones hold padding (short vectors: some hold nothing else), and everything follows from
//! (len, size) alone.

use std::ops::Range;

/// One rank's slice of a vector of `len` entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// The rank that owns the slice.
    pub rank: usize,
    /// Ranks in the world.
    pub size: usize,
    /// Entries of the whole vector, without padding.
    pub len: usize,
}

impl Shard {
    /// The slice of `rank` (below `size`) of a vector of `len` entries.
    pub fn new(rank: usize, size: usize, len: usize) -> Self {
        assert!(rank < size, "rank {rank} in a world of {size}");
        Self { rank, size, len }
    }

    /// This vector's slice on another rank.
    pub fn of(self, rank: usize) -> Self {
        Self::new(rank, self.size, self.len)
    }

    /// Entries of a slice, padding included: the same on all ranks.
    pub fn slice_len(self) -> usize {
        self.len.div_ceil(self.size)
    }

    /// Entries of the vector with its padding.
    pub fn padded_len(self) -> usize {
        self.slice_len() * self.size
    }

    /// The global indices that this slice holds, without padding; may be empty.
    pub fn range(self) -> Range<usize> {
        let slice = self.slice_len();
        (self.rank * slice).min(self.len)..((self.rank + 1) * slice).min(self.len)
    }

    /// Zeros at the end of this slice.
    pub fn num_padding(self) -> usize {
        self.slice_len() - self.range().len()
    }

    /// Global indices behind the entries `start .. start + width` of this slice, without padding.
    pub fn window(self, start: usize, width: usize) -> Range<usize> {
        let range = self.range();
        (range.start + start).min(range.end)..(range.start + start + width).min(range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_tile_the_vector_in_rank_order() {
        for size in 1..=9 {
            for len in 0..50 {
                let first = Shard::new(0, size, len);
                let ranges: Vec<_> = (0..size).map(|rank| first.of(rank).range()).collect();
                assert_eq!(ranges.iter().cloned().flatten().collect::<Vec<_>>(), (0..len).collect::<Vec<_>>());
                let padding: usize = (0..size).map(|rank| first.of(rank).num_padding()).sum();
                assert_eq!(padding, first.padded_len() - len);
                assert!(padding < size, "{padding} zeros for {size} ranks");
            }
        }
    }

    #[test]
    fn windows_leave_the_padding_out() {
        let last = Shard::new(2, 3, 10); // slices of 4: 0..4, 4..8, 8..10
        assert_eq!((last.slice_len(), last.padded_len(), last.range(), last.num_padding()), (4, 12, 8..10, 2));
        assert_eq!([last.window(0, 2), last.window(1, 2), last.window(2, 2)], [8..10, 9..10, 10..10]);
        let empty = Shard::new(3, 4, 2); // slices of 1
        assert_eq!((empty.range(), empty.window(0, 1)), (2..2, 2..2));
    }
}
