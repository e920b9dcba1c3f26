//! One line of results per block: trace, Frobenius norm, extreme eigenvalues, negative mass.

use super::stats::{jackknife, mean};
use super::{BlockSpectrum, Node, trace_error};

/// What `moments` finds.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// tr H = d mean(alpha_1).
    pub trace: f64,
    /// Standard error of the trace from the randomness of the probes ([`trace_error`]), also for one.
    pub trace_sem: f64,
    /// |H|_F = sqrt(d mean(alpha_1^2 + beta_2^2)).
    pub frobenius: f64,
    /// Standard error of the Frobenius norm over probes (leave-one-out, times Student's t); `None` for one probe.
    pub frobenius_sem: Option<f64>,
    /// Smallest node of all probes.
    pub lambda_min: f64,
    /// How far an eigenvalue may be from it: its residual bound, or the noise floor where that is larger.
    pub lambda_min_residual: f64,
    /// Largest node of all probes.
    pub lambda_max: f64,
    /// How far an eigenvalue may be from it: its residual bound, or the noise floor where that is larger.
    pub lambda_max_residual: f64,
    /// Share of eigenvalues below minus the noise floor, mean over probes. (Within it a sign means nothing.)
    pub negative_mass: f64,
    /// 3 eta.
    pub noise_floor: f64,
}

/// The moments of a block's spectrum.
pub fn moments(block: &BlockSpectrum) -> Moments {
    let dim = block.dim as f64;
    let traces: Vec<f64> = block.probes.iter().map(|probe| dim * probe.first_moment).collect();
    let squares: Vec<f64> = block.probes.iter().map(|probe| dim * probe.second_moment).collect();
    let without = |values: &[f64], left_out: usize| {
        let sum: f64 = values.iter().enumerate().filter(|(i, _)| *i != left_out).map(|(_, x)| x).sum();
        sum / (values.len() - 1) as f64
    };
    let (min, max) = extremes(block);
    Moments {
        trace: mean(&traces),
        trace_sem: trace_error(block),
        frobenius: mean(&squares).sqrt(),
        frobenius_sem: jackknife(squares.len(), |i| without(&squares, i).sqrt()),
        lambda_min: min.node,
        lambda_min_residual: min.residual_bound.max(block.noise_floor),
        lambda_max: max.node,
        lambda_max_residual: max.residual_bound.max(block.noise_floor),
        negative_mass: mean(&block.probes.iter().map(|p| negative(&p.nodes, block.noise_floor)).collect::<Vec<_>>()),
        noise_floor: block.noise_floor,
    }
}

fn negative(nodes: &[Node], noise_floor: f64) -> f64 {
    nodes.iter().filter(|n| n.node < -noise_floor).map(Node::effective_weight).sum()
}

/// The smallest and the largest node. A [`BlockSpectrum`] has at least one.
fn extremes(block: &BlockSpectrum) -> (Node, Node) {
    let first = block.probes[0].nodes[0];
    block.nodes().fold((first, first), |(min, max), node| {
        (if node.node < min.node { *node } else { min }, if node.node > max.node { *node } else { max })
    })
}
