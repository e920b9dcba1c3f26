//! The common axis and kernel width on which densities are drawn and compared.

use super::BlockSpectrum;
use crate::{Error, Result};

/// Grid points per sigma. A trapezoid sum over a Gaussian sampled this densely errs by exp(-2 pi^2 16).
const POINTS_PER_SIGMA: f64 = 4.0;
/// lambda_c is at least this multiple of the largest noise floor ...
const SCALE_PER_NOISE: f64 = 10.0;
/// ... and at least this share of the largest |node|.
const SCALE_PER_NODE: f64 = 1e-4;
/// Largest |lambda / lambda_c|; keeps asinh finite.
const LARGEST_RATIO: f64 = 1e300;

/// The axis asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AxisChoice {
    /// asinh(lambda / lambda_c); lambda_c from the run if `None`.
    Asinh(Option<f64>),
    /// lambda itself.
    Linear,
}

/// The kernel width asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sigma {
    /// Share of the common axis in its own coordinate; `None`: 1/(m - 1)/sqrt(8 ln 3).
    Relative(Option<f64>),
    /// In units of the coordinate (the paper's code: sqrt(1e-5) on the linear axis).
    Absolute(f64),
}

/// A coordinate for eigenvalues.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Axis {
    /// asinh(lambda / scale): linear below `scale`, logarithmic above, both signs.
    Asinh {
        /// lambda_c.
        scale: f64,
    },
    /// lambda itself.
    Linear,
}

impl Axis {
    /// Coordinate of an eigenvalue.
    pub fn coordinate(&self, eigenvalue: f64) -> f64 {
        match self {
            Axis::Asinh { scale } => (eigenvalue / scale).clamp(-LARGEST_RATIO, LARGEST_RATIO).asinh(),
            Axis::Linear => eigenvalue,
        }
    }

    /// Eigenvalue at a coordinate.
    pub fn eigenvalue(&self, coordinate: f64) -> f64 {
        match self {
            Axis::Asinh { scale } => scale * coordinate.sinh(),
            Axis::Linear => coordinate,
        }
    }

    /// Its name in the tables.
    pub fn name(&self) -> &'static str {
        match self {
            Axis::Asinh { .. } => "asinh",
            Axis::Linear => "linear",
        }
    }
}

/// One axis, sigma and grid step for all blocks of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    /// The coordinate.
    pub axis: Axis,
    /// Standard deviation of the Gaussian kernel, in units of the coordinate.
    pub sigma: f64,
    /// Grid step near nodes, in units of the coordinate: sigma / 4.
    pub step: f64,
}

impl View {
    /// The view of these blocks with the defaults of the run filled in.
    pub fn new(blocks: &[BlockSpectrum], axis: AxisChoice, sigma: Sigma) -> Result<Self> {
        Self::rescaled(blocks, axis, sigma, 1.0)
    }

    /// A view of the blocks with lambda_c times `factor`.
    pub fn rescaled(blocks: &[BlockSpectrum], axis: AxisChoice, sigma: Sigma, factor: f64) -> Result<Self> {
        let axis = match axis {
            AxisChoice::Linear => Axis::Linear,
            AxisChoice::Asinh(scale) => {
                let scale = factor * scale.unwrap_or_else(|| default_scale(blocks));
                Axis::Asinh { scale: positive(scale, "density.axis_scale")? }
            }
        };
        let sigma = match sigma {
            Sigma::Absolute(sigma) => positive(sigma, "density.sigma.absolute")?,
            Sigma::Relative(share) => {
                let share = share.unwrap_or_else(|| default_share(blocks));
                positive(share, "density.sigma.relative")? * extent(blocks, axis)
            }
        };
        Ok(Self { axis, sigma, step: sigma / POINTS_PER_SIGMA })
    }
}

fn positive(value: f64, key: &str) -> Result<f64> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(Error::Config(format!("{key} = {value}, expected a finite number above 0")))
}

fn default_scale(blocks: &[BlockSpectrum]) -> f64 {
    let noise = blocks.iter().map(|block| block.noise_floor).fold(0.0, f64::max);
    let largest = blocks.iter().map(BlockSpectrum::largest).fold(0.0, f64::max);
    let scale = (SCALE_PER_NOISE * noise).max(SCALE_PER_NODE * largest);
    if scale > 0.0 { scale } else { 1.0 }
}

/// Half the width at 1/9 of the height of a Gaussian is one m-th of the axis.
fn default_share(blocks: &[BlockSpectrum]) -> f64 {
    let steps = blocks.iter().flat_map(|block| &block.probes).map(|probe| probe.nodes.len()).max().unwrap_or(0);
    1.0 / (steps.max(2) - 1) as f64 / (8.0 * 3.0_f64.ln()).sqrt()
}

/// Length of the axis that the nodes span; where they all coincide, their distance from 0, or 1.
fn extent(blocks: &[BlockSpectrum], axis: Axis) -> f64 {
    let coordinates = || blocks.iter().flat_map(BlockSpectrum::nodes).map(|n| axis.coordinate(n.node));
    let (low, high) = coordinates().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
    // halves, so that two nodes at the ends of f64's range do not overflow
    let length = 2.0 * (high / 2.0 - low / 2.0).min(f64::MAX / 4.0);
    let size = low.abs().max(high.abs());
    if length > f64::EPSILON * size {
        length
    } else if size > 0.0 && size.is_finite() {
        size
    } else {
        1.0
    }
}
