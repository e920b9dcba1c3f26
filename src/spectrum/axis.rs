//! The common axis and kernel width on which densities are drawn and compared.

use super::{BlockSpectrum, resolution};
use crate::{Error, Result};

/// Grid points per sigma. A trapezoid sum over a Gaussian sampled this densely errs by exp(-2 pi^2 16).
const POINTS_PER_SIGMA: f64 = 4.0;
/// Largest |lambda / lambda_c|; keeps asinh finite.
const LARGEST_RATIO: f64 = 1e300;

/// The axis asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AxisChoice {
    /// asinh(lambda / lambda_c); `None`: the finest lambda_c that the blocks' [`Pieces`](super::Pieces) resolve.
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

    /// Eigenvalues per unit of the coordinate there.
    pub fn slope(&self, coordinate: f64) -> f64 {
        match self {
            Axis::Asinh { scale } => scale * coordinate.cosh(),
            Axis::Linear => 1.0,
        }
    }

    /// lambda_c; a linear axis has none.
    pub fn scale(&self) -> Option<f64> {
        match self {
            Axis::Asinh { scale } => Some(*scale),
            Axis::Linear => None,
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
    /// The kernel width as it was asked for.
    pub(super) width: Width,
    /// What a share of the axis is a share of.
    pub(super) span: Span,
}

impl View {
    /// The view of these blocks, with what was not asked for as their nodes resolve it.
    ///
    /// # Errors
    /// [`Error::Config`] for an axis or sigma that is not above 0.
    pub fn new(blocks: &[BlockSpectrum], axis: AxisChoice, sigma: Sigma) -> Result<Self> {
        let span = Span::of(blocks);
        let width = match sigma {
            Sigma::Absolute(sigma) => Width::Absolute(positive(sigma, "density.sigma.absolute")?),
            Sigma::Relative(share) => {
                let share = share.unwrap_or_else(|| default_share(blocks));
                Width::Share(positive(share, "density.sigma.relative")?)
            }
        };
        let axis = match axis {
            AxisChoice::Linear => Axis::Linear,
            AxisChoice::Asinh(Some(scale)) => Axis::Asinh { scale },
            AxisChoice::Asinh(None) => {
                let scale = resolution::finest_scale(blocks, |axis| Self::of(axis, width, span))?;
                Axis::Asinh { scale }
            }
        };
        Self::of(axis, width, span)
    }

    /// With lambda_c times `factor`; a linear axis has none.
    pub(super) fn rescaled(&self, factor: f64) -> Result<Self> {
        let axis = match self.axis {
            Axis::Linear => Axis::Linear,
            Axis::Asinh { scale } => Axis::Asinh { scale: factor * scale },
        };
        Self::of(axis, self.width, self.span)
    }

    fn of(axis: Axis, width: Width, span: Span) -> Result<Self> {
        if let Axis::Asinh { scale } = axis {
            positive(scale, "density.axis_scale")?;
        }
        let sigma = match width {
            Width::Absolute(sigma) => sigma,
            Width::Share(share) => positive(share * span.extent(axis), "the kernel's width")?,
        };
        Ok(Self { axis, sigma, step: sigma / POINTS_PER_SIGMA, width, span })
    }
}

/// A kernel width, resolved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Width {
    Share(f64),
    Absolute(f64),
}

fn positive(value: f64, key: &str) -> Result<f64> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(Error::Config(format!("{key} = {value}, expected a finite number above 0")))
}

/// Half the width at 1/9 of the height of a Gaussian is one m-th of the axis.
fn default_share(blocks: &[BlockSpectrum]) -> f64 {
    let steps = blocks.iter().flat_map(|block| &block.probes).map(|probe| probe.nodes.len()).max().unwrap_or(0);
    1.0 / (steps.max(2) - 1) as f64 / (8.0 * 3.0_f64.ln()).sqrt()
}

/// The smallest and the largest node of all blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span {
    low: f64,
    high: f64,
}

impl Span {
    fn of(blocks: &[BlockSpectrum]) -> Self {
        let nodes = blocks.iter().flat_map(BlockSpectrum::nodes).map(|n| n.node);
        let (low, high) = nodes.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
        Self { low, high }
    }

    /// Length of the axis between them; where they coincide, their distance from 0, or 1.
    fn extent(self, axis: Axis) -> f64 {
        let (low, high) = (axis.coordinate(self.low), axis.coordinate(self.high));
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
}
