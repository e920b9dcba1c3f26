//! The energy measure and its distances, on spectra of a few nodes where every number is known.

use super::distance_tests::block;
use super::*;

fn rows(blocks: &[BlockSpectrum]) -> Vec<Divergence> {
    let metrics = vec![Metric::named("wasserstein1_energy").unwrap()];
    let settings =
        DistanceSettings { metrics, axis: AxisChoice::Asinh(None), sigma: Sigma::Relative(None), grid_points: 0 };
    divergences(blocks, &settings).unwrap()
}

fn value(rows: &[Divergence], metric: &str, a: &str, b: &str) -> Option<f64> {
    rows.iter().find(|row| (row.metric, &*row.block_a, &*row.block_b) == (metric, a, b)).unwrap().value
}

/// Energies 1/4 * 4 and 3/4 * 4/3: half at 2 and half at 2/sqrt 3; against all of it at 2: log10(sqrt 3) / 2 decades.
#[test]
fn shares_of_the_energy_in_decades() {
    let two = block("two", &[&[(-2.0, 0.25), (2.0 / 3f64.sqrt(), 0.75)]]);
    let one = block("one", &[&[(0.0, 0.9), (2.0, 0.1)]]);
    let energy = energy(&[&two.probes[0]]);
    let expected = [((2.0 / 3f64.sqrt()).log10(), 0.5), (2f64.log10(), 0.5)];
    for (found, expected) in energy.iter().zip(expected) {
        assert!((found.0 - expected.0).abs() < 1e-15 && (found.1 - expected.1).abs() < 1e-15, "{found:?}");
    }
    let rows = rows(&[two, one]);
    let found = value(&rows, "wasserstein1_energy", "two", "one").unwrap();
    let step = 3f64.log10() / 2.0;
    assert!((found - step / 2.0).abs() < 1e-15, "{found}");
    // the median of `two` lies in the middle of its halves: both are half a step from that of `one`
    let shape = value(&rows, "wasserstein1_energy_shape", "two", "one").unwrap();
    assert!((shape - step / 2.0).abs() < 1e-15, "{shape}");
}

/// A spectrum times 1000 is three decades away and has the same shape; a sign makes no difference.
#[test]
fn a_factor_is_a_distance_and_no_shape() {
    let nodes = [(-3.0, 0.2), (0.01, 0.5), (0.5, 0.2), (7.0, 0.1)];
    let times = |name, factor: f64| block(name, &[&nodes.map(|(x, w)| (factor * x, w))]);
    let rows = rows(&[times("a", 1.0), times("b", 1e3), times("c", -1.0)]);
    let of = |metric, b| value(&rows, metric, "a", b).unwrap();
    assert!((of("wasserstein1_energy", "b") - 3.0).abs() < 1e-13);
    assert!(of("wasserstein1_energy_shape", "b").abs() < 1e-13);
    assert!(of("wasserstein1_energy", "c").abs() < 1e-15);
}

/// Two probes count by their energy, not each as one: 1 and 9 at different places make shares of 0.1 and 0.9.
#[test]
fn probes_share_one_energy() {
    let a = block("a", &[&[(1.0, 1.0)], &[(3.0, 1.0)]]);
    let energy = energy(&a.probes.iter().collect::<Vec<_>>());
    assert!((energy[0].1 - 0.1).abs() < 1e-15 && (energy[1].1 - 0.9).abs() < 1e-15, "{energy:?}");
}

/// Energies 1 at -2, 0.75 at 1, 0.25 at -1; below a noise floor of 3 a sign means nothing.
#[test]
fn the_share_of_negative_energy() {
    let mut a = block("a", &[&[(-2.0, 0.25), (1.0, 0.75)], &[(0.5, 0.0), (-1.0, 0.25), (0.0, 0.75)]]);
    assert!((negative_energy(&a).unwrap() - (1.0 + 0.25) / 2.0).abs() < 1e-15);
    a.noise_floor = 1.5;
    assert!((negative_energy(&a).unwrap() - 0.5).abs() < 1e-15);
    a.noise_floor = 3.0;
    assert_eq!(negative_energy(&a), None);
}

#[test]
fn a_zero_block_has_no_energy_and_no_distance() {
    let rows = rows(&[block("a", &[&[(1.0, 1.0)]]), block("zero", &[&[(0.0, 1.0)]]), block("b", &[&[(10.0, 1.0)]])]);
    assert_eq!(value(&rows, "wasserstein1_energy", "a", "zero"), None);
    assert_eq!(value(&rows, "wasserstein1_energy_shape", "zero", "zero"), None);
    assert!((value(&rows, "wasserstein1_energy", "a", "b").unwrap() - 1.0).abs() < 1e-15);
    assert!(rows.iter().all(|row| (row.status == "zero_block") == row.value.is_none()), "{rows:?}");
}

#[test]
fn squares_neither_overflow_nor_vanish() {
    let rows = rows(&[block("a", &[&[(1e-200, 0.5), (-1e-201, 0.5)]]), block("b", &[&[(1e200, 0.5), (1e199, 0.5)]])]);
    let found = value(&rows, "wasserstein1_energy", "a", "b").unwrap();
    assert!((found - 400.0).abs() < 1e-10, "{found}");
}

#[test]
fn names_of_metrics_are_found_and_others_refused() {
    for metric in METRICS {
        assert_eq!(Metric::named(metric.name).unwrap(), metric);
    }
    let error = Metric::named("jsd").unwrap_err().to_string();
    assert!(error.contains("`jsd`") && error.contains("wasserstein1_energy, js, wasserstein1, symkl_paper"), "{error}");
}
