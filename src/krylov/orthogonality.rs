//! How orthogonal the basis is: a-posteriori estimates of max_i |v_i . v_{j+1}| that cost no vector work.
//!
//! Measuring it would take another pass over the whole basis. Let u be the storage's unit roundoff.
//!
//! Reorthogonalised: the second Gram-Schmidt pass subtracts V c from the residue of the first. What is left
//! along V is (I - V^T V) c + rounding, hence after division by beta = |w|
//! ```text
//!     |V^T v_{j+1}|_max <= (L sqrt(j) |c| + u sqrt(|c|^2 + |w|^2)) / |w|,    L = max_ij |I - V^T V|.
//! ```
//! It is near u as long as two passes are enough (|c| << |w|) and grows where they are not.
//! (|c|/|w| itself is the loss of *one* pass and over-reads by many orders.)
//!
//! Not reorthogonalised: Simon's recurrence for omega_{j,k} = v_j . v_k (Linear Algebra Appl. 61, 1984), which
//! follows from alpha and beta alone. Orthogonality is gone where it reaches 1.

/// Estimate after a second Gram-Schmidt pass with coefficients `correction` that left a vector of norm `beta`.
///
/// `worst` is the largest loss among the basis vectors so far.
pub(super) fn after_second_pass(correction: &[f64], beta: f64, worst: f64, unit_roundoff: f64) -> f64 {
    let squared: f64 = correction.iter().map(|c| c * c).sum();
    let spread = worst * (correction.len() as f64 * squared).sqrt();
    (spread + unit_roundoff * squared.sqrt().hypot(beta)) / beta
}

/// max_k |omega_{j+1,k}| after the last of the steps in `alpha` and `beta`, at most 1.
pub(super) fn without_passes(alpha: &[f64], beta: &[f64], unit_roundoff: f64) -> f64 {
    let (mut before, mut now) = (vec![], vec![1.0]);
    for j in 0..alpha.len() {
        let mut next: Vec<f64> = (0..j).map(|k| omega(alpha, beta, &before, &now, k, unit_roundoff)).collect();
        next.extend([unit_roundoff, 1.0]);
        (before, now) = (now, next);
    }
    now[..alpha.len()].iter().fold(0.0, |worst: f64, omega| worst.max(omega.abs())).min(1.0)
}

/// One entry omega_{j+1,k}, k < j, with j + 1 = `now.len()`; rounding enters with the sign that hurts.
fn omega(alpha: &[f64], beta: &[f64], before: &[f64], now: &[f64], k: usize, unit_roundoff: f64) -> f64 {
    let j = now.len() - 1;
    let left = if k > 0 { beta[k - 1] * now[k - 1] } else { 0.0 };
    let sum = beta[k] * now[k + 1] + (alpha[k] - alpha[j]) * now[k] + left - beta[j - 1] * before[k];
    let rounding = unit_roundoff * (beta[k] + beta[j]);
    ((sum + rounding.copysign(sum)) / beta[j]).clamp(-1.0, 1.0)
}
