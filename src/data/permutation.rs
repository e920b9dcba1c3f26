//! A seeded bijection of 0..n, evaluated at any index without a table.
//!
//! A Feistel network permutes a power of four at least n; indices that land outside 0..n are permuted again until they
//! fall inside ("cycle walking", Black and Rogaway 2002). The domain is less than 4 n (n > 1), so this takes fewer than 4 rounds
//! on average. Not cryptographic: the samples only have to be spread evenly.

use serde::{Deserialize, Serialize};

/// Which samples a batch takes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As they lie in the data; the paper.
    #[default]
    Sequential,
    /// Sample i is a seeded bijection of i over all samples: a random sample, and a prefix of every larger one.
    Permuted,
}

/// Rounds of the network; four already pass as random to the eye, eight cost nothing here.
const ROUNDS: u64 = 8;

/// A bijection of `0..len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permutation {
    len: u64,
    seed: u64,
    /// Bits of each half of the network.
    half_bits: u32,
}

impl Permutation {
    /// The bijection of `0..len` that belongs to `seed`.
    pub fn new(len: usize, seed: u64) -> Self {
        let len = len as u64;
        let bits = 64 - len.saturating_sub(1).leading_zeros();
        Self { len, seed, half_bits: bits.div_ceil(2).max(1) }
    }

    /// The bijection of `0..len` that belongs to an epoch under `seed`: seeds that lie side by side have no epoch in common.
    pub fn of_epoch(len: usize, seed: u64, epoch: u64) -> Self {
        Self::new(len, mix(mix(seed).wrapping_add(epoch)))
    }

    /// The image of `index`, which must be below `len`.
    pub fn apply(&self, index: usize) -> usize {
        assert!((index as u64) < self.len, "index {index} of a permutation of {}", self.len);
        let mut image = self.network(index as u64);
        while image >= self.len {
            image = self.network(image);
        }
        image as usize
    }

    fn network(&self, index: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (index >> self.half_bits, index & mask);
        for round in 0..ROUNDS {
            let key = mix(self.seed ^ mix(round + 1));
            (left, right) = (right, left ^ (mix(key ^ right) & mask));
        }
        left << self.half_bits | right
    }
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014).
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(len: usize, seed: u64) -> Vec<usize> {
        let permutation = Permutation::new(len, seed);
        (0..len).map(|index| permutation.apply(index)).collect()
    }

    #[test]
    fn it_is_a_bijection_for_every_length() {
        for len in (1..300).chain([1023, 1024, 1025, 4097, 65537]) {
            let mut sorted = images(len, 5);
            sorted.sort_unstable();
            assert!(sorted.iter().copied().eq(0..len), "length {len}");
        }
    }

    #[test]
    fn seeds_give_different_orders_and_the_same_seed_the_same() {
        assert_eq!(images(1000, 1), images(1000, 1));
        let equal = images(1000, 1).iter().zip(images(1000, 2)).filter(|(a, b)| *a == b).count();
        assert!(equal < 12, "{equal} of 1000 equal; Poisson with mean 1 exceeds 11 once in 10^9");
    }

    #[test]
    fn a_prefix_is_spread_evenly() {
        // Mean of 1,000 of 100,000 uniform draws: standard deviation 100,000 / sqrt(12 * 1000) = 913. Six of them.
        let permutation = Permutation::new(100_000, 1337);
        let mean = (0..1000).map(|index| permutation.apply(index) as f64).sum::<f64>() / 1000.0;
        assert!((mean - 49_999.5).abs() < 6.0 * 913.0, "mean {mean}");
        // Neighbours do not stay neighbours: |difference| of two uniform draws is below 1 % of n in 2 % of the pairs.
        let close = (0..1000).filter(|i| permutation.apply(*i).abs_diff(permutation.apply(i + 1)) < 1000).count();
        assert!(close < 50, "{close} of 1000 close; 20 expected, standard deviation 4.4");
    }
}
