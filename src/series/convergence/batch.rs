//! A finished batch, read back from its own run.

use crate::config::{Config, Convergence};
use crate::krylov::Tridiagonal;
use crate::output::{BlockRow, Results, RunResults, SegmentRow, SummaryRow, TridiagonalRow};
use crate::spectrum::bootstrap::Segmented;
use crate::spectrum::nested::Resampling;
use crate::spectrum::{BlockSpectrum, Weights};
use crate::{Error, Result, tables};

/// One batch of a study.
pub struct Batch {
    /// Predicted tokens.
    pub tokens: usize,
    /// Name of its run.
    pub run: String,
    /// Its blocks.
    pub blocks: Vec<BlockRow>,
    /// Their spectra with raw weights.
    pub spectra: Vec<BlockSpectrum>,
    /// Their Jacobi matrices with segments, by probe; empty after [`Batch::without_segments`].
    tridiagonals: Vec<Vec<Tridiagonal>>,
    /// Share of each segment in the batch.
    pub shares: Vec<f64>,
}

impl Batch {
    /// Reads the batch whose run this is.
    ///
    /// # Errors
    /// [`Error::Storage`] and [`Error::Other`] if its run is not complete.
    pub fn read(config: &Config) -> Result<Self> {
        let run = config.run.name.clone();
        let results = results(config, &run)?;
        let blocks = results.read::<BlockRow>()?;
        let names: Vec<&str> = blocks.iter().map(|block| block.block.as_str()).collect();
        let tridiagonals =
            tables::tridiagonals(&names, results.read::<TridiagonalRow>()?, &results.read::<SegmentRow>()?, &[])?;
        let summary = results.read::<SummaryRow>()?;
        let floor = |name: &str| summary.iter().find(|row| row.block == name).map_or(0.0, |row| row.noise_floor);
        let num_samples = config.num_samples().ok_or_else(|| Error::Other(format!("run `{run}` has no batch size")))?;
        let shares = tables::segment_shares(config, num_samples)?;
        let tokens = num_samples * config.network.unit().predictions;
        let raw = |(block, t): (&BlockRow, &Vec<Tridiagonal>)| {
            let (name, dim) = (&block.block, block.num_params as usize);
            BlockSpectrum::of(name, dim, t, floor(name), Weights::Raw, &shares)
        };
        let spectra = blocks.iter().zip(&tridiagonals).map(raw).collect::<Result<Vec<_>>>()?;
        Ok(Self { tokens, run, blocks, spectra, tridiagonals, shares })
    }

    /// For resampling.
    pub fn segmented(&self) -> Vec<Segmented<'_>> {
        let segmented = self.spectra.iter().zip(&self.tridiagonals).map(|(spectrum, probes)| Segmented {
            name: &spectrum.name,
            dim: spectrum.dim,
            probes,
            noise_floor: spectrum.noise_floor,
        });
        segmented.collect()
    }

    /// Draws that depend on the run's seed alone, the same for all batches.
    pub fn resampling(&self, config: &Config, study: &Convergence) -> Resampling<'_> {
        Resampling { seed: config.run.seed, draws: study.draws, shares: &self.shares }
    }

    /// What is kept while other batches are computed: segment matrices are large.
    pub fn without_segments(mut self) -> Self {
        self.tridiagonals.clear();
        self
    }
}

/// The tables of a batch's run.
pub fn results(config: &Config, run: &str) -> Result<RunResults> {
    let results = Results::open(&config.output.url)?.run(Some(run))?;
    if results.is_done() {
        return Ok(results);
    }
    Err(Error::Other(format!("run `{run}` at `{}` is not done, though it was computed", config.output.url)))
}
