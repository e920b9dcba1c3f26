//! Stochastic Lanczos quadrature on matrices of known spectrum: nodes, weights, moments, noise, errors.

use super::*;
use crate::krylov::{
    Dense, Local, MatrixOperator, OnSegment, Operator, Reorthogonalize, Settings, Tridiagonal, lanczos,
};
use crate::probe::{ProbeKind, probe};

pub(super) fn settings(steps: usize) -> Settings {
    Settings { label: "test".into(), steps, reorthogonalize: Reorthogonalize::Full, eta: 0.0, segments: 0 }
}

pub(super) fn starts(name: &str, dim: usize, num_probes: u32) -> Vec<Vec<f64>> {
    (0..num_probes).map(|p| probe(ProbeKind::Gaussian, 3, name, p, 0..dim)).collect()
}

/// The spectrum of a diagonal matrix (no loss of generality: probes are isotropic), by SLQ.
pub(super) fn slq(name: &str, eigenvalues: &[f64], steps: usize, num_probes: u32) -> BlockSpectrum {
    let dim = eigenvalues.len();
    let matrix = Dense::from_fn(dim, |i, j| if i == j { eigenvalues[i] } else { 0.0 });
    let mut operator = MatrixOperator::<f64>::shared(matrix, num_probes as usize);
    let all = vec![settings(steps); num_probes as usize];
    let ts = lanczos(Local::new(), &mut operator, starts(name, dim, num_probes), &all).unwrap();
    spectrum(name, dim, &ts, 0.0)
}

pub(super) fn spectrum(name: &str, dim: usize, ts: &[Tridiagonal], noise_floor: f64) -> BlockSpectrum {
    let probes = ts.iter().enumerate().map(|(p, t)| quadrature(name, p as u32, t, noise_floor).unwrap()).collect();
    BlockSpectrum::new(name, dim, probes, noise_floor).unwrap()
}

/// The exact spectral measure that one probe sees: weights v_i^2 on the eigenvalues of a diagonal matrix.
fn seen_by(name: &str, eigenvalues: &[f64], probe_index: usize) -> Measure {
    let v = starts(name, eigenvalues.len(), probe_index as u32 + 1).remove(probe_index);
    let norm_squared: f64 = v.iter().map(|x| x * x).sum();
    let mut measure: Measure = eigenvalues.iter().zip(&v).map(|(e, x)| (*e, x * x / norm_squared)).collect();
    measure.sort_by(|a, b| a.0.total_cmp(&b.0));
    measure
}

/// Eigenvalues of Z Z^T / columns with Gaussian Z (rows x columns): Marchenko-Pastur.
fn wishart(rows: usize, columns: usize) -> Vec<f64> {
    let z = probe(ProbeKind::Gaussian, 8, "wishart", 0, 0..rows * columns);
    let row = |i: usize| &z[i * columns..][..columns];
    let entry = |i, j| row(i).iter().zip(row(j)).map(|(x, y)| x * y).sum::<f64>() / columns as f64;
    let lower: Vec<f64> = (0..rows).flat_map(|i| (0..=i).map(move |j| (i, j))).map(|(i, j)| entry(i, j)).collect();
    eigen::packed_symmetric(rows, &lower).unwrap().values
}

pub(super) fn bulk_with(outliers: &[f64], dim: usize) -> Vec<f64> {
    let bulk = (0..dim - outliers.len()).map(|i| i as f64 / dim as f64);
    bulk.chain(outliers.iter().copied()).collect()
}

/// Two measures of equal moments up to degree k = 2m - 1 differ by at most W1 <= pi range / (2 (k + 1)):
/// Jackson's best approximation of 1-Lipschitz functions, twice.
#[test]
fn wasserstein_error_is_within_the_theoretical_bound() {
    let clusters: Vec<f64> = (0..300).map(|i| [0.0, 1.0, 1.01, 5.0][i % 4] + 1e-3 * i as f64).collect();
    for eigenvalues in [clusters, bulk_with(&[3.0, 4.0, 9.0], 300), wishart(150, 300)] {
        let low = eigenvalues.iter().copied().fold(f64::INFINITY, f64::min);
        let range = eigenvalues.iter().copied().fold(f64::NEG_INFINITY, f64::max) - low;
        for steps in [1, 2, 5, 10, 30] {
            let block = slq("w1", &eigenvalues, steps, 2);
            for (p, quadrature) in block.probes.iter().enumerate() {
                let found = wasserstein1(&measure([quadrature].into_iter()), &seen_by("w1", &eigenvalues, p));
                let bound = std::f64::consts::PI * range / (4.0 * steps as f64);
                assert!(found <= bound, "m = {steps}: {found} > {bound}");
            }
        }
        // all steps: the measure itself
        let all = slq("w1", &eigenvalues, 300, 1);
        assert!(wasserstein1(&measure(all.probes.iter()), &seen_by("w1", &eigenvalues, 0)) < 1e-10 * range);
    }
}

/// m nodes integrate polynomials up to degree 2m - 1 exactly.
#[test]
fn quadrature_is_exact_to_degree_2m_minus_1() {
    let eigenvalues = wishart(80, 160);
    let truth = seen_by("degree", &eigenvalues, 0);
    for steps in [1, 3, 6] {
        let block = slq("degree", &eigenvalues, steps, 1);
        for degree in 0..2 * steps as i32 {
            let found: f64 = block.nodes().map(|n| n.weight * n.node.powi(degree)).sum();
            let expected: f64 = truth.iter().map(|(e, w)| w * e.powi(degree)).sum();
            assert!((found / expected - 1.0).abs() < 1e-11, "m = {steps}, degree {degree}: {found} {expected}");
        }
    }
}

/// Marchenko-Pastur, ratio 1/2: nodes within the edges (1 -+ sqrt c)^2 up to Tracy-Widom fluctuations
/// n^(-2/3), and moments 1, 1 + c, 1 + 3c + c^2 within those of the probes.
#[test]
fn wishart_matrices_follow_marchenko_pastur() {
    let c: f64 = 0.5;
    let block = slq("wishart", &wishart(300, 600), 60, 4);
    let slack = 5.0 * 300.0_f64.powf(-2.0 / 3.0);
    let found = moments(&block);
    assert!((found.lambda_max - (1.0 + c.sqrt()).powi(2)).abs() < slack, "{}", found.lambda_max);
    assert!((found.lambda_min - (1.0 - c.sqrt()).powi(2)).abs() < slack, "{}", found.lambda_min);
    let sem = 5.0 / (4.0 * 300.0_f64).sqrt();
    for (power, expected) in [(1, 1.0), (2, 1.0 + c), (3, 1.0 + 3.0 * c + c * c)] {
        let mean = block.nodes().map(|n| n.weight * n.node.powi(power)).sum::<f64>() / 4.0;
        assert!((mean - expected).abs() < sem * expected * f64::from(power), "moment {power}: {mean} {expected}");
    }
}

/// Papyan's Y = diag(5, 4, 3, 0, ...) + Z Z^T / 2000, never formed.
struct Papyan {
    z: Vec<f64>,
}

const PAPYAN_DIM: usize = 2000;

impl Operator for Papyan {
    type Vector = Vec<f64>;

    fn dims(&self) -> Vec<usize> {
        vec![PAPYAN_DIM]
    }

    fn apply(&mut self, vectors: &[(usize, &Vec<f64>)], _: &mut OnSegment<Vec<f64>>) -> Result<Vec<Vec<f64>>> {
        let product = |v: &Vec<f64>| {
            let mut zv = vec![0.0; PAPYAN_DIM];
            for (row, x) in self.z.chunks(PAPYAN_DIM).zip(v) {
                zv.iter_mut().zip(row).for_each(|(sum, z)| *sum += z * x);
            }
            let zzv = self.z.chunks(PAPYAN_DIM).map(|row| row.iter().zip(&zv).map(|(z, x)| z * x).sum::<f64>());
            let spike = |i: usize| [5.0, 4.0, 3.0].get(i).copied().unwrap_or(0.0);
            zzv.enumerate().map(|(i, sum)| sum / PAPYAN_DIM as f64 + spike(i) * v[i]).collect()
        };
        Ok(vectors.iter().map(|(_, v)| product(v)).collect())
    }
}

/// A spike t > 2 on Marchenko-Pastur of ratio 1 (bulk [0, 4]) becomes an outlier at t^2 / (t - 1).
#[test]
fn papyans_three_outliers_leave_the_bulk() {
    let mut operator = Papyan { z: probe(ProbeKind::Gaussian, 4, "z", 0, 0..PAPYAN_DIM * PAPYAN_DIM) };
    let ts = lanczos(Local::new(), &mut operator, starts("papyan", PAPYAN_DIM, 1), &[settings(80)]).unwrap();
    let block = spectrum("papyan", PAPYAN_DIM, &ts, 0.0);
    let outliers: Vec<&Node> = block.nodes().filter(|n| n.node > 4.2).collect();
    assert_eq!(outliers.len(), 3, "{outliers:?}");
    for (node, spike) in outliers.iter().zip([3.0, 4.0, 5.0]) {
        let expected = spike * spike / (spike - 1.0);
        // fluctuations are a few times n^(-1/2) = 0.022
        assert!((node.node - expected).abs() < 0.2, "{} instead of {expected}", node.node);
        assert!(node.converged, "{node:?}");
    }
}

#[test]
fn moments_of_a_known_matrix() {
    let eigenvalues: Vec<f64> = (0..400).map(|i| if i < 100 { -1.0 - 1e-3 * i as f64 } else { 2.0 }).collect();
    let block = slq("moments", &eigenvalues, 30, 6);
    let found = moments(&block);
    let trace: f64 = eigenvalues.iter().sum();
    let frobenius = eigenvalues.iter().map(|x| x * x).sum::<f64>().sqrt();
    assert!((found.trace - trace).abs() < 5.0 * found.trace_sem, "{found:?}, trace {trace}");
    assert!((found.frobenius - frobenius).abs() < 5.0 * found.frobenius_sem.unwrap(), "{found:?}");
    assert!((found.lambda_min + 1.099).abs() <= found.lambda_min_residual + 1e-12, "{found:?}");
    assert!((found.lambda_max - 2.0).abs() <= found.lambda_max_residual + 1e-12, "{found:?}");
    assert!((found.negative_mass - 0.25).abs() < 5.0 * (0.25 * 0.75 * 2.0 / 2400.0_f64).sqrt(), "{found:?}");
    assert!(moments(&slq("one", &eigenvalues, 3, 1)).trace_sem > 0.0);
}

#[test]
fn broken_identities_name_block_and_probe() {
    let t = Tridiagonal { alpha: vec![1.0, f64::NAN], beta: vec![0.5, 0.1], ..Default::default() };
    let error = quadrature("wte", 3, &t, 0.0).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("block `wte`, probe 3"), "{error}");
    let t = Tridiagonal { alpha: vec![1.0, 2.0, 3.0], beta: vec![0.5, 0.1, 0.2], ..Default::default() };
    let good = quadrature("wte", 3, &t, 0.0).unwrap().nodes;
    assert!(super::quadrature::check_identities(&good, &t).is_ok());
    for damage in [|n: &mut Node| n.weight *= 1.0 + 1e-8, |n: &mut Node| n.node += 1e-8] {
        let mut nodes = good.clone();
        damage(&mut nodes[1]);
        assert!(super::quadrature::check_identities(&nodes, &t).is_err());
    }
}

fn reduced(eigenvalues: &[f64], steps: usize) -> BlockSpectrum {
    let mut block = slq("reduced", eigenvalues, steps, 4);
    reduce_variance(&mut block.probes, eigenvalues.len(), 0.0).unwrap();
    for probe in &block.probes {
        let sum: f64 = probe.nodes.iter().map(Node::effective_weight).sum();
        assert!((sum - 1.0).abs() < 1e-12, "sum of weights {sum}");
    }
    block
}

/// (mass, its error, error of the raw mass) near an eigenvalue, root mean square over probes.
fn mass_errors(block: &BlockSpectrum, value: f64, truth: f64) -> (f64, f64) {
    let error = |weight: fn(&Node) -> f64| {
        let mass =
            |probe: &Quadrature| probe.nodes.iter().filter(|n| (n.node - value).abs() < 0.3).map(weight).sum::<f64>();
        let squares: Vec<f64> = block.probes.iter().map(|p| (mass(p) - truth).powi(2)).collect();
        stats::mean(&squares).sqrt()
    };
    (error(Node::effective_weight), error(|n| n.weight))
}

#[test]
fn simple_outliers_get_exactly_one_over_d() {
    let block = reduced(&bulk_with(&[10.0, 20.0, 30.0], 500), 40);
    for outlier in [10.0, 20.0, 30.0] {
        let (reduced, raw) = mass_errors(&block, outlier, 1.0 / 500.0);
        assert!(reduced < 1e-12 && raw > 1e-4, "{reduced} {raw}");
    }
}

#[test]
fn multiple_outliers_keep_their_mass() {
    let block = reduced(&bulk_with(&[[10.0; 25], [30.0; 25]].concat(), 500), 40);
    for outlier in [10.0, 30.0] {
        // d w is chi-squared with 25 degrees a probe; 1/d would be wrong by 24/500 = 0.048
        let (reduced, raw) = mass_errors(&block, outlier, 25.0 / 500.0);
        assert!(reduced < 2.0 * 50.0_f64.sqrt() / 500.0, "{reduced}");
        assert!((reduced / raw - 1.0).abs() < 0.1, "{reduced} {raw}");
    }
}

#[test]
fn two_point_spectrum_keeps_its_weights() {
    let eigenvalues: Vec<f64> = (0..200).map(|i| if i % 2 == 0 { 1.0 } else { 50.0 }).collect();
    let block = reduced(&eigenvalues, 10);
    assert!(block.probes.iter().all(|probe| probe.exact && probe.nodes.len() == 2));
    assert!(block.nodes().all(|n| n.weight_reduced == Some(n.weight)));
    // the same without the breakdown: condition (c) alone must refuse
    let mut block = block;
    block.probes.iter_mut().for_each(|probe| probe.exact = false);
    reduce_variance(&mut block.probes, 200, 0.0).unwrap();
    assert!(block.nodes().all(|n| (n.effective_weight() - n.weight).abs() < 1e-15));
}

#[test]
fn nothing_below_ten_noise_floors_is_reduced() {
    let mut block = slq("reduced", &bulk_with(&[10.0, 30.0], 300), 40, 4);
    reduce_variance(&mut block.probes, 300, 2.0).unwrap();
    let replaced = |n: &&Node| (n.effective_weight() - 1.0 / 300.0).abs() < 1e-14;
    assert!(block.nodes().filter(replaced).all(|n| n.node > 20.0));
    assert_eq!(block.nodes().filter(replaced).count(), 4);
}

/// H of rank 3 plus a symmetric Gaussian E with |E v| = eta: the null space shows nodes up to 2 eta, and
/// 3 eta marks them all and, within a factor of 2, no more than that.
#[test]
fn noise_floor_of_an_operator_of_known_error() {
    let (dim, eta) = (400, 1e-3);
    let g = probe(ProbeKind::Gaussian, 1, "noise", 0, 0..dim * dim);
    let e = |i: usize, j: usize| eta / (dim as f64).sqrt() * g[i.max(j) * dim + i.min(j)];
    let signal = |i: usize, j: usize| if i == j && i < 3 { 1.0 + i as f64 } else { 0.0 };
    let (exact, noisy) = (Dense::from_fn(dim, signal), Dense::from_fn(dim, |i, j| signal(i, j) + e(i, j)));
    let v = starts("noise", dim, 1).remove(0);
    let v_norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let measured = error_from_reference(&noisy.multiply(&v), &exact.multiply(&v), v_norm);
    assert!((measured / eta - 1.0).abs() < 0.1, "eta {measured}");

    let floor = noise_floor(measured);
    let ts = lanczos(Local::new(), &mut MatrixOperator::<f64>::shared(noisy, 1), vec![v], &[settings(60)]).unwrap();
    let block = spectrum("noise", dim, &ts, floor);
    let noise: Vec<f64> = block.nodes().map(|n| n.node.abs()).filter(|x| *x < 0.5).collect();
    let largest = noise.iter().copied().fold(0.0, f64::max);
    assert!(largest < floor && floor < 2.0 * largest, "noise up to {largest}, floor {floor}");
    assert_eq!(block.nodes().filter(|n| !n.below_noise_floor).count(), 3);

    // two independent errors of size eta: 2 eta, the safe side
    let other = |seed| {
        let error = probe(ProbeKind::Gaussian, seed, "error", 0, 0..dim);
        error.iter().map(|x| eta * x / (dim as f64).sqrt()).collect::<Vec<f64>>()
    };
    let two = error_from_two(&other(1), &other(2), 1.0);
    assert!((two / (2.0 * eta) - 1.0).abs() < 0.15, "{two}");
}

/// Segments are H plus independent noise: errors from one run agree with the spread over fresh data.
#[test]
fn segment_errors_agree_with_the_spread_over_fresh_data() {
    let (dim, num_segments, replicas) = (40, 24, 60);
    let shares = vec![1.0 / num_segments as f64; num_segments];
    let v = starts("segments", dim, 1).remove(0);
    let run = |replica: usize| {
        let segment = |s: usize| {
            let g = probe(ProbeKind::Gaussian, (replica * num_segments + s) as u64, "data", 0, 0..dim * dim);
            let noise = move |i: usize, j: usize| 0.1 * g[i.max(j) * dim + i.min(j)];
            let signal = |i: usize, j: usize| if i == j { [20.0, 10.0].get(i).copied().unwrap_or(1.0) } else { 0.0 };
            Dense::from_fn(dim, |i, j| (signal(i, j) + noise(i, j)) / num_segments as f64)
        };
        let mut operator = MatrixOperator::<f64>::new(vec![(0..num_segments).map(segment).collect()]);
        let settings = Settings { segments: num_segments, ..settings(12) };
        lanczos(Local::new(), &mut operator, vec![v.clone()], &[settings]).unwrap().remove(0)
    };
    let top = |t: &Tridiagonal| *eigen::tridiagonal(t).unwrap().values.last().unwrap();
    let runs: Vec<Tridiagonal> = (0..replicas).map(run).collect();
    let truth = stats::standard_deviation(&runs.iter().map(top).collect::<Vec<_>>()).unwrap();

    let first_order: Vec<f64> =
        runs.iter().map(|t| *bootstrap::node_errors("x", t, &shares).unwrap().unwrap().last().unwrap()).collect();
    let first_order = stats::mean(&first_order);
    fn block(t: &Tridiagonal) -> bootstrap::Segmented<'_> {
        bootstrap::Segmented { name: "x", dim: 40, probes: std::slice::from_ref(t), noise_floor: 0.0 }
    }
    let largest = |t: &Tridiagonal| {
        let largest = |x: &[f64]| Ok(vec![moments(&block(t).resample(x)?).lambda_max]);
        bootstrap::standard_errors(5, 100, &shares, largest).unwrap().unwrap()[0]
    };
    let bootstrapped = stats::mean(&runs.iter().take(20).map(largest).collect::<Vec<_>>());
    // a standard deviation from 60 values is known to 1 / sqrt(118) = 9 %: allow 3.5 times that
    for (name, found) in [("first order", first_order), ("bootstrap", bootstrapped)] {
        assert!((found / truth - 1.0).abs() < 0.32, "{name}: {found} instead of {truth}");
    }
    let same = block(&runs[0]).resample(&vec![1.0; num_segments]).unwrap();
    assert!((same.probes[0].nodes[11].node - top(&runs[0])).abs() < 1e-11);
    assert!(bootstrap::node_errors("x", &runs[0], &shares[1..]).is_err());
}

#[test]
fn bootstrap_draws_depend_on_nothing_but_their_arguments() {
    let shares = [0.25, 0.25, 0.3, 0.2];
    let draw = bootstrap::multipliers(1, 7, &shares);
    assert_eq!(draw, bootstrap::multipliers(1, 7, &shares));
    assert_ne!(draw, bootstrap::multipliers(1, 8, &shares));
    let total: f64 = draw.iter().zip(shares).map(|(x, share)| x * share).sum();
    assert!((total - 1.0).abs() < 1e-15);
}
