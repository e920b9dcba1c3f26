//! What an analysis has found, and how it looks.

use std::fmt;
use std::ops::Index;
use std::time::Duration;

use crate::Result;
use crate::block::{Block, Layout};
use crate::hessian::{ProductError, Settings};
use crate::krylov::Tridiagonal;
use crate::spectrum::{
    AxisChoice, BlockSpectrum, Density, DistanceSettings, Divergence, Metric, Moments, Sigma, View, density,
    divergences_in, moments,
};
use crate::worker::Eigenvector;

/// Points of the grid of the paper's metric.
const GRID_POINTS: usize = 500_000;

/// What was found of one block.
#[derive(Debug, Clone)]
pub struct BlockResult {
    /// The block.
    pub block: Block,
    /// Error of its products.
    pub error: ProductError,
    /// The Jacobi matrix of each probe.
    pub tridiagonals: Vec<Tridiagonal>,
    /// Nodes and weights of each probe.
    pub spectrum: BlockSpectrum,
    /// The eigenvectors that were asked for and have converged, by magnitude of the eigenvalue; on the first rank.
    pub eigenvectors: Vec<Eigenpair>,
}

impl BlockResult {
    /// Trace, Frobenius norm, extreme eigenvalues and negative mass, with their errors.
    pub fn moments(&self) -> Moments {
        moments(&self.spectrum)
    }
}

/// An eigenvalue with its vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Eigenpair {
    /// The Ritz value.
    pub eigenvalue: f64,
    /// There is an eigenvalue at most so far from it.
    pub residual_bound: f64,
    /// Estimate of the sine of the angle to the eigenvector ([`Ritz::angle`](crate::spectrum::Ritz)).
    pub angle: f64,
    /// |cosine| of the angle to the gradient of the block; `None` where that is zero.
    pub gradient_overlap: Option<f64>,
    /// Share of the vector's squared norm in each parameter, by name.
    pub mass: Vec<(String, f64)>,
    /// Its entries, in the block's flat order ([`Block::scatter`] gives them by parameter), of norm 1.
    pub vector: Vec<f64>,
}

impl Eigenpair {
    pub(super) fn new(layout: &Layout, found: &Eigenvector, vector: Vec<f64>) -> Self {
        let name = |parameter: usize| layout.parameters()[parameter].name.clone();
        Self {
            eigenvalue: found.eigenvalue,
            residual_bound: found.residual_bound,
            angle: found.angle,
            gradient_overlap: found.gradient_overlap,
            mass: found.mass.iter().map(|(parameter, mass)| (name(*parameter), *mass)).collect(),
            vector,
        }
    }
}

/// What was found. Its Display is a table of the blocks.
#[derive(Debug, Clone)]
pub struct Curvature {
    pub(super) layout: Layout,
    pub(super) blocks: Vec<BlockResult>,
    /// What was asked for.
    pub(super) settings: Settings,
    /// Ranks that computed it, and how long it took them.
    pub(super) ranks: usize,
    pub(super) took: Duration,
}

/// How blocks are compared where nothing else is asked for.
pub(super) fn distances(metrics: Vec<Metric>) -> DistanceSettings {
    let (axis, sigma) = (AxisChoice::Asinh(None), Sigma::Relative(None));
    DistanceSettings { metrics, axis, sigma, grid_points: GRID_POINTS }
}

impl Curvature {
    /// The blocks, in the order in which they were asked for.
    pub fn blocks(&self) -> &[BlockResult] {
        &self.blocks
    }

    /// A block by its name; `None` if it was not asked for.
    pub fn get(&self, name: &str) -> Option<&BlockResult> {
        self.blocks().iter().find(|block| block.block.name == name)
    }

    /// The parameters.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What was asked for.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Ranks that computed it, and how long it took them.
    pub fn took(&self) -> (usize, Duration) {
        (self.ranks, self.took)
    }

    /// Density of every block on one axis for all of them: asinh(lambda / lambda_c), or linear.
    ///
    /// # Errors
    /// [`Error::Numerics`](crate::Error::Numerics) for spectra that no axis holds.
    pub fn densities(&self, axis: AxisChoice, sigma: Sigma) -> Result<Vec<Density>> {
        let spectra: Vec<BlockSpectrum> = self.blocks().iter().map(|block| block.spectrum.clone()).collect();
        let view = View::new(&spectra, axis, sigma)?;
        Ok(spectra.iter().map(|spectrum| density(spectrum, &view)).collect())
    }

    /// Distances between all pairs of blocks but the whole network, in a metric and the ones that come with it, on one axis for all
    /// blocks.
    ///
    /// # Errors
    /// [`Error::Numerics`](crate::Error::Numerics) for spectra that no axis holds.
    pub fn distances(&self, metric: Metric) -> Result<Vec<Divergence>> {
        let settings = distances(vec![metric]);
        let all: Vec<BlockSpectrum> = self.blocks().iter().map(|block| block.spectrum.clone()).collect();
        let view = View::new(&all, settings.axis, settings.sigma)?;
        let is_part = |(block, _): &(&BlockResult, BlockSpectrum)| !block.block.is_full();
        let parts: Vec<_> = self.blocks().iter().zip(all).filter(is_part).map(|(_, spectrum)| spectrum).collect();
        divergences_in(&view, &parts, &settings)
    }
}

/// The block of this name.
///
/// # Panics
/// If it was not asked for; see [`Curvature::get`].
impl Index<&str> for Curvature {
    type Output = BlockResult;

    fn index(&self, name: &str) -> &BlockResult {
        let known = || self.blocks().iter().map(|block| block.block.name.as_str()).collect::<Vec<_>>().join(", ");
        self.get(name).unwrap_or_else(|| panic!("there is no block `{name}`; there are {}", known()))
    }
}

impl fmt::Display for Curvature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.blocks().iter().map(|block| block.block.name.chars().count()).max().unwrap_or(0).max(5);
        let [name, dim] = ["block", "dimension"];
        writeln!(
            f,
            "{name:<width$} {dim:>10} {:>11} {:>9} {:>11} {:>11} {:>11}  negative",
            "trace", "+-", "|H|_F", "min", "max"
        )?;
        for block in self.blocks() {
            let Moments { trace, trace_sem, frobenius, lambda_min, lambda_max, negative_mass, .. } = block.moments();
            let (name, dim) = (&block.block.name, block.spectrum.dim);
            write!(f, "{name:<width$} {dim:>10} {trace:>11.3e} {trace_sem:>9.1e} {frobenius:>11.3e}")?;
            write!(f, " {lambda_min:>11.3e} {lambda_max:>11.3e} {:>7.2} %", 100.0 * negative_mass)?;
            let zero = if block.spectrum.is_zero() { "  zero to the accuracy of the products" } else { "" };
            writeln!(f, "{zero}")?;
        }
        Ok(())
    }
}
