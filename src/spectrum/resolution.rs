//! lambda_c of the asinh axis where none is asked for: the finest scale that the run resolves.
//!
//! Near zero an asinh axis is as fine as lambda_c, and m steps know a spectrum's bulk only so finely: below that, a density
//! shows where single nodes happened to fall, and distances follow. What is too fine shows in the run itself: densities after
//! all steps and after three quarters of them differ, and so do those of other probes. The rule: from the largest |node| down,
//! by quarter decades, lambda_c goes to the last scale (found by bisection) at which the blocks' densities agree with both within
//! [`TOLERANCE`], root mean square over the blocks of the Jensen-Shannon distance. results/resolution.md shows what it comes to
//! on known spectra.

use rayon::prelude::*;

use super::{Axis, BlockSpectrum, Comparable, JsBlock, Quadrature, View};
use crate::{Error, Result};

/// Largest disagreement.
const TOLERANCE: f64 = 0.15;
/// Scales in a decade.
const PER_DECADE: f64 = 4.0;
/// Redrawn spectra that are looked at: they differ little.
const DRAWS: usize = 2;
/// lambda_c is at least this multiple of the largest noise floor ...
const SCALE_PER_NOISE: f64 = 10.0;
/// ... and at least this share of the largest |node|.
const SCALE_PER_NODE: f64 = 1e-4;

/// lambda_c for blocks; `view` is what they look like on an axis.
pub(super) fn finest_scale(blocks: &[BlockSpectrum], view: impl Fn(Axis) -> Result<View>) -> Result<f64> {
    let noise = blocks.iter().map(|block| block.noise_floor).fold(0.0, f64::max);
    let largest = blocks.iter().map(BlockSpectrum::largest).fold(0.0, f64::max);
    let finest = (SCALE_PER_NOISE * noise).max(SCALE_PER_NODE * largest);
    if finest == 0.0 {
        return Ok(1.0);
    }
    let coarsest = largest.max(finest);
    let scale = |rung: i32| (coarsest * 10f64.powf(-f64::from(rung) / PER_DECADE)).max(finest);
    let agrees =
        |rung| Ok::<bool, Error>(disagreement(blocks, &view(Axis::Asinh { scale: scale(rung) })?) <= TOLERANCE);
    // the coarsest is taken for want of a coarser one; what is too fine once stays so below
    let (mut good, mut bad) = (0, ((coarsest / finest).log10() * PER_DECADE).ceil() as i32 + 1);
    while bad - good > 1 {
        let middle = (good + bad) / 2;
        if agrees(middle)? { good = middle } else { bad = middle }
    }
    Ok(scale(good))
}

/// Root mean square, over blocks that are not zero, of how far a block's density lies from what less information shows.
fn disagreement(blocks: &[BlockSpectrum], view: &View) -> f64 {
    let squares: Vec<f64> =
        blocks.par_iter().filter(|block| !block.is_zero()).map(|block| of_block(block, view)).collect();
    (squares.iter().sum::<f64>() / squares.len().max(1) as f64).sqrt()
}

/// Squared distances: after three quarters of the steps, and, in the mean, with redrawn weights.
fn of_block(block: &BlockSpectrum, view: &View) -> f64 {
    let ready = |probes: &Vec<Quadrature>| JsBlock::for_distance(&block.seen_by(probes), view);
    let pieces = &block.pieces;
    let steps = match &pieces.steps[..] {
        [all, shorter, ..] => ready(all).distance(&ready(shorter)).powi(2),
        _ => 0.0,
    };
    let own = JsBlock::for_distance(block, view);
    let drawn = pieces.redrawn.iter().take(DRAWS).map(|drawn| ready(drawn).distance(&own).powi(2));
    steps + drawn.sum::<f64>() / DRAWS as f64
}
