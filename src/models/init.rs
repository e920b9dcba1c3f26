//! Initial values of GPT-2: normal numbers that depend on the run's seed and the parameter's name only.
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
use crate::error::{Error, Result};

/// Standard deviation of GPT-2's weights.
const STANDARD_DEVIATION: f64 = 0.02;

/// Which of the two initialisations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initialisation {
    /// N(0, 0.02²); both residual projections scaled by 1/sqrt(2 * layers); biases 0, LayerNorm 1.
    NanoGpt,
    /// As the paper's code: the attention projection is *not* scaled, the MLP's is.
    Paper,
}

impl Initialisation {
    /// Its name in TOML. Errors with the known names.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "nanogpt" => Ok(Self::NanoGpt),
            "paper" => Ok(Self::Paper),
            other => Err(Error::Config(format!("model.gpt2.init = \"{other}\": expected \"nanogpt\" or \"paper\""))),
        }
    }

    fn value(self, name: &str, shape: &[usize], layers: usize) -> Value {
        let scaled = match self {
            Self::NanoGpt => name.ends_with(".c_proj.weight"),
            Self::Paper => name.ends_with(".mlp.c_proj.weight"),
        };
        if name.ends_with(".bias") {
            Value::Constant(0.0)
        } else if shape.len() == 1 {
            Value::Constant(1.0) // LayerNorm's weight, the only vector that is no bias
        } else if scaled {
            Value::Normal(STANDARD_DEVIATION / (2.0 * layers as f64).sqrt())
        } else {
            Value::Normal(STANDARD_DEVIATION)
        }
    }
}

enum Value {
    Constant(f64),
    Normal(f64),
}

/// A GPT-2 of `layers` layers with fresh values, in `dtype`.
pub fn initialise<B: Backend, M: Module<B>>(
    module: M,
    layers: usize,
    scheme: Initialisation,
    seed: u64,
    dtype: DType,
) -> Result<M> {
    fill(module, &Names::GPT2, dtype, |name, shape| {
        let count = shape.iter().product();
        let values = match scheme.value(name, shape, layers) {
            Value::Constant(value) => vec![value; count],
            Value::Normal(deviation) => normal(seed, name, count, deviation),
        };
        Ok(Some(TensorData::new(values, shape.to_vec())))
    })
}

/// `count` numbers from N(0, deviation²): entry i is a function of (seed, name, i) alone.
///
/// Box-Muller: entries 2p and 2p + 1 come from the p-th pair of 64-bit words, so chunks are made in parallel.
fn normal(seed: u64, name: &str, count: usize, deviation: f64) -> Vec<f64> {
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
        for pair in chunk.chunks_mut(2) {
            let radius = deviation * (-2.0 * open_unit(&mut stream).ln()).sqrt();
            let (sine, cosine) = (std::f64::consts::TAU * open_unit(&mut stream)).sin_cos();
            pair[0] = radius * cosine;
            if let Some(second) = pair.get_mut(1) {
                *second = radius * sine;
            }
        }
    });
    values
}

/// Uniform in (0, 1), 53 bits, never an end point.
fn open_unit(stream: &mut ChaCha8Rng) -> f64 {
    ((stream.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::super::gpt2::Gpt2Config;
    use super::super::names::read;
    use super::*;
    use std::collections::BTreeMap;

    fn small() -> Gpt2Config {
        Gpt2Config { layers: 2, heads: 2, embedding: 64, mlp: 256, context: 8, bias: true, ..Gpt2Config::nano() }
    }

    fn values<B: Backend>(scheme: Initialisation, seed: u64, dtype: DType) -> BTreeMap<String, Vec<f64>> {
        let model = small().init::<B>(&Default::default()).unwrap();
        let model = initialise(model, 2, scheme, seed, dtype).unwrap();
        let mut values = BTreeMap::new();
        read(&model, &Names::GPT2, |name, data| {
            assert_eq!(data.dtype, dtype, "{name}");
            values.insert(name.to_owned(), data.iter::<f64>().collect());
        });
        values
    }

    /// Sample standard deviation within five standard errors, sigma / sqrt(2 n), and mean within five, sigma / sqrt(n).
    fn assert_normal(values: &[f64], sigma: f64) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
        assert!(mean.abs() < 5.0 * sigma / n.sqrt(), "mean {mean}");
        assert!((deviation - sigma).abs() < 5.0 * sigma / (2.0 * n).sqrt(), "deviation {deviation}, expected {sigma}");
    }

    #[test]
    fn scales_are_those_of_the_schemes() {
        let nano = values::<burn_ndarray::NdArray<f64>>(Initialisation::NanoGpt, 1, DType::F64);
        let paper = values::<burn_ndarray::NdArray<f64>>(Initialisation::Paper, 1, DType::F64);
        assert_normal(&nano["transformer.h.1.mlp.c_fc.weight"], 0.02);
        assert_normal(&nano["transformer.h.1.mlp.c_proj.weight"], 0.01); // 0.02 / sqrt(2 * 2)
        assert_normal(&nano["transformer.h.1.attn.c_proj.weight"], 0.01);
        assert_normal(&paper["transformer.h.1.mlp.c_proj.weight"], 0.01);
        assert_normal(&paper["transformer.h.1.attn.c_proj.weight"], 0.02);
        assert!(nano["transformer.h.1.attn.c_attn.bias"].iter().all(|x| *x == 0.0));
        assert!(nano["transformer.ln_f.bias"].iter().all(|x| *x == 0.0));
        assert!(nano["transformer.ln_f.weight"].iter().all(|x| *x == 1.0));
    }

    #[test]
    fn backends_and_precisions_agree_to_the_last_bit() {
        let ndarray = values::<burn_ndarray::NdArray<f64>>(Initialisation::NanoGpt, 7, DType::F64);
        let flex = values::<burn_flex::Flex>(Initialisation::NanoGpt, 7, DType::F64);
        let single = values::<burn_flex::Flex>(Initialisation::NanoGpt, 7, DType::F32);
        assert_eq!(ndarray, flex);
        for (name, values) in &ndarray {
            let rounded: Vec<f64> = values.iter().map(|x| f64::from(*x as f32)).collect();
            assert_eq!(rounded, single[name], "{name}");
        }
        assert_ne!(ndarray, values::<burn_flex::Flex>(Initialisation::NanoGpt, 8, DType::F64));
        assert_ne!(ndarray["transformer.h.0.mlp.c_fc.weight"], ndarray["transformer.h.1.mlp.c_fc.weight"]);
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
}
