//! Probe vectors: random start vectors of Lanczos, as a pure function of
//! (seed, block name, probe, index within the block).
//!
//! The generator is counter-based (ChaCha8: key = SHA-256 of seed and block name, stream = probe, position
//! from the index, a fixed number of words per entry), so any rank can make any slice: results do not
//! depend on the number of ranks or threads, on resuming, or on which other blocks are asked for.
//! Entries are not normalised; whoever starts Lanczos divides by the norm.

use std::f64::consts::TAU;
use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Distribution of a probe's entries; both have mean 0 and variance 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// Standard normal (Zhang et al. 2024, C.1).
    #[default]
    Gaussian,
    /// +1 or -1 with equal odds (Zhang et al. 2024, Alg. 5).
    Rademacher,
}

/// Words of the stream that two Gaussian entries (one Box-Muller pair) take.
const WORDS_PER_PAIR: u128 = 4;
/// Rademacher entries in one word of the stream: one bit each.
const SIGNS_PER_WORD: usize = 32;
/// Entries made by one task; a multiple of everything above.
const TASK: usize = 1 << 14;

/// Entries `range` (global indices within the block) of a probe, not normalised.
///
/// `probe(.., 0..n)` equals the concatenation over any split of `0..n` into ranges, bit for bit.
pub fn probe(kind: ProbeKind, seed: u64, block_name: &str, probe: u32, range: Range<usize>) -> Vec<f64> {
    let key = key(seed, block_name);
    let mut entries = vec![0.0; range.len()];
    entries.par_chunks_mut(TASK).enumerate().for_each(|(task, chunk)| {
        let mut generator = ChaCha8Rng::from_seed(key);
        generator.set_stream(u64::from(probe));
        let start = range.start + task * TASK;
        match kind {
            ProbeKind::Gaussian => fill_gaussian(&mut generator, start, chunk),
            ProbeKind::Rademacher => fill_rademacher(&mut generator, start, chunk),
        }
    });
    entries
}

/// Key of the stream cipher. The name's length is implied: it comes last.
fn key(seed: u64, block_name: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"hesspec probe 1");
    hash.update(seed.to_le_bytes());
    hash.update(block_name.as_bytes());
    hash.finalize().into()
}

/// Entries `start..start + out.len()`: entry 2p is the cosine, entry 2p + 1 the sine of pair p.
fn fill_gaussian(generator: &mut ChaCha8Rng, start: usize, out: &mut [f64]) {
    generator.set_word_pos((start / 2) as u128 * WORDS_PER_PAIR);
    let (odd, rest) = out.split_at_mut((start % 2).min(out.len()));
    if let [entry] = odd {
        *entry = gaussian_pair(generator)[1];
    }
    for pair in rest.chunks_mut(2) {
        let values = gaussian_pair(generator);
        pair.copy_from_slice(&values[..pair.len()]);
    }
}

/// Box-Muller: two independent standard normal numbers from two uniform ones.
fn gaussian_pair(generator: &mut ChaCha8Rng) -> [f64; 2] {
    let radius = (-2.0 * uniform(generator).ln()).sqrt();
    let (sine, cosine) = (TAU * uniform(generator)).sin_cos();
    [radius * cosine, radius * sine]
}

/// Uniform in (0, 1], so that its logarithm is finite: 53 random bits.
fn uniform(generator: &mut ChaCha8Rng) -> f64 {
    ((generator.next_u64() >> 11) + 1) as f64 * (0.5 * f64::EPSILON)
}

/// Entry i is the sign in bit i mod 32 of word i / 32.
fn fill_rademacher(generator: &mut ChaCha8Rng, start: usize, out: &mut [f64]) {
    generator.set_word_pos((start / SIGNS_PER_WORD) as u128);
    let mut word = 0;
    for (offset, entry) in out.iter_mut().enumerate() {
        let bit = (start + offset) % SIGNS_PER_WORD;
        if offset == 0 || bit == 0 {
            word = generator.next_u32();
        }
        *entry = if word >> bit & 1 == 1 { 1.0 } else { -1.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [ProbeKind; 2] = [ProbeKind::Gaussian, ProbeKind::Rademacher];

    #[test]
    fn any_split_gives_the_same_entries() {
        for kind in KINDS {
            let whole = probe(kind, 7, "transformer.wte.weight", 3, 0..3 * TASK + 77);
            for cut in [1, 2, 31, 32, 33, 1001, TASK, TASK + 1, 2 * TASK + 5] {
                let mut parts = probe(kind, 7, "transformer.wte.weight", 3, 0..cut);
                parts.extend(probe(kind, 7, "transformer.wte.weight", 3, cut..whole.len()));
                assert!(parts == whole, "{kind:?} cut at {cut}");
            }
            assert_eq!(probe(kind, 7, "transformer.wte.weight", 3, 41..42), whole[41..42]);
            assert!(probe(kind, 7, "a", 0, 5..5).is_empty());
        }
    }

    /// Sample moments of n entries lie within 5 standard errors of the truth.
    #[test]
    fn moments_are_right() {
        let n = 400_000;
        for (kind, fourth, variance_of_square, variance_of_fourth) in
            [(ProbeKind::Gaussian, 3.0, 2.0, 96.0), (ProbeKind::Rademacher, 1.0, 0.0, 0.0)]
        {
            let x = probe(kind, 1, "block", 0, 0..n);
            let mean = |power: i32| x.iter().map(|v| v.powi(power)).sum::<f64>() / n as f64;
            let within = |value: f64, truth: f64, variance: f64| {
                let tolerance = 5.0 * (variance / n as f64).sqrt() + 1e-12;
                assert!((value - truth).abs() <= tolerance, "{kind:?}: {value} instead of {truth} +- {tolerance}");
            };
            within(mean(1), 0.0, 1.0);
            within(mean(2), 1.0, variance_of_square);
            within(mean(4), fourth, variance_of_fourth);
            let neighbours = x.windows(2).map(|v| v[0] * v[1]).sum::<f64>() / n as f64;
            within(neighbours, 0.0, 1.0);
        }
    }

    #[test]
    fn every_argument_changes_the_stream() {
        let n = 10_000;
        for kind in KINDS {
            let base = probe(kind, 1, "a", 0, 0..n);
            for other in [probe(kind, 2, "a", 0, 0..n), probe(kind, 1, "b", 0, 0..n), probe(kind, 1, "a", 1, 0..n)] {
                let correlation = base.iter().zip(&other).map(|(a, b)| a * b).sum::<f64>() / n as f64;
                assert!(correlation.abs() < 5.0 / (n as f64).sqrt(), "{kind:?}: correlation {correlation}");
            }
        }
    }
}
