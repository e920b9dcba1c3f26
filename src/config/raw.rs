//! The file as written, before defaults that depend on other keys are known.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::sections::{Axis, Batch, Checkpoint, Density, Distance, Hessian, Lanczos, Output, Run, Sigma};
use super::train::TrainKeys;
use super::{Blocks, Config, Configured, Convergence, Diagonal, Eigenvectors, Order, Series};
use crate::Result;
use crate::hessian::Reduction;

/// Seed of nanoGPT's runs.
const DEFAULT_SEED: u64 = 1337;

/// Windows per micro-batch in the paper's public code, which defines the scale of `reduction = "sum"`.
const PAPER_MICRO_BATCH: usize = 8;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    /// Read by the networks.
    #[serde(rename = "model")]
    _model: IgnoredAny,
    #[serde(rename = "data")]
    _data: IgnoredAny,
    #[serde(default)]
    run: RunKeys,
    #[serde(default)]
    batch: BatchKeys,
    #[serde(default)]
    hessian: Hessian,
    #[serde(default)]
    blocks: Blocks,
    #[serde(default)]
    lanczos: Lanczos,
    #[serde(default)]
    density: DensityKeys,
    #[serde(default)]
    distance: Distance,
    #[serde(default)]
    convergence: Option<Convergence>,
    #[serde(default)]
    series: Option<Series>,
    #[serde(default)]
    eigenvectors: Option<Eigenvectors>,
    #[serde(default)]
    diagonal: Option<Diagonal>,
    #[serde(default)]
    train: Option<TrainKeys>,
    #[serde(default)]
    checkpoint: Checkpoint,
    #[serde(default)]
    output: Output,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RunKeys {
    name: Option<String>,
    seed: Option<u64>,
    threads: Option<usize>,
    ranks: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BatchKeys {
    tokens: Option<usize>,
    samples: Option<usize>,
    start: usize,
    stride: Option<usize>,
    order: Option<Order>,
    seed: Option<u64>,
    micro_batch: Option<usize>,
    segments: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct DensityKeys {
    sigma: Option<Sigma>,
    axis: Axis,
    axis_scale: Option<f64>,
}

impl Raw {
    /// Fills in what depends on other keys.
    ///
    /// # Errors
    /// None for types that serde can write.
    pub fn resolve(self, default_name: &str, network: Configured) -> Result<Config> {
        let seed = self.run.seed.unwrap_or(DEFAULT_SEED);
        let default_micro_batch = (self.hessian.reduction == Reduction::Sum).then_some(PAPER_MICRO_BATCH);
        // nested batches are random samples of one another, and commands that take one batch take the largest
        let default_order = if self.convergence.is_some() { Order::Permuted } else { Order::Sequential };
        let largest = self.convergence.as_ref().map(|convergence| convergence.to);
        let unit = network.unit();
        let mut batch = Batch {
            tokens: self.batch.tokens,
            samples: self.batch.samples,
            start: self.batch.start,
            stride: self.batch.stride.unwrap_or(unit.predictions),
            order: self.batch.order.unwrap_or(default_order),
            seed: self.batch.seed.unwrap_or(seed),
            micro_batch: self.batch.micro_batch.or(default_micro_batch),
            segments: self.batch.segments,
        };
        if batch.num_predictions().is_none() {
            batch.set_num_predictions(unit, largest);
        }
        let density = Density {
            sigma: self.density.sigma.unwrap_or_else(|| default_sigma(self.lanczos.steps)),
            axis: self.density.axis,
            axis_scale: self.density.axis_scale,
        };
        let held_out = network.held_out_json()?;
        let name = self.run.name.unwrap_or_else(|| default_name.into());
        Ok(Config {
            run: Run { name, seed, threads: self.run.threads, ranks: self.run.ranks },
            network,
            batch,
            hessian: self.hessian,
            blocks: self.blocks,
            lanczos: self.lanczos.resolved(),
            density,
            distance: self.distance,
            convergence: self.convergence,
            series: self.series,
            eigenvectors: self.eigenvectors,
            diagonal: self.diagonal,
            train: self.train.map(|train| train.resolved(seed, held_out)),
            checkpoint: self.checkpoint,
            output: self.output,
        })
    }
}

/// Two Gaussians a distance 1/(m - 1) apart, the mean distance of m nodes, merge into one maximum at about this width.
fn default_sigma(steps: usize) -> Sigma {
    let intervals = steps.saturating_sub(1).max(1) as f64;
    Sigma::Relative(1.0 / intervals / (8.0 * 3f64.ln()).sqrt())
}
