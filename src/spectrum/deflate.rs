//! The measure of one long recursion, with the weights that short ones in the complement of its eigenvectors correct.
//!
//! H = U L U' + P H P with k converged, simple eigenvectors U and P = I - U U': the eigenvalues L have weight 1/d each, known
//! exactly (Bhattacharjee et al. 2024), and the rest has the weight 1 - k/d. Where the rest lies, the long recursion knows: at its
//! other nodes, rho. How much of it is where, it knows only up to one start vector's scatter, which is largest in the smooth
//! part: the low moments. These are measured by n short recursions on P H P. With p_0, p_1 ... orthonormal under rho and c_j =
//! the mean of p_j over all n + 1 start vectors, rho (1 + c_1 p_1 + ... + c_K p_K) is the measure nearest to rho (in
//! chi-squared) that has the moments up to K of all of them. K = 2 s - 1 for s steps each, or the largest for which no
//! weight is negative.
//!
//! An eigenvalue that is there several times may have been projected out once, which a single start vector cannot tell: the rest
//! then lies where rho has no node. What all start vectors measured is right all the same, and shows it: rho can be given
//! fewer of its moments than the measure of all nodes. Then the weights of all nodes are corrected instead. So few nodes that rho has
//! no further polynomial are as good as any number of moments only where all that was measured lies at them.
//!
//! Weights whose own moments contradict the measured ones, which have an error, are no weights: the probe keeps those of its
//! long recursion, and says so ([`Quadrature::is_refused`]).
//!
//! results/accuracy_vs_hvps.md: a quarter of the products of the paper's setting for the same error.

use statrs::distribution::{ChiSquared, ContinuousCDF};

use super::reduce::{NOISE_FACTOR, QUANTILE, converged, simple};
use super::{Deflated, Node, Quadrature, eigen, quadrature};
use crate::krylov::{Locked, Tridiagonal};
use crate::{Error, Result};

/// What is left of x p beside the polynomials before it is rounding below this share of it.
const ROUNDING: f64 = 1e-10;
/// Share of the largest |node| below which a node is a zero.
const ZERO: f64 = 1e-12;
/// Largest violation of the sum of weights.
const SUM: f64 = 1e-9;
/// Share of the largest |node| within which a measured value lies at a node.
const AT_NODE: f64 = 1e-6;
/// Standard deviations of a single start vector's moment by which weights may differ from what all start vectors measured.
const CONTRADICTION: f64 = 3.0;

/// The eigenvectors to project out, as coordinates in the basis of `t`, in a space of dimension `dim`.
///
/// Nodes that are converged, above the noise floor and simple, as in [`reduce_variance`](super::reduce_variance); none where
/// their weights together are too large for simple eigenvalues (a network of equal parts has all of them several times), and
/// none where nothing would be left.
pub fn converged_eigenvectors(t: &Tridiagonal, dim: usize, noise_floor: f64) -> Result<Locked> {
    let probe = quadrature("T", 0, t, noise_floor)?;
    let vectors = eigen::tridiagonal(t)?.vectors;
    let column = |i: usize| (0..t.steps()).map(|row| vectors[(row, i)]).collect();
    Ok(locked(&probe, dim, noise_floor)?.into_iter().map(column).collect())
}

/// Fills `weight_reduced` of every node, and the moments, of a block of dimension `dim`; raw weights stay beside it.
///
/// A recursion that has gone through the whole space has found every eigenvalue once: weights of 1/d.
pub fn deflate(probe: &mut Quadrature, t: &Tridiagonal, dim: usize, noise_floor: f64) -> Result<()> {
    let share = 1.0 / dim as f64;
    let locked = match probe.nodes.len() >= dim {
        true => (0..probe.nodes.len()).collect(),
        false => locked(probe, dim, noise_floor)?,
    };
    let (known, rest): (Vec<usize>, Vec<usize>) = (0..probe.nodes.len()).partition(|i| locked.contains(i));
    let short = t.complement.iter().enumerate().map(|(i, t)| quadrature("complement", i as u32, t, noise_floor));
    let at = |indices: &[usize]| -> Vec<Node> { indices.iter().map(|i| probe.nodes[*i]).collect() };
    let seen = Seen { known: at(&known), rest: at(&rest), short: short.collect::<Result<_>>()?, share };
    let measured = seen.measure();
    let degree = (2 * t.complement.iter().map(Tridiagonal::steps).max().unwrap_or(0)).saturating_sub(1);
    let zero = zero(probe, noise_floor);
    let of_rest = nearest(&seen.rest, &measured[known.len()..], degree, zero);
    let of_all = nearest(&probe.nodes, &measured, degree, zero);
    let weights: Vec<(usize, f64)> = if 2 * of_rest.degree >= of_all.degree {
        known.into_iter().map(|i| (i, share)).chain(rest.into_iter().zip(of_rest.weights)).collect()
    } else {
        of_all.weights.into_iter().enumerate().collect()
    };
    let of_weights: Vec<(f64, f64)> = weights.iter().map(|(i, weight)| (probe.nodes[*i].node, *weight)).collect();
    if contradicts(&of_weights, &measured, dim, zero) {
        probe.is_refused = true;
        return Ok(());
    }
    for (i, weight) in weights {
        probe.nodes[i].weight_reduced = Some(weight);
    }
    (probe.first_moment, probe.second_moment) = (moment(&measured, 1), seen.second_moment(probe.second_moment));
    probe.deflated =
        Some(Deflated { known: seen.known.iter().map(|n| n.node).collect(), start_vectors: 1 + seen.short.len() });
    Ok(())
}

fn moment(measure: &[(f64, f64)], power: i32) -> f64 {
    measure.iter().map(|(x, w)| w * x.powi(power)).sum()
}

/// Whether the first or second moment of weights is not the measured one. The variance of v'Av over normalised Gaussian v in d dimensions is
/// 2/d (tr A^2 / d - (tr A / d)^2), for A = H and A = H^2. `zero`: what nothing can be told from 0 below.
fn contradicts(weights: &[(f64, f64)], measured: &[(f64, f64)], dim: usize, zero: f64) -> bool {
    let unit = measured.iter().map(|(x, _)| x.abs()).fold(0.0, f64::max);
    [1, 2].into_iter().any(|power| {
        let (mean, square) = (moment(measured, power), moment(measured, 2 * power));
        let deviation = (2.0 * (square - mean * mean).max(0.0) / dim as f64).sqrt();
        (moment(weights, power) - mean).abs()
            > CONTRADICTION * deviation + (AT_NODE * unit + zero) * unit.powi(power - 1)
    })
}

/// What all start vectors saw.
struct Seen {
    /// Nodes that are projected out.
    known: Vec<Node>,
    /// The long recursion's other nodes.
    rest: Vec<Node>,
    /// Quadratures of the short recursions.
    short: Vec<Quadrature>,
    /// 1/d.
    share: f64,
}

impl Seen {
    /// The weight of each start vector's view of the rest.
    fn of_each(&self) -> f64 {
        (1.0 - self.share * self.known.len() as f64) / (1 + self.short.len()) as f64
    }

    fn raw(&self) -> f64 {
        self.rest.iter().map(|n| n.weight).sum()
    }

    /// Their measure together, good for its low moments: the known eigenvalues first, then the rest.
    fn measure(&self) -> Vec<(f64, f64)> {
        let (each, raw) = (self.of_each(), self.raw());
        let of_long = self.rest.iter().map(|n| (n.node, each * n.weight / raw));
        let of_short = self.short.iter().flat_map(|short| &short.nodes).map(|n| (n.node, each * n.weight));
        self.known.iter().map(|n| (n.node, self.share)).chain(of_long).chain(of_short).collect()
    }

    /// tr H^2 / d; `of_probe`: as the long recursion alone sees it. (Of one step, beta_2 has what one node has not.)
    fn second_moment(&self, of_probe: f64) -> f64 {
        if self.rest.is_empty() {
            return self.known.iter().map(|n| self.share * n.node * n.node).sum();
        }
        let square = |n: &Node| n.node * n.node;
        let of_long = match self.known.as_slice() {
            [] => of_probe,
            _ => self.rest.iter().map(|n| n.weight / self.raw() * square(n)).sum(),
        };
        let of_short: f64 = self.short.iter().map(|short| short.second_moment).sum();
        self.known.iter().map(|n| self.share * square(n)).sum::<f64>() + self.of_each() * (of_long + of_short)
    }
}

/// What the products' error, or rounding, makes of zero.
fn zero(probe: &Quadrature, noise_floor: f64) -> f64 {
    let largest = probe.nodes.iter().map(|n| n.node.abs()).fold(0.0, f64::max);
    (NOISE_FACTOR * noise_floor).max(ZERO * largest)
}

/// Indices of the nodes whose eigenvectors are projected out.
fn locked(probe: &Quadrature, dim: usize, noise_floor: f64) -> Result<Vec<usize>> {
    let (probes, found) = (std::slice::from_ref(probe), [converged(probe, noise_floor)]);
    let mut locked = Vec::new();
    for node in 0..probe.nodes.len() {
        if simple(probes, &found, (0, node), dim, noise_floor)? {
            locked.push(node);
        }
    }
    let statistic = dim as f64 * locked.iter().map(|i| probe.nodes[*i].weight).sum::<f64>();
    let all = locked.len() == probe.nodes.len();
    if locked.is_empty() || all || statistic >= quantile(locked.len())? {
        return Ok(Vec::new());
    }
    Ok(locked)
}

fn quantile(degrees: usize) -> Result<f64> {
    let failed = |error| Error::Numerics(format!("chi-squared with {degrees} degrees: {error}"));
    Ok(ChiSquared::new(degrees as f64).map_err(failed)?.inverse_cdf(QUANTILE))
}

/// Weights that have been corrected.
struct Corrected {
    weights: Vec<f64>,
    /// Moments that they have: as many as asked for, too, where all of the target lies at so few nodes.
    degree: usize,
}

/// The weights of `nodes`, nearest to their own in chi-squared, that give the mass of `target` and its moments up to `most`, or
/// up to the largest degree for which none is negative. Up to `zero` all numbers are one: how noise is spread says nothing.
fn nearest(nodes: &[Node], target: &[(f64, f64)], most: usize, zero: f64) -> Corrected {
    let raw: f64 = nodes.iter().map(|n| n.weight).sum();
    let mass: f64 = target.iter().map(|(_, w)| w).sum();
    let unit = nodes.iter().map(|n| n.node.abs()).fold(f64::MIN_POSITIVE, f64::max);
    let points: Vec<f64> = nodes.iter().map(|n| n.node).chain(target.iter().map(|(x, _)| *x)).collect();
    let points: Vec<f64> = points.iter().map(|x| if x.abs() <= zero { 0.0 } else { x / unit }).collect();
    let rho: Vec<f64> = nodes.iter().map(|n| n.weight / raw).collect();
    let (nodes, there) = points.split_at(rho.len());
    let at_nodes = there.iter().all(|x| nodes.iter().any(|node| (x - node).abs() <= AT_NODE));
    let mut factor = vec![1.0; rho.len()];
    let (mut best, mut degree, mut taken) = (factor.clone(), 0, 0);
    for p in orthonormal(&rho, &points).take(most) {
        taken += 1;
        let (here, there) = p.split_at(rho.len());
        let c: f64 = there.iter().zip(target).map(|(p, (_, w))| p * w / mass).sum();
        factor.iter_mut().zip(here).for_each(|(factor, p)| *factor += c * p);
        let sum: f64 = rho.iter().zip(&factor).map(|(rho, factor)| rho * factor).sum();
        if factor.iter().all(|factor| *factor >= 0.0) && (sum - 1.0).abs() <= SUM {
            (best, degree) = (factor.clone(), taken);
        }
    }
    let is_whole = degree == taken && taken < most && at_nodes;
    let degree = if is_whole { most } else { degree };
    Corrected { weights: rho.iter().zip(best).map(|(rho, factor)| mass * rho * factor).collect(), degree }
}

/// Values at all points of the polynomials p_1, p_2 ... that are orthonormal under the weights `rho` at the first of them; ends
/// where these have no further one. Stieltjes' procedure is Lanczos on a diagonal matrix, and loses orthogonality like it
/// where a value stands apart: so two passes of Gram-Schmidt here, too.
fn orthonormal<'a>(rho: &'a [f64], at: &'a [f64]) -> impl Iterator<Item = Vec<f64>> + 'a {
    let inner = |a: &[f64], b: &[f64]| -> f64 { rho.iter().zip(a).zip(b).map(|((w, a), b)| w * a * b).sum() };
    let mut all = vec![vec![1.0; at.len()]];
    std::iter::from_fn(move || {
        let last = all.last().filter(|_| all.len() < rho.len())?;
        let mut next: Vec<f64> = at.iter().zip(last).map(|(x, p)| x * p).collect();
        let before = inner(&next, &next).sqrt();
        for _ in 0..2 {
            for p in &all {
                let along = inner(&next, p);
                next.iter_mut().zip(p).for_each(|(next, p)| *next -= along * p);
            }
        }
        let norm = inner(&next, &next).sqrt();
        if norm.is_nan() || norm <= ROUNDING * before {
            return None;
        }
        next.iter_mut().for_each(|next| *next /= norm);
        all.push(next.clone());
        Some(next)
    })
}
