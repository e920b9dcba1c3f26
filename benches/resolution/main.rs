//! What m steps and n probes resolve: densities and distances against those of spectra known exactly, and how often the stated
//! error of a distance holds.
//!
//!     cargo run --example resolution            writes results/resolution.md
//!
//! As in `accuracy_vs_hvps`, Lanczos runs on diagonal matrices, and loses nothing by it. A run of 100 steps contains those of
//! 24 and 50. sigma is fixed, 1/99/sqrt(8 ln 3) of the axis for any number of steps; exact spectra are looked at in the view that
//! each run has resolved.

mod spectra;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hesspec::krylov::{Local, OnSegment, Operator, Reorthogonalize, Settings, Tridiagonal, lanczos};
use hesspec::probe::{ProbeKind, probe};
use hesspec::spectrum::{
    AxisChoice, BlockSpectrum, Comparable, DistanceSettings, Divergence, JsBlock, Metric, Node, Quadrature, Sigma,
    View, divergences_in, quadrature, reduce_variance,
};
use hesspec::{Error, Result};
use rayon::prelude::*;
use spectra::{DIM, Family, families};

const STEPS: [usize; 3] = [24, 50, 100];
const PROBES: [usize; 3] = [1, 2, 4];
/// Probes of the recursions: as many sets of one, two or four as fit, at most two of each, are looked at.
const ALL_PROBES: usize = 4;
const METRICS: [&str; 3] = ["wasserstein1_energy", "wasserstein1", "js"];
/// The axis of versions before: lambda_c as a share of the largest |node|.
const FORMER_SCALE: f64 = 1e-4;

/// Of the run of 30 November 2026.
const CONCLUSION: &str = include_str!("conclusion.md");

/// diag(eigenvalues), one slot per start vector.
struct Diagonal<'a>(&'a [f64]);

impl Operator for Diagonal<'_> {
    type Vector = Vec<f64>;

    fn dims(&self) -> Vec<usize> {
        vec![DIM; ALL_PROBES]
    }

    fn apply(&mut self, vectors: &[(usize, &Vec<f64>)], _: &mut OnSegment<Vec<f64>>) -> Result<Vec<Vec<f64>>> {
        let product = |v: &Vec<f64>| v.iter().zip(self.0).map(|(x, lambda)| lambda * x).collect();
        Ok(vectors.iter().map(|(_, v)| product(v)).collect())
    }
}

fn recursions(name: &str, eigenvalues: &[f64]) -> Result<Vec<Tridiagonal>> {
    let (label, reorthogonalize) = (name.to_owned(), Reorthogonalize::Full);
    let settings = Settings { label, steps: 100, reorthogonalize, eta: 0.0, segments: 0 };
    let starts = (0..ALL_PROBES as u32).map(|p| probe(ProbeKind::Gaussian, 11, name, p, 0..DIM)).collect();
    lanczos(Local::new(), &mut Diagonal(eigenvalues), starts, &vec![settings; ALL_PROBES])
}

/// A block after `steps` of these recursions.
fn block(name: &str, all: &[Tridiagonal], steps: usize, is_reduced: bool) -> Result<BlockSpectrum> {
    let cut = |t: &Tridiagonal| Tridiagonal {
        alpha: t.alpha[..steps.min(t.steps())].to_vec(),
        beta: t.beta[..steps.min(t.steps())].to_vec(),
        ..Tridiagonal::default()
    };
    let cuts: Vec<Tridiagonal> = all.iter().map(cut).collect();
    let found = cuts.iter().enumerate().map(|(p, t)| quadrature(name, p as u32, t, 0.0));
    let mut probes = found.collect::<Result<Vec<_>>>()?;
    if is_reduced {
        reduce_variance(&mut probes, DIM, 0.0)?;
    }
    BlockSpectrum::new(name, DIM, probes, 0.0)?.with_pieces(&cuts, &[])
}

/// All eigenvalues as nodes.
fn exact(name: &str, eigenvalues: &[f64]) -> Result<BlockSpectrum> {
    let (weight, weight_reduced, residual_bound) = (1.0 / DIM as f64, None, 0.0);
    let node = |node: &f64| Node {
        node: *node,
        weight,
        weight_reduced,
        residual_bound,
        converged: true,
        below_noise_floor: false,
    };
    let nodes = eigenvalues.iter().map(node).collect();
    let probe =
        Quadrature { nodes, first_moment: 0.0, second_moment: 0.0, exact: true, deflated: None, is_refused: false };
    BlockSpectrum::new(name, DIM, vec![probe], 0.0)
}

fn sigma() -> Sigma {
    Sigma::Relative(Some(1.0 / 99.0 / (8.0 * 3f64.ln()).sqrt()))
}

fn settings(metrics: &[&str]) -> Result<DistanceSettings> {
    let metrics = metrics.iter().map(|name| Metric::named(name)).collect::<Result<_>>()?;
    Ok(DistanceSettings { metrics, axis: AxisChoice::Asinh(None), sigma: sigma(), grid_points: 0 })
}

/// What one pair of blocks came to: exact distance, error made, error stated.
#[derive(Clone, Copy)]
struct Pair {
    exact: f64,
    made: f64,
    stated: f64,
}

/// Where a pair stands in the tables.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    metric: &'static str,
    family: &'static str,
    steps: usize,
    probes: usize,
    is_reduced: bool,
}

#[derive(Default)]
struct Found {
    pairs: BTreeMap<Key, Vec<Pair>>,
    /// lambda_c by family, steps and probes.
    scales: BTreeMap<(&'static str, usize, usize), f64>,
    /// L1 error of each block's density at 24, 50 and 100 steps, two probes, all in the view of 100 steps, by family.
    densities: BTreeMap<&'static str, Vec<[f64; 3]>>,
}

fn study(family: &Family, found: &mut Found) -> Result<()> {
    let names: Vec<String> = (0..family.blocks.len()).map(|at| format!("{} {at}", family.name)).collect();
    let named = || names.par_iter().zip(&family.blocks);
    let truth = named().map(|(name, values)| exact(name, values)).collect::<Result<Vec<_>>>()?;
    let all = named().map(|(name, values)| recursions(name, values)).collect::<Result<Vec<_>>>()?;
    let blocks = |steps, probes: std::ops::Range<usize>, is_reduced| {
        let block = |(name, t): (&String, &Vec<Tridiagonal>)| block(name, &t[probes.clone()], steps, is_reduced);
        names.par_iter().zip(&all).map(block).collect::<Result<Vec<_>>>()
    };
    for (steps, probes) in STEPS.into_iter().flat_map(|steps| PROBES.map(|probes| (steps, probes))) {
        for set in 0..(ALL_PROBES / probes).min(2) {
            for is_reduced in [false, true] {
                let seen = blocks(steps, set * probes..(set + 1) * probes, is_reduced)?;
                let scale = pairs(family.name, &seen, &truth, (steps, probes, is_reduced), found)?;
                found.scales.insert((family.name, steps, probes), scale);
            }
        }
    }
    let view = View::new(&blocks(100, 0..2, false)?, AxisChoice::Asinh(None), sigma())?;
    let of_steps = STEPS.into_iter().map(|steps| blocks(steps, 0..2, false)).collect::<Result<Vec<_>>>()?;
    let errors = |at: usize| [0, 1, 2].map(|steps: usize| l1(&of_steps[steps][at], &truth[at], &view));
    found.densities.insert(family.name, (0..truth.len()).map(errors).collect());
    Ok(())
}

/// Compares all pairs with the exact ones, in the run's own view, whose lambda_c it gives.
fn pairs(
    family: &'static str,
    seen: &[BlockSpectrum],
    truth: &[BlockSpectrum],
    (steps, probes, is_reduced): (usize, usize, bool),
    found: &mut Found,
) -> Result<f64> {
    let view = View::new(seen, AxisChoice::Asinh(None), sigma())?;
    let mut add = |metric, row: &Divergence, exact: f64| {
        let key = Key { metric, family, steps, probes, is_reduced };
        let (value, stated) = (row.value.unwrap_or(f64::NAN), row.error.unwrap_or(f64::NAN));
        found.pairs.entry(key).or_default().push(Pair { exact, made: (value - exact).abs(), stated });
    };
    let off_diagonal = |row: &&Divergence| row.block_a != row.block_b;
    let rows = divergences_in(&view, seen, &settings(&METRICS)?)?;
    for (row, exact) in
        rows.iter().zip(divergences_in(&view, truth, &settings(&METRICS[..2])?)?).filter(|(row, _)| off_diagonal(row))
    {
        add(row.metric, row, exact.value.unwrap_or(f64::NAN));
    }
    let index = |name: &str| truth.iter().position(|block| block.name == name).unwrap_or(0);
    let js = |view: &View| truth.par_iter().map(|block| JsBlock::for_distance(block, view)).collect::<Vec<_>>();
    let exact = js(&view);
    for row in rows.iter().filter(|row| row.metric == "js").filter(off_diagonal) {
        add("js", row, exact[index(&row.block_a)].distance(&exact[index(&row.block_b)]));
    }
    let largest = seen.iter().map(BlockSpectrum::largest).fold(0.0, f64::max);
    let former = View::new(seen, AxisChoice::Asinh(Some(FORMER_SCALE * largest)), sigma())?;
    let exact = js(&former);
    let ours: Vec<JsBlock> = seen.par_iter().map(|block| JsBlock::for_distance(block, &former)).collect();
    for row in rows.iter().filter(|row| row.metric == "js").filter(off_diagonal) {
        let (a, b) = (index(&row.block_a), index(&row.block_b));
        let own = Divergence { value: Some(ours[a].distance(&ours[b])), error: None, ..row.clone() };
        add("js, lambda_c 1e-4", &own, exact[a].distance(&exact[b]));
    }
    view.axis.scale().ok_or_else(|| Error::Other("an asinh axis has a scale".into()))
}

/// The integral of |p - q| over the axis.
fn l1(a: &BlockSpectrum, b: &BlockSpectrum, view: &View) -> f64 {
    let (p, q) = (smoothed(a, view), smoothed(b, view));
    let at = |of: &BTreeMap<i64, f64>, index: &i64| of.get(index).copied().unwrap_or(0.0);
    let only = q.keys().filter(|index| !p.contains_key(index));
    view.step * p.keys().chain(only).map(|index| (at(&p, index) - at(&q, index)).abs()).sum::<f64>()
}

/// The density at multiples of the grid step, within eight sigmas of nodes.
fn smoothed(block: &BlockSpectrum, view: &View) -> BTreeMap<i64, f64> {
    let mut density = BTreeMap::new();
    let height = 1.0 / (view.sigma * std::f64::consts::TAU.sqrt() * block.probes.len() as f64);
    for node in block.nodes() {
        let x = view.axis.coordinate(node.node);
        let center = (x / view.step).round() as i64;
        for index in center - 32..=center + 32 {
            let z = (index as f64 * view.step - x) / view.sigma;
            *density.entry(index).or_default() += height * node.effective_weight() * (-0.5 * z * z).exp();
        }
    }
    density
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / values.len() as f64
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Exact mean distances, and mean errors by steps and probes.
fn errors_table(found: &Found, text: &mut String) {
    text.push_str("\n## Errors of distances\n\nMean over pairs of |distance - exact distance|. W1: in units of the eigenvalues; energy: decades. *lambda_c*: as the last set of two probes (reduced weights) resolves it at 100 steps; *reduced*: `lanczos.weights = \"variance_reduced\"`, two probes, 100 steps.\n\n");
    let columns: Vec<(usize, usize)> = PROBES.into_iter().flat_map(|n| STEPS.map(|m| (m, n))).collect();
    let header = columns.iter().map(|(m, n)| format!(" m = {m}, {n} pr. |")).collect::<String>();
    let _ = writeln!(
        text,
        "| family | lambda_c | metric | exact mean |{header} reduced |\n|---|---|---|---|{}",
        "---|".repeat(columns.len() + 1)
    );
    let rows: std::collections::BTreeSet<(&str, &str)> =
        found.pairs.keys().map(|key| (key.family, key.metric)).collect();
    for (family, metric) in rows {
        let of = |steps, probes, is_reduced| {
            found
                .pairs
                .iter()
                .filter(move |(key, _)| {
                    (key.family, key.metric, key.steps, key.probes, key.is_reduced)
                        == (family, metric, steps, probes, is_reduced)
                })
                .flat_map(|(_, pairs)| pairs)
        };
        let scale = found.scales.get(&(family, 100, 2)).copied().unwrap_or(f64::NAN);
        let exact = mean(of(100, 2, false).map(|pair| pair.exact));
        let _ = write!(text, "| {family} | {scale:.2} | {metric} | {exact:.3} |");
        for (steps, probes) in &columns {
            let _ = write!(text, " {:.4} |", mean(of(*steps, *probes, false).map(|pair| pair.made)));
        }
        let _ = writeln!(text, " {:.4} |", mean(of(100, 2, true).map(|pair| pair.made)));
    }
}

/// How often the truth lies within the stated error, and within twice it.
fn coverage_table(found: &Found, text: &mut String) {
    text.push_str("\n## Coverage of the stated error\n\nAll families, raw weights. *1*, *2*: share of pairs whose error is at most once, twice the stated one.\n\n| metric | pairs | runs of | median error | median stated | 1 | 2 |\n|---|---|---|---|---|---|---|\n");
    let metrics: std::collections::BTreeSet<&str> =
        found.pairs.keys().map(|key| key.metric).filter(|metric| !metric.contains(',')).collect();
    for metric in metrics {
        let of_steps = STEPS.map(|m| (format!("m = {m}"), Some(m), None));
        let of_probes = PROBES.map(|n| (format!("{n} probes"), None, Some(n)));
        for (name, steps, probes) in std::iter::once(("all".to_owned(), None, None)).chain(of_steps).chain(of_probes) {
            let is_in = |key: &Key| steps.is_none_or(|m| key.steps == m) && probes.is_none_or(|n| key.probes == n);
            let chosen = found.pairs.iter().filter(|(key, _)| key.metric == metric && !key.is_reduced && is_in(key));
            let pairs: Vec<Pair> = chosen.flat_map(|(_, pairs)| pairs).copied().collect();
            let within =
                |times: f64| mean(pairs.iter().map(|pair| f64::from(u8::from(pair.made <= times * pair.stated))));
            let (made, stated) =
                (median(pairs.iter().map(|pair| pair.made)), median(pairs.iter().map(|pair| pair.stated)));
            let _ = writeln!(
                text,
                "| {metric} | {} | {name} | {made:.4} | {stated:.4} | {:.2} | {:.2} |",
                pairs.len(),
                within(1.0),
                within(2.0)
            );
        }
    }
}

fn density_table(found: &Found, text: &mut String) {
    text.push_str("\n## Densities\n\nIntegral of |density - exact density| over the axis (at most 2), two probes, in the view that 100 steps resolve. *falls*: share of the family's blocks for which each larger m is nearer.\n\n| family | m = 24 | m = 50 | m = 100 | falls |\n|---|---|---|---|---|\n");
    for (family, blocks) in &found.densities {
        let of = |at: usize| mean(blocks.iter().map(move |errors| errors[at]));
        let falls = mean(blocks.iter().map(|[a, b, c]| f64::from(u8::from(a > b && b > c))));
        let _ = writeln!(text, "| {family} | {:.3} | {:.3} | {:.3} | {falls:.2} |", of(0), of(1), of(2));
    }
}

fn main() -> Result<()> {
    let mut found = Found::default();
    families().iter().try_for_each(|family| study(family, &mut found))?;
    let mut text = String::from(
        "# What is resolved\n\nFamilies of five to eight made-up blocks of 20,000 eigenvalues (`benches/resolution`), all pairs of a family, two sets of one or two probes, one of four (`cargo run --example resolution`).\n",
    );
    errors_table(&found, &mut text);
    coverage_table(&found, &mut text);
    density_table(&found, &mut text);
    text.push_str(CONCLUSION);
    print!("{text}");
    std::fs::write("results/resolution.md", text).map_err(|e| Error::Storage(format!("results/resolution.md: {e}")))
}
