//! Variance-reduced weights (Bhattacharjee et al. 2024): the weight of a converged, *simple* eigenvalue is
//! known to be 1/d, so the random one is replaced.
//!
//! Lanczos sees a multiple eigenvalue once, with the weight of the whole eigenspace, and 1/d would then be
//! wrong. For a simple eigenvalue d w is chi-squared with one degree of freedom (Gaussian probes; nearly so
//! for others), which the sum over the probes that found it is tested against. (Multiplicities of two or
//! three cannot be told from one with a few probes.)

use statrs::distribution::{ChiSquared, ContinuousCDF};

use super::{Node, Quadrature};
use crate::{Error, Result};

/// (a) The residual bound must be below this share of the distance to the nearest neighbour. (It is a bound
/// only down to the product's own error: past convergence an eigenspace of several dimensions shows copies of
/// its eigenvalue, that far apart, each with a residual bound of next to nothing. So neighbours closer than
/// rounding allows to tell, or than the noise floor, fail (a) too.)
const CONVERGED_SHARE: f64 = 1e-3;
/// (b) The node must exceed the noise floor by this factor.
pub(super) const NOISE_FACTOR: f64 = 10.0;
/// (c) d w must lie below this quantile of chi-squared.
pub(super) const QUANTILE: f64 = 0.999;
/// Rounding of a node, as a share of the largest |node|.
const ROUNDING: f64 = 1e-12;

/// Fills `weight_reduced` of every node of a block of dimension `dim`; raw weights stay beside it.
///
/// After a breakdown the quadrature is exact and the reduced weights equal the raw ones.
pub fn reduce_variance(probes: &mut [Quadrature], dim: usize, noise_floor: f64) -> Result<()> {
    let found: Vec<Vec<bool>> = probes.iter().map(|probe| converged(probe, noise_floor)).collect();
    let simple: Vec<Vec<bool>> = (0..probes.len())
        .map(|probe| {
            let is_simple = |node| simple(probes, &found, (probe, node), dim, noise_floor);
            (0..found[probe].len()).map(is_simple).collect::<Result<_>>()
        })
        .collect::<Result<_>>()?;
    for (probe, simple) in probes.iter_mut().zip(simple) {
        replace(probe, &simple, dim);
    }
    Ok(())
}

/// The residual bound, or rounding where that is larger.
fn bound(node: &Node, probe: &Quadrature) -> f64 {
    let largest = probe.nodes.iter().map(|n| n.node.abs()).fold(0.0, f64::max);
    node.residual_bound.max(ROUNDING * largest)
}

/// Conditions (a) and (b).
pub(super) fn converged(probe: &Quadrature, noise_floor: f64) -> Vec<bool> {
    let nodes = &probe.nodes;
    let gap = |i: usize| {
        let left = if i > 0 { nodes[i].node - nodes[i - 1].node } else { f64::INFINITY };
        let right = nodes.get(i + 1).map_or(f64::INFINITY, |next| next.node - nodes[i].node);
        // a lone node has no neighbour to measure its bound by
        if nodes.len() == 1 { 0.0 } else { left.min(right) }
    };
    let is_converged = |i: usize| {
        let apart = bound(&nodes[i], probe) < CONVERGED_SHARE * gap(i) && gap(i) > noise_floor;
        apart && nodes[i].node.abs() > NOISE_FACTOR * noise_floor
    };
    (0..nodes.len()).map(is_converged).collect()
}

/// Condition (c), for a node that meets (a) and (b).
pub(super) fn simple(
    probes: &[Quadrature],
    found: &[Vec<bool>],
    (probe, node): (usize, usize),
    dim: usize,
    noise_floor: f64,
) -> Result<bool> {
    if !found[probe][node] {
        return Ok(false);
    }
    let this = &probes[probe].nodes[node];
    let here = bound(this, &probes[probe]) + noise_floor;
    let distance = |n: &Node| (n.node - this.node).abs();
    let in_probe = |(other, found): (&Quadrature, &Vec<bool>)| {
        let candidates = other.nodes.iter().zip(found).filter(|(_, found)| **found).map(|(n, _)| *n);
        let same = candidates.filter(|n| distance(n) <= here + bound(n, other));
        same.min_by(|a, b| distance(a).total_cmp(&distance(b))).map(|n| n.weight)
    };
    let weights: Vec<f64> = probes.iter().zip(found).filter_map(in_probe).collect();
    let statistic = dim as f64 * weights.iter().sum::<f64>();
    let chi_squared = ChiSquared::new(weights.len() as f64)
        .map_err(|error| Error::Numerics(format!("chi-squared with {} degrees: {error}", weights.len())))?;
    Ok(statistic < chi_squared.inverse_cdf(QUANTILE))
}

/// 1/d for simple eigenvalues; the others are scaled so that the sum stays 1.
fn replace(probe: &mut Quadrature, simple: &[bool], dim: usize) {
    let share = 1.0 / dim as f64;
    let num_simple = simple.iter().filter(|simple| **simple).count();
    let rest: f64 = probe.nodes.iter().zip(simple).filter(|(_, simple)| !**simple).map(|(n, _)| n.weight).sum();
    let keep = probe.exact || probe.nodes.len() >= dim || rest <= 0.0;
    let factor = (1.0 - share * num_simple as f64) / rest;
    for (node, simple) in probe.nodes.iter_mut().zip(simple) {
        node.weight_reduced = Some(match (keep, simple) {
            (true, _) => node.weight,
            (false, true) => share,
            (false, false) => node.weight * factor,
        });
    }
}
