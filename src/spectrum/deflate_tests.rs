//! Deflated weights on spectra that are known exactly.

use std::rc::Rc;

use super::tests::{bulk_with, settings, starts};
use super::*;
use crate::krylov::{
    Chain, Complement, Dense, Local, Locked, MatrixOperator, SharedComplement, Short, Tridiagonal, run,
};
use crate::probe::{ProbeKind, probe};

struct Starts {
    dim: usize,
    name: String,
    noise_floor: f64,
}

impl Complement<Vec<f64>> for Starts {
    fn start(&self, index: usize) -> Vec<f64> {
        probe(ProbeKind::Gaussian, 4, &self.name, index as u32, 0..self.dim)
    }

    fn locked(&self, t: &Tridiagonal) -> Result<Locked> {
        converged_eigenvectors(t, self.dim, self.noise_floor)
    }
}

/// T of one probe of diag(eigenvalues), and its deflated quadrature.
fn deflated(name: &str, eigenvalues: &[f64], steps: usize, short: Short) -> (Tridiagonal, Quadrature) {
    deflated_above(0.0, name, eigenvalues, steps, short)
}

fn deflated_above(
    noise_floor: f64,
    name: &str,
    eigenvalues: &[f64],
    steps: usize,
    short: Short,
) -> (Tridiagonal, Quadrature) {
    let dim = eigenvalues.len();
    let matrix = Dense::from_fn(dim, |i, j| if i == j { eigenvalues[i] } else { 0.0 });
    let complement: SharedComplement<'_, Vec<f64>> = Rc::new(Starts { dim, name: name.into(), noise_floor });
    let start = starts(name, dim, 1).remove(0);
    let chain = Chain::new(Local::new(), start, settings(steps), Some((short, complement))).unwrap();
    let t = run(&mut MatrixOperator::<f64>::shared(matrix, 1), vec![chain]).unwrap().remove(0);
    let mut probe = quadrature(name, 0, &t, noise_floor).unwrap();
    deflate(&mut probe, &t, dim, noise_floor).unwrap();
    (t, probe)
}

fn exact(eigenvalues: &[f64]) -> Measure {
    let mut exact: Measure = eigenvalues.iter().map(|x| (*x, 1.0 / eigenvalues.len() as f64)).collect();
    exact.sort_by(|a, b| a.0.total_cmp(&b.0));
    exact
}

fn weight(node: &Node) -> f64 {
    node.weight_reduced.unwrap()
}

fn share_of_outliers(probe: &Quadrature) -> Vec<f64> {
    probe.nodes.iter().filter(|n| n.node > 2.0).map(weight).collect()
}

const SHORT: Short = Short { starts: 8, steps: 4 };

/// The outliers have 1/d each, and the rest has the moments up to 2 s - 1 of all start vectors' mean.
#[test]
fn the_rest_has_the_moments_of_all_start_vectors() {
    let eigenvalues = bulk_with(&[50.0, 70.0, 90.0], 400);
    let (t, probe) = deflated("moments", &eigenvalues, 40, SHORT);
    assert_eq!(share_of_outliers(&probe), [1.0 / 400.0; 3]);
    assert!((probe.nodes.iter().map(weight).sum::<f64>() - 1.0).abs() < 1e-12);
    let rest: Vec<&Node> = probe.nodes.iter().filter(|n| n.node < 2.0).collect();
    let raw: f64 = rest.iter().map(|n| n.weight).sum();
    for power in 0..2 * SHORT.steps as i32 {
        let found = rest.iter().map(|n| weight(n) * n.node.powi(power)).sum::<f64>() * 400.0 / 397.0;
        let of_long = rest.iter().map(|n| n.weight / raw * n.node.powi(power)).sum::<f64>();
        let of_short = t.complement.iter().map(|t| {
            quadrature("short", 0, t, 0.0).unwrap().nodes.iter().map(|n| n.weight * n.node.powi(power)).sum::<f64>()
        });
        let mean = (of_long + of_short.sum::<f64>()) / (1 + SHORT.starts) as f64;
        assert!((found - mean).abs() < 1e-9, "moment {power}: {found} {mean}");
    }
    let second: f64 = probe.nodes.iter().map(|n| weight(n) * n.node * n.node).sum();
    assert!((probe.second_moment / second - 1.0).abs() < 1e-9, "{} {second}", probe.second_moment);
}

/// As many products, spent on one long recursion, on more probes, or on short recursions: these win by far where outliers scatter.
#[test]
fn less_error_for_as_many_products() {
    let outliers: Vec<f64> = (1..=20).map(|i| 3.0 * f64::from(i)).collect();
    let eigenvalues = bulk_with(&outliers, 500);
    let exact = exact(&eigenvalues);
    let (mut plain, mut short) = (0.0, 0.0);
    for seed in 0..5 {
        let name = format!("error {seed}");
        let (_, probe) = deflated(&name, &eigenvalues, 50, Short { starts: 14, steps: 5 });
        let probes = super::tests::slq(&name, &eigenvalues, 40, 3).probes;
        plain += wasserstein1(&measure(probes.iter()), &exact);
        short += wasserstein1(&measure([probe].iter()), &exact);
    }
    assert!(short < 0.3 * plain, "{short} {plain}");
}

/// Every eigenvalue three times, as in a network of equal parts: no weight of 1/d, and the moments of all start vectors.
#[test]
fn multiple_eigenvalues_keep_their_mass() {
    let simple: Vec<f64> = (0..40).map(|i| 1.1_f64.powi(i)).collect();
    let eigenvalues: Vec<f64> = [simple.clone(), simple.clone(), simple].concat();
    let exact = exact(&eigenvalues);
    let mean = |power: i32| eigenvalues.iter().map(|x| x.powi(power)).sum::<f64>() / 120.0;
    let (mut trace, mut plain, mut short) = (0.0, 0.0, 0.0);
    for seed in 0..10 {
        let name = format!("multiple {seed}");
        let (t, mut probe) = deflated(&name, &eigenvalues, 30, SHORT);
        assert!(probe.nodes.iter().all(|n| weight(n) >= 0.0));
        assert!((probe.nodes.iter().map(weight).sum::<f64>() - 1.0).abs() < 1e-12);
        trace += probe.first_moment / 10.0;
        short += wasserstein1(&measure([probe.clone()].iter()), &exact) / 10.0;
        probe.nodes.iter_mut().for_each(|n| n.weight_reduced = None);
        plain += wasserstein1(&measure([probe].iter()), &exact) / 10.0;
        assert_eq!(t.complement.len(), SHORT.starts);
    }
    // nine start vectors each, ten times
    let error = (2.0 / 120.0 * mean(2) / 90.0).sqrt();
    assert!((trace - mean(1)).abs() < 3.0 * error, "{trace} {} {error}", mean(1));
    assert!(short < 0.7 * plain, "{short} {plain}");
}

#[test]
fn a_block_of_low_rank_is_exact() {
    let eigenvalues: Vec<f64> = (0..300).map(|i| if i < 5 { (i + 1) as f64 } else { 0.0 }).collect();
    let (_, probe) = deflated("rank", &eigenvalues, 40, SHORT);
    let exact = exact(&eigenvalues);
    assert!(wasserstein1(&measure([probe.clone()].iter()), &exact) < 1e-12);
    assert!((probe.first_moment - 15.0 / 300.0).abs() < 1e-14);
}

#[test]
fn a_block_no_larger_than_the_steps_is_exact() {
    let eigenvalues: Vec<f64> = (0..30).map(|i| (f64::from(i) - 9.0).powi(3)).collect();
    let (t, probe) = deflated("small", &eigenvalues, 100, SHORT);
    assert!(t.complement.is_empty());
    assert!(probe.nodes.iter().all(|n| weight(n) == 1.0 / 30.0));
    let trace = eigenvalues.iter().sum::<f64>() / 30.0;
    assert!((probe.first_moment / trace - 1.0).abs() < 1e-12);
}

/// What stands apart and was not taken for simple stays beside a cluster that is millions of times smaller: sums are 1 all the same.
#[test]
fn weights_sum_to_one_beside_a_tiny_cluster() {
    let mut outliers = 0;
    for seed in 0..300 {
        let cluster = (0..56).map(|i| 1e-8 * f64::from(i));
        let eigenvalues: Vec<f64> = cluster.chain([0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0]).collect();
        let (t, probe) = deflated(&format!("cluster {seed}"), &eigenvalues, 30, SHORT);
        let sum: f64 = probe.nodes.iter().map(weight).sum();
        assert!((sum - 1.0).abs() < 1e-9, "seed {seed}: {sum}");
        assert!(probe.nodes.iter().all(|n| weight(n) >= 0.0));
        outliers += usize::from(converged_eigenvectors(&t, 64, 0.0).unwrap().len() < 8);
    }
    assert!(outliers > 0, "no seed left a large eigenvalue in the rest");
}

/// Null-space nodes at the products' error stay as they are, whatever short recursions see of them.
#[test]
fn noise_is_not_corrected() {
    let eigenvalues: Vec<f64> =
        (0..64).map(|i| if i < 12 { f64::from(i + 1) } else { 1e-9 * f64::from(i % 7) }).collect();
    let exact = exact(&eigenvalues);
    let mut complete = 0;
    for seed in 0..20 {
        let (t, probe) = deflated_above(3e-9, &format!("noise {seed}"), &eigenvalues, 20, SHORT);
        if converged_eigenvectors(&t, 64, 3e-9).unwrap().len() == 12 {
            complete += 1;
            let error = wasserstein1(&measure([probe].iter()), &exact);
            assert!(error < 1e-8, "seed {seed}: {error:e}");
        }
    }
    assert!(complete > 10, "{complete}");
}

/// tr H^2 needs beta_2 of recursions of one step.
#[test]
fn one_step_has_a_second_moment() {
    let eigenvalues = bulk_with(&[], 400);
    let truth = eigenvalues.iter().map(|x| x * x).sum::<f64>() / 400.0;
    for steps in [1, 10] {
        let (_, probe) = deflated("second", &eigenvalues, steps, Short { starts: 30, steps: 1 });
        // 31 start vectors: standard error sqrt(2 / 31 / 400 mean x^4), about 0.006
        assert!((probe.second_moment / truth - 1.0).abs() < 0.05, "{steps} steps: {}", probe.second_moment);
    }
}

/// A head of zeros on two directions: each of two eigenvalues is there ten times, and the recursion ends after three steps. Whichever of
/// them looks simple to its start vector, the weights are those of all start vectors.
#[test]
fn manifold_eigenvalues_keep_their_shares_where_the_recursion_ends_early() {
    for (spectrum, zeros) in [(&[0.12, 0.0775][..], 2), (&[0.12, 0.03], 2), (&[0.12, 0.07, 0.04], 3)] {
        let mut eigenvalues: Vec<f64> = spectrum.iter().flat_map(|x| [*x; 10]).collect();
        eigenvalues.resize(eigenvalues.len() + zeros, 0.0);
        let dim = eigenvalues.len() as f64;
        let trace = eigenvalues.iter().sum::<f64>();
        let mut squares = 0.0;
        for number in 0..40 {
            let (_, probe) = deflated(&format!("manifold {number}"), &eigenvalues, 30, Short { starts: 20, steps: 5 });
            let nodes = dim * probe.nodes.iter().map(|n| weight(n) * n.node).sum::<f64>();
            assert!((nodes - dim * probe.first_moment).abs() < 1e-9 * trace, "{number}: {nodes}");
            assert!((nodes / trace - 1.0).abs() < 0.2, "{number}: {nodes} of {trace}");
            let top = probe.nodes.iter().filter(|n| n.node > 0.1199).map(weight).sum::<f64>();
            squares += (top * dim / 10.0 - 1.0).powi(2);
        }
        // 21 start vectors scatter by about sqrt(2 / (21 * 10)) = 0.1; one alone by 0.3
        assert!((squares / 40.0).sqrt() < 0.15, "{spectrum:?}: {squares}");
    }
}

/// Short recursions of another matrix: their moments are not those of the nodes, and the weights stay as they were.
#[test]
fn weights_that_contradict_what_was_measured_are_refused() {
    let eigenvalues = bulk_with(&[50.0, 70.0, 90.0], 400);
    let (mut t, _) = deflated("refused", &eigenvalues, 40, SHORT);
    let far: Vec<f64> = eigenvalues.iter().map(|x| x - 5.0).collect();
    t.complement = deflated("far", &far, 40, SHORT).0.complement;
    let raw = quadrature("refused", 0, &t, 0.0).unwrap();
    let mut probe = raw.clone();
    deflate(&mut probe, &t, 400, 0.0).unwrap();
    assert!(probe.is_refused);
    assert_eq!(probe, Quadrature { is_refused: true, ..raw });
}
