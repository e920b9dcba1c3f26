//! Networks other than GPT-2 on the whole machine: a perceptron on images, with its own data and its own errors.

use std::collections::HashMap;

use hesspec::output::{BlockRow, Results, RunRow, SummaryRow, TridiagonalRow};

use crate::folder::{Folder, Said};

const CONFIG: &str = r#"
[model.mlp]
sizes = [6, 5, 3]

[data.images]
path = "images.idx"
labels = "labels.idx"
mean = 0.5
std = 0.25

[batch]
samples = 7
micro_batch = 2                 # does not divide them

[hessian]
precision = "f64"

[lanczos]
steps = 8
probes = 2
full_probes = 2

[distance]
grid_points = 2000
"#;

/// An IDX file.
pub fn idx(shape: &[u32], entries: impl Iterator<Item = u8>) -> Vec<u8> {
    let sizes = shape.iter().flat_map(|size| size.to_be_bytes());
    [0, 0, 8, shape.len() as u8].into_iter().chain(sizes).chain(entries).collect()
}

/// Nine images of 2 x 3 pixels in three classes.
pub fn perceptron_folder() -> Folder {
    let folder = Folder::new();
    folder.write("mlp.toml", CONFIG.as_bytes());
    let byte = |at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8;
    folder.write("images.idx", &idx(&[9, 2, 3], (0..54).map(byte)));
    folder.write("labels.idx", &idx(&[9], (100..109).map(|at| byte(at) % 3)));
    folder
}

/// alpha and beta of a run by (block, probe, step).
pub fn tridiagonals(folder: &Folder, url: &str) -> HashMap<(String, i32, i32), (f64, f64)> {
    let run = Results::open(folder.path(url).to_str().unwrap()).unwrap().run(None).unwrap();
    assert!(run.is_done());
    let rows = run.read::<TridiagonalRow>().unwrap();
    rows.into_iter().map(|row| ((row.block, row.probe, row.step), (row.alpha, row.beta))).collect()
}

#[test]
fn a_perceptron_has_every_command() {
    let folder = perceptron_folder();
    let plan = folder.hesspec("plan mlp.toml --no-timing").ok().stdout;
    assert!(plan.contains("samples          7 in micro-batches of 1 images"), "{plan}"); // seven segments of one image
    let check = folder.hesspec("check mlp.toml --json").ok().json();
    assert_eq!((&check["passed"], &check["num_params"], &check["tokens"]), (&true.into(), &53.into(), &7.into()));
    assert_eq!(check["batch_sha256"].as_str().map(str::len), Some(64));
    folder.hesspec("run mlp.toml --output out").ok();
    let run = Results::open(folder.path("out").to_str().unwrap()).unwrap().run(None).unwrap();
    let blocks: Vec<String> = run.read::<BlockRow>().unwrap().into_iter().map(|row| row.block).collect();
    let expected = ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias", "full"];
    assert_eq!(blocks, expected);
    assert_eq!(run.read::<SummaryRow>().unwrap().len(), blocks.len());
    let config = &run.read::<RunRow>().unwrap()[0].config;
    assert!(config.contains(r#""mlp":{"sizes":[6,5,3]"#) && config.contains(r#""samples":7"#), "{config}");
    folder.hesspec("report out").ok();
    let bench = folder.hesspec("bench mlp.toml --slots 1 --repeats 1 --json").ok().json();
    assert!(bench["cases"].as_array().unwrap().iter().any(|case| case["what"] == "layers.1.weight"));
    folder.hesspec("weights export mlp.toml own.safetensors").ok();
    let again = folder.hesspec("run mlp.toml --output again --set model.mlp.weights=own.safetensors");
    again.ok();
    assert_eq!(tridiagonals(&folder, "out"), tridiagonals(&folder, "again"), "the same weights out of a file");
}

#[test]
fn its_spectra_depend_neither_on_ranks_nor_on_the_micro_batch() {
    let folder = perceptron_folder();
    folder.hesspec("run mlp.toml --output out").ok();
    let one = tridiagonals(&folder, "out");
    let scale = one.values().map(|(alpha, _)| alpha.abs()).fold(0.0, f64::max);
    for (name, set) in
        [("ranks", "run.ranks=2"), ("cut", "batch.micro_batch=3"), ("recomputed", "hessian.recompute=true")]
    {
        folder.hesspec(&format!("run mlp.toml --output {name} --set {set}")).ok();
        let other = tridiagonals(&folder, name);
        assert_eq!(one.len(), other.len());
        for (key, (alpha, beta)) in &one {
            let found = other[key];
            assert!((alpha - found.0).abs().max((beta - found.1).abs()) <= 1e-12 * scale, "{name} {key:?}");
        }
    }
    let recomputed = tridiagonals(&folder, "recomputed");
    assert_eq!(one, recomputed, "computing stages again changes no bit");
}

#[test]
fn scaled_outputs_scale_what_they_must() {
    // one layer: logits are linear in the weights, and softmax of c z has c^2 times the curvature where z = 0
    let folder = perceptron_folder();
    folder.write("zero.toml", CONFIG.replace("[6, 5, 3]", "[6, 3]").as_bytes());
    let trace = |set: &str| -> f64 {
        let out = set.replace(['.', '='], "_");
        folder
            .hesspec(&format!("run zero.toml --output {out} --set {set} --set lanczos.steps=21 --set run.name=x"))
            .ok();
        let run = Results::open(folder.path(&out).to_str().unwrap()).unwrap().run(None).unwrap();
        run.read::<TridiagonalRow>()
            .unwrap()
            .iter()
            .filter(|row| row.block == "full" && row.probe == 0)
            .map(|row| row.alpha)
            .sum()
    };
    let ratio = trace("model.mlp.scale=0.002") / trace("model.mlp.scale=0.001");
    assert!((ratio - 4.0).abs() < 0.02, "{ratio}");
}

#[test]
fn what_does_not_fit_together_is_said_with_its_place() {
    let folder = perceptron_folder();
    let said = |set: &str| -> Said { folder.hesspec(&format!("run mlp.toml --output out --set {set}")) };
    said("batch.tokens=7").failed(2, &["batch.tokens = 7", "[data.images] is counted by batch.samples"]);
    said("batch.samples=10").failed(2, &["batch.samples = 10: 10 images", "9 images hold 9"]);
    said("model.mlp.sizes=[6]").failed(2, &["model.mlp.sizes = [6]", "widths of input and output"]);
    said("model.mlp.scale=0").failed(2, &["model.mlp.scale = 0", "above 0"]);
    said("model.mlp.scal=2").failed(2, &["model.mlp.scal = 2: unknown key; did you mean `scale`?"]);
    said("model.mlp.sizes=[5,3]").failed(2, &["images.idx: images of 2 x 3 are 6 values, the network takes 5"]);
    said("model.mlp.sizes=[6,2]").failed(2, &["labels.idx: label", "the network has 2 classes"]);
    said("data.images.labels=images.idx").failed(2, &["images.idx: is an IDX file with 3 axes", "labels"]);
    said("data.images.path=train.bin").failed(2, &["train.bin: begins with", "no IDX file"]);
    said("data.images.std=0").failed(2, &["data.images.std = 0", "above 0"]);
    said("model.gpt2.layers=2").failed(2, &["expected exactly one of gpt2, decoder, mlp, resnet, vgg"]);
    folder.write(
        "mixed.toml",
        CONFIG
            .replace("[data.images]", "[data.tokens]")
            .replace("labels", "# labels")
            .replace("mean", "# mean")
            .replace("std", "# std")
            .as_bytes(),
    );
    folder
        .hesspec("run mixed.toml --output out")
        .failed(2, &["mixed.toml:5:7: [data.tokens]: [model.mlp] reads [data.images]"]);
    assert!(!folder.path("out").join("_runs").exists(), "no name was claimed");
}
