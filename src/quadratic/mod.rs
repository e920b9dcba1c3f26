//! Quadratic problems with a block-diagonal Hessian, on which gradient descent and Adam can be told apart exactly.
//!
//! L(w) = w' H w / 2 with H = diag(H_1, ..., H_L), H_l = Q_l diag(eigenvalues) Q_l', Q_l orthogonal and uniformly distributed,
//! w0 standard normal: Section 3.2 of "Why Transformers Need Adam: A Hessian Perspective" (Zhang et al., arXiv 2402.16788).
//!
//! ```text
//! TOML -config-> Config -source-> eigenvalues -problem-> Quadratic (H_l, w0) -optimizer-> losses
//! Quadratic + losses -trial-> quantities of one trial -statistics-> quartiles, means, shares
//! ```
//!
//! Owns the experiment from its configuration to its rows. Eigenvalues are written down in the configuration, or drawn from
//! the spectrum of a block that `hesspec run` has computed.

mod config;
mod optimizer;
mod problem;
mod rows;
mod source;
mod statistics;
#[cfg(test)]
mod tests;
mod theory;
mod trial;

use std::time::{Instant, SystemTime};

use rayon::prelude::*;

pub use config::{BlockKeys, Config, Scale, Spectrum, load};
pub use optimizer::{Method, Path, descend};
pub use problem::Quadratic;
pub use statistics::{Statistic, statistics};
pub use theory::Theory;
pub use trial::{Descent, Quantity, Trial};

use crate::lock::Lock;
use crate::output::{RunRow, RunStore, Tables, rfc3339};
use crate::shown::Url;
use crate::tables;
use crate::{Error, Result};

/// What an experiment found.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Findings {
    /// Its name.
    pub run: String,
    /// Where its tables are.
    pub url: Url,
    /// The blocks in numbers.
    pub blocks: Vec<BlockFinding>,
    /// Condition number of H.
    pub kappa: f64,
    /// Quantities over all trials.
    pub statistics: Vec<Statistic>,
    /// Whether it was there already.
    pub was_done: bool,
    /// Seconds of this call.
    pub seconds: f64,
}

/// A block in numbers.
#[derive(Debug, Clone, serde::Serialize)]
pub struct BlockFinding {
    /// Its name.
    pub block: String,
    /// Its dimension.
    pub dim: usize,
    /// Smallest eigenvalue.
    pub lambda_min: f64,
    /// Largest eigenvalue.
    pub lambda_max: f64,
    /// Their ratio.
    pub kappa: f64,
}

/// Runs the experiment and writes its tables.
///
/// # Errors
/// [`Error::Config`] for spectra that are not there or have no positive part, and for a name that another configuration has;
/// [`Error::Storage`].
pub fn run(config: &Config, log: &dyn Fn(&str)) -> Result<Findings> {
    let (begin, started) = (Instant::now(), SystemTime::now());
    let spectra = source::spectra(config)?;
    let url = &config.output.url;
    let json = serde_json::to_string(config).map_err(|error| Error::Other(format!("JSON: {error}")))?;
    let provenance = tables::provenance_of(json)?;
    let mut store = RunStore::open(url, &config.name, &provenance, tables::differing)?;
    let was_done = store.is_done();
    let trials = compute(config, &spectra)?;
    let statistics = statistics(&trials);
    if !was_done {
        let _lock = Lock::acquire(url, &config.name, log)?;
        store.begin()?;
        let row = RunRow {
            config: provenance.config.clone(),
            versions: provenance.versions_json(),
            world: 1,
            hardware: tables::processor(),
            matmul_precision: "f64".into(),
            started: rfc3339(started),
            finished: rfc3339(SystemTime::now()),
            seconds: begin.elapsed().as_secs_f64(),
            status: "done".into(),
        };
        let first = problem::Quadratic::draw(config, &spectra, 0)?;
        store.finish_apart(&Tables { runs: vec![row], ..rows::tables(config, &first, &trials, &statistics) })?;
    }
    let blocks = block_findings(config, &spectra);
    let least = blocks.iter().map(|block| block.lambda_min).fold(f64::INFINITY, f64::min);
    let most = blocks.iter().map(|block| block.lambda_max).fold(0.0, f64::max);
    let (run, kappa, seconds) = (config.name.clone(), most / least, begin.elapsed().as_secs_f64());
    Ok(Findings { run, url: url.clone(), blocks, kappa, statistics, was_done, seconds })
}

fn block_findings(config: &Config, spectra: &[Vec<f64>]) -> Vec<BlockFinding> {
    let finding = |(keys, eigenvalues): (&BlockKeys, &Vec<f64>)| {
        let (lambda_min, lambda_max) = (eigenvalues[0], eigenvalues[eigenvalues.len() - 1]);
        let (block, dim, kappa) = (keys.name.clone(), eigenvalues.len(), lambda_max / lambda_min);
        BlockFinding { block, dim, lambda_min, lambda_max, kappa }
    };
    config.blocks.iter().zip(spectra).map(finding).collect()
}

/// All trials, in their order. The first `config.paths` of them run the optimizers; the first keeps all its paths.
///
/// # Errors
/// [`Error::Numerics`] for eigenvalues that cannot be computed.
pub fn compute(config: &Config, spectra: &[Vec<f64>]) -> Result<Vec<Trial>> {
    (0..config.trials)
        .into_par_iter()
        .with_max_len(1) // the first ones take nearly all of the time
        .map(|number| Trial::of(config, &Quadratic::draw(config, spectra, number)?, number))
        .collect()
}
