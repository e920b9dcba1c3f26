//! Densities of a block sampled at multiples of the grid step, only where there is something: within 10 sigma
//! of a node. Beyond, a Gaussian is below exp(-50), nothing to an integral.

use std::f64::consts::TAU;

use super::{BlockSpectrum, View};

/// Half-width of a node's window, in sigmas.
const WINDOW: f64 = 10.0;

/// Merged, sorted, disjoint windows of lattice indices [first, last] around the nodes of a block.
pub(super) fn windows(block: &BlockSpectrum, view: &View) -> Vec<(i64, i64)> {
    let mut windows: Vec<(i64, i64)> = block.nodes().map(|n| window(view.axis.coordinate(n.node), view)).collect();
    windows.sort_unstable();
    let mut merged: Vec<(i64, i64)> = vec![];
    for (first, last) in windows {
        match merged.last_mut() {
            Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// The window of one node. (Beyond 2^63 steps indices saturate; the mass check then says so.)
fn window(coordinate: f64, view: &View) -> (i64, i64) {
    let center = (coordinate / view.step).round() as i64;
    let half = (WINDOW * view.sigma / view.step).ceil() as i64;
    (center.saturating_sub(half), center.saturating_add(half))
}

/// A block's densities on the lattice.
pub(super) struct Sampled {
    /// Lattice indices, ascending.
    pub indices: Vec<i64>,
    /// One density per probe, at `indices`, per unit of coordinate.
    pub probes: Vec<Vec<f64>>,
}

impl Sampled {
    /// Samples every probe of a block.
    pub fn new(block: &BlockSpectrum, view: &View) -> Self {
        let indices: Vec<i64> = windows(block, view).into_iter().flat_map(|(first, last)| first..=last).collect();
        let bell = bell(view);
        let probe = |nodes: &Vec<super::Node>| {
            let mut density = vec![0.0; indices.len()];
            for node in nodes {
                add(&mut density, &indices, view.axis.coordinate(node.node), node.effective_weight(), (view, &bell));
            }
            density
        };
        let probes = block.probes.iter().map(|quadrature| probe(&quadrature.nodes)).collect();
        Self { indices, probes }
    }

    /// Mean density of the probes that `keep` holds.
    pub fn mean(&self, keep: impl Fn(usize) -> bool) -> Vec<f64> {
        let mut sum = vec![0.0; self.indices.len()];
        let mut count = 0.0;
        for (_, density) in self.probes.iter().enumerate().filter(|(probe, _)| keep(*probe)) {
            sum.iter_mut().zip(density).for_each(|(sum, x)| *sum += x);
            count += 1.0;
        }
        sum.iter_mut().for_each(|sum| *sum /= count);
        sum
    }
}

/// exp(-(k h)^2 / 2) for the grid step h in sigmas, k from 0 to the end of a window.
fn bell(view: &View) -> Vec<f64> {
    let h = view.step / view.sigma;
    (0..=(WINDOW / h).ceil() as usize).map(|k| (-0.5 * (k as f64 * h).powi(2)).exp()).collect()
}

/// Adds weight * N(x; coordinate, sigma^2); its window lies within one run of consecutive indices. With z sigmas from the node
/// to the grid point next to it, exp(-(z + k h)^2 / 2) = exp(-z^2 / 2) exp(-z h)^k exp(-(k h)^2 / 2): two exponentials a node.
fn add(density: &mut [f64], indices: &[i64], coordinate: f64, weight: f64, (view, bell): (&View, &[f64])) {
    let center = (coordinate / view.step).round() as i64;
    let z = (center as f64 * view.step - coordinate) / view.sigma;
    if z.abs() > 1.0 {
        return; // beyond what indices can count: the mass check says so
    }
    let at = indices.partition_point(|index| *index < center);
    let height = weight / (view.sigma * TAU.sqrt()) * (-0.5 * z * z).exp();
    let change = (-z * view.step / view.sigma).exp();
    let mut value = height;
    for (density, bell) in density[at..].iter_mut().zip(bell) {
        *density += value * bell;
        value *= change;
    }
    let mut value = height / change;
    for (density, bell) in density[..at].iter_mut().rev().zip(&bell[1..]) {
        *density += value * bell;
        value /= change;
    }
}
