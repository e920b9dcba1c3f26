//! The Wasserstein-1 distance between two blocks' spectral measures: exact, from nodes and weights, no sigma.

use super::compare::{Comparable, among, compare};
use super::divergence::{Divergence, Frame};
use super::js::{split_factor, splits};
use super::metric::Metric;
use super::{BlockSpectrum, Quadrature, stats};
use crate::Result;

/// `wasserstein1`, `wasserstein1_shape`.
pub(super) const METRIC: Metric = Metric { name: "wasserstein1", rows };

/// A discrete measure: (node, weight), ascending.
pub type Measure = Vec<(f64, f64)>;

/// Mean of the probes' measures.
pub fn measure<'a>(probes: impl Iterator<Item = &'a Quadrature>) -> Measure {
    let probes: Vec<&Quadrature> = probes.collect();
    let share = 1.0 / probes.len() as f64;
    let nodes = probes.iter().flat_map(|probe| &probe.nodes);
    let mut measure: Measure = nodes.map(|n| (n.node, n.effective_weight() * share)).collect();
    measure.sort_by(|a, b| a.0.total_cmp(&b.0));
    measure
}

/// W1 = integral |F(t) - G(t)| dt over the cumulative distributions. Both in ascending order.
pub fn wasserstein1(a: &[(f64, f64)], b: &[(f64, f64)]) -> f64 {
    let (mut i, mut j, mut difference, mut sum) = (0, 0, 0.0_f64, 0.0);
    let mut previous = f64::NAN;
    while i < a.len() || j < b.len() {
        let from_a = j >= b.len() || (i < a.len() && a[i].0 <= b[j].0);
        let (node, change) = if from_a { (a[i].0, a[i].1) } else { (b[j].0, -b[j].1) };
        if i + j > 0 {
            sum += difference.abs() * (node - previous);
        }
        (difference, previous) = (difference + change, node);
        i += usize::from(from_a);
        j += usize::from(!from_a);
    }
    sum
}

/// Makes a measure of probes.
pub(super) type Read = dyn Fn(&[&Quadrature]) -> Measure + Sync;

/// A block made ready for comparison.
pub struct W1Block {
    all: Measure,
    left_out: Vec<Measure>,
    /// Expected W1 between two estimates of this very block; `None` for one probe.
    noise: Option<f64>,
}

impl W1Block {
    /// Spectral measures of a block's probes.
    pub fn new(block: &BlockSpectrum) -> Self {
        Self::read(block, &spectral)
    }

    /// What `read` makes of a block's probes.
    fn read(block: &BlockSpectrum, read: &Read) -> Self {
        let probes = &block.probes;
        let n = probes.len();
        let some = |keep: &dyn Fn(usize) -> bool| {
            let kept = probes.iter().enumerate().filter(|(i, _)| keep(*i)).map(|(_, probe)| probe);
            read(&kept.collect::<Vec<_>>())
        };
        let left_out = if n > 1 { (0..n).map(|left| some(&|i| i != left)).collect() } else { vec![] };
        let of_split = |half: &Vec<bool>| wasserstein1(&some(&|i| half[i]), &some(&|i| !half[i]));
        let noise = || stats::mean(&splits(n).iter().map(of_split).collect::<Vec<_>>()) * split_factor(n).sqrt();
        Self { all: some(&|_| true), left_out, noise: (n > 1).then(noise) }
    }

    /// For distances alone: no standard error, no noise floor.
    fn for_distance(block: &BlockSpectrum, read: &Read) -> Self {
        Self { all: read(&block.probes.iter().collect::<Vec<_>>()), left_out: vec![], noise: None }
    }
}

impl Comparable for W1Block {
    fn distance(&self, other: &Self) -> f64 {
        wasserstein1(&self.all, &other.all)
    }

    fn sem(&self, other: &Self) -> Option<f64> {
        if self.left_out.is_empty() || other.left_out.is_empty() {
            return None;
        }
        let here: Vec<f64> = self.left_out.iter().map(|a| wasserstein1(a, &other.all)).collect();
        let there: Vec<f64> = other.left_out.iter().map(|b| wasserstein1(&self.all, b)).collect();
        Some(stats::jackknife_error(&here).hypot(stats::jackknife_error(&there)))
    }

    /// Root mean square of both blocks'.
    fn noise_floor(&self, other: &Self) -> Option<f64> {
        Some(self.noise?.hypot(other.noise?) / std::f64::consts::SQRT_2)
    }
}

/// The rows of W1 between what `read` makes of blocks.
pub(super) fn compare_measures(metric: &'static str, blocks: &[BlockSpectrum], read: &Read) -> Vec<Divergence> {
    let piece = |block: &BlockSpectrum| W1Block::for_distance(block, read);
    compare(metric, blocks, |block| W1Block::read(block, read), piece, |_, _| vec![])
}

fn spectral(probes: &[&Quadrature]) -> Measure {
    measure(probes.iter().copied())
}

fn rows(blocks: &[BlockSpectrum], _: &Frame) -> Result<Vec<Divergence>> {
    let mut rows = compare_measures(METRIC.name, blocks, &spectral);
    let metric = "wasserstein1_shape";
    rows.extend(among(metric, blocks, BlockSpectrum::shape, |shapes| Ok(compare_measures(metric, shapes, &spectral)))?);
    Ok(rows)
}
