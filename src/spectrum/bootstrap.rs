//! How much the *data* matter: errors of nodes, densities and distances from segments, at no further product
//! with H.
//!
//! Lanczos recorded P_s = V^T H_s V for each segment s of the batch, sum_s P_s = T. A resampled batch has
//! T* = sum_s x_s P_s, x_s = c_s / sum_r c_r pi_r, where c_s counts how often segment s was drawn and pi_s is
//! its share of the batch (tokens). The Lanczos basis is kept, so T* is H* seen in the Krylov space of H:
//! first order in the difference, which is what a standard error is. Raw weights throughout.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

use super::quadrature::nodes;
use super::{BlockSpectrum, Quadrature, View, eigen, stats};
use crate::krylov::{Tridiagonal, packed};
use crate::{Error, Result};

/// One block's tridiagonalisations with their segments.
#[derive(Debug, Clone, Copy)]
pub struct Segmented<'a> {
    /// The block's name.
    pub name: &'a str,
    /// Dimension of its Hessian.
    pub dim: usize,
    /// One per probe, each with the same number of segments.
    pub probes: &'a [Tridiagonal],
    /// 3 eta.
    pub noise_floor: f64,
}

impl Segmented<'_> {
    /// The block's spectrum had the data been resampled with multipliers x_s (all 1: the run itself).
    pub fn resample(&self, multipliers: &[f64]) -> Result<BlockSpectrum> {
        let probe = |t: &Tridiagonal| {
            check(self.name, t, multipliers)?;
            let eigen = eigen::packed_symmetric(t.steps(), &combine(&t.segments, multipliers))?;
            let nodes = nodes(&eigen, t.residual_norm(), self.noise_floor);
            let moment = |power| nodes.iter().map(|n| n.weight * n.node.powi(power)).sum();
            let (first_moment, second_moment, exact) = (moment(1), moment(2), t.breakdown());
            Ok(Quadrature { first_moment, second_moment, exact, deflated: None, is_refused: false, nodes })
        };
        let probes = self.probes.iter().map(probe).collect::<Result<Vec<_>>>()?;
        BlockSpectrum::new(self.name, self.dim, probes, self.noise_floor)
    }
}

fn check(name: &str, t: &Tridiagonal, multipliers: &[f64]) -> Result<()> {
    let entries = packed(t.steps(), 0);
    if t.segments.len() == multipliers.len() && t.segments.iter().all(|segment| segment.len() == entries) {
        return Ok(());
    }
    let found: Vec<usize> = t.segments.iter().map(Vec::len).collect();
    let expected = multipliers.len();
    Err(Error::Numerics(format!(
        "block `{name}`: segment matrices of {found:?} entries, expected {expected} of {entries}"
    )))
}

/// sum_s x_s P_s, packed.
fn combine(segments: &[Vec<f64>], multipliers: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; segments.first().map_or(0, Vec::len)];
    for (segment, factor) in segments.iter().zip(multipliers) {
        sum.iter_mut().zip(segment).for_each(|(sum, x)| *sum += factor * x);
    }
    sum
}

/// The multipliers x_s of one draw: segments drawn with replacement, as many as there are. A pure function
/// of its arguments; use the same draw for all blocks and probes, for they share the data.
pub fn multipliers(seed: u64, draw: u64, shares: &[f64]) -> Vec<f64> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(draw);
    let mut counts = vec![0.0; shares.len()];
    for _ in shares {
        // the bias of taking a 64-bit number modulo a few segments is below 2^-50
        counts[(generator.next_u64() % shares.len() as u64) as usize] += 1.0;
    }
    let total: f64 = counts.iter().zip(shares).map(|(count, share)| count * share).sum();
    counts.iter().map(|count| count / total).collect()
}

/// A vector of statistics for every draw, in the order of the draws; called with their multipliers, in parallel.
pub fn resampled(
    seed: u64,
    draws: u64,
    shares: &[f64],
    statistics: impl Fn(&[f64]) -> Result<Vec<f64>> + Sync,
) -> Result<Vec<Vec<f64>>> {
    (0..draws).into_par_iter().map(|draw| statistics(&multipliers(seed, draw, shares))).collect()
}

/// Bootstrap standard errors of a vector of statistics, which is called with the multipliers of each draw.
/// `None` for fewer than two segments or draws.
pub fn standard_errors(
    seed: u64,
    draws: u64,
    shares: &[f64],
    statistics: impl Fn(&[f64]) -> Result<Vec<f64>> + Sync,
) -> Result<Option<Vec<f64>>> {
    if shares.len() < 2 || draws < 2 {
        return Ok(None);
    }
    let values = resampled(seed, draws, shares, statistics)?;
    let of_column = |i: usize| stats::standard_deviation(&values.iter().map(|row| row[i]).collect::<Vec<_>>());
    Ok((0..values[0].len()).map(of_column).collect())
}

/// Bootstrap standard errors of a block's density at `coordinates`.
pub fn density_errors(
    block: Segmented,
    view: &View,
    coordinates: &[f64],
    seed: u64,
    draws: u64,
    shares: &[f64],
) -> Result<Option<Vec<f64>>> {
    standard_errors(seed, draws, shares, |x| Ok(super::density::density_at(&block.resample(x)?, view, coordinates)))
}

/// Bootstrap standard error of a distance between two blocks, which share the data.
pub fn distance_error(
    (a, b): (Segmented, Segmented),
    seed: u64,
    draws: u64,
    shares: &[f64],
    distance: impl Fn(&BlockSpectrum, &BlockSpectrum) -> f64 + Sync,
) -> Result<Option<f64>> {
    let statistics = |x: &[f64]| Ok(vec![distance(&a.resample(x)?, &b.resample(x)?)]);
    Ok(standard_errors(seed, draws, shares, statistics)?.and_then(|errors| errors.first().copied()))
}

/// Standard errors of the nodes to first order. With S segments, y_s = s_i^T P_s s_i and node = sum_s y_s, the
/// estimator is a ratio of sums (of y_s and of pi_s), so
/// var(node) = S / (S - 1) sum_s (y_s - pi_s node)^2. `None` for fewer than two segments.
pub fn node_errors(block: &str, t: &Tridiagonal, shares: &[f64]) -> Result<Option<Vec<f64>>> {
    check(block, t, shares)?;
    if shares.len() < 2 {
        return Ok(None);
    }
    let eigen = eigen::tridiagonal(t)?;
    let correction = shares.len() as f64 / (shares.len() - 1) as f64;
    let of_node = |i: usize| {
        let component = |k: usize| eigen.vectors[(k, i)];
        let residual = |(segment, share): (&Vec<f64>, &f64)| {
            quadratic_form(segment, component, t.steps()) - share * eigen.values[i]
        };
        (correction * t.segments.iter().zip(shares).map(|pair| residual(pair).powi(2)).sum::<f64>()).sqrt()
    };
    Ok(Some((0..t.steps()).map(of_node).collect()))
}

/// s^T P s from the packed lower triangle of P.
fn quadratic_form(lower: &[f64], s: impl Fn(usize) -> f64, dim: usize) -> f64 {
    let row = |i: usize| {
        let below: f64 = (0..i).map(|j| lower[packed(i, j)] * s(j)).sum();
        s(i) * (2.0 * below + lower[packed(i, i)] * s(i))
    };
    (0..dim).map(row).sum()
}
