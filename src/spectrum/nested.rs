//! Nested batches: how much spectra change with the number of tokens, and how much the data leave open.
//!
//! A batch of n windows, a random sample, is a prefix of every larger one. Of a statistic x that is a mean over windows
//! with standard deviation s a window, var(x_n) = s^2 / n and, for n < N, var(x_n - x_N) = s^2 (1/n - 1/N): the bootstrap
//! error of the smaller batch times sqrt(1 - n/N) is what the difference to the larger should be. For eigenvalues and
//! distances that holds to first order only; what is of second order (noise in H spreads its spectrum, so that extreme
//! eigenvalues of small batches lie too far out) shows in the changes from batch to batch and not in the bootstrap.
//! Raw weights throughout, as in `bootstrap`.

use super::bootstrap::{Segmented, resampled};
use super::{BlockSpectrum, Comparable, JsBlock, Measure, Moments, View, measure, moments, wasserstein1};
use crate::{Error, Result};

/// Errors of a block's spectrum that come from the data: standard deviations over resampled batches, times
/// sqrt(S / (S - 1)) for S segments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockErrors {
    /// Root mean square of W1 between the spectrum and resampled ones.
    pub w1: f64,
    /// Error of the Jensen-Shannon distance; 0 without a view.
    pub js: f64,
    /// Error of the trace.
    pub trace: f64,
    /// Error of the Frobenius norm.
    pub frobenius: f64,
    /// Error of the smallest node.
    pub lambda_min: f64,
    /// Error of the largest node.
    pub lambda_max: f64,
}

/// Errors of the distance between two blocks that come from the data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairErrors {
    /// Error of the Jensen-Shannon distance.
    pub js: f64,
    /// Error of W1.
    pub w1: f64,
}

/// What [`data_errors`] finds.
#[derive(Debug, Clone, PartialEq)]
pub struct DataErrors {
    /// By block.
    pub blocks: Vec<BlockErrors>,
    /// By pair; empty without a view.
    pub pairs: Vec<PairErrors>,
}

/// How the batch is resampled.
#[derive(Debug, Clone, Copy)]
pub struct Resampling<'a> {
    /// Seed of the draws.
    pub seed: u64,
    /// Number of draws.
    pub draws: u64,
    /// Share of each segment in the batch.
    pub shares: &'a [f64],
}

/// Statistics of a block in one draw.
const PER_BLOCK: usize = 6;

/// Bootstrap errors of blocks, and in a view also of Jensen-Shannon distances and of `pairs` (indices of blocks).
/// One draw serves all blocks, for they share the data.
///
/// # Errors
/// [`Error::Numerics`] for fewer than two segments or draws, and for segment matrices that do not fit.
pub fn data_errors(
    blocks: &[Segmented],
    view: Option<&View>,
    pairs: &[(usize, usize)],
    how: Resampling,
) -> Result<DataErrors> {
    let segments = how.shares.len();
    if segments < 2 || how.draws < 2 {
        let found = format!("{segments} segments and {} draws", how.draws);
        return Err(Error::Numerics(format!("errors of the data from {found}; expected two or more of both")));
    }
    let own = blocks.iter().map(|block| Drawn::new(block, &vec![1.0; segments], view)).collect::<Result<Vec<_>>>()?;
    let values = resampled(how.seed, how.draws, how.shares, |multipliers| {
        let drawn = blocks.iter().map(|block| Drawn::new(block, multipliers, view)).collect::<Result<Vec<_>>>()?;
        let of_blocks = drawn.iter().zip(&own).flat_map(|(drawn, own)| drawn.statistics(own));
        let of_pairs = pairs.iter().flat_map(|(a, b)| [drawn[*a].js(&drawn[*b]), drawn[*a].w1(&drawn[*b])]);
        Ok(of_blocks.chain(of_pairs).collect())
    })?;
    let correction = (segments as f64 / (segments - 1) as f64).sqrt();
    let column = |at: usize| values.iter().map(|row| row[at]).collect::<Vec<_>>();
    let spread = |at: usize| correction * super::stats::standard_deviation(&column(at)).unwrap_or(0.0);
    let size = |at: usize| correction * root_mean_square(&column(at));
    let of_block = |at: usize| BlockErrors {
        w1: size(at),
        js: size(at + 1),
        trace: spread(at + 2),
        frobenius: spread(at + 3),
        lambda_min: spread(at + 4),
        lambda_max: spread(at + 5),
    };
    let of_pair = |at: usize| PairErrors { js: spread(at), w1: spread(at + 1) };
    let first_pair = PER_BLOCK * blocks.len();
    Ok(DataErrors {
        blocks: (0..blocks.len()).map(|block| of_block(PER_BLOCK * block)).collect(),
        pairs: (0..pairs.len()).map(|pair| of_pair(first_pair + 2 * pair)).collect(),
    })
}

fn root_mean_square(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |sum: f64, x| sum.hypot(*x)) / (values.len() as f64).sqrt()
}

/// A block's spectrum made ready for comparison.
pub struct Seen {
    measure: Measure,
    js: Option<JsBlock>,
}

impl Seen {
    /// Prepares a spectrum for distances; with a view also for Jensen-Shannon's.
    pub fn new(block: &BlockSpectrum, view: Option<&View>) -> Self {
        Self { measure: measure(block.probes.iter()), js: view.map(|view| JsBlock::for_distance(block, view)) }
    }

    /// W1 between two spectra.
    pub fn w1(&self, other: &Self) -> f64 {
        wasserstein1(&self.measure, &other.measure)
    }

    /// Jensen-Shannon distance; 0 without a view.
    pub fn js(&self, other: &Self) -> f64 {
        self.js.as_ref().zip(other.js.as_ref()).map_or(0.0, |(a, b)| a.distance(b))
    }
}

/// A block in one draw.
struct Drawn {
    seen: Seen,
    moments: Moments,
}

impl Drawn {
    fn new(block: &Segmented, multipliers: &[f64], view: Option<&View>) -> Result<Self> {
        let spectrum = block.resample(multipliers)?;
        Ok(Self { seen: Seen::new(&spectrum, view), moments: moments(&spectrum) })
    }

    fn js(&self, other: &Self) -> f64 {
        self.seen.js(&other.seen)
    }

    fn w1(&self, other: &Self) -> f64 {
        self.seen.w1(&other.seen)
    }

    /// In the order of [`BlockErrors`].
    fn statistics(&self, own: &Self) -> [f64; PER_BLOCK] {
        let Moments { trace, frobenius, lambda_min, lambda_max, .. } = self.moments;
        [self.w1(own), self.js(own), trace, frobenius, lambda_min, lambda_max]
    }
}

/// Share of a batch's squared Frobenius norm that is sampling noise. A mean over n windows has
/// E|H_n|^2 = |H|^2 + c / n, so that two batches tell c: with f times as many tokens as in the batch before,
/// c / n = (|H_before|^2 - |H_n|^2) / (f - 1). The same probes serve both, so that their own noise largely cancels. What is
/// left of it may take the estimate below 0 or above 1; `None` of a zero Hessian, which has no shares.
pub fn noise_share(frobenius: f64, before: f64, factor: f64) -> Option<f64> {
    (frobenius > 0.0).then(|| ((before / frobenius).powi(2) - 1.0) / (factor - 1.0))
}

/// How near a batch is to be enough: the block for which it is least so.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The block with the largest error.
    pub block: String,
    /// Its bootstrap error: the largest of W1, smallest and largest node, as a share of the spectral range.
    pub error: f64,
    /// The largest change against the batch before of the same, over all blocks, as a share of the spectral range; `None`
    /// for the first batch.
    pub change: Option<f64>,
}

impl Verdict {
    /// The verdict on one batch; `before` is the next smaller one. Blocks without any curvature above the noise do not count.
    pub fn new(blocks: &[BlockSpectrum], errors: &[BlockErrors], before: Option<&[BlockSpectrum]>) -> Self {
        let mut verdict = Self { block: String::new(), error: 0.0, change: before.map(|_| 0.0) };
        for (at, (block, errors)) in blocks.iter().zip(errors).enumerate().filter(|(_, (block, _))| !block.is_zero()) {
            let found = moments(block);
            let range = found.lambda_max - found.lambda_min;
            let unit = if range > 0.0 { range } else { block.largest() };
            let error = errors.w1.max(errors.lambda_min).max(errors.lambda_max) / unit;
            if error >= verdict.error {
                (verdict.error, verdict.block) = (error, block.name.clone());
            }
            if let Some((change, before)) = verdict.change.as_mut().zip(before) {
                *change = change.max(largest_change(block, &before[at]) / unit);
            }
        }
        verdict
    }

    /// Whether error and change are both below a share of the spectral range.
    pub fn is_enough(&self, share: f64) -> bool {
        self.error < share && self.change.is_some_and(|change| change < share)
    }
}

/// The largest of W1 and the moves of the extreme nodes.
fn largest_change(block: &BlockSpectrum, before: &BlockSpectrum) -> f64 {
    let (now, then) = (moments(block), moments(before));
    let w1 = wasserstein1(&measure(block.probes.iter()), &measure(before.probes.iter()));
    w1.max((now.lambda_min - then.lambda_min).abs()).max((now.lambda_max - then.lambda_max).abs())
}
