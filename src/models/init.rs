//! Initial values: random numbers that depend on the run's seed and the parameter's name only.
//!
//! Each parameter has its own ChaCha8 stream, keyed by SHA-256(seed, name), made in f64 and rounded once: the same
//! network on every backend, rank and precision, whatever other parameters there are.

use burn::module::Module;
use burn::tensor::{DType, TensorData, backend::Backend};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::names::{Names, fill};
use crate::error::Result;

/// Initial values of a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initial {
    /// Those that its module has.
    Own,
    /// One number everywhere.
    Constant(f64),
    /// From N(0, deviation²).
    Normal(f64),
    /// Uniformly between minus and plus this bound.
    Uniform(f64),
}

/// A module with fresh values, in `dtype`: `initial` says which, by name; `None` and [`Initial::Own`] keep what is there.
///
/// # Errors
/// None.
pub fn initialise<B: Backend, M: Module<B>>(
    module: M,
    names: &Names,
    seed: u64,
    dtype: DType,
    initial: impl Fn(&str) -> Option<Initial>,
) -> Result<M> {
    fill(module, names, dtype, |name, shape| {
        let count = shape.iter().product();
        let values = match initial(name) {
            None | Some(Initial::Own) => return Ok(None),
            Some(Initial::Constant(value)) => vec![value; count],
            Some(Initial::Normal(deviation)) => normal(seed, name, count, deviation),
            Some(Initial::Uniform(bound)) => uniform(seed, name, count, bound),
        };
        Ok(Some(TensorData::new(values, shape.to_vec())))
    })
}

/// `count` numbers from N(0, deviation²): entry i is a function of (seed, name, i) alone.
///
/// Box-Muller: entries 2p and 2p + 1 come from the p-th pair of 64-bit words, so chunks are made in parallel.
fn normal(seed: u64, name: &str, count: usize, deviation: f64) -> Vec<f64> {
    drawn(seed, name, count, |chunk, stream| {
        for pair in chunk.chunks_mut(2) {
            let radius = deviation * (-2.0 * open_unit(stream).ln()).sqrt();
            let (sine, cosine) = (std::f64::consts::TAU * open_unit(stream)).sin_cos();
            pair[0] = radius * cosine;
            if let Some(second) = pair.get_mut(1) {
                *second = radius * sine;
            }
        }
    })
}

/// `count` numbers uniform in (-bound, bound): entry i is a function of (seed, name, i) alone.
fn uniform(seed: u64, name: &str, count: usize, bound: f64) -> Vec<f64> {
    drawn(seed, name, count, |chunk, stream| {
        chunk.iter_mut().for_each(|x| *x = bound * (2.0 * open_unit(stream) - 1.0))
    })
}

/// `count` numbers that `draw` makes of a parameter's stream, chunk by chunk: it takes one u64 for each number.
fn drawn(seed: u64, name: &str, count: usize, draw: impl Fn(&mut [f64], &mut ChaCha8Rng) + Sync) -> Vec<f64> {
    const CHUNK: usize = 1 << 16;
    let mut hash = Sha256::new();
    hash.update(b"hesspec initial value");
    hash.update(seed.to_le_bytes());
    hash.update(name.as_bytes());
    let stream = ChaCha8Rng::from_seed(hash.finalize().into());
    let mut values = vec![0.0; count];
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(index, chunk)| {
        let mut stream = stream.clone();
        stream.set_word_pos((index * CHUNK) as u128 * 2); // one entry takes one u64, two words of the stream
        draw(chunk, &mut stream);
    });
    values
}

/// Uniform in (0, 1), 53 bits, never an end point.
fn open_unit(stream: &mut ChaCha8Rng) -> f64 {
    ((stream.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sample standard deviation within five standard errors, sigma / sqrt(2 n), and mean within five, sigma / sqrt(n).
    fn assert_normal(values: &[f64], sigma: f64) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
        assert!(mean.abs() < 5.0 * sigma / n.sqrt(), "mean {mean}");
        assert!((deviation - sigma).abs() < 5.0 * sigma / (2.0 * n).sqrt(), "deviation {deviation}, expected {sigma}");
    }

    #[test]
    fn an_entry_depends_on_its_index_alone() {
        let long = normal(3, "x", (1 << 16) + 1001, 1.0);
        let short = normal(3, "x", 1001, 1.0);
        assert_eq!(long[..1001], short);
        assert_ne!(long[1 << 16], long[0]);
        assert_normal(&long, 1.0);
        let even: Vec<f64> = long.iter().step_by(2).copied().collect();
        let odd: Vec<f64> = long.iter().skip(1).step_by(2).copied().collect();
        let correlation = even.iter().zip(&odd).map(|(a, b)| a * b).sum::<f64>() / odd.len() as f64;
        assert!(correlation.abs() < 5.0 / (odd.len() as f64).sqrt());
    }

    #[test]
    fn uniform_entries_have_the_bound_and_depend_on_their_index_alone() {
        let long = uniform(3, "x", (1 << 16) + 1001, 0.5);
        assert_eq!(long[..1001], uniform(3, "x", 1001, 0.5));
        assert!(long.iter().all(|x| x.abs() < 0.5));
        let (n, deviation) = (long.len() as f64, 1.0 / 12f64.sqrt());
        let mean = long.iter().sum::<f64>() / n;
        assert!(mean.abs() < 5.0 * deviation / n.sqrt(), "mean {mean}");
        let second = long.iter().map(|x| x * x).sum::<f64>() / n;
        // x² has the variance bound⁴ (1/5 - 1/9)
        assert!((second - 1.0 / 12.0).abs() < 5.0 * 0.25 * (4f64 / 45.0).sqrt() / n.sqrt(), "second moment {second}");
    }
}
