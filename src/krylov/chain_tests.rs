//! Long and short recursions of a slot on matrices of known spectrum.

use std::rc::Rc;

use super::*;
use crate::probe::{ProbeKind, probe};

const DIM: usize = 60;
const SHORT: Short = Short { starts: 3, steps: 4 };
/// Of the long recursion.
const STEPS: usize = 12;

/// The two eigenvectors that belong to the largest nodes of T.
struct TopTwo;

impl Complement<Vec<f64>> for TopTwo {
    fn start(&self, index: usize) -> Vec<f64> {
        probe(ProbeKind::Gaussian, 5, "complement", index as u32, 0..DIM)
    }

    fn locked(&self, t: &Tridiagonal) -> Result<Locked> {
        let vectors = crate::spectrum::eigen::tridiagonal(t)?.vectors;
        let m = t.steps();
        Ok((m - 2..m).map(|i| (0..m).map(|row| vectors[(row, i)]).collect()).collect())
    }
}

/// Two outliers, in which the long recursion converges to rounding, and a bulk in [0, 1].
fn matrix() -> Dense {
    let eigenvalues: Vec<f64> =
        (0..DIM).map(|i| if i < 2 { 1000.0 * (i + 1) as f64 } else { i as f64 / DIM as f64 }).collect();
    Dense::with_spectrum(&eigenvalues, 3, 2)
}

fn settings(segments: usize) -> Settings {
    Settings {
        label: "block `test`, probe 0".into(),
        steps: STEPS,
        reorthogonalize: Reorthogonalize::Full,
        eta: 0.0,
        segments,
    }
}

fn start() -> Vec<f64> {
    probe(ProbeKind::Gaussian, 5, "main", 0, 0..DIM)
}

fn chain(segments: usize) -> Chain<'static, Local<f64>> {
    let complement: SharedComplement<'_, Vec<f64>> = Rc::new(TopTwo);
    Chain::new(Local::new(), start(), settings(segments), Some((SHORT, complement))).unwrap()
}

#[test]
fn the_long_recursion_is_the_one_without_short_ones_and_these_see_the_bulk_alone() {
    let mut operator = MatrixOperator::<f64>::shared(matrix(), 1);
    let alone = lanczos(Local::new(), &mut operator, vec![start()], &[settings(0)]).unwrap().remove(0);
    let t = run(&mut operator, vec![chain(0)]).unwrap().remove(0);
    assert_eq!((&t.alpha, &t.beta), (&alone.alpha, &alone.beta));
    assert_eq!(t.complement.iter().map(Tridiagonal::steps).collect::<Vec<_>>(), [SHORT.steps; 3]);
    assert_eq!(t.products(), Schedule::new(DIM, STEPS, Some(SHORT)).products());
    for short in &t.complement {
        // a share of 1e-6 of an outlier would show as 1e-3
        let nodes = crate::spectrum::eigen::tridiagonal(short).unwrap().values;
        assert!(nodes.iter().all(|x| (-1e-9..1.0 + 1e-9).contains(x)), "{nodes:?}");
    }
}

/// P A P with P = I - U U', by Lanczos on the dense matrix.
#[test]
fn short_recursions_are_those_of_the_projected_matrix() {
    let (matrix, mut operator) = (matrix(), MatrixOperator::<f64>::shared(matrix(), 1));
    let t = run(&mut operator, vec![chain(0)]).unwrap().remove(0);
    // the outliers' eigenvectors by power iteration with deflation: 2000, then 1000
    let mut top: Vec<Vec<f64>> = Vec::new();
    let project = |top: &[Vec<f64>], v: &mut Vec<f64>| {
        for u in top {
            let along = dot(u, v);
            v.iter_mut().zip(u).for_each(|(v, u)| *v -= along * u);
        }
    };
    for _ in 0..2 {
        let mut v = start();
        for _ in 0..60 {
            v = matrix.multiply(&v);
            project(&top, &mut v);
            let norm = dot(&v, &v).sqrt();
            v.iter_mut().for_each(|v| *v /= norm);
        }
        top.push(v);
    }
    let projected = Dense::from_fn(DIM, |i, j| {
        let mut unit: Vec<f64> = (0..DIM).map(|k| f64::from(u8::from(k == j))).collect();
        project(&top, &mut unit);
        let mut column = matrix.multiply(&unit);
        project(&top, &mut column);
        column[i]
    });
    let mut operator = MatrixOperator::<f64>::shared(projected, 1);
    for (index, short) in t.complement.iter().enumerate() {
        let mut start = TopTwo.start(index);
        project(&top, &mut start);
        let settings = Settings { steps: SHORT.steps, ..settings(0) };
        let expected = lanczos(Local::new(), &mut operator, vec![start], &[settings]).unwrap().remove(0);
        // rounding is 1e-16 of the outliers, 2000
        for (found, expected) in short.alpha.iter().zip(&expected.alpha).chain(short.beta.iter().zip(&expected.beta)) {
            assert!((found - expected).abs() < 1e-10, "start {index}: {found} {expected}");
        }
    }
}

/// From what a checkpoint holds after any step: the same bits, and no vector more than needed.
#[test]
fn a_chain_resumes_anywhere() {
    let whole: std::sync::Arc<[Dense]> = std::sync::Arc::from([matrix(), Dense::with_spectrum(&[0.5; DIM], 1, 7)]);
    let mut operator = MatrixOperator::<f64>::new(vec![whole]);
    let expected = run(&mut operator, vec![chain(2)]).unwrap().remove(0);
    let schedule = Schedule::new(DIM, STEPS, Some(SHORT));
    let mut saved: Vec<Vec<f64>> = Vec::new();
    let mut slots = [chain(2)];
    for done in 0..=schedule.products() {
        saved.extend(slots[0].vector_of(done).unwrap());
        let flat = slots[0].flat();
        assert_eq!((flat.steps(), saved.len()), (done, (done + 1).min(schedule.products())));
        let needed = schedule.needed(&flat, Reorthogonalize::Full, false);
        let load = |range: std::ops::Range<usize>| saved[range].to_vec();
        let vectors = [load(needed.main), load(needed.short)];
        let chain = Chain::resume(Local::new(), flat, vectors, settings(2), schedule, Some(Rc::new(TopTwo))).unwrap();
        assert_eq!(run(&mut operator, vec![chain]).unwrap()[0], expected, "after step {done}");
        step(&mut operator, &mut slots).unwrap();
    }
}

/// An exhausted long recursion is followed by short ones, unless its basis is the whole space.
#[test]
fn after_a_breakdown_the_complement_is_looked_at() {
    let eigenvalues: Vec<f64> = (0..DIM).map(|i| if i < 3 { 5.0 + i as f64 } else { 0.0 }).collect();
    let mut operator = MatrixOperator::<f64>::shared(Dense::with_spectrum(&eigenvalues, 2, 1), 1);
    let t = run(&mut operator, vec![chain(0)]).unwrap().remove(0);
    assert!(t.breakdown() && t.steps() < STEPS && t.complement.len() == 3, "{t:?}");
    let small = Schedule::new(4, STEPS, Some(SHORT));
    assert_eq!(small.products(), 4);
    assert_eq!(small.needed(&t, Reorthogonalize::Full, false), Needed { main: 0..0, short: 0..0 });
    assert_eq!(small.needed(&t, Reorthogonalize::Full, true), Needed { main: 0..4, short: 0..0 });
}
