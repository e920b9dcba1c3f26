//! Exact spectra of large blocks: the Gauss-Newton Hessian of a layer of an MLP has as many eigenvalues that are not zero as
//! there are (sample, class) pairs, and these are those of a small matrix.
//!
//! With J the Jacobian of all logits by a layer's weights, row (i, c) is a_i (x) d_ic (input times backpropagated unit vector), so
//! (J J')_{ic,jk} = (a_i . a_j) (d_ic . d_jk). H_out = L L' with L = diag(sqrt p) - p sqrt(p)' for each sample, and J' L L' J has
//! the eigenvalues of L' J J' L, and zeros.

use hesspec::Result;
use hesspec::probe::{ProbeKind, probe};
use hesspec::spectrum::eigen::packed_symmetric;

const WIDTH: usize = 256;
const CLASSES: usize = 10;
const SAMPLES: usize = 64;

/// A rows x cols matrix of normal entries of this variance.
fn normal(name: &str, rows: usize, cols: usize, variance: f64) -> Vec<Vec<f64>> {
    let entries = probe(ProbeKind::Gaussian, 11, name, 0, 0..rows * cols);
    entries.chunks(cols).map(|row| row.iter().map(|x| x * variance.sqrt()).collect()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// x W.
fn times(x: &[f64], weights: &[Vec<f64>]) -> Vec<f64> {
    (0..weights[0].len()).map(|j| x.iter().zip(weights).map(|(x, row)| x * row[j]).sum()).collect()
}

/// W d, times tanh' at the activations.
fn back(weights: &[Vec<f64>], d: &[f64], activations: &[f64]) -> Vec<f64> {
    weights.iter().zip(activations).map(|(row, a)| dot(row, d) * (1.0 - a * a)).collect()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let exponentials: Vec<f64> = logits.iter().map(|z| z.exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|e| e / sum).collect()
}

/// Of one sample: inputs of both hidden layers' weights, and the backpropagated unit vectors of every class there.
struct Sample {
    inputs: [Vec<f64>; 2],
    back: [Vec<Vec<f64>>; 2],
    p: Vec<f64>,
}

fn samples() -> Vec<Sample> {
    let weights = |name: &str, cols| normal(name, WIDTH, cols, 1.0 / WIDTH as f64);
    let (first, second, head) = (weights("first", WIDTH), weights("second", WIDTH), weights("head", CLASSES));
    let tanh = |z: Vec<f64>| -> Vec<f64> { z.into_iter().map(f64::tanh).collect() };
    let sample = |x: Vec<f64>| {
        let one = tanh(times(&x, &first));
        let two = tanh(times(&one, &second));
        let p = softmax(&times(&two, &head));
        let unit = |c: usize| (0..CLASSES).map(|k| f64::from(u8::from(k == c))).collect::<Vec<f64>>();
        let upper: Vec<Vec<f64>> = (0..CLASSES).map(|c| back(&head, &unit(c), &two)).collect();
        let lower = upper.iter().map(|d| back(&second, d, &one)).collect();
        Sample { inputs: [x, one], back: [lower, upper], p }
    };
    normal("data", SAMPLES, WIDTH, 1.0).into_iter().map(sample).collect()
}

/// All eigenvalues of both hidden layers' blocks, ascending: 65,536 each.
pub fn spectra() -> Result<Vec<(String, Vec<f64>)>> {
    let samples = samples();
    (0..2).map(|layer| Ok((format!("MLP, layer {}", layer + 1), eigenvalues(&samples, layer)?))).collect()
}

fn eigenvalues(samples: &[Sample], layer: usize) -> Result<Vec<f64>> {
    // d_i as rows of L_i' D_i: the factor L goes into the backpropagated vectors
    let factored: Vec<Vec<Vec<f64>>> = samples
        .iter()
        .map(|sample| {
            let mean: Vec<f64> =
                (0..WIDTH).map(|j| (0..CLASSES).map(|c| sample.p[c] * sample.back[layer][c][j]).sum()).collect();
            let centred = |c: usize| {
                let scale = (sample.p[c] / SAMPLES as f64).sqrt();
                sample.back[layer][c].iter().zip(&mean).map(|(d, mean)| scale * (d - mean)).collect()
            };
            (0..CLASSES).map(centred).collect()
        })
        .collect();
    let row = |at: usize| (&samples[at / CLASSES].inputs[layer], &factored[at / CLASSES][at % CLASSES]);
    let size = SAMPLES * CLASSES;
    let mut lower = Vec::with_capacity(size * (size + 1) / 2);
    for i in 0..size {
        let (a, d) = row(i);
        lower.extend((0..=i).map(|j| dot(a, row(j).0) * dot(d, row(j).1)));
    }
    let mut values = packed_symmetric(size, &lower)?.values;
    values.resize(WIDTH * WIDTH, 0.0);
    values.sort_by(f64::total_cmp);
    Ok(values)
}
