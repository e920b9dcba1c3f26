//! The backend's fused kernels against plain compositions: H v of a tiny GPT, against burn's reference backend in f64,
//! which has no fused kernel at all.

use burn_backend::tensor::Device;

use super::Finding;
use crate::cluster::solo;
use crate::config::{self, Config};
use crate::engine::Kernels;
use crate::hessian::{Precision, Settings, start};
use crate::job::{Job, Task, dispatch};
use crate::{Error, Result};

/// Two layers with everything that a kernel exists for: attention over more than one tile, LayerNorm, GELU, a head with
/// cross-entropy.
const TINY: &str = "
[model.gpt2]
layers = 2
heads = 2
embedding = 32
mlp = 64
context = 40
vocabulary = 50

[data.tokens]
path = \"none\"
";
/// Windows of synthetic tokens.
const WINDOWS: usize = 3;
/// What roundings in f32 may amount to over two layers, second order: 1e-6 is usual.
const LIMIT_F32: f64 = 1e-4;
/// The same in f64.
const LIMIT_F64: f64 = 1e-11;

/// Compares H v of the configured backend with the composition.
pub fn kernels(config: &Config) -> Finding {
    let what = "fused kernels against plain ones";
    match difference(config) {
        Ok((found, limit)) if found <= limit => {
            Finding::ok(what, format!("H v of a small GPT differs by {found:.2e} (relative)"))
        }
        Ok((found, limit)) => Finding::fail(
            what,
            format!("H v of a small GPT differs by {found:.2e} (relative), at most {limit:.0e} is rounding"),
            "a kernel of this backend is wrong on this device: turn fusion and autotune off, or use hessian.backend=\"flex\"; \
             please report it",
        ),
        Err(error) => Finding::of(what, &error),
    }
}

/// Relative difference and what is accepted.
fn difference(config: &Config) -> Result<(f64, f64)> {
    let mut tiny = config::parse(TINY, "doctor", "doctor", &[])?;
    tiny.hessian = config.hessian.clone();
    let fused = dispatch(&tiny, Product)?;
    let plain =
        Product.run::<burn_ndarray::NdArray<f64>, f64>(&tiny, Device::<burn_ndarray::NdArray<f64>>::default())?;
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let error = norm(&mut fused.iter().zip(&plain).map(|(x, y)| x - y)) / norm(&mut plain.iter().copied());
    let limit = if config.hessian.precision == config::Precision::F64 { LIMIT_F64 } else { LIMIT_F32 };
    // a NaN compares with nothing
    Ok((if error.is_nan() { f64::INFINITY } else { error }, limit))
}

/// H v of the whole network for one probe.
struct Product;

impl Task for Product {
    type Output = Vec<f64>;

    fn run<K: Kernels, T: Precision>(self, config: &Config, device: Device<K>) -> Result<Vec<f64>> {
        let job = Job::<K, T>::synthetic(config, &device, WINDOWS, WINDOWS)?;
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
            let config = config::parse(TINY, "test", "test", &set).unwrap();
            assert_eq!(kernels(&config).verdict, Verdict::Ok);
            let (found, _) = difference(&config).unwrap();
            assert!(found > 0.0 && found < limit, "{precision}: {found}");
        }
    }
}
