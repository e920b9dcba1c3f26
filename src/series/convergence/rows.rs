//! The rows of a study: what changed between its batches.

use super::{batch_config, resampling};
use crate::Result;
use crate::block::FULL;
use crate::config::{Config, Convergence};
use crate::output::{ConvergencePairRow, ConvergenceRow, Tables};
use crate::series::finished::Finished;
use crate::spectrum::nested::{BlockErrors, DataErrors, PairErrors, Seen, data_errors, noise_share};
use crate::spectrum::{BlockSpectrum, View, Weights, moments};
use crate::tables::axis_and_sigma;

/// Compares every batch with the one before and with the largest, on one axis for all. Segment matrices are read again,
/// one batch at a time.
pub fn comparison(config: &Config, study: &Convergence, batches: &[Finished], remark: Option<&str>) -> Result<Tables> {
    let all: Vec<BlockSpectrum> = batches.iter().flat_map(|batch| batch.spectra.iter().cloned()).collect();
    let (axis, sigma) = axis_and_sigma(config);
    let view = View::new(&all, axis, sigma)?;
    let seen: Vec<Vec<Seen>> =
        batches.iter().map(|batch| batch.spectra.iter().map(|block| Seen::new(block, Some(&view))).collect()).collect();
    let mut tables = Tables::default();
    for (at, batch) in batches.iter().enumerate() {
        let full = Finished::read(&batch_config(config, study, batch.tokens), Weights::Raw)?;
        let pairs = pairs(batch);
        let errors = data_errors(&full.segmented(), Some(&view), &pairs, resampling(config, study, batch))?;
        let DataErrors { blocks, pairs: of_pairs } = errors;
        for (block, errors) in blocks.into_iter().enumerate() {
            let to = |other: Option<usize>| other.map(|other| Change::new(&seen[at][block], &seen[other][block]));
            let last = batches.len() - 1;
            let changes = (to(at.checked_sub(1)), to((at < last).then_some(last)));
            let noise = at.checked_sub(1).and_then(|before| noise(&batches[before], batch, block));
            let row = row(batch, &batch.spectra[block], errors, changes, remark);
            tables.convergence.push(ConvergenceRow { noise_share: noise, ..row });
        }
        let pair_rows = pairs.into_iter().zip(of_pairs);
        tables.convergence_pairs.extend(pair_rows.map(|((a, b), errors)| pair_row(batch, &seen[at], (a, b), errors)));
    }
    Ok(tables)
}

/// Share of sampling noise in a block's squared Frobenius norm; none where all of that is rounding.
fn noise(before: &Finished, batch: &Finished, block: usize) -> Option<f64> {
    if batch.spectra[block].is_zero() {
        return None;
    }
    let frobenius = |batch: &Finished| moments(&batch.spectra[block]).frobenius;
    noise_share(frobenius(batch), frobenius(before), batch.tokens as f64 / before.tokens as f64)
}

/// How far two spectra of a block lie apart.
struct Change {
    w1: f64,
    js: f64,
}

impl Change {
    fn new(a: &Seen, b: &Seen) -> Self {
        Self { w1: a.w1(b), js: a.js(b) }
    }
}

/// Unordered pairs of different blocks, the whole network left out.
fn pairs(batch: &Finished) -> Vec<(usize, usize)> {
    let parts: Vec<usize> = (0..batch.blocks.len()).filter(|at| batch.blocks[*at].kind != FULL).collect();
    parts.iter().enumerate().flat_map(|(at, a)| parts[at + 1..].iter().map(move |b| (*a, *b))).collect()
}

fn row(
    batch: &Finished,
    spectrum: &BlockSpectrum,
    errors: BlockErrors,
    (previous, largest): (Option<Change>, Option<Change>),
    remark: Option<&str>,
) -> ConvergenceRow {
    let found = moments(spectrum);
    let zero = spectrum.is_zero().then_some("zero_block; every |node| is below the noise floor");
    ConvergenceRow {
        block: spectrum.name.clone(),
        tokens: batch.tokens as i64,
        batch: batch.run.clone(),
        segments: batch.shares.len() as i32,
        w1_previous: previous.as_ref().map(|change| change.w1),
        w1_largest: largest.as_ref().map(|change| change.w1),
        w1_error: errors.w1,
        js_previous: previous.map(|change| change.js),
        js_largest: largest.map(|change| change.js),
        js_error: errors.js,
        trace: found.trace,
        trace_error: errors.trace,
        frobenius: found.frobenius,
        frobenius_error: errors.frobenius,
        noise_share: None,
        lambda_min: found.lambda_min,
        lambda_min_error: errors.lambda_min.max(spectrum.noise_floor),
        lambda_max: found.lambda_max,
        lambda_max_error: errors.lambda_max.max(spectrum.noise_floor),
        status: zero.or(remark).unwrap_or("ok").into(),
    }
}

fn pair_row(batch: &Finished, seen: &[Seen], (a, b): (usize, usize), errors: PairErrors) -> ConvergencePairRow {
    ConvergencePairRow {
        block_a: batch.spectra[a].name.clone(),
        block_b: batch.spectra[b].name.clone(),
        tokens: batch.tokens as i64,
        js: seen[a].js(&seen[b]),
        js_error: errors.js,
        wasserstein1: seen[a].w1(&seen[b]),
        wasserstein1_error: errors.w1,
    }
}
