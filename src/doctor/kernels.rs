//! The backend's fused kernels against plain compositions: H v of a tiny GPT, against burn's reference backend in f64,
//! which has no fused kernel at all.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::Finding;
use crate::cluster::solo;
use crate::config::{self, Config, Configured};
use crate::datasets::TokenFiles;
use crate::engine::Kernels;
use crate::hessian::{Precision, Settings, start};
use crate::job::{Job, On, Task, dispatch};
use crate::networks::gpt2::Gpt2Config;
use crate::networks::{Pair, Registry};
use crate::{Error, Result};

/// Two layers with everything that a kernel exists for: attention over more than one tile, LayerNorm, GELU, a head with
/// cross-entropy.
fn tiny() -> Pair<Gpt2Config> {
    let sizes =
        Gpt2Config { layers: 2, heads: 2, embedding: 32, mlp: 64, context: 40, vocabulary: 50, ..Gpt2Config::nano() };
    let data = TokenFiles { path: "none".into(), cache: None, dtype: None, weights: None };
    Pair { network: sizes, data, held_out: None }
}
/// Everything else.
const DEFAULTS: &str = "[model.gpt2]\n[data.tokens]\npath = \"none\"\n";
/// Windows of synthetic tokens.
const WINDOWS: usize = 3;
/// What roundings in f32 may amount to over two layers, second order: 1e-6 is usual.
const LIMIT_F32: f64 = 1e-4;
/// What may be lost where operands are rounded to fewer bits, in roundings of those: 16 are usual.
const ROUNDINGS: f64 = 64.0;
/// What roundings in f64 may amount to.
const LIMIT_F64: f64 = 1e-11;

/// How far H v of a small GPT on the configured backend is from the composition.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct KernelError {
    /// Relative, in the 2-norm; infinite where a number is NaN.
    pub error: f64,
    /// What roundings may amount to.
    pub limit: f64,
}

impl KernelError {
    /// Refuses a backend that is wrong on this device.
    ///
    /// # Errors
    /// [`Error::Environment`]
    pub fn check(&self) -> Result<()> {
        if self.error <= self.limit {
            return Ok(());
        }
        Err(Error::Environment(format!("{self}, at most {:.0e} is rounding; {ADVICE}", self.limit)))
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "H v of a small GPT on this backend differs by {:.2e} (relative) from plain f64", self.error)
    }
}

const ADVICE: &str = "a kernel of this backend is wrong on this device: try hessian.fusion = false, or hessian.backend = \"flex\", \
                      and please report it";

/// Compares H v of the configured backend with the composition.
pub fn kernels(config: &Config) -> Finding {
    let what = "fused kernels against plain ones";
    match kernel_error(config) {
        Ok(found) if found.error <= found.limit => Finding::ok(what, found.to_string()),
        Ok(found) => Finding::fail(what, format!("{found}, at most {:.0e} is rounding", found.limit), ADVICE),
        Err(error) => Finding::of(what, &error),
    }
}

/// The difference itself.
///
/// # Errors
/// As [`dispatch`].
pub fn kernel_error(config: &Config) -> Result<KernelError> {
    type Reference = burn_ndarray::NdArray<f64>;
    let network = tiny();
    let mut tiny = config::parse(DEFAULTS, "doctor", "doctor", &[], &Registry::built_in())?;
    tiny.network = Configured(Arc::new(network.clone()));
    tiny.hessian = config.hessian.clone();
    let fused = dispatch(&tiny, Product)?;
    let plain = Product.run::<Reference, f64>(&tiny, On { network: &network, device: Default::default() })?;
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let error = norm(&mut fused.iter().zip(&plain).map(|(x, y)| x - y)) / norm(&mut plain.iter().copied());
    let rounded = ROUNDINGS * config.hessian.math.unit_roundoff();
    let limit = match config.hessian.precision {
        config::Precision::F64 => LIMIT_F64,
        config::Precision::F32 => LIMIT_F32.max(rounded),
    };
    // a NaN compares with nothing
    Ok(KernelError { error: if error.is_nan() { f64::INFINITY } else { error }, limit })
}

/// H v of the whole network for one probe.
struct Product;

impl Task for Product {
    type Output = Vec<f64>;

    fn run<K: Kernels, T: Precision>(self, config: &Config, on: On<'_, K, T>) -> Result<Vec<f64>> {
        let job = Job::synthetic(config, &on, WINDOWS, WINDOWS)?;
        let (comm, full) = (solo::comm(), job.layout.full());
        let mut operator = job.operator(&comm);
        operator.slots = vec![&full];
        let v = start::<T>(&full, &job.layout, 0, &Settings::default(), &comm).values;
        let product = operator.products(&[v])?.pop();
        let product = product.ok_or_else(|| Error::Other("no product of one vector".into()))?;
        Ok(product.into_iter().map(|x| x.to_f64()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn flex_agrees_with_compositions_in_both_precisions() {
        for (precision, limit) in [("f32", 1e-5), ("f64", 1e-12)] {
            let set = [format!("hessian.precision={precision}")];
            let config = config::parse(DEFAULTS, "test", "test", &set, &Registry::built_in()).unwrap();
            assert_eq!(kernels(&config).verdict, Verdict::Ok);
            let found = kernel_error(&config).unwrap().error;
            assert!(found > 0.0 && found < limit, "{precision}: {found}");
        }
    }
}
