//! What a block's spectrum would have been after fewer steps, with other probes, and without a segment of the data: what the
//! errors of distances and the resolution of densities are read off, at no further product.

use rayon::prelude::*;

use super::bootstrap::Segmented;
use super::{BlockSpectrum, Node, Quadrature, quadrature};
use crate::Result;
use crate::krylov::Tridiagonal;
use crate::probe::{ProbeKind, probe};

/// Shares of the steps after which the recursion is looked at, all of them first.
pub const STEPS: [f64; 3] = [1.0, 0.75, 0.625];
/// Spectra with redrawn weights.
const DRAWS: u32 = 8;
/// Seed of the draws.
const SEED: u64 = 0x5ca7;

/// The same block from less or other information, each a list of its probes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pieces {
    /// After so many of the steps as [`STEPS`] says; raw weights. A recursion that broke down is exact and stays whole.
    pub steps: Vec<Vec<Quadrature>>,
    /// With weights as other probes might have seen them.
    pub redrawn: Vec<Vec<Quadrature>>,
    /// Without each segment of the batch; raw weights. Empty where no segments were kept.
    pub without_segment: Vec<Vec<Quadrature>>,
}

impl Pieces {
    /// The pieces of a block. `shares`: of each segment in the batch; empty for none.
    ///
    /// # Errors
    /// [`Error::Numerics`](crate::Error::Numerics) for matrices that are not finite, and for segments that do not fit.
    pub fn new(block: &BlockSpectrum, tridiagonals: &[Tridiagonal], shares: &[f64]) -> Result<Self> {
        let steps = STEPS.iter().map(|share| after(block, tridiagonals, *share)).collect::<Result<_>>()?;
        let redrawn = (0..DRAWS).map(|draw| redrawn(block, draw)).collect();
        let segmented =
            Segmented { name: &block.name, dim: block.dim, probes: tridiagonals, noise_floor: block.noise_floor };
        let without = |left: usize| {
            let multiplier = |at: usize| if at == left { 0.0 } else { 1.0 / (1.0 - shares[left]) };
            let multipliers: Vec<f64> = (0..shares.len()).map(multiplier).collect();
            Ok(segmented.resample(&multipliers)?.probes)
        };
        let can_go = shares.len() > 1 && shares.iter().all(|share| *share < 1.0);
        let num_segments = if can_go { shares.len() } else { 0 };
        let without_segment = (0..num_segments).into_par_iter().map(without).collect::<Result<_>>()?;
        Ok(Self { steps, redrawn, without_segment })
    }

    /// All pieces, each a list of probes.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Vec<Quadrature>> {
        self.steps.iter_mut().chain(&mut self.redrawn).chain(&mut self.without_segment)
    }
}

/// The probes after a share of their steps.
fn after(block: &BlockSpectrum, tridiagonals: &[Tridiagonal], share: f64) -> Result<Vec<Quadrature>> {
    let after = |(number, t): (usize, &Tridiagonal)| {
        let steps = if t.breakdown() { t.steps() } else { ((share * t.steps() as f64).round() as usize).max(1) };
        let shorter =
            Tridiagonal { alpha: t.alpha[..steps].to_vec(), beta: t.beta[..steps].to_vec(), ..Tridiagonal::default() };
        quadrature(&block.name, number as u32, &shorter, block.noise_floor)
    };
    tridiagonals.par_iter().enumerate().map(after).collect()
}

/// The probes with weights redrawn. d w of a node is the sum of squared components along the eigenvectors that it stands for,
/// chi-squared with as many degrees of freedom as these are; there are about d w of them. A converged node stands for at least one,
/// however little of it a probe has met.
fn redrawn(block: &BlockSpectrum, draw: u32) -> Vec<Quadrature> {
    let redraw = |(number, quadrature): (usize, &Quadrature)| {
        let name = format!("{} #{number}", block.name);
        let normal = probe(ProbeKind::Gaussian, SEED, &name, draw, 0..quadrature.nodes.len());
        let weight = |(node, z): (&Node, f64)| redrawn_weight(node, quadrature, block.dim as f64, z);
        let weights: Vec<f64> = quadrature.nodes.iter().zip(normal).map(weight).collect();
        let total: f64 = weights.iter().sum();
        let nodes = quadrature.nodes.iter().zip(weights).map(|(node, weight)| {
            let weight = if total > 0.0 { weight / total } else { node.effective_weight() };
            Node { weight, weight_reduced: None, ..*node }
        });
        Quadrature { nodes: nodes.collect(), ..quadrature.clone() }
    };
    block.probes.iter().enumerate().map(redraw).collect()
}

/// By Wilson and Hilferty's cube, which makes a standard normal z chi-squared. Of deflated weights, known ones do not scatter, and
/// others were seen by all start vectors.
fn redrawn_weight(node: &Node, quadrature: &Quadrature, dim: f64, z: f64) -> f64 {
    let weight = node.effective_weight();
    let starts = match &quadrature.deflated {
        Some(deflated) if deflated.known.contains(&node.node) => return weight,
        Some(deflated) => deflated.start_vectors as f64,
        None => 1.0,
    };
    let expected = if node.converged { weight.max(1.0 / dim) } else { weight };
    let spread = 2.0 / (9.0 * starts * (dim * expected).max(1.0));
    expected * (1.0 - spread + z * spread.sqrt()).max(0.0).powi(3)
}
