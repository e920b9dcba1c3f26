//! From two blocks to a row: value, errors, noise floor, status, for every pair of blocks.
//!
//! The error of a distance is one standard deviation, of three parts added in squares, each from the same distance between
//! [`Pieces`](super::Pieces) of the blocks. *Steps*: root mean square of what it changes by when one block, and when the other, is
//! seen after fewer steps. *Probes*: root mean square of its change when the weights of both are redrawn, times [`PROBES`]; also for
//! one probe.
//! *Data*: jackknife over the segments of the batch, left out for both blocks together, for they share them. That it covers the
//! truth as often as it should is shown by results/resolution.md.

use rayon::prelude::*;

use super::divergence::{Divergence, ZERO_BLOCK, has_word};
use super::{BlockSpectrum, Quadrature, stats};
use crate::Result;

/// Status word of a pair that may as well be equal: see [`is_told_apart`].
pub const NOT_TOLD_APART: &str = "not_told_apart";
const ADVICE: &str = "more lanczos.steps or probes may do it";

/// A block made ready for a distance.
pub trait Comparable: Send + Sync {
    /// The distance of two blocks.
    fn distance(&self, other: &Self) -> f64;
    /// Its standard error over both blocks' probes; `None` if one has one probe.
    fn sem(&self, other: &Self) -> Option<f64>;
    /// The distance to be expected from the randomness of the probes alone; `None` if one has one probe.
    fn noise_floor(&self, other: &Self) -> Option<f64>;
}

/// Calibration on results/resolution.md: a redrawn weight is a draw around what is known of it, and so, partly, is the own one.
const PROBES: f64 = 0.9;

/// One pair.
pub(super) struct Entry {
    pub value: f64,
    pub sem: Option<f64>,
    pub error: Option<f64>,
    pub noise_floor: Option<f64>,
    pub remarks: Vec<String>,
}

/// Whether a distance says that two blocks differ: it exceeds what the randomness of the probes alone would give, and by more
/// than twice its error. The one rule of tables, figures and queries.
pub fn is_told_apart(value: f64, error: f64, noise_floor: Option<f64>) -> bool {
    value - 2.0 * error > noise_floor.unwrap_or(0.0)
}

/// A block with its pieces, all made ready.
struct Ready<C> {
    own: C,
    steps: Vec<C>,
    redrawn: Vec<C>,
    without_segment: Vec<C>,
}

impl<C: Comparable> Ready<C> {
    fn new(block: &BlockSpectrum, own: impl Fn(&BlockSpectrum) -> C, piece: impl Fn(&BlockSpectrum) -> C) -> Self {
        let pieces = |of: &[Vec<Quadrature>]| of.iter().map(|probes| piece(&block.seen_by(probes))).collect();
        let found = &block.pieces;
        Self {
            own: own(block),
            steps: pieces(&found.steps),
            redrawn: pieces(&found.redrawn),
            without_segment: pieces(&found.without_segment),
        }
    }

    /// The error of a distance; `None` without pieces.
    fn error(&self, other: &Self) -> Option<f64> {
        let (first, shorter) = self.steps.split_first()?;
        let (their_first, their_shorter) = other.steps.split_first()?;
        let value = first.distance(their_first);
        let steps = root_mean_square(shorter.iter().map(|piece| piece.distance(their_first) - value))
            .hypot(root_mean_square(their_shorter.iter().map(|piece| first.distance(piece) - value)));
        let together =
            |ours: &[C], theirs: &[C]| -> Vec<f64> { ours.iter().zip(theirs).map(|(a, b)| a.distance(b)).collect() };
        let value = self.own.distance(&other.own);
        let probes = root_mean_square(together(&self.redrawn, &other.redrawn).into_iter().map(|drawn| drawn - value));
        let left_out = together(&self.without_segment, &other.without_segment);
        let data = if left_out.len() > 1 { stats::jackknife_error(&left_out) } else { 0.0 };
        Some(steps.hypot(PROBES * probes).hypot(data))
    }
}

fn root_mean_square(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.fold(0.0, |sum: f64, x| sum.hypot(x)) / count.sqrt()
}

/// The rows of a metric. `own` makes a block ready for everything, `piece` for distances alone; `remarks` says what is to be
/// known about a pair.
pub(super) fn compare<C: Comparable>(
    metric: &'static str,
    blocks: &[BlockSpectrum],
    own: impl Fn(&BlockSpectrum) -> C + Sync + Send,
    piece: impl Fn(&BlockSpectrum) -> C + Sync + Send,
    remarks: impl Fn(&C, &C) -> Vec<String> + Sync + Send,
) -> Vec<Divergence> {
    let ready: Vec<Ready<C>> = blocks.par_iter().map(|block| Ready::new(block, &own, &piece)).collect();
    pairs(
        metric,
        blocks,
        || (),
        |(), i, j| {
            let (a, b) = (&ready[i], &ready[j]);
            // a block's distance from itself is 0 whatever its probes
            let off_diagonal = |of: Option<f64>| if i == j { of.map(|_| 0.0) } else { of };
            Some(Entry {
                value: a.own.distance(&b.own),
                sem: off_diagonal(a.own.sem(&b.own)),
                error: off_diagonal(a.error(b)),
                noise_floor: a.own.noise_floor(&b.own),
                remarks: remarks(&a.own, &b.own),
            })
        },
    )
}

/// Compares what `seen` makes of the blocks; pairs with one of which it makes nothing get no value. It makes something of
/// every block but zero blocks.
pub(super) fn among(
    metric: &'static str,
    blocks: &[BlockSpectrum],
    seen: impl Fn(&BlockSpectrum) -> Option<BlockSpectrum>,
    compare: impl Fn(&[BlockSpectrum]) -> Result<Vec<Divergence>>,
) -> Result<Vec<Divergence>> {
    let seen: Vec<BlockSpectrum> = blocks.iter().filter_map(seen).collect();
    let mut compared = compare(&seen)?.into_iter();
    let mut rows = pairs(metric, blocks, || (), |(), _, _| None);
    // both lists run over pairs in the same order
    for row in rows.iter_mut().filter(|row| !has_word(row, ZERO_BLOCK)) {
        if let Some(found) = compared.next() {
            *row = found;
        }
    }
    Ok(rows)
}

/// The unordered pairs, the diagonal included, in parallel.
pub(super) fn pairs<W: Send>(
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
    let (block_a, block_b) = (a.name.clone(), b.name.clone());
    if let Some(Entry { value, error, noise_floor, remarks, .. }) = &entry {
        let is_open = |error: &f64| block_a != block_b && !is_told_apart(*value, *error, *noise_floor);
        if error.as_ref().is_some_and(is_open) {
            words.extend([NOT_TOLD_APART.into(), ADVICE.into()]);
        }
        words.extend(remarks.iter().cloned());
    }
    Divergence {
        metric,
        block_a,
        block_b,
        value: entry.as_ref().map(|entry| entry.value),
        sem: entry.as_ref().and_then(|entry| entry.sem),
        error: entry.as_ref().and_then(|entry| entry.error),
        noise_floor: entry.as_ref().and_then(|entry| entry.noise_floor),
        axis_scale: None,
        sigma: None,
        status: if words.is_empty() { "ok".into() } else { words.join("; ") },
    }
}
