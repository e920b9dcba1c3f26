//! Lanczos on matrices of known spectrum.

use std::sync::Arc;

use super::*;
use crate::probe::{ProbeKind, probe};

fn settings(steps: usize) -> Settings {
    Settings {
        label: "block `test`, probe 0".into(),
        steps,
        reorthogonalize: Reorthogonalize::Full,
        eta: 0.0,
        segments: 0,
    }
}

fn start(index: u32, dim: usize) -> Vec<f64> {
    probe(ProbeKind::Gaussian, 11, "test", index, 0..dim)
}

fn run(matrix: Dense, settings: Settings) -> Tridiagonal {
    let dim = matrix.dim();
    lanczos(Local::new(), &mut MatrixOperator::<f64>::shared(matrix, 1), vec![start(0, dim)], &[settings])
        .unwrap()
        .remove(0)
}

fn nodes(t: &Tridiagonal) -> Vec<f64> {
    crate::spectrum::eigen::tridiagonal(t).unwrap().values
}

/// Bulk in [0, 1] and simple outliers, of which Lanczos without reorthogonalisation makes ghosts.
fn outliers(dim: usize) -> Vec<f64> {
    (0..dim).map(|i| if i < 4 { 30.0 + 20.0 * i as f64 } else { i as f64 / dim as f64 }).collect()
}

/// Runs to the end, keeping the state and with it the basis.
fn finished<T: Real>(matrix: &Dense, settings: Settings) -> Lanczos<Local<T>> {
    let mut operator = MatrixOperator::<T>::shared(matrix.clone(), 1);
    let v = start(0, matrix.dim()).iter().map(|x| T::from_f64(*x)).collect();
    let mut lanczos = Lanczos::new(Local::<T>::new(), v, settings).unwrap();
    drive(&mut operator, &mut lanczos, usize::MAX);
    lanczos
}

/// Up to `steps` more steps of one recursion.
fn drive<T: Real>(operator: &mut MatrixOperator<T>, lanczos: &mut Lanczos<Local<T>>, steps: usize) {
    for _ in 0..steps {
        let Some(v) = lanczos.vector() else { return };
        let mut rows = Vec::new();
        let mut on_segment = |_: usize, _: usize, partial: &Vec<T>| {
            rows.extend(lanczos.wants_segments().then(|| lanczos.segment_row(partial)).transpose()?);
            Ok(())
        };
        let product = operator.apply(&[(0, v)], &mut on_segment).unwrap().remove(0);
        lanczos.advance(product, rows).unwrap();
    }
}

/// max |V^T V - I| off the diagonal.
fn measured_loss<T: Real>(state: &Lanczos<Local<T>>) -> f64 {
    let columns: Vec<Vec<T>> = (0..state.basis().len()).map(|i| state.basis().get(i).unwrap()).collect();
    let pairs = (0..columns.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
    pairs.map(|(i, j)| dot(&columns[i], &columns[j]).abs()).fold(0.0, f64::max)
}

/// Weight of the nodes within `radius` of `value`.
fn weight_near(t: &Tridiagonal, value: f64, radius: f64) -> f64 {
    let quadrature = crate::spectrum::quadrature("test", 0, t, 0.0).unwrap();
    quadrature.nodes.iter().filter(|n| (n.node - value).abs() < radius).map(|n| n.weight).sum()
}

/// With m = the number of distinct eigenvalues the nodes are these. Going on (rounding of 1e-16 grows by
/// products of |H| / beta, so beta need not look like 0) only adds copies of no weight at the same places.
#[test]
fn exact_when_steps_reach_the_number_of_distinct_eigenvalues() {
    let cases: [&[f64]; 3] = [&[-3.0, 0.5, 2.0, 2.5, 40.0], &[1.0, 50.0], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]];
    for distinct in cases {
        let eigenvalues: Vec<f64> = (0..200).map(|i| distinct[i % distinct.len()]).collect();
        let matrix = Dense::with_spectrum(&eigenvalues, 3, 1);
        let (exact, longer) = (run(matrix.clone(), settings(distinct.len())), run(matrix, settings(50)));
        assert!(exact.residual_norm() < 1e-8, "{distinct:?}: {}", exact.residual_norm());
        for (found, truth) in nodes(&exact).iter().zip(distinct) {
            assert!((found - truth).abs() < 1e-12 * exact.norm(), "{found} instead of {truth}");
            let (weight, longer) = (weight_near(&exact, *truth, 1e-6), weight_near(&longer, *truth, 1e-6));
            assert!((weight - longer).abs() < 1e-12, "weight of {truth}: {weight}, with more steps {longer}");
        }
    }
}

/// Few nonzero eigenvalues, the rest exactly 0, and two values only: beta does become 0.
#[test]
fn breakdown_is_seen() {
    for distinct in [[1.0, 50.0], [0.0, 3.0]] {
        let eigenvalues: Vec<f64> = (0..200).map(|i| distinct[usize::from(i < 70)]).collect();
        let t = run(Dense::with_spectrum(&eigenvalues, 3, 1), settings(50));
        assert!(t.breakdown() && t.steps() == 2, "{:?}", t.beta);
    }
}

#[test]
fn zero_matrix_breaks_down_at_once() {
    let t = run(Dense::from_fn(30, |_, _| 0.0), settings(10));
    assert_eq!((t.alpha, t.beta, t.orthogonality_loss), (vec![0.0], vec![0.0], vec![0.0]));
}

#[test]
fn a_scaled_identity_of_any_size_breaks_down_at_once() {
    for scale in [1e-150, -7.0, 1e150] {
        let t = run(Dense::from_fn(30, |i, j| if i == j { scale } else { 0.0 }), settings(10));
        assert_eq!(t.steps(), 1);
        assert!((t.alpha[0] / scale - 1.0).abs() < 1e-14);
    }
}

#[test]
fn steps_are_capped_by_the_dimension() {
    let eigenvalues = [1.0, 2.0, 4.0, 7.0, 11.0];
    let t = run(Dense::with_spectrum(&eigenvalues, 3, 1), settings(100));
    assert_eq!(t.steps(), 5);
    for (found, truth) in nodes(&t).iter().zip(eigenvalues) {
        assert!((found - truth).abs() < 1e-12, "{found} instead of {truth}");
    }
    assert!(t.residual_norm() < 1e-12);
}

/// V T V^T = H for m = n.
#[test]
fn full_run_rebuilds_the_matrix() {
    let dim = 12;
    let matrix = Dense::with_spectrum(&(0..dim).map(|i| (i as f64 - 4.0).powi(3)).collect::<Vec<_>>(), 3, 2);
    let state = finished::<f64>(&matrix, settings(dim));
    let v: Vec<Vec<f64>> = (0..dim).map(|i| state.basis().get(i).unwrap()).collect();
    let t = state.tridiagonal();
    for i in 0..dim {
        let w = matrix.multiply(&v[i]);
        for (j, v) in v.iter().enumerate() {
            let expected = if i == j {
                t.alpha[i]
            } else if i.abs_diff(j) == 1 {
                t.beta[i.min(j)]
            } else {
                0.0
            };
            assert!((dot(v, &w) - expected).abs() < 1e-12 * t.norm());
        }
    }
}

#[test]
fn full_reorthogonalisation_keeps_the_basis_orthogonal_and_says_how_well() {
    let matrix = Dense::with_spectrum(&outliers(400), 3, 3);
    let state = finished::<f64>(&matrix, settings(100));
    let (measured, estimated) = (measured_loss(&state), state.tridiagonal().orthogonality_loss.iter().copied());
    let estimated = estimated.fold(0.0, f64::max);
    assert_eq!(state.basis().len(), 100);
    assert!(measured < 1e-14, "measured {measured}");
    assert!(estimated < 1e-10 && estimated > measured / 10.0, "estimated {estimated}, measured {measured}");

    let state = finished::<f32>(&matrix, Settings { eta: 1e-7 * 90.0, ..settings(60) });
    let measured = measured_loss(&state);
    assert!(measured < 10.0 * f64::from(f32::EPSILON), "f32: measured {measured}");
}

#[test]
fn no_ghosts_with_full_reorthogonalisation_and_some_without() {
    let matrix = Dense::with_spectrum(&outliers(400), 3, 3);
    let copies = |t: &Tridiagonal| nodes(t).iter().filter(|x| (**x - 90.0).abs() < 1e-6).count();
    let full = run(matrix.clone(), settings(100));
    assert_eq!(copies(&full), 1);
    assert_eq!(nodes(&full).iter().filter(|x| **x > 1.0 + 1e-9).count(), 4);

    let state = finished::<f64>(&matrix, Settings { reorthogonalize: Reorthogonalize::None, ..settings(100) });
    let t = state.tridiagonal();
    assert_eq!(state.basis().len(), 2);
    assert!(copies(t) > 1, "without reorthogonalisation the top eigenvalue should repeat");
    assert!(t.orthogonality_loss[99] > 0.1, "loss {:e}", t.orthogonality_loss[99]);
    assert!(t.orthogonality_loss[3] < 1e-12, "loss {:e}", t.orthogonality_loss[3]);
    assert!((t.alpha[4] - full.alpha[4]).abs() < 1e-8, "both agree as long as orthogonality lasts");
}

/// Slots of different dimension and length, together and alone: the same bits.
#[test]
fn lock_step_equals_single_runs() {
    let a: Arc<[Dense]> = Arc::from([Dense::with_spectrum(&outliers(50), 3, 1)]);
    let b: Arc<[Dense]> = Arc::from([Dense::with_spectrum(&[1.0, 1.0, 1.0, 8.0], 2, 2)]);
    let all = [a.clone(), b, a];
    let lengths = [12, 12, 7];
    let starts: Vec<Vec<f64>> = all.iter().enumerate().map(|(i, m)| start(i as u32, m[0].dim())).collect();
    let settings = lengths.map(settings);
    let together =
        lanczos(Local::new(), &mut MatrixOperator::<f64>::new(all.to_vec()), starts.clone(), &settings).unwrap();
    assert_eq!(together.iter().map(Tridiagonal::steps).collect::<Vec<_>>(), [12, 2, 7]);
    for slot in 0..3 {
        let mut operator = MatrixOperator::<f64>::new(vec![all[slot].clone()]);
        let alone = lanczos(Local::new(), &mut operator, vec![starts[slot].clone()], &settings[slot..=slot]).unwrap();
        assert_eq!(alone[0], together[slot]);
    }
}

fn segmented() -> (Arc<[Dense]>, Settings) {
    let segments = (0..3).map(|s| Dense::with_spectrum(&outliers(60), 3, s)).collect();
    (segments, Settings { segments: 3, ..settings(20) })
}

#[test]
fn segment_matrices_add_up_to_t() {
    let (segments, settings) = segmented();
    let mut operator = MatrixOperator::<f64>::new(vec![segments]);
    let t = lanczos(Local::new(), &mut operator, vec![start(0, 60)], &[settings]).unwrap().remove(0);
    for i in 0..20 {
        for j in 0..=i {
            let sum: f64 = t.segments.iter().map(|segment| segment[packed(i, j)]).sum();
            let expected = if i == j {
                t.alpha[i]
            } else if i == j + 1 {
                t.beta[j]
            } else {
                0.0
            };
            assert!((sum - expected).abs() < 1e-12 * t.norm(), "({i}, {j}): {sum} {expected}");
        }
    }
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    for reorthogonalize in [Reorthogonalize::Full, Reorthogonalize::None] {
        let (segments, mut settings) = segmented();
        settings.reorthogonalize = reorthogonalize;
        settings.segments = if reorthogonalize == Reorthogonalize::Full { 3 } else { 0 };
        let mut operator = MatrixOperator::<f64>::new(vec![segments]);
        let whole = lanczos(Local::new(), &mut operator, vec![start(0, 60)], &[settings.clone()]).unwrap().remove(0);

        let mut begun = Lanczos::new(Local::new(), start(0, 60), settings.clone()).unwrap();
        drive(&mut operator, &mut begun, 7);
        let (t, basis) = (begun.tridiagonal().clone(), begun.basis());
        let vectors: Vec<Vec<f64>> = (0..basis.len()).map(|i| basis.get(i).unwrap()).collect();
        let missing = Lanczos::resume(Local::new(), t.clone(), vectors[1..].to_vec(), settings.clone());
        assert!(matches!(missing, Err(Error::Storage(_))));
        let mut resumed = Lanczos::resume(Local::new(), t, vectors, settings).unwrap();
        drive(&mut operator, &mut resumed, usize::MAX);
        assert_eq!(*resumed.tridiagonal(), whole);
    }
}

/// Where H v has an error of eta, T goes on in noise unless the breakdown knows eta.
#[test]
fn breakdown_knows_the_error_of_the_product() {
    let eigenvalues: Vec<f64> = (0..300).map(|i| if i < 3 { 2.0 } else { 0.0 }).collect();
    let matrix = Dense::with_spectrum(&eigenvalues, 3, 1);
    let eta = 2.0 * f32::UNIT_ROUNDOFF;
    let known = finished::<f32>(&matrix, Settings { eta, ..settings(20) });
    assert_eq!((known.step(), known.tridiagonal().steps()), (Step::Breakdown, 2));
    assert!(finished::<f32>(&matrix, settings(20)).tridiagonal().steps() > 2);
}

#[test]
fn bad_input_is_an_error_that_names_the_slot() {
    let nan = Dense::from_fn(4, |i, j| if i + j == 3 { f64::NAN } else { 1.0 });
    let operator = &mut MatrixOperator::<f64>::shared(nan, 1);
    let error = lanczos(Local::new(), operator, vec![start(0, 4)], &[settings(3)]).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("block `test`, probe 0, Lanczos step 1"), "{error}");
    for (start, settings, code) in [
        (vec![0.0; 4], settings(3), 4),
        (vec![f64::NAN; 4], settings(3), 4),
        (vec![1.0; 4], settings(0), 2),
        (vec![1.0; 4], Settings { eta: f64::NAN, ..settings(3) }, 4),
        (vec![1.0; 4], Settings { segments: 2, reorthogonalize: Reorthogonalize::None, ..settings(3) }, 2),
        (vec![1.0; 5], settings(3), 1),
    ] {
        assert_eq!(lanczos(Local::new(), operator, vec![start], &[settings]).unwrap_err().exit_code(), code);
    }
}
