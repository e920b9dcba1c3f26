//! A member that is done, read back from its own run.

use crate::config::Config;
use crate::krylov::Tridiagonal;
use crate::output::{
    BlockRow, ComplementRow, DensityRow, DivergenceRow, NodeRow, Results, RunResults, RunRow, SegmentRow, SummaryRow,
    Tables, TridiagonalRow, rfc3339,
};
use crate::spectrum::bootstrap::Segmented;
use crate::spectrum::{BlockSpectrum, Weights};
use crate::{Error, Result, tables};

/// What is known of a member.
pub struct Finished {
    /// Predictions of its batch: tokens, images.
    pub tokens: usize,
    /// Name of its run.
    pub run: String,
    /// Its blocks.
    pub blocks: Vec<BlockRow>,
    /// Their spectra.
    pub spectra: Vec<BlockSpectrum>,
    /// Share of each segment in the batch.
    pub shares: Vec<f64>,
    /// Their Jacobi matrices with segments, by probe; empty after [`Finished::without_segments`].
    tridiagonals: Vec<Vec<Tridiagonal>>,
}

impl Finished {
    /// Reads the run of this configuration, with these weights of its nodes.
    ///
    /// # Errors
    /// [`Error::Storage`] and [`Error::Other`] if it is not complete.
    pub fn read(config: &Config, weights: Weights) -> Result<Self> {
        let run = config.run.name.clone();
        let results = done(config)?;
        let blocks = results.read::<BlockRow>()?;
        let names: Vec<&str> = blocks.iter().map(|block| block.block.as_str()).collect();
        let complement = match weights {
            Weights::Deflated => results.read::<ComplementRow>()?,
            Weights::Raw | Weights::VarianceReduced => Vec::new(),
        };
        let (rows, segments) = (results.read::<TridiagonalRow>()?, results.read::<SegmentRow>()?);
        let tridiagonals = tables::tridiagonals(&names, rows, &segments, &complement)?;
        let summary = results.read::<SummaryRow>()?;
        let floor = |name: &str| summary.iter().find(|row| row.block == name).map_or(0.0, |row| row.noise_floor);
        let num_samples = match config.num_samples() {
            Some(num_samples) => num_samples,
            None => config.network.num_samples(&config.choice())?,
        };
        let shares = tables::segment_shares(config, num_samples)?;
        let spectrum = |(block, t): (&BlockRow, &Vec<Tridiagonal>)| {
            let (name, dim) = (&block.block, block.num_params as usize);
            BlockSpectrum::of(name, dim, t, floor(name), weights, &shares)
        };
        let spectra = blocks.iter().zip(&tridiagonals).map(spectrum).collect::<Result<Vec<_>>>()?;
        let tokens = num_samples * config.network.unit().predictions;
        Ok(Self { tokens, run, blocks, spectra, shares, tridiagonals })
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

    /// What is kept while other members are computed: segment matrices are large.
    pub fn without_segments(mut self) -> Self {
        self.tridiagonals.clear();
        self
    }
}

/// The tables of a member's run.
///
/// # Errors
/// [`Error::Other`] for one that is not done.
pub fn done(config: &Config) -> Result<RunResults> {
    let run = &config.run.name;
    let results = Results::open(&config.output.url)?.run(Some(run))?;
    if results.is_done() {
        return Ok(results);
    }
    Err(Error::Other(format!("run `{run}` at `{}` is not done, though it was computed", config.output.url)))
}

/// How a study ended.
pub struct Ending<'a> {
    /// Its configuration.
    pub config: &'a Config,
    /// When this call began.
    pub started: &'a str,
    /// `done`, or why there are no more members.
    pub status: &'a str,
}

/// Adds the spectra of one member, so that the study can be looked at like any run, and the study's own row in `runs`. Jacobi and
/// segment matrices stay with their run.
///
/// # Errors
/// [`Error::Storage`].
pub fn add_spectra(tables: &mut Tables, ending: &Ending<'_>, shown: &Config, members: &[Config]) -> Result<()> {
    let run = done(shown)?;
    tables.blocks = run.read::<BlockRow>()?;
    tables.nodes = run.read::<NodeRow>()?;
    tables.density = run.read::<DensityRow>()?;
    tables.divergence = run.read::<DivergenceRow>()?;
    tables.summary = run.read::<SummaryRow>()?;
    let mut seconds = 0.0;
    for member in members {
        seconds += done(member)?.read::<RunRow>()?.iter().map(|row| row.seconds).sum::<f64>();
    }
    let mut resolved = ending.config.resolved_json()?;
    if let Some(table) = resolved.as_object_mut() {
        let names: Vec<&str> = members.iter().map(|member| member.run.name.as_str()).collect();
        table.insert("used".into(), serde_json::json!({ "batches": names, "spectra_of": shown.run.name }));
    }
    tables.runs = run.read::<RunRow>()?;
    for row in &mut tables.runs {
        row.config = resolved.to_string();
        (row.started, row.finished) = (ending.started.into(), rfc3339(std::time::SystemTime::now()));
        (row.seconds, row.status) = (seconds, ending.status.into());
    }
    Ok(())
}
