//! `symkl_paper`: what Zhang et al. 2024 most probably call the JS distance. 1/2 [KL(p|q) + KL(q|p)] on a linear
//! grid over the pair's range extended by 1 on both sides, sigma = sqrt(1e-5), densities equal to 0 replaced by
//! 1e-258.
//!
//! In linear-domain f64 on purpose: exp underflows exactly as in the original. So there is a ceiling of about
//! ln(1e258) = 594 nats, and where the grid step exceeds sigma the value depends on the grid; `SymKl` says so.

use std::f64::consts::TAU;
use std::ops::Range;

use super::BlockSpectrum;
use super::compare::{Entry, pairs};
use super::divergence::{DISJOINT, Divergence, Frame};
use super::metric::Metric;
use super::wasserstein::{Measure, measure};
use crate::Result;

/// `symkl_paper`.
pub(super) const METRIC: Metric = Metric { name: "symkl_paper", rows };

/// Variance of the kernel.
const VARIANCE: f64 = 1e-5;
/// What a density of 0 becomes.
const REPLACEMENT: f64 = 1e-258;
/// The smallest number above 0.
const SMALLEST: f64 = f64::from_bits(1);
/// The grid extends beyond the nodes by this much.
const OVERHEAD: f64 = 1.0;
/// exp(-z^2 / 2) is 0 in f64 beyond this z.
const UNDERFLOW: f64 = 38.61;
/// Up to this z the Gaussian is a normal number, far enough from underflow for the recurrence.
const RECURRENCE: f64 = 36.0;
/// Distance in sigma within which a node decides the density, and the weight from which on it does.
const COVER: f64 = 30.0;
const VISIBLE: f64 = 1e-40;
/// Largest step / sigma for the recurrence: its factors stay within exp(+-45).
const FINE: f64 = 0.15;
/// Interleaved recurrences, so that they vectorise, and their length, after which they start afresh
/// (the error grows like length^2 eps / 2 = 5e-13).
const LANES: usize = 8;
const LENGTH: usize = 64;

/// The value and what it rests on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SymKl {
    /// 1/2 [KL(p|q) + KL(q|p)], in nats.
    pub value: f64,
    /// Grid step over sigma; above 1 the value depends on the grid.
    pub dx_over_sigma: f64,
    /// Mass of both densities on the grid before they were normalised.
    pub raw_mass: (f64, f64),
    /// Whether nowhere on the grid both densities are above 0.
    pub disjoint: bool,
}

/// Working memory for one pair; reuse it.
#[derive(Debug, Clone, Default)]
pub struct Workspace {
    p: Vec<f64>,
    q: Vec<f64>,
}

struct Grid {
    start: f64,
    step: f64,
}

/// The distance of two measures on `grid_points` (at least 2) points.
pub fn symkl(a: &Measure, b: &Measure, grid_points: usize, workspace: &mut Workspace) -> SymKl {
    let nodes = || a.iter().chain(b).map(|(node, _)| *node);
    let intervals = (grid_points.max(2) - 1) as f64;
    // beyond 2^53 an overhead of 1 is lost; then take what keeps the grid points apart
    let largest = nodes().map(f64::abs).fold(0.0, f64::max);
    let overhead = OVERHEAD.max(f64::EPSILON * intervals * largest);
    let start = nodes().fold(f64::INFINITY, f64::min) - overhead;
    let end = nodes().fold(f64::NEG_INFINITY, f64::max) + overhead;
    let grid = Grid { start, step: end / intervals - start / intervals };
    let Workspace { p, q } = workspace;
    for (density, measure) in [(&mut *p, a), (&mut *q, b)] {
        density.clear();
        density.resize(grid_points.max(2), 0.0);
        let covered = covered(measure, &grid, density.len());
        measure.iter().for_each(|(node, weight)| add(density, &covered, &grid, *node, *weight));
    }
    let disjoint = p.iter().zip(&*q).all(|(p, q)| *p == 0.0 || *q == 0.0);
    let raw_mass = (p.iter().sum::<f64>() * grid.step, q.iter().sum::<f64>() * grid.step);
    normalise(p, grid.step);
    normalise(q, grid.step);
    let value = 0.5 * grid.step * p.iter().zip(&*q).map(|(p, q)| (p - q) * log_ratio(*p, *q)).sum::<f64>();
    SymKl { value, dx_over_sigma: grid.step / VARIANCE.sqrt(), raw_mass, disjoint }
}

fn normalise(density: &mut [f64], step: f64) {
    density.iter_mut().filter(|x| **x == 0.0).for_each(|x| *x = REPLACEMENT);
    let mass = density.iter().sum::<f64>() * step;
    density.iter_mut().for_each(|x| *x /= mass);
}

/// ln(p / q), also where the quotient overflows, or dividing by the mass made a subnormal number 0.
fn log_ratio(p: f64, q: f64) -> f64 {
    let ratio = p / q;
    if ratio.is_normal() { ratio.ln() } else { p.max(SMALLEST).ln() - q.max(SMALLEST).ln() }
}

/// Points at which some node of weight [`VISIBLE`] or more is within [`COVER`] sigma: the density is above 1e-235 there, and beyond
/// [`RECURRENCE`] no node adds more than 1e-279, which changes no bit of it, in whichever order they come.
fn covered(measure: &Measure, grid: &Grid, len: usize) -> Vec<bool> {
    let (mut covered, half) = (vec![false; len], COVER * VARIANCE.sqrt());
    let index = |x: f64| (((x - grid.start) / grid.step).max(0.0) as usize).min(len);
    for (node, _) in measure.iter().filter(|(_, weight)| *weight >= VISIBLE) {
        let range = index(node - half)..index(node + half);
        // the last point of what an earlier node covers tells whether all is
        if range.end > range.start && !(covered[range.start] && covered[range.end - 1]) {
            covered[range].fill(true);
        }
    }
    covered
}

/// density += weight * N(x; node, sigma^2), touching only points where the exponential is not 0.
///
/// Exponential, normalisation, weight, in this order: it decides what underflows.
fn add(density: &mut [f64], covered: &[bool], grid: &Grid, node: f64, weight: f64) {
    let sigma = VARIANCE.sqrt();
    let norm = 1.0 / (sigma * TAU.sqrt());
    let index = |z: f64| (((node + z * sigma - grid.start) / grid.step).ceil().max(0.0) as usize).min(density.len());
    let (first, last) = (index(-UNDERFLOW), index(UNDERFLOW));
    let (low, high) = (index(-RECURRENCE), index(RECURRENCE));
    let z = |i: usize| (grid.start + i as f64 * grid.step - node) / sigma;
    let mut plain = |range: Range<usize>| range.for_each(|i| density[i] += (-0.5 * z(i).powi(2)).exp() * norm * weight);
    let mut tail = |range: Range<usize>| range.filter(|i| !covered[*i]).for_each(|i| plain(i..i + 1));
    tail(first..low);
    tail(high..last);
    if grid.step > FINE * sigma {
        return plain(low..high);
    }
    for start in (low..high).step_by(LANES * LENGTH) {
        let end = high.min(start + LANES * LENGTH);
        recur(&mut density[start..end], norm * weight, z(start), grid.step / sigma);
    }
}

/// density[i] += height * exp(-(z + i h)^2 / 2) with three multiplications a point: with k = LANES,
/// exp(-(t + k h)^2 / 2) = exp(-t^2 / 2) r(t), r(t) = exp(-k h t - k^2 h^2 / 2), r(t + k h) = r(t) exp(-k^2 h^2).
fn recur(density: &mut [f64], height: f64, z: f64, h: f64) {
    let kh = LANES as f64 * h;
    let t: [f64; LANES] = std::array::from_fn(|lane| z + lane as f64 * h);
    let mut value = t.map(|t| (-0.5 * t * t).exp());
    let mut ratio = t.map(|t| (-kh * t - 0.5 * kh * kh).exp());
    let change = (-kh * kh).exp();
    for chunk in density.chunks_mut(LANES) {
        chunk.iter_mut().zip(&value).for_each(|(x, value)| *x += height * value);
        for lane in 0..LANES {
            value[lane] *= ratio[lane];
            ratio[lane] *= change;
        }
    }
}

fn rows(blocks: &[BlockSpectrum], frame: &Frame) -> Result<Vec<Divergence>> {
    let measures: Vec<Measure> = blocks.iter().map(|block| measure(block.probes.iter())).collect();
    let grid_points = frame.settings.grid_points;
    Ok(pairs(METRIC.name, blocks, Workspace::default, |workspace, i, j| {
        let found = symkl(&measures[i], &measures[j], grid_points, workspace);
        Some(Entry { value: found.value, sem: None, error: None, noise_floor: None, remarks: remarks(&found) })
    }))
}

fn remarks(found: &SymKl) -> Vec<String> {
    let SymKl { dx_over_sigma, raw_mass: (a, b), disjoint, .. } = found;
    let mut remarks = vec![format!("dx/sigma = {dx_over_sigma:.4}"), format!("raw mass = {a:.4} and {b:.4}")];
    if *disjoint {
        remarks.push(DISJOINT.into());
    }
    if *dx_over_sigma > 1.0 {
        remarks.push("the grid is coarser than sigma and decides the value: raise distance.grid_points".into());
    }
    remarks
}
