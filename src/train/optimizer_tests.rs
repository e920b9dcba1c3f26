//! Against PyTorch 2.15 in f64: ten steps down f(w) = sum (c w^2 / 2 + d w) from one point, on four parameters, one of which climbs
//! away. Adam without bias correction is not in PyTorch; its numbers are those of six lines of NumPy.

use super::*;

const C: [f64; 4] = [3.0, 0.5, -0.2, 10.0];
const D: [f64; 4] = [1.0, -2.0, 0.25, 0.0];
const START: [f64; 4] = [0.5, -1.0, 2.0, 0.125];
const RATE: f64 = 0.05;

fn gradient(w: &[f64]) -> Vec<f64> {
    w.iter().zip(C).zip(D).map(|((w, c), d)| c * w + d).collect()
}

fn trained(rule: Rule, most: Option<f64>) -> Vec<f64> {
    let (mut w, mut optimizer) = (START.to_vec(), Optimizer::new(rule, 4));
    for _ in 0..10 {
        let mut gradient = gradient(&w);
        clip(&mut gradient, most);
        optimizer.update(&mut w, &gradient, RATE);
    }
    w
}

/// Ten steps of a few operations each, which PyTorch does in another order.
#[track_caller]
fn assert_close(found: &[f64], expected: [f64; 4]) {
    let tolerance = 100.0 * f64::EPSILON;
    let is_close = |(a, b): (&f64, f64)| (a - b).abs() <= tolerance * b.abs().max(1.0);
    assert!(found.iter().zip(expected).all(is_close), "{found:?}, expected {expected:?}");
}

fn sgd(momentum: f64, nesterov: bool, weight_decay: f64) -> Rule {
    Rule::Sgd { momentum, nesterov, weight_decay }
}

fn adam(decoupled: bool) -> Rule {
    let (betas, epsilon, weight_decay) = ([0.8, 0.95], 1e-3, 0.1);
    Rule::Adam { betas, epsilon, bias_correction: true, moments: Moments::Zero, weight_decay, decoupled }
}

fn uncorrected(moments: Moments, beta2: f64) -> Rule {
    let (betas, epsilon, weight_decay) = ([0.8, beta2], 1e-3, 0.0);
    Rule::Adam { betas, epsilon, bias_correction: false, moments, weight_decay, decoupled: false }
}

#[test]
fn sgd_is_pytorchs() {
    let plain = [-0.16927132971606448, 0.11835189571781116, 2.078466594058404, 0.0001220703125];
    assert_close(&trained(sgd(0.0, false, 0.0), None), plain);
    let decayed = [-0.5991057131815886, 3.111106162274648, 1.891949815355594, 0.00780177056583302];
    assert_close(&trained(sgd(0.9, false, 0.1), None), decayed);
    let nesterov = [-0.44189719813072387, 3.3254862331349537, 2.4006364598963073, -0.002037307414074707];
    assert_close(&trained(sgd(0.9, true, 0.0), None), nesterov);
}

#[test]
fn adam_and_adamw_are_pytorchs() {
    let coupled = [0.023573363421385655, -0.5033190399495603, 1.4941113362491707, 0.013062227697991344];
    assert_close(&trained(adam(false), None), coupled);
    let decoupled = [0.010736905369637229, -0.46529722516944466, 2.39763115794671, 0.013677936466914098];
    assert_close(&trained(adam(true), None), decoupled);
}

#[test]
fn clipping_is_pytorchs() {
    let adamw = [-0.0022299982089651407, -0.45570024902407824, 2.4001525189258617, 0.02262833672769752];
    assert_close(&trained(adam(true), Some(1.5)), adamw);
    let sgd_clipped = [-0.7311440674156692, 1.4836055047122247, 2.1787101397480573, 0.05689248507087876];
    assert_close(&trained(sgd(0.9, false, 0.0), Some(1.5)), sgd_clipped);
    let mut long = vec![3.0, -4.0];
    assert_eq!(clip(&mut long, Some(10.0)), (5.0, false));
    assert_eq!(long, [3.0, -4.0], "a short one is left alone");
    assert_eq!(clip(&mut long, None), (5.0, false));
}

#[test]
fn adam_without_bias_correction_begins_with_zero_or_with_the_gradient() {
    let zero = [-0.11518406110778492, -0.34245454146504517, 2.6733822728742402, 0.03465070878456017];
    assert_close(&trained(uncorrected(Moments::Zero, 0.95), None), zero);
    let gradient = [0.05009416666545879, -0.5079972765037213, 2.542116015579112, -0.050570007952783665];
    assert_close(&trained(uncorrected(Moments::Gradient, 0.95), None), gradient);
    let kept = [0.06517671247026048, -0.5115169516132889, 2.576371493957953, -0.05357267676990868];
    assert_close(&trained(uncorrected(Moments::Gradient, 1.0), None), kept);
}

/// Entries do not know of each other: pieces of any number of threads give the same bits, and so does going on in the middle.
#[test]
fn long_vectors_are_updated_entry_by_entry_and_resumed_with_the_same_bits() {
    let len = 2 * PIECE + 77;
    let rule = adam(true);
    let gradients: Vec<Vec<f64>> = (1..4).map(|t| (0..len).map(|i| (t * i % 17) as f64 - 8.0).collect()).collect();
    let (mut whole, mut optimizer) = (vec![0.5f32; len], Optimizer::new(rule, len));
    gradients.iter().for_each(|gradient| optimizer.update(&mut whole, gradient, RATE));
    let (mut again, mut first) = (vec![0.5f32; len], Optimizer::new(rule, len));
    first.update(&mut again, &gradients[0], RATE);
    let vectors = first.vectors().map(|(_, vector)| vector.to_vec()).collect();
    let mut resumed = Optimizer::resumed(rule, 1, vectors);
    gradients[1..].iter().for_each(|gradient| resumed.update(&mut again, gradient, RATE));
    assert!(whole == again && optimizer == resumed);
    let (mut one, mut alone) = (vec![0.5f32], Optimizer::new(rule, 1));
    gradients.iter().for_each(|gradient| alone.update(&mut one, &gradient[len - 1..], RATE));
    assert_eq!(one[0], whole[len - 1]);
}
