//! Densities and distances: invariances, convergence, ceilings, and no NaN from any finite input.

use super::tests::{bulk_with, slq};
use super::*;
use crate::probe::{ProbeKind, probe};

/// A block whose probes are given as (node, weight) lists.
pub(super) fn block(name: &str, probes: &[&[(f64, f64)]]) -> BlockSpectrum {
    let node = |(node, weight): &(f64, f64)| Node {
        node: *node,
        weight: *weight,
        weight_reduced: None,
        residual_bound: 0.0,
        converged: true,
        below_noise_floor: false,
    };
    let quadrature = |nodes: &&[(f64, f64)]| Quadrature {
        nodes: nodes.iter().map(node).collect(),
        first_moment: 0.0,
        second_moment: 0.0,
        exact: false,
        deflated: None,
        is_refused: false,
    };
    BlockSpectrum::new(name, 1000, probes.iter().map(quadrature).collect(), 0.0).unwrap()
}

fn point(name: &str, node: f64) -> BlockSpectrum {
    block(name, &[&[(node, 1.0)]])
}

/// Three different spectra, one with both signs and decades between.
fn family(scale: f64) -> Vec<BlockSpectrum> {
    let times = |x: Vec<f64>| x.into_iter().map(|x| scale * x).collect::<Vec<_>>();
    let decades: Vec<f64> =
        (0..200).map(|i| (10.0_f64).powf(-3.0 + i as f64 / 50.0) * if i % 5 == 0 { -1.0 } else { 1.0 }).collect();
    vec![
        slq("a", &times(bulk_with(&[3.0, 8.0], 200)), 30, 4),
        slq("b", &times(bulk_with(&[1.5, 40.0], 200)), 30, 4),
        slq("c", &times(decades), 30, 4),
    ]
}

fn settings(axis: AxisChoice) -> DistanceSettings {
    DistanceSettings { metrics: METRICS.to_vec(), axis, sigma: Sigma::Relative(None), grid_points: 20_001 }
}

fn table(blocks: &[BlockSpectrum], axis: AxisChoice) -> Vec<Divergence> {
    divergences(blocks, &settings(axis)).unwrap()
}

fn value(rows: &[Divergence], metric: &str, a: &str, b: &str) -> f64 {
    rows.iter().find(|r| (r.metric, &*r.block_a, &*r.block_b) == (metric, a, b)).unwrap().value.unwrap()
}

#[test]
fn js_does_not_depend_on_the_unit_of_the_loss() {
    for axis in [AxisChoice::Asinh(None), AxisChoice::Linear] {
        let (one, small) = (table(&family(1.0), axis), table(&family(1e-7), axis));
        for (one, small) in one.iter().zip(&small).filter(|(row, _)| row.metric.starts_with("js")) {
            let (x, y) = (one.value.unwrap(), small.value.unwrap());
            // sqrt of a JSD known to 1e-16 or so; nodes themselves differ by rounding
            assert!((x - y).abs() < 1e-7, "{} {} {}: {x} {y}", one.metric, one.block_a, one.block_b);
        }
    }
    let (one, small) = (table(&family(1.0), AxisChoice::Linear), table(&family(1e-7), AxisChoice::Linear));
    let ratio = value(&one, "wasserstein1", "a", "b") / value(&small, "wasserstein1", "a", "b");
    assert!((ratio / 1e7 - 1.0).abs() < 1e-9, "{ratio}");
}

/// Both shapes are blind to the scale of one block alone.
#[test]
fn shape_distances_do_not_depend_on_the_scale_of_one_block() {
    let blocks = family(1.0);
    let mixed = vec![blocks[0].clone(), blocks[1].divided_by(1e5), blocks[2].clone()];
    let (plain, mixed) = (table(&blocks, AxisChoice::Asinh(None)), table(&mixed, AxisChoice::Asinh(None)));
    for metric in ["js_shape", "wasserstein1_shape"] {
        let (x, y) = (value(&plain, metric, "a", "b"), value(&mixed, metric, "a", "b"));
        assert!((x - y).abs() < 1e-9 * (1.0 + x), "{metric}: {x} {y}");
        assert!(x > 1e-3);
    }
    assert!((value(&plain, "js", "a", "b") - value(&mixed, "js", "a", "b")).abs() > 0.1);
}

#[test]
fn halving_dx_changes_js_by_less_than_1e_4() {
    let blocks = family(1.0);
    for axis in [AxisChoice::Asinh(None), AxisChoice::Linear] {
        let view = View::new(&blocks, axis, Sigma::Relative(None)).unwrap();
        let halved = View { step: view.step / 2.0, ..view };
        for (i, j) in [(0, 1), (0, 2), (1, 2)] {
            let distance = |view| JsBlock::new(&blocks[i], view).distance(&JsBlock::new(&blocks[j], view));
            let change = (distance(&view) - distance(&halved)).abs();
            assert!(change < 1e-4, "{axis:?} ({i}, {j}): {change}");
        }
    }
}

/// Two Gaussians of equal width, `delta` sigmas apart: JSD by a fine sum, independent of the lattice code.
#[test]
fn js_of_two_gaussians() {
    let blocks = [point("a", 0.0), point("b", 1.0)];
    for delta in [0.5, 2.0, 5.0] {
        let sigma = 1.0 / delta;
        let view = View::new(&blocks, AxisChoice::Linear, Sigma::Absolute(sigma)).unwrap();
        let found = JsBlock::new(&blocks[0], &view).distance(&JsBlock::new(&blocks[1], &view));
        let gauss = |z: f64| (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
        let jsd: f64 = (-60_000..60_000)
            .map(|k| {
                let z = k as f64 * 2e-4;
                let (p, q) = (gauss(z), gauss(z - delta));
                let m = 0.5 * (p + q);
                let term = |x: f64| if x > 0.0 { x * (x / m).ln() } else { 0.0 };
                0.5 * (term(p) + term(q)) * 2e-4
            })
            .sum();
        let expected = (jsd / std::f64::consts::LN_2).sqrt();
        assert!((found - expected).abs() < 1e-6, "delta {delta}: {found} instead of {expected}");
    }
}

#[test]
fn js_and_w1_of_equal_and_of_distant_blocks() {
    let blocks = [point("a", 0.0), point("b", 1.0), point("c", 1.0)];
    let rows = table(&blocks[1..], AxisChoice::Asinh(None));
    assert_eq!((value(&rows, "js", "b", "c"), value(&rows, "wasserstein1", "b", "c")), (0.0, 0.0));
    let rows = divergences(
        &blocks,
        &DistanceSettings { sigma: Sigma::Relative(Some(0.003)), ..settings(AxisChoice::Asinh(None)) },
    );
    let rows = rows.unwrap();
    assert!((value(&rows, "js", "a", "b") - 1.0).abs() < 1e-12);
    assert_eq!(value(&rows, "wasserstein1", "a", "b"), 1.0);
    assert_eq!(value(&rows, "js", "a", "a"), 0.0);
}

#[test]
fn wasserstein1_of_known_measures() {
    let uniform =
        |low: f64, n: usize| (0..n).map(|i| (low + (i as f64 + 0.5) / n as f64, 1.0 / n as f64)).collect::<Measure>();
    assert!((wasserstein1(&uniform(0.0, 50), &uniform(2.5, 50)) - 2.5).abs() < 1e-13);
    // a point mass at 1/2 against the uniform distribution: 1/4
    assert!((wasserstein1(&uniform(0.0, 1000), &[(0.5, 1.0)]) - 0.25).abs() < 1e-6);
}

/// The floor predicts the distance of two estimates of one spectrum that differ in their probes only.
#[test]
fn noise_floor_and_sem_match_fresh_probes() {
    let eigenvalues = bulk_with(&[3.0, 8.0], 150);
    let blocks: Vec<BlockSpectrum> = (0..12).map(|i| slq(&format!("fresh {i}"), &eigenvalues, 30, 4)).collect();
    let rows = table(&blocks, AxisChoice::Asinh(None));
    for metric in ["js", "wasserstein1"] {
        let rows: Vec<&Divergence> = rows.iter().filter(|r| r.metric == metric && r.block_a != r.block_b).collect();
        let rms = |of: &dyn Fn(&Divergence) -> f64| {
            stats::mean(&rows.iter().map(|r| of(r).powi(2)).collect::<Vec<_>>()).sqrt()
        };
        let (found, floor) = (rms(&|r| r.value.unwrap()), rms(&|r| r.noise_floor.unwrap()));
        assert!((found / floor - 1.0).abs() < 0.3, "{metric}: {found}, floor {floor}");
        assert!(rms(&|r| r.sem.unwrap()) < found);
    }
}

#[test]
fn one_probe_has_no_errors_and_no_floor() {
    let rows = table(&[point("a", 1.0), point("b", 2.0)], AxisChoice::Asinh(None));
    assert!(rows.iter().all(|row| row.sem.is_none() && row.noise_floor.is_none()));
}

#[test]
fn zero_blocks_are_named_and_left_out_of_the_mean() {
    let mut blocks = family(1.0);
    blocks.insert(1, point("zero", 0.0));
    let rows = table(&blocks, AxisChoice::Asinh(None));
    let row =
        |metric: &str| rows.iter().find(|r| r.metric == metric && r.block_b == "zero" && r.block_a == "a").unwrap();
    assert!(row("js").value.is_some() && row("js").status == "zero_block");
    assert!(row("js_shape").value.is_none() && row("js_shape").status == "zero_block");
    assert!(row("wasserstein1_shape").value.is_none());
    let means = mean_distances(&rows);
    let without = mean_distances(&table(&family(1.0), AxisChoice::Asinh(Some(4e-3))));
    assert_eq!(means.len(), 9);
    for (mean, without) in means.iter().zip(&without) {
        let pairs = if mean.metric == "symkl_paper" { 6 } else { 3 };
        assert_eq!((mean.num_pairs, mean.num_zero_blocks, without.num_pairs), (pairs, 1, pairs), "{}", mean.metric);
        assert!(mean.value.unwrap() > 0.0);
    }
}

#[test]
fn density_is_positive_of_mass_one_and_finely_sampled() {
    for axis in [AxisChoice::Asinh(None), AxisChoice::Linear] {
        for sigma in [Sigma::Relative(None), Sigma::Relative(Some(1e-4)), Sigma::Absolute(1e-5_f64.sqrt())] {
            let blocks = family(1.0);
            let view = View::new(&blocks, axis, sigma).unwrap();
            for block in &blocks {
                let found = density(block, &view);
                assert!((found.mass - 1.0).abs() < 1e-9 && found.status == "ok", "{}", found.mass);
                assert!(found.density.iter().all(|x| *x > 0.0) && found.log_density.iter().all(|x| x.is_finite()));
                assert!(found.coordinate.windows(2).all(|x| x[0] < x[1]));
                assert_eq!(found.sem.as_ref().unwrap().len(), found.coordinate.len());
                for node in block.nodes() {
                    let x = view.axis.coordinate(node.node);
                    let near = found.coordinate.iter().filter(|c| (*c - x).abs() < 9.9 * view.sigma).count();
                    assert!(near >= 79, "{near} points within 9.9 sigma of a node");
                }
            }
        }
    }
}

#[test]
fn a_hopeless_sigma_is_a_status_with_advice() {
    let blocks = [point("a", 1e25), point("b", 2e25)];
    let view = View::new(&blocks, AxisChoice::Linear, Sigma::Absolute(1e-3)).unwrap();
    let found = density(&blocks[0], &view);
    assert!(found.status.contains("take a larger density.sigma"), "{}", found.status);
    let settings = DistanceSettings { sigma: Sigma::Absolute(1e-3), ..settings(AxisChoice::Linear) };
    let rows = divergences(&blocks, &settings).unwrap();
    let row = rows.iter().find(|row| row.metric == "js").unwrap();
    assert!(row.status.contains("take a larger density.sigma"), "{}", row.status);
    assert!(View::new(&blocks, AxisChoice::Linear, Sigma::Absolute(0.0)).is_err());
    assert!(View::new(&blocks, AxisChoice::Asinh(Some(f64::NAN)), Sigma::Relative(None)).is_err());
}

/// Naive evaluation, every node at every grid point, exactly as the original.
fn naive_symkl(a: &Measure, b: &Measure, points: usize) -> f64 {
    let nodes = || a.iter().chain(b).map(|x| x.0);
    let (low, high) = (nodes().fold(f64::INFINITY, f64::min) - 1.0, nodes().fold(f64::NEG_INFINITY, f64::max) + 1.0);
    let dx = (high - low) / (points - 1) as f64;
    let density = |measure: &Measure| {
        let norm = (std::f64::consts::TAU * 1e-5).sqrt();
        let at = |x: f64| measure.iter().map(|(node, w)| (-(x - node).powi(2) / 2e-5).exp() / norm * w).sum::<f64>();
        let raw: Vec<f64> =
            (0..points).map(|i| at(low + i as f64 * dx)).map(|p| if p == 0.0 { 1e-258 } else { p }).collect();
        let mass = raw.iter().sum::<f64>() * dx;
        raw.into_iter().map(|p| p / mass).collect::<Vec<f64>>()
    };
    let (p, q) = (density(a), density(b));
    let kl = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(p, q)| p * (p.ln() - q.ln())).sum::<f64>() * dx;
    0.5 * (kl(&p, &q) + kl(&q, &p))
}

#[test]
fn symkl_equals_the_naive_evaluation() {
    let mut workspace = Workspace::default();
    let blocks = family(0.02);
    let measures: Vec<Measure> = blocks.iter().map(|block| measure(block.probes.iter())).collect();
    for points in [2_001, 30_001, 200_001] {
        for (a, b) in [(0, 1), (1, 2)] {
            let found = symkl(&measures[a], &measures[b], points, &mut workspace).value;
            let expected = naive_symkl(&measures[a], &measures[b], points);
            assert!((found / expected - 1.0).abs() < 1e-6, "{points} points: {found} instead of {expected}");
        }
    }
}

/// Two Gaussians of equal width: 1/2 (KL + KL) = delta^2 / (2 sigma^2).
#[test]
fn symkl_of_two_gaussians() {
    let found = symkl(&vec![(0.0, 1.0)], &vec![(0.01, 1.0)], 500_000, &mut Workspace::default());
    assert!((found.value - 5.0).abs() < 1e-6, "{found:?}");
    assert!((found.raw_mass.0 - 1.0).abs() < 1e-9 && !found.disjoint && found.dx_over_sigma < 0.01);
}

/// Disjoint: ln(1e258) = 594 plus E ln p = -ln(sigma sqrt(2 pi e)) = 4.34 of the Gaussian itself.
#[test]
fn symkl_has_its_ceiling() {
    let mut workspace = Workspace::default();
    let ceiling = 258.0 * 10.0_f64.ln() - (1e-5 * std::f64::consts::TAU * 1.0_f64.exp()).sqrt().ln();
    for distance in [1.0, 10.0, 100.0] {
        let found = symkl(&vec![(0.0, 1.0)], &vec![(distance, 1.0)], 500_000, &mut workspace);
        assert!(found.disjoint);
        assert!((found.value / ceiling - 1.0).abs() < 1e-4, "{found:?}, ceiling {ceiling}");
    }
}

/// The same two spectra on two grids: equal where dx < sigma, not where dx > sigma.
#[test]
fn symkl_depends_on_the_grid_where_it_is_coarser_than_sigma() {
    let mut workspace = Workspace::default();
    let spectrum =
        |shift: f64, scale: f64| (0..40).map(|i| (shift + scale * i as f64, 1.0 / 40.0)).collect::<Measure>();
    let mut value = |scale: f64, points: usize| {
        let found = symkl(&spectrum(0.0, scale), &spectrum(0.002, scale * 1.01), points, &mut workspace);
        (found.value, found.dx_over_sigma)
    };
    let ((fine, dx), (finer, _)) = (value(0.01, 20_000), value(0.01, 40_000));
    assert!(dx < 0.1 && (fine / finer - 1.0).abs() < 1e-3, "{fine} {finer}");
    let ((coarse, dx), (other, _)) = (value(10.0, 20_000), value(10.0, 21_000));
    assert!(dx > 1.0 && (coarse / other - 1.0).abs() > 1e-2, "{coarse} {other}");
}

/// Any finite input: huge, tiny, subnormal, both signs, one node, equal nodes, weights of 0.
#[test]
fn no_nan_and_no_value_out_of_range_for_any_finite_input() {
    let sizes = [0.0, 5e-324, 1e-310, 1e-200, 1e-30, 1e-3, 1.0, 1e3, 1e10, 1e30, 1e154, 1e300, f64::MAX / 4.0];
    let random = |index: u32| probe(ProbeKind::Gaussian, 2, "fuzz", index, 0..12);
    let mut blocks: Vec<BlockSpectrum> = sizes.iter().map(|size| point(&format!("{size:e}"), *size)).collect();
    for (index, size) in sizes.iter().enumerate() {
        let sign = |x: f64| if x < 0.0 { -size } else { *size };
        let mixed: Vec<(f64, f64)> = random(index as u32)
            .iter()
            .enumerate()
            .map(|(i, x)| (if i % 3 == 0 { sign(*x) } else { x * 1e-2 }, if i == 0 { 0.0 } else { 1.0 / 11.0 }))
            .collect();
        blocks.push(block(&format!("mixed {size:e}"), &[&mixed, &[(-size, 0.5), (*size, 0.5)]]));
    }
    for axis in [AxisChoice::Asinh(None), AxisChoice::Asinh(Some(1e-300)), AxisChoice::Linear] {
        for sigma in [Sigma::Relative(None), Sigma::Absolute(1e-5_f64.sqrt())] {
            let settings = DistanceSettings { sigma, grid_points: 501, ..settings(axis) };
            for blocks in [&blocks[..], &blocks[4..9], &blocks[17..22]] {
                for row in divergences(blocks, &settings).unwrap() {
                    let Some(value) = row.value else { continue };
                    assert!(value.is_finite() && value >= -1e-9, "{row:?}");
                    assert!(!row.metric.starts_with("js") || value <= 1.0, "{row:?}");
                    assert!(
                        row.sem.is_none_or(f64::is_finite) && row.noise_floor.is_none_or(f64::is_finite),
                        "{row:?}"
                    );
                }
                let view = View::new(blocks, axis, sigma).unwrap();
                for block in blocks {
                    let found = density(block, &view);
                    assert!(found.density.iter().all(|x| *x > 0.0) && !found.mass.is_nan(), "{}", block.name);
                }
            }
        }
    }
    assert!(BlockSpectrum::new("nan", 1, point("a", 0.0).probes, f64::NAN).is_err());
}
