//! Convolutional networks on the whole machine: BatchNorm in both modes, stages, files of weights, CIFAR's files.

use std::collections::HashMap;

use hesspec::output::{BlockRow, Results};

use crate::folder::{Folder, Said};
use crate::networks::{idx, tridiagonals};

const CONFIG: &str = r#"
[model.resnet]
blocks = [1, 1]
widths = [2, 3]
stem = "cifar"
channels = 1
classes = 3
image = [6, 7]

[data.images]
path = "images.idx"
labels = "labels.idx"
mean = 0.5
std = 0.25
pad = 1

[batch]
samples = 7
micro_batch = 2                 # does not divide them

[hessian]
precision = "f64"

[blocks]
include = ["*conv*.weight"]       # larger than their Krylov spaces

[lanczos]
steps = 6
probes = 1
full_probes = 2

[distance]
grid_points = 2000
"#;

/// Nine images of 4 x 5 pixels in three classes, and three of CIFAR-10's.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("resnet.toml", CONFIG.as_bytes());
    let byte = |at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8;
    folder.write("images.idx", &idx(&[9, 4, 5], (0..180).map(byte)));
    folder.write("labels.idx", &idx(&[9], (100..109).map(|at| byte(at) % 3)));
    let record = |at: u32| [(at % 3) as u8].into_iter().chain((0..3072).map(move |pixel| byte(7919 * at + pixel)));
    folder.write("batch_1.bin", &(0..2).flat_map(record).collect::<Vec<u8>>());
    folder.write("batch_2.bin", &(2..3).flat_map(record).collect::<Vec<u8>>());
    folder
}

pub type Tridiagonals = HashMap<(String, i32, i32), (f64, f64)>;

/// The largest difference of an alpha or beta, relative to the largest alpha.
pub fn difference(a: &Tridiagonals, b: &Tridiagonals) -> f64 {
    assert_eq!(a.len(), b.len());
    let scale = a.values().map(|(alpha, _)| alpha.abs()).fold(0.0, f64::max);
    let pairs = a.iter().map(|(key, (alpha, beta))| (alpha - b[key].0).abs().max((beta - b[key].1).abs()));
    pairs.fold(0.0, f64::max) / scale
}

#[test]
fn a_residual_network_has_every_command() {
    let folder = folder();
    let plan = folder.hesspec("plan resnet.toml --no-timing").ok().stdout;
    assert!(plan.contains("samples          7 in micro-batches of 1 images"), "{plan}"); // seven segments of one image
    assert!(!plan.contains("guessed from the parameters"), "{plan}");
    let check = folder.hesspec("check resnet.toml --json").ok().json();
    assert_eq!((&check["passed"], &check["tokens"]), (&true.into(), &7.into()));
    folder.hesspec("run resnet.toml --output out").ok();
    let run = Results::open(folder.path("out").to_str().unwrap()).unwrap().run(None).unwrap();
    let blocks: Vec<BlockRow> = run.read().unwrap();
    assert!(blocks.iter().all(|row| !row.block.contains("running")));
    assert!(blocks.iter().any(|row| row.block == "layer2.0.conv2.weight"));
    folder.hesspec("report out").ok();
    let one = tridiagonals(&folder, "out");
    for (name, set) in [("ranks", "run.ranks=2"), ("cut", "batch.micro_batch=3"), ("again", "hessian.prefix_cache=off")]
    {
        folder.hesspec(&format!("run resnet.toml --output {name} --set {set}")).ok();
        let other = difference(&one, &tridiagonals(&folder, name));
        assert!(other <= 1e-12, "{name}: {other:e}");
    }
    folder.hesspec("run resnet.toml --output recomputed --set hessian.recompute=true").ok();
    assert_eq!(one, tridiagonals(&folder, "recomputed"), "computing stages again changes no bit");
    for file in ["own.safetensors", "own.pth"] {
        folder.hesspec(&format!("weights export resnet.toml {file}")).ok();
        folder.hesspec(&format!("run resnet.toml --output from-{file} --set model.resnet.weights={file}")).ok();
        assert_eq!(
            one,
            tridiagonals(&folder, &format!("from-{file}")),
            "the same weights and statistics out of {file}"
        );
    }
}

/// Statistics of a micro-batch make it a part of the loss: ranks may share the work, another size is another network.
#[test]
fn in_train_mode_the_micro_batch_is_part_of_the_loss() {
    let folder = folder();
    folder.write("train.toml", CONFIG.replace("[data.images]", "batch_norm = \"train\"\n\n[data.images]").as_bytes());
    folder.hesspec("run train.toml --output out").ok();
    let one = tridiagonals(&folder, "out");
    folder.hesspec("run train.toml --output ranks --set run.ranks=2").ok();
    assert!(difference(&one, &tridiagonals(&folder, "ranks")) <= 1e-12);
    folder.hesspec("run train.toml --output recomputed --set hessian.recompute=true").ok();
    assert_eq!(one, tridiagonals(&folder, "recomputed"));
    folder.hesspec("run train.toml --output cut --set batch.micro_batch=3").ok();
    let other = difference(&one, &tridiagonals(&folder, "cut"));
    assert!(other > 1e-3, "other micro-batches: {other:e}");
    folder.hesspec("run resnet.toml --output eval").ok();
    let other = difference(&one, &tridiagonals(&folder, "eval"));
    assert!(other > 1e-3, "running statistics: {other:e}");
    folder.write(
        "free.toml",
        CONFIG.replace("micro_batch", "# micro_batch").replace("[data.", "batch_norm = \"train\"\n[data.").as_bytes(),
    );
    folder
        .hesspec("run free.toml --output free")
        .failed(2, &["batch.micro_batch", "a part of the loss: give its size"]);
}

#[test]
fn vgg_reads_the_files_of_cifar() {
    let folder = folder();
    let text = CONFIG
        .replace(
            "[model.resnet]\nblocks = [1, 1]\nwidths = [2, 3]\nstem = \"cifar\"\nchannels = 1",
            "[model.vgg]\nconvolutions = [1, 1]\nwidths = [2, 3]\nhidden = 4\npool = 2",
        )
        .replace("image = [6, 7]", "")
        .replace(
            "path = \"images.idx\"\nlabels = \"labels.idx\"\nmean = 0.5",
            "path = \"batch_*.bin\"\nmean = [0.5, 0.4, 0.3]",
        )
        .replace("samples = 7", "samples = 3")
        .replace("*conv*.weight", "features.*.weight");
    folder.write("vgg.toml", text.as_bytes());
    let check = folder.hesspec("check vgg.toml --json").ok().json();
    assert_eq!((&check["passed"], &check["tokens"]), (&true.into(), &3.into()));
    folder.hesspec("run vgg.toml --output out").ok();
    folder.hesspec("run vgg.toml --output sized --set model.vgg.image=[34,34]").ok();
    assert!(difference(&tridiagonals(&folder, "out"), &tridiagonals(&folder, "sized")) <= 1e-12);
    folder.hesspec("weights export vgg.toml own.pth").ok();
    let said = |set: &str| -> Said { folder.hesspec(&format!("run vgg.toml --output new --set {set}")) };
    said("batch.samples=4").failed(2, &["batch.samples = 4: 4 images", "3 images hold 3"]);
    said("data.images.mean=[0.5,0.4]").failed(2, &["batch_*.bin: images of 3 channels; data.images.mean = [0.5, 0.4]"]);
    said("data.images.std=[1,0,1]").failed(2, &["data.images.std = [1, 0, 1]", "above 0"]);
    said("data.images.mean=black")
        .failed(2, &["data.images.mean = \"black\": expected a number, or a list of numbers"]);
    said("data.images.pad=2000").failed(2, &["data.images.pad = 2000: expected 1024 or less"]);
    said("data.images.labels=labels.idx").failed(2, &["batch_*.bin"]);
    said("data.images.format=idx").failed(2, &["data.images.format = \"idx\"", "set data.images.labels"]);
    said("data.images.format=cifar100").failed(2, &["batch_1.bin: has 6146 bytes", "3074 bytes an image"]);
    said("data.images.path=images.idx").failed(2, &["images.idx: has", "IDX files need data.images.labels"]);
    said("model.vgg.channels=1").failed(2, &["images of 3 x 32 x 32", "with 1 channel"]);
    said("model.vgg.classes=2").failed(2, &["batch_*.bin: label 2 of image 2; the network has 2 classes"]);
    said("model.vgg.widths=[2]")
        .failed(2, &["model.vgg.widths = [2]", "as many as there are model.vgg.convolutions: 2"]);
    said("model.vgg.image=[3,34]").failed(2, &["model.vgg.image = [3, 34]", "from 4 to"]);
    said("model.vgg.preset=17").failed(2, &["model.vgg.preset = 17: expected one of \"11\", \"13\", \"16\", \"19\""]);
    let other = "model.vgg.hidden=5";
    folder
        .hesspec(&format!("run vgg.toml --output new --set model.vgg.weights=own.pth --set {other}"))
        .failed(2, &["own.pth", "classifier.0.weight is [4, 12], expected [5, 12]", "set model.vgg.hidden = 4"]);
    assert!(!folder.path("new").join("_runs").exists(), "no name was claimed");
}
