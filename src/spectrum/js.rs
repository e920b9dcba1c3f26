//! The Jensen-Shannon distance sqrt(JSD / ln 2) in [0, 1] between two blocks' densities.
//!
//! JSD = 1/2 integral p ln(2p / (p + q)) + q ln(2q / (p + q)). The integrand is at most (p + q) ln 2, so what
//! the windows of `lattice` leave out is below exp(-50), and no logarithm of a vanishing density is needed.

use std::f64::consts::LN_2;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::compare::{Comparable, among, compare};
use super::divergence::{Divergence, Frame};
use super::lattice::{Sampled, Stretch};
use super::metric::Metric;
use super::{Axis, AxisChoice, BlockSpectrum, Sigma, View, stats};
use crate::Result;

/// `js`, `js_scale10`, `js_scale0.1` (lambda_c times 10 and 0.1), `js_shape`.
pub(super) const METRIC: Metric = Metric { name: "js", rows };

/// Largest mass that a lattice may lose.
const MASS_TOLERANCE: f64 = 1e-3;

/// All splits of up to this many probes (924) are taken; of more probes, as many random ones.
const ALL_SPLITS: usize = 12;
const MOST_SPLITS: usize = 924;

/// A block made ready for comparison with others in the same view.
pub struct JsBlock {
    sampled: Sampled,
    mean: Curve,
    /// Means without probe i; empty for one probe.
    left_out: Vec<Curve>,
    /// Expected JSD between two estimates of this very block; `None` for one probe.
    noise: Option<f64>,
    step: f64,
}

/// A density p, and p ln p, which every comparison needs.
struct Curve {
    p: Vec<f64>,
    entropy: Vec<f64>,
}

impl Curve {
    fn new(p: Vec<f64>) -> Self {
        let entropy = p.iter().map(|p| if *p > 0.0 { p * p.ln() } else { 0.0 }).collect();
        Self { p, entropy }
    }
}

impl JsBlock {
    /// Samples a block's densities.
    pub fn new(block: &BlockSpectrum, view: &View) -> Self {
        let sampled = Sampled::new(block, view);
        let num_probes = sampled.probes.len();
        let left_out = if num_probes > 1 { (0..num_probes).collect() } else { vec![] };
        let left_out = left_out.into_iter().map(|i| Curve::new(sampled.mean(|probe| probe != i))).collect();
        let step = view.step;
        let noise = noise(&sampled, step);
        Self { mean: Curve::new(sampled.mean(|_| true)), left_out, noise, step, sampled }
    }

    /// Ready for [`JsBlock::distance`] alone: no standard error, no noise floor, at a fraction of the work.
    pub fn for_distance(block: &BlockSpectrum, view: &View) -> Self {
        let sampled = Sampled::new(block, view);
        Self { mean: Curve::new(sampled.mean(|_| true)), left_out: vec![], noise: None, step: view.step, sampled }
    }

    /// Mass on the lattice; 1 unless sigma is too small for nodes this large.
    pub fn mass(&self) -> f64 {
        self.step * self.mean.p.iter().sum::<f64>()
    }
}

impl Comparable for JsBlock {
    fn distance(&self, other: &Self) -> f64 {
        root(jsd(&self.sampled.stretches(&other.sampled), &self.mean, &other.mean, self.step))
    }

    fn sem(&self, other: &Self) -> Option<f64> {
        if self.left_out.is_empty() || other.left_out.is_empty() {
            return None;
        }
        let stretches = self.sampled.stretches(&other.sampled);
        let distance = |p: &Curve, q: &Curve| root(jsd(&stretches, p, q, self.step));
        let here: Vec<f64> = self.left_out.iter().map(|p| distance(p, &other.mean)).collect();
        let there: Vec<f64> = other.left_out.iter().map(|q| distance(&self.mean, q)).collect();
        Some(stats::jackknife_error(&here).hypot(stats::jackknife_error(&there)))
    }

    /// The distance to be expected from the randomness of the probes alone: each block's noise is the
    /// variance-like JSD of two estimates of it, so a pair's is their mean.
    fn noise_floor(&self, other: &Self) -> Option<f64> {
        Some(root((self.noise? + other.noise?) / 2.0))
    }
}

fn rows(blocks: &[BlockSpectrum], frame: &Frame) -> Result<Vec<Divergence>> {
    let (view, settings) = (frame.view, frame.settings);
    let mut rows = in_view("js", blocks, *view);
    if view.axis.scale().is_some() {
        rows.extend(in_view("js_scale10", blocks, view.rescaled(10.0)?));
        rows.extend(in_view("js_scale0.1", blocks, view.rescaled(0.1)?));
    }
    // a lambda_c or sigma in units of eigenvalues means nothing once the unit is the spectrum's own
    let (axis, sigma) = match (settings.axis, settings.sigma) {
        (AxisChoice::Asinh(_), sigma) => (AxisChoice::Asinh(None), sigma),
        (AxisChoice::Linear, Sigma::Absolute(_)) => (AxisChoice::Linear, Sigma::Relative(None)),
        other => other,
    };
    rows.extend(among("js_shape", blocks, BlockSpectrum::shape, |shapes| {
        Ok(in_view("js_shape", shapes, View::new(shapes, axis, sigma)?))
    })?);
    Ok(rows)
}

fn in_view(metric: &'static str, blocks: &[BlockSpectrum], view: View) -> Vec<Divergence> {
    let linear = (view.axis == Axis::Linear).then(|| {
        "linear axis: all blocks of small curvature collapse into one peak; prefer density.axis = \"asinh\"".into()
    });
    let remarks = |a: &JsBlock, b: &JsBlock| {
        let mass = [a.mass(), b.mass()].into_iter().find(|mass| (mass - 1.0).abs() > MASS_TOLERANCE);
        let mass = mass.map(|mass| format!("mass {mass:.6} is not 1: take a larger density.sigma"));
        linear.iter().cloned().chain(mass).collect()
    };
    let piece = |piece: &BlockSpectrum| JsBlock::for_distance(piece, &view);
    let mut rows = compare(metric, blocks, |block| JsBlock::new(block, &view), piece, remarks);
    for row in &mut rows {
        (row.axis_scale, row.sigma) = (view.axis.scale(), Some(view.sigma));
    }
    rows
}

/// sqrt(JSD / ln 2); rounding cannot leave [0, 1].
fn root(jsd: f64) -> f64 {
    (jsd / LN_2).clamp(0.0, 1.0).sqrt()
}

/// The Jensen-Shannon divergence in nats, by the rectangle rule: with m = (p + q) / 2, p ln p + q ln q - 2 m ln m, of which only the last
/// logarithm is not known; and p ln 2 where q has nothing.
fn jsd(stretches: &[Stretch], p: &Curve, q: &Curve, step: f64) -> f64 {
    let alone = |values: &[f64]| LN_2 * values.iter().sum::<f64>();
    let of = |stretch: &Stretch| match stretch {
        Stretch::First(range) => alone(&p.p[range.clone()]),
        Stretch::Second(range) => alone(&q.p[range.clone()]),
        Stretch::Both(here, there) => {
            let (p, entropy_p) = (&p.p[here.clone()], &p.entropy[here.clone()]);
            let (q, entropy_q) = (&q.p[there.clone()], &q.entropy[there.clone()]);
            let points = p.iter().zip(q).zip(entropy_p.iter().zip(entropy_q));
            points.map(|((p, q), (own, other))| own + other - twice_entropy(0.5 * p + 0.5 * q)).sum()
        }
    };
    0.5 * step * stretches.iter().map(of).sum::<f64>()
}

/// 2 m ln m.
fn twice_entropy(m: f64) -> f64 {
    if m > 0.0 { 2.0 * (m * m.ln()) } else { 0.0 }
}

/// Mean JSD over all splits of n probes into n1 = floor(n/2) and n2 = ceil(n/2), times (2/n)/(1/n1 + 1/n2): what
/// two independent estimates by n probes each would show.
fn noise(sampled: &Sampled, step: f64) -> Option<f64> {
    let n = sampled.probes.len();
    if n < 2 {
        return None;
    }
    let same = [Stretch::Both(0..sampled.len(), 0..sampled.len())];
    let mean = |keep: &dyn Fn(usize) -> bool| Curve::new(sampled.mean(keep));
    let of_split = |half: &Vec<bool>| jsd(&same, &mean(&|i| half[i]), &mean(&|i| !half[i]), step);
    let values: Vec<f64> = splits(n).iter().map(of_split).collect();
    Some(stats::mean(&values) * split_factor(n))
}

/// (2/n) / (1/n1 + 1/n2).
pub(super) fn split_factor(n: usize) -> f64 {
    let (n1, n2) = ((n / 2) as f64, n.div_ceil(2) as f64);
    2.0 / n as f64 / (1.0 / n1 + 1.0 / n2)
}

/// Subsets of floor(n/2) of n probes, n >= 2; of two halves one.
pub(super) fn splits(n: usize) -> Vec<Vec<bool>> {
    if n > ALL_SPLITS {
        let mut generator = ChaCha8Rng::seed_from_u64(n as u64);
        return (0..MOST_SPLITS).map(|_| random_half(n, &mut generator)).collect();
    }
    let half = |mask: u32| (0..n).map(|i| mask >> i & 1 == 1).collect();
    // with an even number the other half is a subset, too, and says the same
    let masks = if n.is_multiple_of(2) { 1u32 << (n - 1) } else { 1 << n };
    (0..masks).filter(|mask| mask.count_ones() as usize == n / 2).map(half).collect()
}

/// Selection sampling: exactly floor(n/2) of n, each subset equally likely.
fn random_half(n: usize, generator: &mut ChaCha8Rng) -> Vec<bool> {
    let mut needed = n / 2;
    (0..n)
        .map(|i| {
            let take = (generator.next_u32() as usize) % (n - i) < needed;
            needed -= usize::from(take);
            take
        })
        .collect()
}
