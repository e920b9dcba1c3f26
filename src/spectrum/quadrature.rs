//! From T to quadrature nodes and weights: the spectral measure of one (block, probe).

use serde::{Deserialize, Serialize};

use super::eigen::{self, Eigen};
use crate::krylov::Tridiagonal;
use crate::{Error, Result};

/// A node counts as converged if its residual bound is at most this share of the spectral range.
const CONVERGED: f64 = 1e-6;
/// Largest violation of a moment identity, relative to |T| (or |T|^2), per sqrt(m): rounding of a backward
/// stable solver is four orders below.
const IDENTITY_TOLERANCE: f64 = 1e-11;

/// Which weights densities, distances and moments use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// Squared first components of T's eigenvectors.
    #[default]
    Raw,
    /// 1/d for converged simple eigenvalues (see [`reduce_variance`](super::reduce_variance)).
    VarianceReduced,
    /// 1/d for converged eigenvalues, and the rest as short recursions in the complement see it (see [`deflate`](super::deflate())).
    Deflated,
}

/// One quadrature node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Node {
    /// Eigenvalue of T (a Ritz value).
    pub node: f64,
    /// Squared first component of its eigenvector.
    pub weight: f64,
    /// The variance-reduced or deflated weight, where asked for (see `reduce`, `deflate`).
    pub weight_reduced: Option<f64>,
    /// beta_{m+1} |s_m|: an eigenvalue of H lies within this distance.
    pub residual_bound: f64,
    /// The residual bound is at most 1e-6 of the spectral range.
    pub converged: bool,
    /// |node| is below 3 eta: its sign and size mean nothing.
    pub below_noise_floor: bool,
}

impl Node {
    /// The reduced weight where there is one, else the raw one.
    pub fn effective_weight(&self) -> f64 {
        self.weight_reduced.unwrap_or(self.weight)
    }
}

/// Nodes and moments of one (block, probe).
#[derive(Debug, Clone, PartialEq)]
pub struct Quadrature {
    /// In ascending order of `node`.
    pub nodes: Vec<Node>,
    /// v . H v = alpha_1; deflated: tr H / d as all start vectors see it.
    pub first_moment: f64,
    /// |H v|^2 = alpha_1^2 + beta_2^2, also for m = 1; deflated: tr H^2 / d as all start vectors see it.
    pub second_moment: f64,
    /// Whether Lanczos ended in a breakdown: the quadrature is exact.
    pub exact: bool,
    /// What deflated moments are made of; `None` for others.
    pub deflated: Option<Deflated>,
    /// Whether deflated weights were asked for and contradicted what was measured: the weights are the long recursion's own.
    pub is_refused: bool,
}

impl Quadrature {
    /// Makes it that of H / scale.
    pub(super) fn divide_by(&mut self, scale: f64) {
        self.first_moment /= scale;
        self.second_moment /= scale * scale;
        self.deflated.iter_mut().flat_map(|deflated| &mut deflated.known).for_each(|known| *known /= scale);
        for node in &mut self.nodes {
            node.node /= scale;
            node.residual_bound /= scale;
        }
    }
}

/// The parts of deflated moments.
#[derive(Debug, Clone, PartialEq)]
pub struct Deflated {
    /// The eigenvalues that are exact in them, each once.
    pub known: Vec<f64>,
    /// Start vectors that see the rest: the probe, and one for each short recursion.
    pub start_vectors: usize,
}

/// Nodes and weights from T.
///
/// `noise_floor` is 3 eta. Errors name `block` and `probe`: T not finite, or a moment identity that does not hold.
pub fn quadrature(block: &str, probe: u32, t: &Tridiagonal, noise_floor: f64) -> Result<Quadrature> {
    let named = |error: Error| Error::Numerics(format!("block `{block}`, probe {probe}: {error}"));
    let nodes = nodes(&eigen::tridiagonal(t).map_err(named)?, t.residual_norm(), noise_floor);
    check_identities(&nodes, t).map_err(named)?;
    Ok(Quadrature {
        nodes,
        first_moment: t.alpha[0],
        second_moment: t.alpha[0].powi(2) + t.beta[0].powi(2),
        exact: t.breakdown(),
        deflated: None,
        is_refused: false,
    })
}

/// Nodes from an eigen-decomposition of T (or of a resampled T, see `bootstrap`).
pub(super) fn nodes(eigen: &Eigen, residual_norm: f64, noise_floor: f64) -> Vec<Node> {
    let last = eigen.values.len() - 1;
    let range = eigen.values[last] - eigen.values[0];
    let node = |(i, node): (usize, &f64)| {
        let residual_bound = residual_norm * eigen.vectors[(last, i)].abs();
        Node {
            node: *node,
            weight: eigen.vectors[(0, i)].powi(2),
            weight_reduced: None,
            residual_bound,
            converged: residual_bound <= CONVERGED * range,
            below_noise_floor: node.abs() < noise_floor,
        }
    };
    eigen.values.iter().enumerate().map(node).collect()
}

/// sum w = 1, sum w x = alpha_1, and for m >= 2 sum w x^2 = alpha_1^2 + beta_2^2, in units of |T|.
pub(super) fn check_identities(nodes: &[Node], t: &Tridiagonal) -> Result<()> {
    let unit = if t.norm() > 0.0 { t.norm() } else { 1.0 };
    let moment = |power: i32| nodes.iter().map(|n| n.weight * (n.node / unit).powi(power)).sum::<f64>();
    let (alpha, beta) = (t.alpha[0] / unit, t.beta[0] / unit);
    let second = if t.steps() >= 2 { alpha.powi(2) + beta.powi(2) } else { moment(2) };
    let tolerance = IDENTITY_TOLERANCE * (t.steps() as f64).sqrt();
    for (power, expected) in [(0, 1.0), (1, alpha), (2, second)] {
        let found = moment(power);
        let error = (found - expected).abs();
        if error.is_nan() || error > tolerance {
            return Err(Error::Numerics(format!(
                "sum of weight * node^{power} = {found}, expected {expected} within {tolerance:e} (in units of |T| = {unit:e}); this is a bug in the eigenvalue solver or damaged data, please report it"
            )));
        }
    }
    Ok(())
}
