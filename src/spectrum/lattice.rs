//! Densities of a block sampled at multiples of the grid step, only where there is something: within 10 sigma
//! of a node. Beyond, a Gaussian is below exp(-50), nothing to an integral.

use std::f64::consts::TAU;
use std::ops::Range;

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
    /// Windows of lattice indices, ascending and disjoint, first and last.
    windows: Vec<(i64, i64)>,
    /// One density per probe, at all indices of the windows, per unit of coordinate.
    pub probes: Vec<Vec<f64>>,
}

/// A stretch of lattice indices that one of two samples has, or both: where it is in each.
pub(super) enum Stretch {
    /// In the first one.
    First(Range<usize>),
    /// In the second one.
    Second(Range<usize>),
    /// In both.
    Both(Range<usize>, Range<usize>),
}

impl Sampled {
    /// Samples every probe of a block.
    pub fn new(block: &BlockSpectrum, view: &View) -> Self {
        let windows = windows(block, view);
        let indices: Vec<i64> = windows.iter().flat_map(|(first, last)| *first..=*last).collect();
        let bell = bell(view);
        let probe = |nodes: &Vec<super::Node>| {
            let mut density = vec![0.0; indices.len()];
            for node in nodes {
                add(&mut density, &indices, view.axis.coordinate(node.node), node.effective_weight(), (view, &bell));
            }
            density
        };
        let probes = block.probes.iter().map(|quadrature| probe(&quadrature.nodes)).collect();
        Self { windows, probes }
    }

    /// The stretches of indices that this sample and another one have between them, in order.
    pub fn stretches(&self, other: &Self) -> Vec<Stretch> {
        let (mut ours, mut theirs) = (Ahead::new(&self.windows), Ahead::new(&other.windows));
        let mut stretches = Vec::new();
        loop {
            stretches.push(match (ours.first(), theirs.first()) {
                (None, None) => return stretches,
                (Some(_), None) => Stretch::First(ours.take(i64::MAX)),
                (None, Some(_)) => Stretch::Second(theirs.take(i64::MAX)),
                (Some(a), Some(b)) if a < b => Stretch::First(ours.take(b - 1)),
                (Some(a), Some(b)) if b < a => Stretch::Second(theirs.take(a - 1)),
                (Some(_), Some(_)) => {
                    let last = ours.last().min(theirs.last());
                    Stretch::Both(ours.take(last), theirs.take(last))
                }
            });
        }
    }

    /// Number of indices.
    pub fn len(&self) -> usize {
        self.probes.first().map_or(0, Vec::len)
    }

    /// Mean density of the probes that `keep` holds.
    pub fn mean(&self, keep: impl Fn(usize) -> bool) -> Vec<f64> {
        let mut sum = vec![0.0; self.len()];
        let mut count = 0.0;
        for (_, density) in self.probes.iter().enumerate().filter(|(probe, _)| keep(*probe)) {
            sum.iter_mut().zip(density).for_each(|(sum, x)| *sum += x);
            count += 1.0;
        }
        sum.iter_mut().for_each(|sum| *sum /= count);
        sum
    }
}

/// What is left of a sample's windows.
struct Ahead<'a> {
    windows: &'a [(i64, i64)],
    /// First index that is left of the first of them.
    from: i64,
    /// Its position in the sample.
    at: usize,
}

impl<'a> Ahead<'a> {
    fn new(windows: &'a [(i64, i64)]) -> Self {
        Self { windows, from: i64::MIN, at: 0 }
    }

    fn first(&self) -> Option<i64> {
        self.windows.first().map(|window| window.0.max(self.from))
    }

    fn last(&self) -> i64 {
        self.windows.first().map_or(i64::MAX, |window| window.1)
    }

    /// The positions of the first window up to an index in it, or to its end.
    fn take(&mut self, last: i64) -> Range<usize> {
        let Some(first) = self.first() else { return self.at..self.at };
        let end = self.last();
        let last = last.min(end);
        let begin = self.at;
        self.at += (last - first + 1) as usize;
        if last == end {
            self.windows = &self.windows[1..];
        }
        self.from = last.saturating_add(1);
        begin..self.at
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
