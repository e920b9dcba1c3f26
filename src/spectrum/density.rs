//! The spectral density of a block: phi(t) = mean over probes of sum_i w_i N(t; node_i, sigma^2), per unit of
//! coordinate, in the log domain, so that it never underflows to 0.

use std::f64::consts::TAU;

use rayon::prelude::*;

use super::{BlockSpectrum, View, lattice, stats};

/// Grid points put into a gap between two windows, where there is no mass.
const POINTS_IN_GAP: i64 = 16;
/// Largest distance of the mass from 1.
const MASS_TOLERANCE: f64 = 1e-3;

/// A block's density on its own grid: step sigma / 4 within 10 sigma of nodes, coarser between.
#[derive(Debug, Clone, PartialEq)]
pub struct Density {
    /// The block's name.
    pub block: String,
    /// `asinh` or `linear`.
    pub axis: &'static str,
    /// Grid points, ascending.
    pub coordinate: Vec<f64>,
    /// The eigenvalues there.
    pub eigenvalue: Vec<f64>,
    /// Density per unit of coordinate; at least the smallest normal number.
    pub density: Vec<f64>,
    /// Density per unit of eigenvalue; at least the smallest normal number.
    pub per_eigenvalue: Vec<f64>,
    /// Natural logarithm of `density`, exact where `density` is at that floor.
    pub log_density: Vec<f64>,
    /// Standard error over probes; `None` for one probe.
    pub sem: Option<Vec<f64>>,
    /// Integral over the grid (trapezoid rule); never renormalised.
    pub mass: f64,
    /// `ok`, or what is wrong and what to do.
    pub status: String,
}

/// The density of a block in a view.
pub fn density(block: &BlockSpectrum, view: &View) -> Density {
    let coordinate = grid(block, view);
    let probes = log_densities(block, view, &coordinate);
    let log_density: Vec<f64> = probes.iter().map(|logs| log_mean_exp(logs)).collect();
    let values: Vec<f64> = log_density.iter().map(|log| log.exp()).collect();
    let mass = trapezoid(&coordinate, &values);
    let per_eigenvalue = |(x, log): (&f64, &f64)| (log - view.axis.slope(*x).ln()).exp().max(f64::MIN_POSITIVE);
    let sem = |logs: &Vec<f64>| stats::standard_error(&logs.iter().map(|log| log.exp()).collect::<Vec<_>>());
    Density {
        block: block.name.clone(),
        axis: view.axis.name(),
        eigenvalue: coordinate.iter().map(|x| view.axis.eigenvalue(*x)).collect(),
        density: values.iter().map(|value| value.max(f64::MIN_POSITIVE)).collect(),
        per_eigenvalue: coordinate.iter().zip(&log_density).map(per_eigenvalue).collect(),
        sem: probes.iter().map(sem).collect(),
        status: status(mass, view),
        coordinate,
        log_density,
        mass,
    }
}

/// The density at given coordinates.
pub(super) fn density_at(block: &BlockSpectrum, view: &View, coordinates: &[f64]) -> Vec<f64> {
    log_densities(block, view, coordinates).iter().map(|logs| log_mean_exp(logs).exp()).collect()
}

/// ln phi of each probe (inner) at each coordinate (outer).
fn log_densities(block: &BlockSpectrum, view: &View, coordinates: &[f64]) -> Vec<Vec<f64>> {
    let terms: Vec<Vec<(f64, f64)>> = block.probes.iter().map(|probe| log_terms(&probe.nodes, view)).collect();
    let at = |x: &f64| terms.iter().map(|terms| log_density(terms, *x, view.sigma)).collect();
    coordinates.par_iter().map(at).collect()
}

fn log_mean_exp(logs: &[f64]) -> f64 {
    log_sum_exp(logs.iter().copied()) - (logs.len() as f64).ln()
}

/// Windows of the lattice, and a few points in each gap.
fn grid(block: &BlockSpectrum, view: &View) -> Vec<f64> {
    let windows = lattice::windows(block, view);
    let mut grid: Vec<f64> = vec![];
    for (position, (first, last)) in windows.iter().enumerate() {
        grid.extend((*first..=*last).map(|index| index as f64 * view.step));
        if let Some((next, _)) = windows.get(position + 1) {
            let (from, to) = (*last as f64 * view.step, *next as f64 * view.step);
            let points = POINTS_IN_GAP.min(next.saturating_sub(*last) - 1);
            grid.extend((1..=points).map(|k| from + (to - from) * k as f64 / (points + 1) as f64));
        }
    }
    grid
}

/// (coordinate, ln(w / (sigma sqrt(2 pi)))) of each node.
fn log_terms(nodes: &[super::Node], view: &View) -> Vec<(f64, f64)> {
    let log_norm = (view.sigma * TAU.sqrt()).ln();
    nodes.iter().map(|n| (view.axis.coordinate(n.node), n.effective_weight().ln() - log_norm)).collect()
}

fn log_density(terms: &[(f64, f64)], x: f64, sigma: f64) -> f64 {
    log_sum_exp(terms.iter().map(|(center, log)| log - 0.5 * ((x - center) / sigma).powi(2)))
}

/// ln sum exp(x), by the largest term; terms 40 below it are nothing.
fn log_sum_exp(terms: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + terms.map(|x| x - largest).filter(|x| *x > -40.0).map(f64::exp).sum::<f64>().ln()
}

fn trapezoid(x: &[f64], y: &[f64]) -> f64 {
    x.windows(2).zip(y.windows(2)).map(|(x, y)| 0.5 * (x[1] - x[0]) * (y[0] + y[1])).sum()
}

fn status(mass: f64, view: &View) -> String {
    if (mass - 1.0).abs() <= MASS_TOLERANCE {
        return "ok".into();
    }
    let View { sigma, .. } = view;
    format!("mass {mass:.6} is not 1: sigma = {sigma:e} is too small for nodes this large; take a larger density.sigma")
}
