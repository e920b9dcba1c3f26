//! The error of a product H v, and the noise floor below which nodes mean nothing.
//!
//! The symmetry defect |u.Hv - v.Hu| is no measure of it: it under-reads by about sqrt(d).

use crate::krylov::Real;

/// Nodes with |node| below this are noise: an error of eta in H v, spread evenly over directions, has
/// eigenvalues up to 2 eta (semicircle), and Ritz values inherit them.
pub fn noise_floor(eta: f64) -> f64 {
    3.0 * eta
}

/// eta = |fl(H v) - H v| / |v| from a reference product in higher precision.
pub fn error_from_reference<T: Real, R: Real>(product: &[T], reference: &[R], v_norm: f64) -> f64 {
    distance(product, reference) / v_norm
}

/// eta from two products with another split into micro-batches and order of summation, times sqrt 2.
///
/// For independent errors the difference is sqrt(2) eta already, and this is 2 eta; two evaluations share part
/// of their rounding, though, which the difference does not show.
pub fn error_from_two<T: Real>(first: &[T], second: &[T], v_norm: f64) -> f64 {
    std::f64::consts::SQRT_2 * distance(first, second) / v_norm
}

fn distance<T: Real, R: Real>(a: &[T], b: &[R]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a.to_f64() - b.to_f64()).powi(2)).sum::<f64>().sqrt()
}
