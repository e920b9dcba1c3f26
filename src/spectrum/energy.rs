//! The energy measure of a spectrum: every eigenvalue weighs its share of |H|_F^2, lambda^2, and lies at log10 |lambda|.
//!
//! Most eigenvalues lie near zero, where Lanczos sees little; their squares lie at the outer nodes, which it knows well. So
//! distances of energy measures are right after few steps, and in a unit that can be read: decades. They drop signs; the
//! share of energy at negative eigenvalues stands in `summary`.

use super::compare::among;
use super::divergence::{Divergence, Frame};
use super::metric::Metric;
use super::wasserstein::{Measure, Read, compare_measures, measure};
use super::{BlockSpectrum, Quadrature};
use crate::Result;

/// `wasserstein1_energy` and `wasserstein1_energy_shape`, in decades of |lambda|.
pub(super) const METRIC: Metric = Metric { name: "wasserstein1_energy", rows };

/// What a sum of shares may miss of one half and still be it.
const HALF: f64 = 1e-12;

/// Scale dominates the first; medians are aligned for the second. A zero block has neither.
fn rows(blocks: &[BlockSpectrum], _: &Frame) -> Result<Vec<Divergence>> {
    let not_zero = |block: &BlockSpectrum| (!block.is_zero()).then(|| block.clone());
    let variant =
        |metric, read: &Read| among(metric, blocks, not_zero, |blocks| Ok(compare_measures(metric, blocks, read)));
    let mut rows = variant(METRIC.name, &energy)?;
    rows.extend(variant("wasserstein1_energy_shape", &shape)?);
    Ok(rows)
}

/// (log10 |node|, share of the energy) of the probes together, ascending; empty if all energy is 0.
pub fn energy(probes: &[&Quadrature]) -> Measure {
    let all = measure(probes.iter().copied());
    let largest = all.iter().map(|(node, _)| node.abs()).fold(0.0, f64::max);
    // squares of shares of the largest: no overflow
    let square = |(node, weight): &(f64, f64)| weight * (node / largest).powi(2);
    let total: f64 = all.iter().map(square).sum();
    let held = all.iter().filter(|pair| square(pair) > 0.0);
    let mut energy: Measure = held.map(|pair| (pair.0.abs().log10(), square(pair) / total)).collect();
    energy.sort_by(|a, b| a.0.total_cmp(&b.0));
    energy
}

/// The energy measure with its median at 0.
fn shape(probes: &[&Quadrature]) -> Measure {
    let energy = energy(probes);
    let middle = median(&energy);
    energy.into_iter().map(|(x, share)| (x - middle, share)).collect()
}

/// The middle of all points that have half of the mass on either side; 0 for an empty measure.
fn median(measure: &[(f64, f64)]) -> f64 {
    let mut sum = 0.0;
    let mut reached = measure.iter().map(|(x, share)| {
        sum += share;
        (*x, sum)
    });
    let Some((lower, sum)) = reached.find(|(_, sum)| *sum >= 0.5 - HALF) else { return 0.0 };
    let upper = if sum <= 0.5 + HALF { reached.next().map_or(lower, |(x, _)| x) } else { lower };
    lower + (upper - lower) / 2.0
}

/// Share of the energy at nodes below minus the noise floor, all probes together; `None` for a zero block.
pub fn negative_energy(block: &BlockSpectrum) -> Option<f64> {
    let largest = block.largest();
    let square = |node: &super::Node| node.effective_weight() * (node.node / largest).powi(2);
    let total: f64 = block.nodes().map(square).sum();
    let below: f64 = block.nodes().filter(|node| node.node < -block.noise_floor).map(square).sum();
    (!block.is_zero()).then(|| below / total)
}
