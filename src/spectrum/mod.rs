//! From T to spectra: quadrature, moments, densities, distances, and their errors.
//!
//! Owns everything that is computed after the last product with H, and can be redone with other settings
//! from the tables at no further one. Knows nothing of networks and files.

mod axis;
pub mod bootstrap;
mod compare;
mod deflate;
#[cfg(test)]
mod deflate_tests;
mod density;
#[cfg(test)]
mod distance_tests;
mod divergence;
pub mod eigen;
mod energy;
#[cfg(test)]
mod energy_tests;
#[cfg(test)]
mod error_tests;
mod js;
mod lattice;
mod metric;
mod moments;
pub mod nested;
#[cfg(test)]
mod nested_tests;
mod noise;
mod pieces;
mod quadrature;
mod reduce;
mod resolution;
mod ritz;
pub mod stats;
mod symkl;
#[cfg(test)]
mod tests;
mod trace_error;
mod wasserstein;

pub use axis::{Axis, AxisChoice, Sigma, View};
pub use compare::{Comparable, NOT_TOLD_APART, is_told_apart};
pub use deflate::{converged_eigenvectors, deflate};
pub use density::{Density, density};
pub use divergence::{DistanceSettings, Divergence, MeanDistance, divergences, divergences_in, mean_distances};
pub use energy::{energy, negative_energy};
pub use js::JsBlock;
pub use metric::{METRICS, Metric};
pub use moments::{Moments, moments};
pub use noise::{error_from_reference, error_from_two, noise_floor};
pub use pieces::{Pieces, STEPS};
pub use quadrature::{Deflated, Node, Quadrature, Weights, quadrature};
pub use reduce::reduce_variance;
pub use ritz::{Ritz, ritz};
pub use symkl::{SymKl, Workspace, symkl};
pub use trace_error::trace_error;
pub use wasserstein::{Measure, W1Block, measure, wasserstein1};

use crate::krylov::Tridiagonal;
use crate::{Error, Result};

/// The spectrum of one block, as seen by its probes.
///
/// Holds at least one probe, every probe at least one node, every number finite; made by [`BlockSpectrum::new`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct BlockSpectrum {
    /// The block's name.
    pub name: String,
    /// Dimension d of the block's Hessian.
    pub dim: usize,
    /// One quadrature per probe.
    pub probes: Vec<Quadrature>,
    /// 3 eta, absolute.
    pub noise_floor: f64,
    /// What errors and resolution are read off; empty until [`BlockSpectrum::with_pieces`].
    pub pieces: Pieces,
}

impl BlockSpectrum {
    /// Checks the promise above.
    pub fn new(name: impl Into<String>, dim: usize, probes: Vec<Quadrature>, noise_floor: f64) -> Result<Self> {
        let name = name.into();
        let complete = !probes.is_empty() && probes.iter().all(|probe| !probe.nodes.is_empty());
        let finite = |node: &Node| node.node.is_finite() && node.effective_weight().is_finite();
        if !(complete && noise_floor.is_finite() && probes.iter().all(|probe| probe.nodes.iter().all(finite))) {
            return Err(Error::Numerics(format!(
                "block `{name}`: {} probes, noise floor {noise_floor}; expected at least one probe, nodes in each, and finite numbers",
                probes.len()
            )));
        }
        Ok(Self { name, dim, probes, noise_floor, pieces: Pieces::default() })
    }

    /// Nodes and weights of a block of dimension `dim` from the Jacobi matrix of each probe, with its pieces. `shares`: of each
    /// segment in the batch; they count where segment matrices were kept.
    ///
    /// # Errors
    /// [`Error::Numerics`] for matrices that are not finite, moment identities that do not hold, and segments that do not fit.
    pub fn of(
        name: &str,
        dim: usize,
        tridiagonals: &[Tridiagonal],
        floor: f64,
        weights: Weights,
        shares: &[f64],
    ) -> Result<Self> {
        let quadratures = tridiagonals.iter().enumerate().map(|(probe, t)| quadrature(name, probe as u32, t, floor));
        let mut probes = quadratures.collect::<Result<Vec<_>>>()?;
        match weights {
            Weights::Raw => {}
            Weights::VarianceReduced => reduce_variance(&mut probes, dim, floor)?,
            Weights::Deflated => {
                probes.iter_mut().zip(tridiagonals).try_for_each(|(probe, t)| deflate(probe, t, dim, floor))?;
            }
        }
        let has_segments = tridiagonals.iter().all(|t| !t.segments.is_empty());
        Self::new(name, dim, probes, floor)?.with_pieces(tridiagonals, if has_segments { shares } else { &[] })
    }

    /// With the [`Pieces`] of the recursions that the probes were made from.
    ///
    /// # Errors
    /// Those of [`Pieces::new`].
    pub fn with_pieces(self, tridiagonals: &[Tridiagonal], shares: &[f64]) -> Result<Self> {
        Ok(Self { pieces: Pieces::new(&self, tridiagonals, shares)?, ..self })
    }

    /// The block as other probes see it; without pieces.
    pub(super) fn seen_by(&self, probes: &[Quadrature]) -> Self {
        let (name, probes, pieces) = (self.name.clone(), probes.to_vec(), Pieces::default());
        Self { name, probes, pieces, ..*self }
    }

    /// All nodes of all probes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.probes.iter().flat_map(|probe| &probe.nodes)
    }

    /// Largest |node|.
    pub fn largest(&self) -> f64 {
        self.nodes().map(|n| n.node.abs()).fold(0.0, f64::max)
    }

    /// Whether nothing rises above the noise: a key bias, for one, has an exactly zero Hessian.
    pub fn is_zero(&self) -> bool {
        self.largest() <= self.noise_floor
    }

    /// The unit of the spectrum's shape: its 10th largest |node|, mean over probes; `None` for a zero block.
    ///
    /// Only nodes above the noise count (and above rounding); with fewer than ten of them, the smallest.
    pub fn shape_scale(&self) -> Option<f64> {
        if self.is_zero() { None } else { self.scale_of(&self.probes) }
    }

    fn scale_of(&self, probes: &[Quadrature]) -> Option<f64> {
        let floor = self.noise_floor.max(ROUNDING * self.largest());
        let scales: Vec<f64> = probes.iter().filter_map(|probe| tenth_largest(probe, floor)).collect();
        if scales.is_empty() { None } else { Some(stats::mean(&scales)) }
    }

    /// The spectrum in units of its shape, and each of its pieces in its own; `None` for a zero block.
    pub(super) fn shape(&self) -> Option<Self> {
        let scale = self.shape_scale()?;
        let mut shape = self.divided_by(scale);
        for piece in shape.pieces.all_mut() {
            let own = self.scale_of(piece).unwrap_or(scale);
            piece.iter_mut().for_each(|probe| probe.divide_by(own));
        }
        Some(shape)
    }

    /// The spectrum of H / scale; pieces stay.
    pub fn divided_by(&self, scale: f64) -> Self {
        let mut scaled = self.clone();
        scaled.noise_floor /= scale;
        scaled.probes.iter_mut().for_each(|probe| probe.divide_by(scale));
        scaled
    }
}

/// Share of the largest |node| below which a node is rounding.
const ROUNDING: f64 = 1e-12;

fn tenth_largest(probe: &Quadrature, floor: f64) -> Option<f64> {
    let mut sizes: Vec<f64> = probe.nodes.iter().map(|n| n.node.abs()).filter(|size| *size > floor).collect();
    sizes.sort_by(|a, b| b.total_cmp(a));
    sizes.get(9).or(sizes.last()).copied()
}
