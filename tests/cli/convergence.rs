//! `[convergence]`: nested batches as ordinary runs, the tables that compare them, kills, the stopping rule.

use std::time::{Duration, Instant};

use hesspec::output::{ConvergencePairRow, ConvergenceRow, NodeRow, Results, RunRow, SummaryRow, TridiagonalRow};
use hesspec::spectrum::wasserstein1;

use crate::folder::{Folder, VOCABULARY};

/// 4 batches of 2, 4, 8, 16 windows of the tiny network.
const STUDY: &str = "[convergence]\nfrom = 12\nto = 96\ndraws = 20\n";
const BLOCKS: &str = "--set blocks.include=[\"*.c_fc.weight\",\"*.wte.weight\"]";

fn folder() -> Folder {
    let folder = Folder::new();
    // the tiny configuration's own batch is left out
    let text = String::from_utf8(std::fs::read(folder.path("tiny.toml")).unwrap()).unwrap();
    folder.write("tiny.toml", format!("{}\n{STUDY}", text.replace("tokens = 30", "")).as_bytes());
    let tokens = (0..160u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 16) as u16 % VOCABULARY);
    folder.write("train.bin", &tokens.flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
    folder
}

fn rows(folder: &Folder, url: &str) -> (Vec<ConvergenceRow>, Vec<ConvergencePairRow>) {
    let run = Results::open(folder.path(url).to_str().unwrap()).unwrap().run(Some("tiny")).unwrap();
    assert!(run.is_done());
    (run.read().unwrap(), run.read().unwrap())
}

fn run(folder: &Folder, url: &str, name: &str) -> hesspec::output::RunResults {
    Results::open(folder.path(url).to_str().unwrap()).unwrap().run(Some(name)).unwrap()
}

/// The mean measure of a block's probes.
fn measure(nodes: &[NodeRow], block: &str) -> Vec<(f64, f64)> {
    let of_block: Vec<&NodeRow> = nodes.iter().filter(|row| row.block == block).collect();
    let probes = of_block.iter().map(|row| row.probe).max().unwrap() + 1;
    let mut measure: Vec<_> = of_block.iter().map(|row| (row.node, row.weight / f64::from(probes))).collect();
    measure.sort_by(|a, b| a.0.total_cmp(&b.0));
    measure
}

#[test]
fn a_study_compares_batches_that_are_runs_of_their_own() {
    let folder = folder();
    let answer = folder.hesspec(&format!("run tiny.toml --output out --json {BLOCKS}")).ok().json();
    // four blocks with two probes and the whole network with one, 6 steps each, four batches
    assert_eq!((&answer["run"], &answer["num_products"]), (&"tiny".into(), &(4 * 7 * 6).into()));
    let (found, pairs) = rows(&folder, "out");
    let sizes = [12, 24, 48, 96];
    assert_eq!(found.len(), 4 * 4);
    assert_eq!(pairs.len(), 4 * 3, "three pairs of blocks without the whole network");
    for row in &found {
        let at = sizes.iter().position(|tokens| *tokens == row.tokens).unwrap();
        assert_eq!((row.batch.as_str(), row.status.as_str()), (format!("tiny-{}", row.tokens).as_str(), "ok"));
        assert_eq!((row.w1_previous.is_none(), row.w1_largest.is_none()), (at == 0, at == 3));
        assert_eq!((row.js_previous.is_none(), row.js_largest.is_none()), (at == 0, at == 3));
        assert_eq!(row.segments as i64, (row.tokens / 6).min(8));
        assert!(row.w1_error > 0.0 && row.js_error > 0.0 && row.trace_error > 0.0, "{row:?}");
        let own = run(&folder, "out", &row.batch);
        let summary = own.read::<SummaryRow>().unwrap().into_iter().find(|summary| summary.block == row.block).unwrap();
        for (here, there) in [(row.trace, summary.trace), (row.lambda_max, summary.lambda_max)] {
            assert!((here - there).abs() < 1e-12 * there.abs(), "{row:?} {summary:?}");
        }
        assert_eq!(row.noise_share.is_some(), at > 0);
        if at > 0 {
            let smaller = found.iter().find(|other| other.block == row.block && other.tokens == sizes[at - 1]).unwrap();
            let share = (smaller.frobenius / row.frobenius).powi(2) - 1.0;
            assert!((row.noise_share.unwrap() - share).abs() < 1e-12, "{row:?}");
            let before = run(&folder, "out", &format!("tiny-{}", sizes[at - 1]));
            let of = |run: &hesspec::output::RunResults| measure(&run.read().unwrap(), &row.block);
            let expected = wasserstein1(&of(&own), &of(&before));
            let found = row.w1_previous.unwrap();
            assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}");
        }
    }
    // an ordinary run with the same batch finds the same
    let alone = "--set batch.tokens=24 --set batch.order=permuted --set run.name=alone";
    let text = std::fs::read_to_string(folder.path("tiny.toml")).unwrap().replace(STUDY, "");
    folder.write("alone.toml", text.as_bytes());
    folder.hesspec(&format!("run alone.toml --output out {BLOCKS} {alone}")).ok();
    let values = |name: &str| -> Vec<(f64, f64)> {
        let rows = run(&folder, "out", name).read::<TridiagonalRow>().unwrap();
        rows.iter().map(|row| (row.alpha, row.beta)).collect()
    };
    assert_eq!(values("alone"), values("tiny-24"));
    // the study's own run has the largest batch's spectra and can be drawn
    let (study, largest) = (run(&folder, "out", "tiny"), run(&folder, "out", "tiny-96"));
    assert_eq!(study.read::<NodeRow>().unwrap(), largest.read::<NodeRow>().unwrap());
    assert_eq!(study.read::<RunRow>().unwrap()[0].status, "done");
    let page = |name: &str| {
        folder.hesspec(&format!("report out --run {name} --out page-{name}")).ok();
        std::fs::read_to_string(folder.path(&format!("page-{name}/index.html"))).unwrap()
    };
    let (with, without) = (page("tiny"), page("tiny-96"));
    assert!(with.contains("How many tokens are enough") && with.contains("within 2 errors"));
    assert!(!without.contains("How many tokens are enough") && !with.contains("NaN"));
    // what it found serves a plan
    let plan = "plan tiny.toml --device a100 --budget 1 --convergence out --json --set hessian.precision=f32";
    let largest = found.iter().filter(|row| row.tokens == 96);
    let expected = largest.map(|row| row.w1_error.max(row.w1_previous.unwrap()) / (row.lambda_max - row.lambda_min));
    let expected = expected.fold(0.0, f64::max) * 96f64.sqrt();
    let law = folder.hesspec(plan).ok().json()["expectation"]["w1"].as_f64().unwrap();
    assert!((law / expected - 1.0).abs() < 1e-12, "{law} {expected}");
}

#[test]
fn a_killed_study_goes_on_where_it_stopped() {
    let folder = folder();
    let whole = folder.hesspec(&format!("run tiny.toml --output whole --json {BLOCKS}")).ok().json();
    let command = format!("run tiny.toml --output killed {BLOCKS} --json");
    let arguments: Vec<&str> = command.split_whitespace().collect();
    let null = std::process::Stdio::null;
    let mut child = folder.command(&arguments).stdout(null()).stderr(null()).spawn().unwrap();
    let begin = Instant::now();
    while !folder.path("killed/_runs/tiny-12/DONE").exists() {
        assert!(begin.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "it was over before it could be killed");
    let again = folder.hesspec(&command).ok();
    assert!(again.stderr.contains("run `tiny-12` at `killed` is already done"), "{}", again.stderr);
    let again = again.json();
    assert!(again["num_products"].as_u64().unwrap() <= 3 * whole["num_products"].as_u64().unwrap() / 4, "{again}");
    assert!(rows(&folder, "killed") == rows(&folder, "whole"));
    let done = folder.hesspec(&command).ok();
    assert!(done.stderr.contains("study `tiny` at `killed` is already done"), "{}", done.stderr);
    folder.hesspec(&format!("{command} --set convergence.to=48")).failed(2, &["convergence.to: there 96, here 48"]);
    // another study over the same batches computes none of them again, and a plan is told which of them to go by
    let other = format!("{command} --set convergence.to=48 --set run.name=other --set convergence.batches=tiny");
    assert_eq!(folder.hesspec(&other).ok().json()["num_products"], 0);
    let plan = "plan tiny.toml --device a100 --budget 1 --convergence killed --set hessian.precision=f32";
    folder.hesspec(plan).failed(2, &["found 2: other, tiny", "--run"]);
    assert!(folder.hesspec(&format!("{plan} --run other")).ok().stdout.contains("study `other`"));
}

#[test]
fn a_study_ends_when_error_and_change_are_small() {
    let folder = folder();
    let said = folder.hesspec(&format!("run tiny.toml --output out {BLOCKS} --set convergence.stop_below=0.99")).ok();
    assert!(said.stderr.contains("stopped at 24 of at most 96 tokens"), "{}", said.stderr);
    let (found, _) = rows(&folder, "out");
    assert_eq!(found.iter().map(|row| row.tokens).max(), Some(24));
    assert!(!folder.path("out/_runs/tiny-48").exists());
    let status = &run(&folder, "out", "tiny").read::<RunRow>().unwrap()[0].status;
    assert!(status.starts_with("stopped at 24") && status.contains("convergence.stop_below = 0.99"), "{status}");
    // and never, if nothing is small enough
    folder.hesspec(&format!("run tiny.toml --output all {BLOCKS} --set convergence.stop_below=1e-9")).ok();
    assert_eq!(rows(&folder, "all").0.iter().map(|row| row.tokens).max(), Some(96));
}

#[test]
fn too_little_data_is_found_before_anything_is_computed() {
    let folder = folder();
    let command = "run tiny.toml --output out --set convergence.to=192";
    for command in [command, "check tiny.toml --set convergence.to=192"] {
        folder.hesspec(command).failed(2, &["convergence.to = 192", "set convergence.to to 156 or less"]);
    }
    assert!(!folder.path("out").exists());
    let check = folder.hesspec("check tiny.toml --json").ok().json();
    assert_eq!(check["tokens"], 96, "commands that take one batch take the largest");
}

/// The third batch's name is taken: nothing else is claimed. A reused batch that was damaged: what would help is said.
#[test]
fn batches_that_are_not_ours_and_batches_that_are_damaged_are_refused() {
    let folder = folder();
    let text = std::fs::read_to_string(folder.path("tiny.toml")).unwrap().replace(STUDY, "");
    folder.write("plain.toml", text.as_bytes());
    let few = "--set blocks.include=[\"*.wte.weight\"] --set blocks.full=false --set lanczos.steps=2";
    folder.hesspec(&format!("run plain.toml --output out {few} --set run.name=tiny-48 --set batch.tokens=12")).ok();
    let study = format!("run tiny.toml --output out {few}");
    let parts = ["`tiny-48`", "batch.tokens: there 12, here 48", "batch of 48 tokens", "convergence.batches"];
    folder.hesspec(&study).failed(2, &parts);
    let runs = std::fs::read_dir(folder.path("out/_runs")).unwrap();
    assert_eq!(runs.map(|run| run.unwrap().file_name()).collect::<Vec<_>>(), ["tiny-48"]);
    let itself = format!("{study} --set run.name=self-96 --set convergence.batches=self");
    folder.hesspec(&itself).failed(2, &["run.name = \"self-96\"", "batch of 96 tokens"]);
    assert!(!folder.path("out/_runs/self-96").exists());

    folder.hesspec(&format!("{study} --set run.name=first")).ok();
    let part = folder.path("out/segments/run=first-24").read_dir().unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&part).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&part, &bytes).unwrap();
    let second = format!("{study} --set run.name=second --set convergence.batches=first");
    folder.hesspec(&second).failed(5, &["run=first-24/part-", "SHA-256", "new run.name", "sets convergence.batches"]);
    std::fs::write(&part, &bytes[..100]).unwrap();
    folder.hesspec(&second).failed(5, &["run=first-24/part-", "100 bytes", "new run.name", "sets convergence.batches"]);
}

/// A key bias: softmax does not see it. Of what is rounding there are no shares.
#[test]
fn a_zero_block_has_no_share_of_noise() {
    let folder = folder();
    let only = "--set blocks.exclude=[] --set blocks.include=[\"*.h.1.attn.?.bias\"] --set blocks.full=false";
    folder.hesspec(&format!("run tiny.toml --output out {only} --set lanczos.steps=2 --set convergence.to=24")).ok();
    let (found, _) = rows(&folder, "out");
    assert_eq!(found.len(), 3 * 2);
    for row in &found {
        let is_zero = row.block.ends_with("k.bias");
        assert_eq!(row.status.starts_with("zero_block"), is_zero, "{row:?}");
        assert_eq!(row.noise_share.is_some(), !is_zero && row.tokens == 24, "{row:?}");
    }
}

#[test]
fn a_plan_counts_all_batches() {
    let folder = folder();
    let plan = folder.hesspec("plan tiny.toml --json --set data.tokens.path=none").ok().json();
    let study = &plan["convergence"];
    assert_eq!(study["batches"], serde_json::json!([12, 24, 48, 96]));
    assert_eq!(study["times_largest"], 180.0 / 96.0);
    assert_eq!(study["num_products"].as_u64().unwrap(), 4 * plan["num_products"].as_u64().unwrap());
    for key in ["flop", "seconds"] {
        let (all, largest) = (study[key].as_f64().unwrap(), plan[key].as_f64().unwrap());
        assert!((all / largest - 1.875).abs() < 1e-12, "{key}: {all} {largest}");
    }
    assert!(folder.hesspec("plan tiny.toml").ok().stdout.contains("4 batches from 12 tokens"));
}
