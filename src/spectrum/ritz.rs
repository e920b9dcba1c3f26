//! Ritz vectors: which of a recursion's are eigenvectors, and how far they are known.

use super::{eigen, quadrature};
use crate::Result;
use crate::krylov::Tridiagonal;

/// A Ritz vector that has converged to an eigenvector.
#[derive(Debug, Clone, PartialEq)]
pub struct Ritz {
    /// The Ritz value.
    pub eigenvalue: f64,
    /// |H u - eigenvalue u|, but for the error of products.
    pub residual_bound: f64,
    /// Estimate of the sine of the angle to the eigenvector: the residual, or the noise floor where that is larger, over the
    /// distance to the nearest other Ritz value; at most 1. Eigenvalues nearer than a recursion can tell apart are not seen.
    pub angle: f64,
    /// Coordinates in the recursion's basis, of norm 1. The first, along the start vector, is not negative, which fixes the sign.
    pub coordinates: Vec<f64>,
}

/// The converged Ritz vectors above the noise floor, at most `count`, by falling magnitude of their values. `block` and `probe` are
/// for messages.
///
/// # Errors
/// Those of [`quadrature()`].
pub fn ritz(block: &str, probe: u32, t: &Tridiagonal, count: usize, noise_floor: f64) -> Result<Vec<Ritz>> {
    let nodes = quadrature(block, probe, t, noise_floor)?.nodes;
    let vectors = eigen::tridiagonal(t)?.vectors;
    let mut found: Vec<usize> =
        (0..nodes.len()).filter(|at| nodes[*at].converged && !nodes[*at].below_noise_floor).collect();
    found.sort_by(|a, b| nodes[*b].node.abs().total_cmp(&nodes[*a].node.abs()));
    found.truncate(count);
    let of = |at: usize| {
        let distance = |other: usize| (nodes[other].node - nodes[at].node).abs();
        let gap = (0..nodes.len()).filter(|other| *other != at).map(distance).fold(f64::INFINITY, f64::min);
        let residual_bound = nodes[at].residual_bound;
        let sign = if vectors[(0, at)] < 0.0 { -1.0 } else { 1.0 };
        Ritz {
            eigenvalue: nodes[at].node,
            residual_bound,
            angle: (residual_bound.max(noise_floor) / gap).min(1.0),
            coordinates: (0..t.steps()).map(|step| sign * vectors[(step, at)]).collect(),
        }
    };
    Ok(found.into_iter().map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::krylov::{Chain, Dense, Local, MatrixOperator, Reorthogonalize, Settings, step};

    /// Vectors from 40 of 300 steps: three outer eigenvalues have converged, the bulk has not.
    #[test]
    fn what_has_converged_is_an_eigenvector_within_its_bounds() {
        let bulk = (0..297).map(|i| f64::from(i) / 297.0);
        let eigenvalues: Vec<f64> = bulk.chain([9.0, -14.0, 30.0]).collect();
        let matrix = Dense::with_spectrum(&eigenvalues, 6, 5);
        let settings =
            Settings { label: "ritz".into(), steps: 40, reorthogonalize: Reorthogonalize::Full, eta: 0.0, segments: 0 };
        let start = crate::probe::probe(crate::probe::ProbeKind::Gaussian, 3, "ritz", 0, 0..300);
        let mut slots = vec![Chain::new(Local::new(), start.clone(), settings, None).unwrap()];
        let mut operator = MatrixOperator::<f64>::shared(matrix.clone(), 1);
        while step(&mut operator, &mut slots).unwrap() > 0 {}
        let long = slots[0].long();
        let found = ritz("ritz", 0, long.tridiagonal(), 10, 0.0).unwrap();
        let values: Vec<f64> = found.iter().map(|ritz| ritz.eigenvalue.round()).collect();
        assert_eq!(values[..3], [30.0, -14.0, 9.0]);
        assert!(found.len() < 10, "the bulk has not converged: {values:?}");
        for Ritz { eigenvalue, residual_bound, angle, coordinates } in &found {
            let u = long.combined(coordinates).unwrap();
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
            let residual: Vec<f64> = matrix.multiply(&u).iter().zip(&u).map(|(h, u)| h - eigenvalue * u).collect();
            // beside the bound: rounding of products and sums of 300 terms, |H| = 30
            assert!(dot(&residual, &residual).sqrt() <= residual_bound + 300.0 * 30.0 * f64::EPSILON);
            assert!((dot(&u, &u) - 1.0).abs() < 1e-13 && dot(&u, &start) >= 0.0 && *angle < 1e-4);
        }
        let fewer = ritz("ritz", 0, long.tridiagonal(), 2, 0.0).unwrap();
        assert_eq!(fewer, found[..2]);
        let above = ritz("ritz", 0, long.tridiagonal(), 10, 10.0).unwrap();
        assert_eq!(above.iter().map(|ritz| ritz.eigenvalue.round()).collect::<Vec<_>>(), [30.0, -14.0]);
    }
}
