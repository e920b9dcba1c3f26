//! Bootstrap errors over segments against what they stand for: fresh data, larger batches, 1/sqrt(tokens).

use super::bootstrap::Segmented;
use super::nested::{BlockErrors, Resampling, Verdict, data_errors};
use super::tests::{settings, spectrum, starts};
use super::*;
use crate::krylov::{Dense, Local, MatrixOperator, Settings, Tridiagonal, lanczos};
use crate::probe::{ProbeKind, probe};

const DIM: usize = 20;
const SEGMENTS: usize = 16;
const STEPS: usize = 8;

/// The Hessian of one window: two outliers and a bulk, plus noise of the size of the bulk, symmetric.
fn window(replica: usize, number: usize) -> Vec<f64> {
    let noise = probe(ProbeKind::Gaussian, (1_000_000 * replica + number) as u64, "window", 0, 0..DIM * DIM);
    let entry = |i: usize, j: usize| {
        let signal = if i == j { [20.0, 10.0].get(i).copied().unwrap_or(1.0) } else { 0.0 };
        signal + noise[i.max(j) * DIM + i.min(j)]
    };
    (0..DIM * DIM).map(|at| entry(at / DIM, at % DIM)).collect()
}

/// Lanczos on the mean over the first `windows`, in segments.
fn batch(replica: usize, windows: usize) -> Tridiagonal {
    let per_segment = windows / SEGMENTS;
    let segment = |s: usize| {
        let mut sum = vec![0.0; DIM * DIM];
        for number in s * per_segment..(s + 1) * per_segment {
            sum.iter_mut().zip(window(replica, number)).for_each(|(sum, x)| *sum += x / windows as f64);
        }
        Dense::from_fn(DIM, |i, j| sum[i * DIM + j])
    };
    let mut operator = MatrixOperator::<f64>::new(vec![(0..SEGMENTS).map(segment).collect()]);
    let all = Settings { segments: SEGMENTS, ..settings(STEPS) };
    lanczos(Local::new(), &mut operator, vec![starts("nested", DIM, 1).remove(0)], &[all]).unwrap().remove(0)
}

fn errors(t: &Tridiagonal) -> BlockErrors {
    let block = Segmented { name: "x", dim: DIM, probes: std::slice::from_ref(t), noise_floor: 0.0 };
    let how = Resampling { seed: 7, draws: 60, shares: &[1.0 / SEGMENTS as f64; SEGMENTS] };
    data_errors(&[block], None, &[], how).unwrap().blocks[0]
}

fn found(t: &Tridiagonal) -> Moments {
    moments(&spectrum("x", DIM, std::slice::from_ref(t), 0.0))
}

/// One error is known to 1 / sqrt(2 (S - 1)) = 18 % and 1 / sqrt(2 x 60) = 9 % of its draws; the ratio of two means over 30
/// replicas to 5 %. Allowed: four times that.
#[test]
fn errors_fall_as_one_over_the_root_of_the_tokens() {
    let replicas = 30;
    let mean_errors = |windows: usize| {
        let all: Vec<BlockErrors> = (0..replicas).map(|replica| errors(&batch(replica, windows))).collect();
        let mean = |of: fn(&BlockErrors) -> f64| stats::mean(&all.iter().map(of).collect::<Vec<_>>());
        [mean(|e| e.trace), mean(|e| e.lambda_max), mean(|e| e.w1)]
    };
    let [small, large] = [64, 256].map(mean_errors);
    for (at, name) in ["trace", "largest node", "W1"].iter().enumerate() {
        let ratio = small[at] / large[at];
        assert!((ratio / 2.0 - 1.0).abs() < 0.2, "{name}: {} / {} = {ratio}, expected 2", small[at], large[at]);
    }
}

/// (x_n - x_N) / (error_n sqrt(1 - n/N)) has mean square 1 (and 15/13 for Student's t with 15 degrees of freedom): over 80
/// replicas to sqrt(2 / 80) = 16 %. Allowed: four times that.
#[test]
fn errors_cover_the_difference_to_a_larger_batch() {
    let (n, large, replicas) = (64, 128, 80);
    let mut squares = [0.0; 2];
    for replica in 0..replicas {
        let (a, b) = (batch(replica, n), batch(replica, large));
        let (errors, here, there) = (errors(&a), found(&a), found(&b));
        let left = (1.0 - n as f64 / large as f64).sqrt();
        squares[0] += ((here.trace - there.trace) / errors.trace / left).powi(2) / replicas as f64;
        squares[1] += ((here.lambda_max - there.lambda_max) / errors.lambda_max / left).powi(2) / replicas as f64;
    }
    for (name, square) in ["trace", "largest node"].iter().zip(squares) {
        assert!((square / (15.0 / 13.0) - 1.0).abs() < 0.64, "{name}: mean square {square}");
    }
}

/// E|H_n|^2 = |H|^2 + sum of the entries' variances / n: of unit noise in every entry, DIM^2 / n. The Frobenius norm here is
/// that of all eigenvalues, over 40 replicas; the probe's own is as good on average.
#[test]
fn the_share_of_noise_is_seen_in_the_fall_of_the_frobenius_norm() {
    let signal = 400.0 + 100.0 + (DIM - 2) as f64;
    let (n, replicas) = (16, 40);
    let square = |replica: usize, windows: usize| {
        let mut mean = vec![0.0; DIM * DIM];
        for number in 0..windows {
            mean.iter_mut().zip(window(replica, number)).for_each(|(mean, x)| *mean += x / windows as f64);
        }
        mean.iter().map(|x| x * x).sum::<f64>()
    };
    let mean = |windows: usize| (0..replicas).map(|replica| square(replica, windows) / replicas as f64).sum::<f64>();
    let (here, before) = (mean(2 * n), mean(n));
    let noise = (DIM * DIM) as f64 / (2 * n) as f64;
    let (found, expected) = (nested::noise_share(here.sqrt(), before.sqrt(), 2.0).unwrap(), noise / (signal + noise));
    // the difference of two squared norms of about 530, each known to 2 sqrt(400 / 16) / sqrt(40) = 1.6 of 12.5
    assert!((found - expected).abs() < 4.0 * 1.6 / here, "{found}, expected {expected}");
    assert_eq!(nested::noise_share(0.0, 1.0, 2.0), None);
    assert_eq!(nested::noise_share(2.0, 1.0, 2.0), Some(-0.75), "not cut off at 0");
}

#[test]
fn equal_segments_leave_nothing_open_and_one_segment_says_nothing() {
    let mut t = batch(0, SEGMENTS);
    let mean: Vec<f64> =
        (0..t.segments[0].len()).map(|at| t.segments.iter().map(|s| s[at]).sum::<f64>() / SEGMENTS as f64).collect();
    t.segments.iter_mut().for_each(|segment| segment.clone_from(&mean));
    let found = errors(&t);
    for error in [found.w1, found.trace / DIM as f64, found.lambda_max, found.lambda_min] {
        assert!(error < 1e-12 * 20.0, "{found:?}");
    }
    let block = Segmented { name: "x", dim: DIM, probes: std::slice::from_ref(&t), noise_floor: 0.0 };
    let how = Resampling { seed: 7, draws: 60, shares: &[1.0] };
    assert_eq!(data_errors(&[block], None, &[], how).unwrap_err().exit_code(), 4);
}

/// Of two blocks that are the same, the distance and its error are 0; js of pairs needs the view.
#[test]
fn pairs_share_their_draws() {
    let (a, b) = (batch(0, 64), batch(1, 64));
    let blocks =
        [&a, &a, &b].map(|t| Segmented { name: "x", dim: DIM, probes: std::slice::from_ref(t), noise_floor: 0.0 });
    let spectra: Vec<BlockSpectrum> = [&a, &b].map(|t| spectrum("x", DIM, std::slice::from_ref(t), 0.0)).into();
    let view = View::new(&spectra, AxisChoice::Linear, Sigma::Relative(None)).unwrap();
    let how = Resampling { seed: 7, draws: 20, shares: &[1.0 / SEGMENTS as f64; SEGMENTS] };
    let found = data_errors(&blocks, Some(&view), &[(0, 1), (0, 2)], how).unwrap();
    assert_eq!((found.pairs[0].js, found.pairs[0].w1), (0.0, 0.0));
    assert!(found.pairs[1].js > 0.0 && found.pairs[1].w1 > 0.0 && found.blocks[0].js > 0.0);
    assert_eq!(found.blocks[0], found.blocks[1]);
}

#[test]
fn a_verdict_is_the_worst_blocks() {
    let node = |node: f64| Node {
        node,
        weight: 0.5,
        weight_reduced: None,
        residual_bound: 0.0,
        converged: true,
        below_noise_floor: false,
    };
    let block = |name: &str, ends: [f64; 2], noise_floor: f64| {
        let nodes = ends.map(node).into();
        let probe = Quadrature {
            nodes,
            first_moment: 0.0,
            second_moment: 0.0,
            exact: false,
            deflated: None,
            is_refused: false,
        };
        BlockSpectrum::new(name, 10, vec![probe], noise_floor).unwrap()
    };
    let errors =
        |w1: f64, lambda_max: f64| BlockErrors { w1, js: 0.0, trace: 9.0, frobenius: 9.0, lambda_min: 0.0, lambda_max };
    let now = [block("a", [0.0, 10.0], 0.0), block("b", [-1.0, 1.0], 0.0), block("zero", [0.0, 1e-9], 1.0)];
    let before = [block("a", [0.0, 11.0], 0.0), block("b", [-1.0, 1.0], 0.0), block("zero", [0.0, 1e-3], 1.0)];
    let all = [errors(0.5, 0.1), errors(0.0, 0.2), errors(1.0, 1.0)];
    let first = Verdict::new(&now, &all, None);
    assert_eq!((first.block.as_str(), first.error, first.change), ("b", 0.1, None));
    assert!(!first.is_enough(0.9), "one batch alone proves nothing");
    let second = Verdict::new(&now, &all, Some(&before));
    assert_eq!(second.change, Some(0.1), "the largest node moved by 1 of 10");
    assert!(second.is_enough(0.11) && !second.is_enough(0.1));
}
