//! The stated error of a trace against the true one, over many seeds, on matrices of known spectrum.

use hesspec::Result;
use hesspec::krylov::{Local, OnSegment, Operator, Reorthogonalize, Settings, Tridiagonal, lanczos};
use hesspec::probe::{ProbeKind, probe};
use hesspec::spectrum::{BlockSpectrum, moments, quadrature, stats};

fn settings(steps: usize) -> Settings {
    Settings { label: "test".into(), steps, reorthogonalize: Reorthogonalize::Full, eta: 0.0, segments: 0 }
}

fn spectrum(name: &str, dim: usize, ts: &[Tridiagonal], noise_floor: f64) -> BlockSpectrum {
    let probes = ts.iter().enumerate().map(|(p, t)| quadrature(name, p as u32, t, noise_floor).unwrap()).collect();
    BlockSpectrum::new(name, dim, probes, noise_floor).unwrap()
}

/// Q diag(eigenvalues) Q with the reflection Q = I - 2 u u', so that no eigenvector is an axis.
struct Reflected<'a> {
    eigenvalues: &'a [f64],
    u: Vec<f64>,
    slots: usize,
}

impl<'a> Reflected<'a> {
    fn new(eigenvalues: &'a [f64], slots: usize) -> Self {
        let mut u = probe(ProbeKind::Gaussian, 77, "reflection", 0, 0..eigenvalues.len());
        let norm = u.iter().map(|x| x * x).sum::<f64>().sqrt();
        u.iter_mut().for_each(|x| *x /= norm);
        Self { eigenvalues, u, slots }
    }

    fn reflect(&self, v: &mut [f64]) {
        let along: f64 = self.u.iter().zip(v.iter()).map(|(u, v)| u * v).sum();
        v.iter_mut().zip(&self.u).for_each(|(v, u)| *v -= 2.0 * along * u);
    }
}

impl Operator for Reflected<'_> {
    type Vector = Vec<f64>;

    fn dims(&self) -> Vec<usize> {
        vec![self.eigenvalues.len(); self.slots]
    }

    fn apply(&mut self, vectors: &[(usize, &Vec<f64>)], _: &mut OnSegment<Vec<f64>>) -> Result<Vec<Vec<f64>>> {
        let product = |v: &Vec<f64>| {
            let mut v = v.clone();
            self.reflect(&mut v);
            v.iter_mut().zip(self.eigenvalues).for_each(|(v, e)| *v *= e);
            self.reflect(&mut v);
            v
        };
        Ok(vectors.iter().map(|(_, v)| product(v)).collect())
    }
}

/// Some spectra in d dimensions.
fn spectra(d: usize) -> Vec<(&'static str, Vec<f64>)> {
    let from = |f: &dyn Fn(usize) -> f64| (0..d).map(f).collect::<Vec<f64>>();
    let few = |rank: usize, value: f64| from(&|i| if i < rank { value } else { 0.0 });
    vec![
        ("rank one", few(1, 3.0)),
        ("rank three, equal", few(3, 2.0)),
        ("flat", from(&|i| 1.0 + 0.2 * (i as f64 / d as f64))),
        ("both signs", from(&|i| if i % 2 == 0 { 1.0 } else { -1.0 - 0.5 * (i as f64 / d as f64) })),
        ("heavy tail", from(&|i| 1.0 / (1.0 + i as f64))),
        ("heavier tail", from(&|i| (1.0 + i as f64).powi(-2))),
        ("outliers", from(&|i| if i < 8 { 10.0 / (1 + i) as f64 } else { 0.01 * (i as f64 / d as f64) })),
    ]
}

const SEEDS: u64 = 200;
const STEPS: usize = 20;
const NUM_PROBES: u32 = 4;

/// (true error, stated error) of the trace from the first 1, 2 and 4 probes of each seed.
fn errors(eigenvalues: &[f64], kind: ProbeKind) -> [Vec<(f64, f64)>; 3] {
    let (dim, trace) = (eigenvalues.len(), eigenvalues.iter().sum::<f64>());
    let mut found = [vec![], vec![], vec![]];
    for seed in 0..SEEDS {
        let starts = (0..NUM_PROBES).map(|p| probe(kind, seed, "trace", p, 0..dim)).collect();
        let all = vec![settings(STEPS); NUM_PROBES as usize];
        let mut operator = Reflected::new(eigenvalues, NUM_PROBES as usize);
        let ts = lanczos(Local::new(), &mut operator, starts, &all).unwrap();
        for (found, n) in found.iter_mut().zip([1, 2, 4]) {
            let moments = moments(&spectrum("trace", dim, &ts[..n], 0.0));
            found.push((moments.trace - trace, moments.trace_sem));
        }
    }
    found
}

/// The error holds what an error promises, 68 % and 95 % of a normal one, for one probe as for four; and is no larger than it
/// has to be.
#[test]
fn the_stated_error_of_a_trace_covers_the_true_one() {
    for kind in [ProbeKind::Gaussian, ProbeKind::Rademacher] {
        for dim in if kind == ProbeKind::Gaussian { vec![50, 300, 2000] } else { vec![50, 300] } {
            for (name, eigenvalues) in spectra(dim) {
                for (found, n) in errors(&eigenvalues, kind).iter().zip([1, 2, 4]) {
                    let within = |errors: f64| {
                        let holds = |(error, stated): &&(f64, f64)| error.abs() <= errors * stated;
                        found.iter().filter(holds).count() as f64 / SEEDS as f64
                    };
                    let rms = |of: fn(&(f64, f64)) -> f64| {
                        stats::mean(&found.iter().map(|pair| of(pair).powi(2)).collect::<Vec<_>>()).sqrt()
                    };
                    let ratio = rms(|pair| pair.1) / rms(|pair| pair.0);
                    let case = format!("{name}, d = {dim}, n = {n}, {kind:?}");
                    println!("{case}: {:.3} {:.3} stated / true {ratio:.2}", within(1.0), within(2.0));
                    assert!(within(1.0) >= 0.6 && within(2.0) >= 0.9, "{case}: {} {}", within(1.0), within(2.0));
                    // for Rademacher probes it is a bound, by the spread of the diagonal too large
                    assert!(ratio < 1.6 || kind == ProbeKind::Rademacher, "{case}: stated / true = {ratio}");
                }
            }
        }
    }
}

/// A product's error goes into the error of the trace: a zero block is zero to within that, not to within 1e-23.
#[test]
fn errors_are_at_least_the_noise_floor() {
    let ts = lanczos(
        Local::new(),
        &mut Reflected::new(&[1e-9; 100], 1),
        vec![probe(ProbeKind::Gaussian, 1, "zero", 0, 0..100)],
        &[settings(3)],
    );
    let found = moments(&spectrum("zero", 100, &ts.unwrap(), 1e-6));
    assert!(found.trace_sem > 0.99e-5, "{found:?}");
    assert!(found.lambda_min_residual >= 1e-6 && found.lambda_max_residual >= 1e-6, "{found:?}");
}
