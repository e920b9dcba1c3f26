use std::collections::BTreeMap;

use super::*;
use crate::models::{initialise, parameters, read};
use burn::tensor::{DType, Int, TensorData};

type Double = burn_ndarray::NdArray<f64>;
type Flex = burn_flex::Flex;

fn small() -> Gpt2Config {
    Gpt2Config { layers: 2, heads: 2, embedding: 8, mlp: 12, context: 6, vocabulary: 11, ..Gpt2Config::nano() }
}

fn variants() -> Vec<Gpt2Config> {
    let mut all = Vec::new();
    for bias in [false, true] {
        for tied in [false, true] {
            for layer_norm in [false, true] {
                for gelu in [Gelu::Erf, Gelu::Tanh] {
                    all.push(Gpt2Config { bias, tied, layer_norm, gelu, ..small() });
                }
            }
        }
    }
    all
}

fn model<B: Backend>(config: &Gpt2Config, dtype: DType) -> Gpt2<B> {
    initialised(config, config.init(&Default::default()).unwrap(), 5, dtype)
}

fn initialised<B: Backend>(config: &Gpt2Config, module: Gpt2<B>, seed: u64, dtype: DType) -> Gpt2<B> {
    let layout = Gpt2Config::layout(config);
    let initial = |name: &str| layout.find(name).map(|at| config.initial(&layout.parameters()[at]));
    initialise(module, &NAMES, seed, dtype, initial).unwrap()
}

fn tokens<B: Backend>(ids: &[i64], shape: [usize; 2]) -> Tensor<B, 2, Int> {
    Tensor::from_data(TensorData::new(ids.to_vec(), shape), &Default::default())
}

fn logits<B: Backend>(model: &Gpt2<B>, ids: &[i64], shape: [usize; 2]) -> Vec<f64> {
    model.forward(tokens(ids, shape)).into_data().iter::<f64>().collect()
}

/// Mean cross-entropy of rows of logits, the plain way.
fn cross_entropy(logits: &[f64], targets: &[i64]) -> f64 {
    let rows = logits.chunks(logits.len() / targets.len()).zip(targets);
    let losses = rows.map(|(row, target)| row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[*target as usize]);
    losses.sum::<f64>() / targets.len() as f64
}

#[test]
fn sizes_of_the_presets_are_the_published_ones() {
    let count = |config: Gpt2Config| Gpt2Config::layout(&config).num_params();
    assert_eq!(count(Gpt2Config::gpt2_124m()), 124_373_760); // the paper
    assert_eq!(count(Gpt2Config::nano()), 10_745_088);
    // Hugging Face's gpt2: biases and 50257 tokens
    assert_eq!(count(Gpt2Config { bias: true, vocabulary: 50257, ..Gpt2Config::gpt2_124m() }), 124_439_808);
}

#[test]
fn the_layout_is_what_the_module_holds() {
    for config in variants() {
        let module = config.init::<Flex>(&Default::default()).unwrap();
        assert_eq!(parameters(&module, &NAMES), Gpt2Config::layout(&config), "{config:?}");
        let trained = config.init::<burn_autodiff::Autodiff<Flex>>(&Default::default()).unwrap();
        assert_eq!(parameters(&trained, &NAMES), Gpt2Config::layout(&config), "{config:?}");
    }
    let full = Gpt2Config { bias: true, tied: false, ..small() };
    let names: Vec<String> = full.layout().parameters().iter().map(|p| p.name.clone()).collect();
    assert_eq!(
        names[..6],
        [
            "wte.weight",
            "wpe.weight",
            "h.0.ln_1.weight",
            "h.0.ln_1.bias",
            "h.0.attn.c_attn.weight",
            "h.0.attn.c_attn.bias"
        ]
        .map(|name| format!("transformer.{name}"))
    );
    assert_eq!(names.last().unwrap(), "lm_head.weight");
}

#[test]
fn at_initialisation_the_loss_is_near_the_logarithm_of_the_vocabulary() {
    let ids: Vec<i64> = (0..12).map(|i| (i * 7 + 3) % 11).collect();
    for config in variants() {
        let double = logits(&model::<Double>(&config, DType::F64), &ids, [2, 6]);
        assert_eq!(double.len(), 2 * 6 * 11);
        // logits are about 0.02 sqrt(8) |LayerNorm output| = 0.06 each, so the loss moves by a few hundredths
        let loss = cross_entropy(&double, &ids);
        assert!((loss - 11_f64.ln()).abs() < 0.1, "{config:?}: {loss}");
        // flex runs f64 at run time; f32 carries 24 bits and the logits are below 1
        for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 1e-5)] {
            let flex = logits(&model::<Flex>(&config, dtype), &ids, [2, 6]);
            for (a, b) in double.iter().zip(&flex) {
                assert!((a - b).abs() < tolerance, "{config:?}: {a} on NdArray f64, {b} on flex {dtype:?}");
            }
        }
    }
}

#[test]
fn no_position_sees_the_future_and_windows_do_not_mix() {
    let config = Gpt2Config { bias: true, ..small() };
    let model = model::<Double>(&config, DType::F64);
    let first = logits(&model, &[1, 2, 3, 4, 5, 6, 7, 8], [2, 4]);
    let other = logits(&model, &[1, 2, 3, 9, 5, 6, 7, 8], [2, 4]);
    let row = |logits: &[f64], at: usize| logits[at * 11..(at + 1) * 11].to_vec();
    for at in [0, 1, 2, 4, 5, 6, 7] {
        assert_eq!(row(&first, at), row(&other, at), "position {at}");
    }
    assert_ne!(row(&first, 3), row(&other, 3));
    // a shorter window is a prefix
    let short = logits(&model, &[1, 2, 3], [1, 3]);
    for (a, b) in short.iter().zip(&first) {
        assert!((a - b).abs() < 1e-14, "{a} {b}");
    }
}

/// One layer, width 2, one head, computed by hand below: fixes the column order of q, k, v, the scale of the scores,
/// the place of the residual adds and the tied head.
#[test]
fn a_network_of_width_two_by_hand() {
    let config = Gpt2Config {
        layers: 1,
        heads: 1,
        embedding: 2,
        mlp: 1,
        context: 2,
        vocabulary: 2,
        layer_norm: false,
        ..Gpt2Config::nano()
    };
    let values = |name: &str, shape: &[usize]| {
        let values = match name.strip_prefix("transformer.").unwrap() {
            "wte.weight" => vec![1.0, 0.0, 0.0, 2.0],
            "wpe.weight" => vec![0.1, 0.0, 0.0, 0.3],
            // rows: input channels; columns: q0 q1 k0 k1 v0 v1
            "h.0.attn.c_attn.weight" => vec![1.0, 0.0, 0.5, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.5, 2.0, 0.0],
            "h.0.attn.c_proj.weight" => vec![1.0, 0.0, 0.0, -1.0],
            "h.0.mlp.c_fc.weight" => vec![1.0, -1.0],
            "h.0.mlp.c_proj.weight" => vec![0.5, 1.0],
            other => panic!("{other}"),
        };
        Ok(Some(TensorData::new(values, shape.to_vec())))
    };
    let empty = config.init::<Double>(&Default::default()).unwrap();
    let model = crate::models::fill(empty, &NAMES, DType::F64, values).unwrap();

    let x = [[1.1, 0.0], [0.0, 2.3]]; // tokens 0 and 1, with positions
    let q = x;
    let k = x.map(|[a, b]| [0.5 * a, 0.5 * b]);
    let v = x.map(|[a, b]| [2.0 * b, a]);
    let score = |i: usize, j: usize| (q[i][0] * k[j][0] + q[i][1] * k[j][1]) / 2_f64.sqrt();
    let p = score(1, 0).exp() / (score(1, 0).exp() + score(1, 1).exp());
    let y = [v[0], [p * v[0][0] + (1.0 - p) * v[1][0], p * v[0][1] + (1.0 - p) * v[1][1]]];
    let mut expected = Vec::new();
    for (x, y) in x.iter().zip(y) {
        let x = [x[0] + y[0], x[1] - y[1]];
        let fc = x[0] - x[1];
        let hidden = fc * 0.5 * (1.0 + statrs::function::erf::erf(fc / 2_f64.sqrt()));
        let x = [x[0] + 0.5 * hidden, x[1] + hidden];
        expected.extend([x[0], 2.0 * x[1]]); // the tied head
    }
    for (found, expected) in logits(&model, &[0, 1], [1, 2]).iter().zip(expected) {
        assert!((found - expected).abs() < 1e-9, "{found}, by hand {expected}");
    }
}

#[test]
fn impossible_sizes_are_refused() {
    let error = Gpt2Config { heads: 3, ..small() }.validate().unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("heads = 3"));
    assert!(Gpt2Config { layers: 0, ..small() }.validate().unwrap_err().to_string().contains("layers = 0"));
}

#[test]
#[should_panic(expected = "longer than the model's context of 6")]
fn too_long_a_window_panics() {
    logits(&model::<Flex>(&small(), DType::F32), &[0; 7], [1, 7]);
}

fn wide() -> Gpt2Config {
    Gpt2Config { layers: 2, heads: 2, embedding: 64, mlp: 256, context: 8, bias: true, ..Gpt2Config::nano() }
}

fn values<B: Backend>(scheme: Initialisation, seed: u64, dtype: DType) -> BTreeMap<String, Vec<f64>> {
    let model = wide().init::<B>(&Default::default()).unwrap();
    let model = initialised(&Gpt2Config { init: scheme, ..wide() }, model, seed, dtype);
    let mut values = BTreeMap::new();
    read(&model, &NAMES, |name, data| {
        assert_eq!(data.dtype, dtype, "{name}");
        values.insert(name.to_owned(), data.iter::<f64>().collect());
    });
    values
}

/// Sample standard deviation within five standard errors, sigma / sqrt(2 n), and mean within five, sigma / sqrt(n).
fn assert_normal(values: &[f64], sigma: f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
    assert!(mean.abs() < 5.0 * sigma / n.sqrt(), "mean {mean}");
    assert!((deviation - sigma).abs() < 5.0 * sigma / (2.0 * n).sqrt(), "deviation {deviation}, expected {sigma}");
}

#[test]
fn scales_are_those_of_the_schemes() {
    let nano = values::<burn_ndarray::NdArray<f64>>(Initialisation::NanoGpt, 1, DType::F64);
    let paper = values::<burn_ndarray::NdArray<f64>>(Initialisation::Paper, 1, DType::F64);
    assert_normal(&nano["transformer.h.1.mlp.c_fc.weight"], 0.02);
    assert_normal(&nano["transformer.h.1.mlp.c_proj.weight"], 0.01); // 0.02 / sqrt(2 * 2)
    assert_normal(&nano["transformer.h.1.attn.c_proj.weight"], 0.01);
    assert_normal(&paper["transformer.h.1.mlp.c_proj.weight"], 0.01);
    assert_normal(&paper["transformer.h.1.attn.c_proj.weight"], 0.02);
    assert!(nano["transformer.h.1.attn.c_attn.bias"].iter().all(|x| *x == 0.0));
    assert!(nano["transformer.ln_f.bias"].iter().all(|x| *x == 0.0));
    assert!(nano["transformer.ln_f.weight"].iter().all(|x| *x == 1.0));
}

#[test]
fn backends_and_precisions_agree_to_the_last_bit() {
    let ndarray = values::<burn_ndarray::NdArray<f64>>(Initialisation::NanoGpt, 7, DType::F64);
    let flex = values::<burn_flex::Flex>(Initialisation::NanoGpt, 7, DType::F64);
    let single = values::<burn_flex::Flex>(Initialisation::NanoGpt, 7, DType::F32);
    assert_eq!(ndarray, flex);
    for (name, values) in &ndarray {
        let rounded: Vec<f64> = values.iter().map(|x| f64::from(*x as f32)).collect();
        assert_eq!(rounded, single[name], "{name}");
    }
    assert_ne!(ndarray, values::<burn_flex::Flex>(Initialisation::NanoGpt, 8, DType::F64));
    assert_ne!(ndarray["transformer.h.0.mlp.c_fc.weight"], ndarray["transformer.h.1.mlp.c_fc.weight"]);
}
