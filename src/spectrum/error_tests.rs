//! Errors of distances and the resolved axis: on spectra whose truth is known, and where they must be zero or absent.

use super::tests::{bulk_with, settings, starts};
use super::*;
use crate::krylov::{Dense, Local, MatrixOperator, lanczos};

/// A block of these eigenvalues after `steps` steps, with its pieces; two segments, which share H as they share the batch.
fn block(name: &str, eigenvalues: &[f64], steps: usize, probes: u32, shares: &[f64]) -> BlockSpectrum {
    let dim = eigenvalues.len();
    let part = |share: f64| Dense::from_fn(dim, |i, j| if i == j { share * eigenvalues[i] } else { 0.0 });
    let parts: Vec<Dense> = if shares.is_empty() { vec![part(1.0)] } else { shares.iter().map(|s| part(*s)).collect() };
    let mut operator = MatrixOperator::<f64>::new(vec![parts.into(); probes as usize]);
    let asked = crate::krylov::Settings { segments: shares.len(), ..settings(steps) };
    let found = lanczos(Local::new(), &mut operator, starts(name, dim, probes), &vec![asked; probes as usize]).unwrap();
    super::tests::spectrum(name, dim, &found, 0.0).with_pieces(&found, shares).unwrap()
}

fn rows(blocks: &[BlockSpectrum], metric: &str) -> Vec<Divergence> {
    let metrics = vec![Metric::named(metric).unwrap()];
    let settings =
        DistanceSettings { metrics, axis: AxisChoice::Asinh(None), sigma: Sigma::Relative(None), grid_points: 100 };
    divergences(blocks, &settings).unwrap()
}

/// Twelve estimates of each of two spectra: the exact distance lies within one stated error in most pairs, and within two in nearly all.
#[test]
fn stated_errors_hold_the_truth() {
    let power = |range: f64, exponent: f64| (1..=200).map(|k| range * f64::from(k).powf(-exponent)).collect();
    let spectra: [Vec<f64>; 2] = [power(5.0, 0.6), power(20.0, 0.9)];
    let (mut once, mut twice, mut total) = (0, 0, 0);
    for metric in ["wasserstein1_energy", "wasserstein1"] {
        let exact: Vec<BlockSpectrum> = spectra.iter().map(|values| block("exact", values, 200, 1, &[])).collect();
        let reduced: Vec<BlockSpectrum> = exact
            .into_iter()
            .map(|mut block| {
                block.probes[0].nodes.iter_mut().for_each(|node| node.weight_reduced = Some(1.0 / 200.0));
                block
            })
            .collect();
        let truth = rows(&reduced, metric)[1].value.unwrap();
        for repetition in 0..12 {
            let named = |at: usize| block(&format!("{repetition} {at}"), &spectra[at], 20, 2, &[]);
            let row = rows(&[named(0), named(1)], metric).remove(1);
            let (value, error) = (row.value.unwrap(), row.error.unwrap());
            let off = (value - truth).abs();
            (once, twice, total) = (once + i32::from(off <= error), twice + i32::from(off <= 2.0 * error), total + 1);
        }
    }
    assert!(once * 10 >= total * 5 && twice * 100 >= total * 85, "{once} and {twice} of {total}");
}

/// Segments that share the batch evenly say the same, so that data add nothing; others add their spread.
#[test]
fn data_count_where_segments_differ() {
    let eigenvalues = [bulk_with(&[3.0, 8.0], 60), bulk_with(&[2.0], 60)];
    let error = |shares: &[f64], told: &[f64]| {
        let blocks: Vec<BlockSpectrum> = eigenvalues
            .iter()
            .enumerate()
            .map(|(at, values)| {
                let mut found = block(&format!("data {at}"), values, 12, 2, shares);
                if told != shares {
                    // the segments have other shares in H than in the batch: they disagree
                    let dim = values.len();
                    let part = |share: f64| Dense::from_fn(dim, |i, j| if i == j { share * values[i] } else { 0.0 });
                    let parts: Vec<Dense> = shares.iter().map(|share| part(*share)).collect();
                    let mut operator = MatrixOperator::<f64>::new(vec![parts.into(); 2]);
                    let asked = crate::krylov::Settings { segments: shares.len(), ..settings(12) };
                    let starts = starts(&found.name, dim, 2);
                    let matrices = lanczos(Local::new(), &mut operator, starts, &vec![asked; 2]).unwrap();
                    found = found.with_pieces(&matrices, told).unwrap();
                }
                found
            })
            .collect();
        rows(&blocks, "wasserstein1")[1].error.unwrap()
    };
    let (without, even, odd) =
        (error(&[], &[]), error(&[0.25, 0.75], &[0.25, 0.75]), error(&[0.25, 0.75], &[0.5, 0.5]));
    assert!((even / without - 1.0).abs() < 1e-9, "{even} {without}");
    // without the first segment H is 1.5 times, without the second 0.5 times as large; jackknife of two: |difference| / 2 times 1.84
    let distance = rows(
        &[block("data 0", &eigenvalues[0], 12, 2, &[]), block("data 1", &eigenvalues[1], 12, 2, &[])],
        "wasserstein1",
    )[1]
    .value
    .unwrap();
    let expected = (0.5 * distance * 1.837).hypot(without);
    assert!((odd / expected - 1.0).abs() < 1e-2, "{odd} {expected}");
}

/// A recursion that broke down is exact; one probe still scatters, and says so.
#[test]
fn one_probe_has_an_error_and_exact_ones_have_none_from_steps() {
    let two = block("two", &[1.0, 1.0, 3.0, 3.0], 10, 1, &[]);
    assert!(two.probes[0].exact && two.pieces.steps.iter().all(|probes| probes == &two.probes));
    let one = block("one", &bulk_with(&[4.0], 100), 10, 1, &[]);
    let row = rows(&[two, one], "wasserstein1_energy").remove(1);
    assert!(row.sem.is_none() && row.error.unwrap() > 0.0, "{row:?}");
}

#[test]
fn pairs_that_may_be_equal_say_so_by_one_rule() {
    assert!(
        is_told_apart(1.0, 0.4, Some(0.1)) && !is_told_apart(1.0, 0.5, Some(0.1)) && !is_told_apart(1.0, 0.5, None)
    );
    let values = bulk_with(&[3.0, 8.0], 150);
    let far: Vec<f64> = values.iter().map(|x| 100.0 * x).collect();
    let blocks = [block("a", &values, 20, 2, &[]), block("b", &values, 20, 2, &[]), block("far", &far, 20, 2, &[])];
    for metric in ["wasserstein1_energy", "js", "wasserstein1"] {
        for row in rows(&blocks, metric).iter().filter(|row| row.metric == metric) {
            let is_open = row.status.split("; ").any(|word| word == NOT_TOLD_APART);
            assert_eq!(is_open, (&*row.block_a, &*row.block_b) == ("a", "b"), "{row:?}");
            assert_eq!(row.error.unwrap() == 0.0, row.block_a == row.block_b, "{row:?}");
        }
    }
    assert!(rows(&blocks, "symkl_paper").iter().all(|row| row.error.is_none() && !row.status.contains(NOT_TOLD_APART)));
}

/// A coarse axis for few steps, a finer one for more, the finest for exact spectra; an explicit one stays as it is asked for.
#[test]
fn lambda_c_follows_what_the_steps_resolve() {
    let values: Vec<f64> = (1..1500).map(|k| 10.0 * (k as f64).powf(-0.8)).collect();
    let scale = |blocks: &[BlockSpectrum], asked| {
        View::new(blocks, AxisChoice::Asinh(asked), Sigma::Relative(Some(0.01))).unwrap().axis.scale().unwrap()
    };
    let of_steps = |steps| scale(&[block("power", &values, steps, 2, &[])], None);
    let (few, more) = (of_steps(12), of_steps(80));
    assert!(few > 3.0 * more && few <= 10.001, "{few} {more}");
    let exact = block("exact", &[1.0, 1.0, 3.0, 3.0, -2.0], 10, 2, &[]);
    assert!((scale(std::slice::from_ref(&exact), None) / 3e-4 - 1.0).abs() < 1e-9);
    assert_eq!(scale(&[exact], Some(0.7)), 0.7);
}
