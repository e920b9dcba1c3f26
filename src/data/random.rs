//! Random numbers that are a pure function of what they are for, a seed, and a position.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};

/// A stream of its own for each position.
pub(super) fn stream(purpose: &str, seed: u64, position: usize) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(purpose);
    hash.update(seed.to_le_bytes());
    hash.update((position as u64).to_le_bytes());
    ChaCha8Rng::from_seed(hash.finalize().into())
}

/// A whole number below `end`, which is far below 2^64.
pub(super) fn below(random: &mut ChaCha8Rng, end: usize) -> usize {
    ((u128::from(random.next_u64()) * end as u128) >> 64) as usize
}
