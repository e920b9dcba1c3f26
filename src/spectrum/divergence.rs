//! The table of distances between blocks, and JS0, its mean over pairs.

use super::{AxisChoice, BlockSpectrum, Metric, Sigma, View};
use crate::Result;

/// Status word of a pair with a block of which nothing rises above the noise.
pub(super) const ZERO_BLOCK: &str = "zero_block";
/// Status word of a pair whose densities meet nowhere.
pub(super) const DISJOINT: &str = "disjoint_support";

/// How to compare.
#[derive(Debug, Clone, PartialEq)]
pub struct DistanceSettings {
    /// What to compare by.
    pub metrics: Vec<Metric>,
    /// The common axis of `js`.
    pub axis: AxisChoice,
    /// The common kernel width of `js`.
    pub sigma: Sigma,
    /// Grid points of `symkl_paper`.
    pub grid_points: usize,
}

/// One row of the table: a metric and an unordered pair of blocks, a before b, the diagonal included.
#[derive(Debug, Clone, PartialEq)]
pub struct Divergence {
    /// Metric or variant.
    pub metric: &'static str,
    /// First block.
    pub block_a: String,
    /// Second block.
    pub block_b: String,
    /// The distance; `None` where it has no meaning, see `status`.
    pub value: Option<f64>,
    /// Jackknife standard error over probes; `None` with one probe.
    pub sem: Option<f64>,
    /// One standard deviation, of steps, probes and data together (see `compare`); `None` for blocks without pieces, and for
    /// `symkl_paper`, which depends on its grid.
    pub error: Option<f64>,
    /// What the randomness of the probes alone would give; `None` with one probe.
    pub noise_floor: Option<f64>,
    /// lambda_c of the axis that it holds on; `None` where there is none.
    pub axis_scale: Option<f64>,
    /// Kernel width that it holds at; `None` where there is none.
    pub sigma: Option<f64>,
    /// `ok`, or words and advice separated by `; `.
    pub status: String,
}

/// JS0: the mean distance over pairs of blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct MeanDistance {
    /// Metric or variant.
    pub metric: &'static str,
    /// The mean; `None` if no pair is left.
    pub value: Option<f64>,
    /// Pairs in the mean.
    pub num_pairs: usize,
    /// Blocks left out because nothing of them rises above the noise.
    pub num_zero_blocks: usize,
    /// Share of the pairs with disjoint support (`symkl_paper`: their value is its ceiling).
    pub disjoint_share: f64,
}

/// What all metrics of a table are made with.
pub(super) struct Frame<'a> {
    /// The common view of `js`.
    pub view: &'a View,
    /// What was asked for.
    pub settings: &'a DistanceSettings,
}

/// All distances between blocks, metric by metric, in the view that these blocks have by themselves. Pass blocks only, not
/// the whole network's spectrum.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) for an axis or sigma that is not above 0.
pub fn divergences(blocks: &[BlockSpectrum], settings: &DistanceSettings) -> Result<Vec<Divergence>> {
    divergences_in(&View::new(blocks, settings.axis, settings.sigma)?, blocks, settings)
}

/// As [`divergences`], in a given view: that of all spectra of a run, which figures have as well.
///
/// # Errors
/// As [`divergences`].
pub fn divergences_in(view: &View, blocks: &[BlockSpectrum], settings: &DistanceSettings) -> Result<Vec<Divergence>> {
    let frame = Frame { view, settings };
    let rows = settings.metrics.iter().map(|metric| (metric.rows)(blocks, &frame)).collect::<Result<Vec<_>>>()?;
    Ok(rows.into_iter().flatten().collect())
}

/// JS0 for every metric among the rows: the mean over pairs without zero blocks; the diagonal counts for
/// `symkl_paper` only, as in the original.
pub fn mean_distances(rows: &[Divergence]) -> Vec<MeanDistance> {
    let mut metrics: Vec<&'static str> = vec![];
    for row in rows {
        if !metrics.contains(&row.metric) {
            metrics.push(row.metric);
        }
    }
    metrics.into_iter().map(|metric| mean_distance(metric, rows)).collect()
}

fn mean_distance(metric: &'static str, rows: &[Divergence]) -> MeanDistance {
    let rows = || rows.iter().filter(|row| row.metric == metric);
    let zero = |row: &Divergence| has_word(row, ZERO_BLOCK);
    let diagonal = |row: &Divergence| row.block_a == row.block_b;
    let counted: Vec<&Divergence> =
        rows().filter(|row| !zero(row) && (metric == "symkl_paper" || !diagonal(row)) && row.value.is_some()).collect();
    let num_pairs = counted.len();
    let mean = |sum: f64| if num_pairs > 0 { Some(sum / num_pairs as f64) } else { None };
    let disjoint = counted.iter().filter(|row| has_word(row, DISJOINT)).count();
    MeanDistance {
        metric,
        value: mean(counted.iter().filter_map(|row| row.value).sum()),
        num_pairs,
        num_zero_blocks: rows().filter(|row| zero(row) && diagonal(row)).count(),
        disjoint_share: mean(disjoint as f64).unwrap_or(0.0),
    }
}

pub(super) fn has_word(row: &Divergence, word: &str) -> bool {
    row.status.split("; ").any(|part| part == word)
}
