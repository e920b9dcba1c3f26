//! `hesspec train`: its table and its weights, kills and stops, ranks, grids of learning rates, and what is refused.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use hesspec::output::{Results, RunRow, TrainingRow};

use crate::folder::{Folder, Said, combine, norm};
use crate::networks::idx;

const CONFIG: &str = r#"
[model.mlp]
sizes = [6, 8, 3]

[data.images]
path = "images.idx"
labels = "labels.idx"
mean = 0.5
std = 0.25

[batch]
micro_batch = 3                 # does not divide the step's samples

[hessian]
precision = "f64"

[lanczos]
steps = 2

[distance]
grid_points = 2000

[train]
steps = 60
batch = 8
optimizer = "adamw"
learning_rate = 0.02
clip = 1.0
warmup = 5
schedule = "cosine"
checkpoints = [0.0, 0.5, 1.0]

[train.held_out]
every = 25
data = { path = "unseen.idx", labels = "unseen_labels.idx" }

[checkpoint]
every = "0s"
"#;

/// 30 images to train on and 12 that are held out, of 2 x 3 pixels in three classes that their brightness tells.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("train.toml", CONFIG.as_bytes());
    let byte = |at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8;
    let pixel = move |at: u32| byte(at) / 3 + 85 * (byte(1000 + at / 6) % 3);
    for (name, images) in [("", 0..30), ("unseen", 30..42)] {
        let count = images.len() as u32;
        let (pixels, labels) = (images.start * 6..images.end * 6, images.map(|at| byte(1000 + at) % 3));
        let underscore = if name.is_empty() { "" } else { "_" };
        let file = if name.is_empty() { "images.idx".into() } else { format!("{name}.idx") };
        folder.write(&file, &idx(&[count, 2, 3], pixels.map(pixel)));
        folder.write(&format!("{name}{underscore}labels.idx"), &idx(&[count], labels));
    }
    folder
}

fn rows(folder: &Folder, url: &str, run: &str) -> Vec<TrainingRow> {
    let results = Results::open(folder.path(url).to_str().unwrap()).unwrap();
    let found = results.run(Some(run)).unwrap();
    assert!(found.is_done());
    found.read().unwrap()
}

/// The table without its times, and the weights and the optimizer's state of the last step.
fn findings(folder: &Folder, url: &str, last: usize) -> (Vec<TrainingRow>, Vec<u8>, Vec<u8>) {
    let mut rows = rows(folder, url, "train");
    rows.iter_mut().for_each(|row| row.seconds = 0.0);
    let file = |name: &str| {
        let path = format!("{url}/checkpoints/run=train/step-{last:07}/{name}.safetensors");
        std::fs::read(folder.path(&path)).unwrap()
    };
    (rows, file("model"), file("optimizer"))
}

#[test]
fn a_training_writes_its_table_and_weights_that_a_run_reads() {
    let folder = folder();
    let said = folder.hesspec("train train.toml --output out --json").ok();
    for part in
        ["run `train`: mlp, 83 parameters; 60 steps of 8 images in 3 micro-batches", "weights after step 30: out/"]
    {
        assert!(said.stderr.contains(part), "{part}: {}", said.stderr);
    }
    let answer = said.json();
    assert_eq!((&answer["best"], &answer["runs"][0]["steps"]), (&"train".into(), &60.into()));
    let rows = rows(&folder, "out", "train");
    assert!(rows.iter().enumerate().all(|(at, row)| row.step == at as i64 + 1 && row.samples == 8 * row.step));
    assert_eq!(rows.len(), 60);
    assert!(rows[59].loss < 0.6 * rows[0].loss, "{} to {}", rows[0].loss, rows[59].loss);
    assert!(rows[0].learning_rate < rows[4].learning_rate && rows[59].learning_rate < 1e-4);
    let looked: Vec<i64> = rows.iter().filter(|row| row.held_out_loss.is_some()).map(|row| row.step).collect();
    assert_eq!(looked, [25, 50, 60]);
    let share = rows[59].held_out_accuracy.unwrap();
    assert!((12.0 * share).fract() == 0.0 && share > 0.5, "{share}");
    assert_eq!(answer["runs"][0]["held_out_accuracy"].as_f64(), Some(share));
    assert!(rows.iter().all(|row| row.clipped == (row.gradient_norm > 1.0 - 1e-6)));
    let results = Results::open(folder.path("out").to_str().unwrap()).unwrap();
    let run = results.run(None).unwrap().read::<RunRow>().unwrap();
    assert!(run[0].status == "done" && run[0].config.contains(r#""micro_batch":3,"batch_sha256""#), "{run:?}");
    // the weights before the first step are those that the network is initialised with
    folder.hesspec("weights export train.toml own.safetensors").ok();
    let step = |number: usize| folder.load(&format!("out/checkpoints/run=train/step-{number:07}/model.safetensors"));
    assert_eq!(step(0), folder.load("own.safetensors"));
    // and a run finds the loss of the last ones
    let spectrum = CONFIG.split("[train]").next().unwrap();
    folder.write("spectrum.toml", spectrum.as_bytes());
    let weights = "--set model.mlp.weights=out/checkpoints/run=train/step-0000060/model.safetensors";
    let unseen = "--set data.images.path=unseen.idx --set data.images.labels=unseen_labels.idx";
    folder.save("v.safetensors", &step(60), safetensors::tensor::Dtype::F64);
    let hvp =
        format!("hvp spectrum.toml --vectors v.safetensors --out hv.safetensors --loss --json {weights} {unseen}");
    let loss = folder.hesspec(&hvp).ok().json()["loss"].as_f64().unwrap();
    assert!((loss / rows[59].held_out_loss.unwrap() - 1.0).abs() < 1e-12, "{loss}");
    folder.hesspec(&format!("run spectrum.toml --output out {weights}")).ok();
    folder.hesspec("report out --run train").ok();
    let again = folder.hesspec("train train.toml --output out").ok().stdout;
    assert!(again.contains("run `train`: already done; loss 0."), "{again}");
    folder
        .hesspec("train train.toml --output out --set train.beta1=0.8")
        .failed(2, &["begun with another configuration", "train.beta1: there 0.9, here 0.8", "another run.name"]);
}

/// As many steps as it takes to be killed among them.
const LONG: &str = "--set train.steps=3000";

fn started(folder: &Folder, url: &str) -> Child {
    let command = format!("train train.toml --output {url} {LONG}");
    let arguments: Vec<&str> = command.split(' ').collect();
    folder.command(&arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

/// Waits until a training has saved, and a little longer.
fn wait_for_state(folder: &Folder, url: &str, child: &mut Child) {
    let begin = Instant::now();
    while !folder.path(&format!("{url}/_runs/train/training/state.bin")).exists() {
        assert!(begin.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(), "nothing is saved");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(50));
}

#[test]
fn killed_and_stopped_it_goes_on_with_the_same_bits() {
    let folder = folder();
    folder.hesspec(&format!("train train.toml --output whole {LONG}")).ok();
    let expected = findings(&folder, "whole", 3000);
    let mut killed = started(&folder, "cut");
    wait_for_state(&folder, "cut", &mut killed);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let mut stopped = started(&folder, "cut");
    wait_for_state(&folder, "cut", &mut stopped);
    // SAFETY: a signal to a child that has not been waited for
    assert_eq!(unsafe { libc::kill(stopped.id() as i32, libc::SIGTERM) }, 0);
    let output = stopped.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(75), "{stderr}");
    for part in
        ["took over the lock", "resumed after step", "stops after the step at hand", "stopped (SIGTERM) after step"]
    {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    // what steers it is as it was written, or it is not gone on from
    let state = folder.path("cut/_runs/train/training/state.bin");
    let bytes = std::fs::read(&state).unwrap();
    let mut changed = bytes.clone();
    changed[bytes.len() / 2] ^= 1;
    std::fs::write(&state, changed).unwrap();
    let command = format!("train train.toml --output cut {LONG}");
    folder.hesspec(&command).failed(5, &["training/state.bin", "its hash is wrong", "begin the training anew"]);
    std::fs::write(&state, bytes).unwrap();
    assert!(folder.hesspec(&command).ok().stderr.contains("resumed after step"));
    assert!(!state.exists());
    assert!(findings(&folder, "cut", 3000) == expected, "another training than the one that was not cut");
}

#[test]
fn ranks_share_the_micro_batches_of_a_step() {
    let folder = folder();
    folder.hesspec("train train.toml --output one").ok();
    folder.hesspec("train train.toml --output two --set run.ranks=2").ok();
    folder.hesspec("train train.toml --output cut --set batch.micro_batch=8").ok();
    let one = rows(&folder, "one", "train");
    let weights = |url: &str| folder.load(&format!("{url}/checkpoints/run=train/step-0000060/model.safetensors"));
    for other in ["two", "cut"] {
        let found = rows(&folder, other, "train");
        for (a, b) in one.iter().zip(&found) {
            assert!((a.loss - b.loss).abs() < 1e-9 && a.clipped == b.clipped, "{other}: {a:?} {b:?}");
            assert!((a.held_out_loss.unwrap_or(0.0) - b.held_out_loss.unwrap_or(0.0)).abs() < 1e-9, "{other}");
        }
        let difference = norm(&combine(1.0, &weights("one"), -1.0, &weights(other)));
        assert!(difference < 1e-9, "{other}: {difference:e}");
    }
}

#[test]
fn of_several_learning_rates_the_best_is_named_and_one_that_diverges_ends_none_of_the_others() {
    let folder = folder();
    let grid = "--set train.learning_rate=[1e200,1e-5,0.02] --set train.optimizer=sgd --set train.schedule=constant --set train.warmup=0";
    let said = folder.hesspec(&format!("train train.toml --output out {grid}")).ok();
    for part in [
        "run `train-lr0.00001`: 60 steps",
        "best: train-lr0.02",
        "weights: out/checkpoints/run=train-lr0.02/step-0000060",
    ] {
        assert!(said.stdout.contains(part), "{part}: {}", said.stdout);
    }
    let again = folder.hesspec(&format!("train train.toml --output out {grid} --json")).ok().json();
    let runs = again["runs"].as_array().unwrap();
    assert!(runs.iter().all(|run| run["was_done"] == true) && again["best"] == "train-lr0.02", "{again}");
    let diverged = runs[0]["diverged"].as_u64().unwrap();
    let name = runs[0]["run"].as_str().unwrap();
    let rows = rows(&folder, "out", name);
    assert_eq!(rows.len() as u64, diverged);
    assert!(!rows.last().unwrap().loss.is_finite() || !rows.last().unwrap().gradient_norm.is_finite());
    let alone = "--set train.learning_rate=1e200 --set train.optimizer=sgd --set train.clip=1e300";
    for _ in 0..2 {
        folder
            .hesspec(&format!("train train.toml --output alone {alone}"))
            .failed(4, &["no finite number: run `train` at step ", "smaller train.learning_rate"]);
    }
}

#[test]
fn language_models_are_trained_on_windows_apart_from_those_held_out() {
    let folder = Folder::new();
    folder.configure(
        "[train]\nsteps = 40\nbatch = 4\noptimizer = \"sgd\"\nmomentum = 0.9\nlearning_rate = 0.5\nclip = 1.0\n\
         [train.held_out]\nstart = 30\nsamples = 3",
    );
    let answer = folder.hesspec("train tiny.toml --output out --json").ok().json();
    let rows = rows(&folder, "out", "tiny");
    assert!(rows[39].loss < rows[0].loss, "{} to {}", rows[0].loss, rows[39].loss);
    assert!(rows[39].held_out_loss.is_some() && rows[39].held_out_accuracy.is_none());
    assert!(answer["runs"][0]["checkpoints"].as_array().unwrap().len() == 2);
    let state = folder.load("out/checkpoints/run=tiny/step-0000040/optimizer.safetensors");
    assert_eq!(state["momentum_buffer.transformer.h.0.attn.c_attn.weight"].0, [8, 24]);
    let again = folder.hesspec("train tiny.toml --output again --set hessian.recompute=true --json").ok().json();
    assert_eq!(again["runs"][0]["loss"], answer["runs"][0]["loss"], "computing stages again changes no bit");
    folder
        .hesspec("train tiny.toml --output out --set run.name=other --set train.held_out.start=29")
        .failed(2, &["train.held_out.start = 29: these windows are trained on as well"]);
}

#[test]
fn what_is_wrong_is_refused_by_line_and_claims_no_name() {
    let folder = folder();
    let line = |key: &str| 1 + CONFIG.lines().position(|line| line.starts_with(key)).unwrap();
    let said = |sets: &str| -> Said { folder.hesspec(&format!("train train.toml --output new {sets}")) };
    folder.write("typo.toml", CONFIG.replace("warmup", "warmups").as_bytes());
    let place = format!("typo.toml:{}:1: train.warmups = 5: unknown key; did you mean `warmup`?", line("warmup"));
    folder.hesspec("train typo.toml").failed(2, &[&place]);
    folder.write("typo.toml", CONFIG.replace("path = \"unseen", "pth = \"unseen").as_bytes());
    let place = format!("typo.toml:{}:10: data.images.pth", line("data = {"));
    folder.hesspec("train typo.toml").failed(2, &[&place, "did you mean `path`?"]);
    folder.write("typo.toml", CONFIG.replace("clip = 1.0", "clip = -1").as_bytes());
    folder.hesspec("train typo.toml").failed(2, &[&format!("typo.toml:{}:8: train.clip = -1", line("clip"))]);
    said("--set train.batch=31").failed(2, &["train.batch = 31: there are only 30 images", "expected 30 or less"]);
    said("--set train.held_out.data.path=none.idx").failed(2, &["none.idx"]);
    said("--set train.held_out.samples=13").failed(2, &["train.held_out.samples = 13: 13 images", "12 images"]);
    said("--set hessian.memory=1MB").failed(3, &["the training needs", "1.00 MB may be used"]);
    folder.hesspec("run train.toml --output new").failed(2, &["[train] is for `hesspec train`", "model.mlp.weights"]);
    folder.hesspec("train tiny.toml --output new").failed(2, &["the table [train] is missing", "learning_rate"]);
    let runs = folder.path("new/_runs");
    let claimed = std::fs::read_dir(&runs).map(|found| found.map(|run| run.unwrap().path().join("run.json")).collect());
    let claimed: Vec<std::path::PathBuf> = claimed.unwrap_or_default();
    assert!(!claimed.iter().any(|record| record.exists()), "{claimed:?}");
    let plan = folder.hesspec("plan train.toml").ok().stdout;
    for part in
        ["steps            60 of 8 images in micro-batches of 3", "work             ", "time             about "]
    {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    let plan = folder.hesspec("plan train.toml --json --no-timing --set batch.samples=30").ok().json();
    assert_eq!((&plan["num_params"], &plan["epochs"]), (&83.into(), &16.0.into()));
    assert!(plan["flop"].as_f64().unwrap() >= 2.0 * 3.0 * 480.0 * 72.0, "{plan}");
    folder.hesspec("plan train.toml --world 4").failed(2, &["[train]", "--world"]);
}

/// All of them plan without their data, and say in their heads how to launch them.
#[test]
fn every_configuration_of_a_training_plans() {
    let folder = Folder::new();
    let configurations = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/train");
    for file in std::fs::read_dir(configurations).unwrap() {
        let file = file.unwrap().path();
        let (path, text) = (file.to_str().unwrap(), std::fs::read_to_string(&file).unwrap());
        let plan = folder.hesspec(&format!("plan {path} --no-timing --json")).ok().json();
        assert!(plan["flop"].as_f64().unwrap() > 0.0, "{path}");
        let head: String = text.lines().take_while(|line| line.starts_with('#')).collect();
        for word in ["Shows", "Work", "Time", "Launch"] {
            assert!(head.contains(word), "{path}: its head has no `{word}`");
        }
    }
}
