//! The table of distances between blocks, and JS0, its mean over pairs.

use rayon::prelude::*;

use super::symkl::{SymKl, Workspace, symkl};
use super::wasserstein::{Measure, measure};
use super::{AxisChoice, BlockSpectrum, JsBlock, Sigma, View, W1Block};
use crate::Result;

/// Status word of a pair with a block of which nothing rises above the noise.
const ZERO_BLOCK: &str = "zero_block";
/// Status word of a pair whose densities meet nowhere.
const DISJOINT: &str = "disjoint_support";
/// Largest mass that a lattice may lose.
const MASS_TOLERANCE: f64 = 1e-3;

/// What to compare by; each brings its variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// `js`, `js_scale10`, `js_scale0.1` (lambda_c times 10 and 0.1), `js_shape`.
    Js,
    /// `wasserstein1`, `wasserstein1_shape`.
    Wasserstein1,
    /// `symkl_paper`.
    SymKlPaper,
}

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
    /// What the randomness of the probes alone would give; `None` with one probe.
    pub noise_floor: Option<f64>,
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

/// Value, standard error, noise floor and remarks of one pair.
type Entry = (f64, Option<f64>, Option<f64>, Vec<String>);

/// All distances between blocks, metric by metric. Pass blocks only, not the whole network's spectrum.
pub fn divergences(blocks: &[BlockSpectrum], settings: &DistanceSettings) -> Result<Vec<Divergence>> {
    let mut rows = vec![];
    for metric in &settings.metrics {
        match metric {
            Metric::Js => rows.extend(all_js(blocks, settings)?),
            Metric::Wasserstein1 => rows.extend(all_wasserstein(blocks)?),
            Metric::SymKlPaper => rows.extend(all_symkl(blocks, settings.grid_points)),
        }
    }
    Ok(rows)
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

fn has_word(row: &Divergence, word: &str) -> bool {
    row.status.split("; ").any(|part| part == word)
}

/// The unordered pairs, the diagonal included, in parallel.
fn pairs<W: Send>(
    metric: &'static str,
    blocks: &[BlockSpectrum],
    workspace: impl Fn() -> W + Sync + Send,
    entry: impl Fn(&mut W, usize, usize) -> Option<Entry> + Sync + Send,
) -> Vec<Divergence> {
    let indices: Vec<(usize, usize)> = (0..blocks.len()).flat_map(|i| (i..blocks.len()).map(move |j| (i, j))).collect();
    let row = |workspace: &mut W, (i, j): (usize, usize)| row(metric, &blocks[i], &blocks[j], entry(workspace, i, j));
    indices.into_par_iter().map_init(workspace, row).collect()
}

fn row(metric: &'static str, a: &BlockSpectrum, b: &BlockSpectrum, entry: Option<Entry>) -> Divergence {
    let mut words: Vec<String> = if a.is_zero() || b.is_zero() { vec![ZERO_BLOCK.into()] } else { vec![] };
    let (value, sem, noise_floor) = match entry {
        Some((value, sem, noise_floor, remarks)) => {
            words.extend(remarks);
            (Some(value), sem, noise_floor)
        }
        None => (None, None, None),
    };
    let status = if words.is_empty() { "ok".into() } else { words.join("; ") };
    Divergence { metric, block_a: a.name.clone(), block_b: b.name.clone(), value, sem, noise_floor, status }
}

fn all_js(blocks: &[BlockSpectrum], settings: &DistanceSettings) -> Result<Vec<Divergence>> {
    let DistanceSettings { axis, sigma, .. } = *settings;
    let mut rows = js("js", blocks, axis, View::new(blocks, axis, sigma)?);
    if axis != AxisChoice::Linear {
        rows.extend(js("js_scale10", blocks, axis, View::rescaled(blocks, axis, sigma, 10.0)?));
        rows.extend(js("js_scale0.1", blocks, axis, View::rescaled(blocks, axis, sigma, 0.1)?));
    }
    // a lambda_c or sigma in units of eigenvalues means nothing once the unit is the spectrum's own
    let (axis, sigma) = match (axis, sigma) {
        (AxisChoice::Asinh(_), sigma) => (AxisChoice::Asinh(None), sigma),
        (AxisChoice::Linear, Sigma::Absolute(_)) => (AxisChoice::Linear, Sigma::Relative(None)),
        other => other,
    };
    rows.extend(in_shape(
        blocks,
        |shapes| Ok(js("js_shape", shapes, axis, View::new(shapes, axis, sigma)?)),
        "js_shape",
    )?);
    Ok(rows)
}

fn js(metric: &'static str, blocks: &[BlockSpectrum], axis: AxisChoice, view: View) -> Vec<Divergence> {
    let ready: Vec<JsBlock> = blocks.par_iter().map(|block| JsBlock::new(block, &view)).collect();
    let linear = (axis == AxisChoice::Linear).then(|| {
        "linear axis: all blocks of small curvature collapse into one peak; prefer density.axis = \"asinh\"".into()
    });
    pairs(
        metric,
        blocks,
        || (),
        |(), i, j| {
            let (a, b) = (&ready[i], &ready[j]);
            let mass = [a.mass(), b.mass()].into_iter().find(|mass| (mass - 1.0).abs() > MASS_TOLERANCE);
            let mass = mass.map(|mass| format!("mass {mass:.6} is not 1: take a larger density.sigma"));
            let remarks = linear.iter().cloned().chain(mass).collect();
            Some((a.distance(b), off_diagonal(a.sem(b), i, j), a.noise_floor(b), remarks))
        },
    )
}

/// A block's distance from itself is 0 whatever its probes.
fn off_diagonal(sem: Option<f64>, i: usize, j: usize) -> Option<f64> {
    if i == j { sem.map(|_| 0.0) } else { sem }
}

fn all_wasserstein(blocks: &[BlockSpectrum]) -> Result<Vec<Divergence>> {
    let mut rows = wasserstein("wasserstein1", blocks);
    rows.extend(in_shape(blocks, |shapes| Ok(wasserstein("wasserstein1_shape", shapes)), "wasserstein1_shape")?);
    Ok(rows)
}

fn wasserstein(metric: &'static str, blocks: &[BlockSpectrum]) -> Vec<Divergence> {
    let ready: Vec<W1Block> = blocks.par_iter().map(W1Block::new).collect();
    pairs(
        metric,
        blocks,
        || (),
        |(), i, j| {
            let (a, b) = (&ready[i], &ready[j]);
            Some((a.distance(b), off_diagonal(a.sem(b), i, j), a.noise_floor(b), vec![]))
        },
    )
}

/// Compares the blocks that have a shape, each in its own unit; pairs with one that has none get no value.
fn in_shape(
    blocks: &[BlockSpectrum],
    compare: impl Fn(&[BlockSpectrum]) -> Result<Vec<Divergence>>,
    metric: &'static str,
) -> Result<Vec<Divergence>> {
    let shapes: Vec<BlockSpectrum> =
        blocks.iter().filter_map(|block| Some(block.divided_by(block.shape_scale()?))).collect();
    let mut compared = compare(&shapes)?.into_iter();
    let mut rows = pairs(metric, blocks, || (), |(), _, _| None);
    // both lists run over pairs in the same order
    for row in rows.iter_mut().filter(|row| !has_word(row, ZERO_BLOCK)) {
        if let Some(found) = compared.next() {
            *row = found;
        }
    }
    Ok(rows)
}

fn all_symkl(blocks: &[BlockSpectrum], grid_points: usize) -> Vec<Divergence> {
    let measures: Vec<Measure> = blocks.iter().map(|block| measure(block.probes.iter())).collect();
    pairs("symkl_paper", blocks, Workspace::default, |workspace, i, j| {
        let found = symkl(&measures[i], &measures[j], grid_points, workspace);
        Some((found.value, None, None, remarks(&found)))
    })
}

fn remarks(found: &SymKl) -> Vec<String> {
    let SymKl { dx_over_sigma, raw_mass: (a, b), disjoint, .. } = found;
    let mut remarks = vec![format!("dx/sigma = {dx_over_sigma:.4}"), format!("raw mass = {a:.4} and {b:.4}")];
    if *disjoint {
        remarks.push(DISJOINT.into());
    }
    if *dx_over_sigma > 1.0 {
        remarks.push("the grid is coarser than sigma and decides the value: raise distance.grid_points".into());
    }
    remarks
}
