//! One spectrum, whatever the world and the micro-batch: whole runs of the coordinator on thread ranks, f32 and f64.
//!
//! Tolerances over all steps, with full reorthogonalisation: alpha and beta within 5e-6 (f32) or 1e-12 (f64) of
//! max |alpha|; W1 between the measures within 1e-7 of the spectrum's range; start vectors equal bit for bit.

use hesspec::cluster::{solo, threads};
use hesspec::config::{self, Config};
use hesspec::coordinator;
use hesspec::hessian::{Settings, start};
use hesspec::networks::Registry;
use hesspec::output::{ConvergenceRow, NodeRow, Results, RunRow, SummaryRow, TridiagonalRow};
use hesspec::series::convergence;
use hesspec::worker::Progress;
use hesspec::{Result, job};
use tempfile::TempDir;

/// Thirteen windows: divided neither by the worlds, nor by the micro-batches, nor by the segments.
const CONFIG: &str = r#"
[model.gpt2]
layers = 2
heads = 2
embedding = 16
mlp = 32
context = 8
vocabulary = 23

[data.tokens]
path = "TOKENS"

[batch]
tokens = 104
segments = 3

[blocks]
include = ["*.wte.*", "*.attn.q.*", "*.c_fc.*"]

[lanczos]
steps = 20
probes = 2
full_probes = 1

[distance]
grid_points = 2000

[output]
url = "memory://unset"
"#;

struct Silent;

impl Progress for Silent {
    fn skip(&self, _count: u64) {}
    fn begin(&self, _: u64) {}
    fn advance(&self, _: &str, _: u64) {}
    fn log(&self, _: &str) {}
}

/// What a run found.
struct Found {
    tridiagonal: Vec<TridiagonalRow>,
    nodes: Vec<NodeRow>,
    summary: Vec<SummaryRow>,
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tokens = (0..400u32).flat_map(|at| ((at.wrapping_mul(2_654_435_761) >> 16) as u16 % 23).to_le_bytes());
    std::fs::write(folder.path().join("train.bin"), tokens.collect::<Vec<u8>>()).unwrap();
    folder
}

fn configuration(folder: &TempDir, overrides: &[String]) -> Config {
    let tokens = folder.path().join("train.bin");
    let text = CONFIG.replace("TOKENS", tokens.to_str().unwrap());
    config::parse(&text, "worlds.toml", "worlds", overrides, &Registry::built_in()).unwrap()
}

fn found(folder: &TempDir, precision: &str, steps: usize, world: usize, micro_batch: usize) -> Found {
    let overrides = [
        format!("hessian.precision=\"{precision}\""),
        format!("batch.micro_batch={micro_batch}"),
        format!("lanczos.steps={steps}"),
    ];
    computed(folder, world, &overrides)
}

fn computed(folder: &TempDir, world: usize, overrides: &[String]) -> Found {
    let url = format!("memory://worlds-{world}-{}", overrides.concat().replace(['"', '='], "-"));
    let config = configuration(folder, &[overrides, &[format!("output.url=\"{url}\"")]].concat());
    let run = |comm| coordinator::run(&config, &comm, &Silent).map(drop);
    let outcome: Result<()> = if world == 1 { run(solo::comm()) } else { threads::run(world, run).map(drop) };
    outcome.unwrap();
    let run = Results::open(&url).unwrap().run(None).unwrap();
    assert!(run.is_done());
    assert_eq!(run.read::<RunRow>().unwrap()[0].world, world as i32);
    let mut tridiagonal = run.read::<TridiagonalRow>().unwrap();
    tridiagonal.sort_by(|a, b| (&a.block, a.probe, a.step).cmp(&(&b.block, b.probe, b.step)));
    let mut summary = run.read::<SummaryRow>().unwrap();
    summary.sort_by(|a, b| a.block.cmp(&b.block));
    Found { tridiagonal, nodes: run.read().unwrap(), summary }
}

/// Largest difference of alpha and beta over all steps of a block, in units of its largest |alpha|.
fn distance_of_steps(a: &Found, b: &Found) -> f64 {
    assert_eq!(a.tridiagonal.len(), b.tridiagonal.len());
    let mut largest = 0.0_f64;
    for (x, y) in a.tridiagonal.iter().zip(&b.tridiagonal) {
        assert_eq!((&x.block, x.probe, x.step), (&y.block, y.probe, y.step));
        let of_block = a.tridiagonal.iter().filter(|row| row.block == x.block);
        let scale = of_block.map(|row| row.alpha.abs()).fold(0.0, f64::max);
        largest = largest.max((x.alpha - y.alpha).abs() / scale).max((x.beta - y.beta).abs() / scale);
    }
    largest
}

/// Largest W1 between the measures of a block, in units of its spectrum's range: the integral of |F - G|.
fn distance_of_measures(a: &Found, b: &Found) -> f64 {
    let mut blocks: Vec<&String> = a.nodes.iter().map(|node| &node.block).collect();
    blocks.sort();
    blocks.dedup();
    let distance = |block: &String| {
        let signed = |found: &Found, sign: f64| -> Vec<(f64, f64)> {
            let nodes = found.nodes.iter().filter(|node| node.block == *block);
            let total: f64 = nodes.clone().map(|node| node.weight).sum();
            nodes.map(|node| (node.node, sign * node.weight / total)).collect()
        };
        let mut steps = [signed(a, 1.0), signed(b, -1.0)].concat();
        steps.sort_by(|x, y| x.0.total_cmp(&y.0));
        let (mut height, mut area) = (0.0_f64, 0.0);
        for pair in steps.windows(2) {
            height += pair[0].1;
            area += height.abs() * (pair[1].0 - pair[0].0);
        }
        area / (steps[steps.len() - 1].0 - steps[0].0)
    };
    blocks.into_iter().map(distance).fold(0.0, f64::max)
}

fn agree(precision: &str, num_steps: usize, tolerance: f64) {
    let folder = folder();
    let one = found(&folder, precision, num_steps, 1, 2);
    assert_eq!(one.tridiagonal.len(), (5 * 2 + 1) * num_steps, "five blocks, two probes, and the whole network");
    for (world, micro_batch) in [(3, 2), (2, 2), (1, 1), (3, 1), (5, 4)] {
        let other = found(&folder, precision, num_steps, world, micro_batch);
        let (steps, measures) = (distance_of_steps(&one, &other), distance_of_measures(&one, &other));
        println!("{precision}, {world} ranks, micro-batches of {micro_batch}: steps {steps:.1e}, W1 {measures:.1e}");
        assert!(steps <= tolerance, "{world} ranks, micro-batches of {micro_batch}: {steps:e}");
        // measured by several ranks or by one
        let floors = |found: &Found| found.summary.iter().map(|row| row.noise_floor.to_bits()).collect::<Vec<_>>();
        assert!(micro_batch != 2 || floors(&one) == floors(&other), "{world} ranks: other noise floors");
        // the world alone changes the order of f64 sums, and no f32 entry
        assert!(micro_batch != 2 || steps <= 1e-12, "{world} ranks: {steps:e}");
        assert!(measures <= 1e-7, "{world} ranks, micro-batches of {micro_batch}: W1 {measures:e}");
    }
}

#[test]
fn all_worlds_agree_in_f64() {
    agree("f64", 20, 1e-12);
}

/// Eight steps: another micro-batch changes f32 products in their last bits (1e-7 of max |alpha|), and where a Ritz value
/// converges, here around the tenth step of one probe, Lanczos multiplies any difference by ten or more.
#[test]
fn all_worlds_agree_in_f32() {
    agree("f32", 8, 5e-6);
}

/// Short recursions after the long one, on more ranks: the same weights within what rounding leaves of them.
#[test]
fn deflated_weights_agree_in_all_worlds() {
    let folder = folder();
    let of = |world: usize| {
        let settings =
            ["hessian.precision=f64", "lanczos.weights=deflated", "lanczos.short_starts=4", "lanczos.short_steps=3"];
        computed(&folder, world, &settings.map(String::from))
    };
    let one = of(1);
    assert!(one.nodes.iter().all(|node| node.weight_reduced.is_some_and(|weight| weight >= 0.0)));
    for world in [2, 5] {
        let other = of(world);
        assert!(distance_of_steps(&one, &other) <= 1e-12, "{world} ranks");
        assert_eq!(one.nodes.len(), other.nodes.len());
        for (a, b) in one.nodes.iter().zip(&other.nodes) {
            let (x, y) = (a.weight_reduced.unwrap(), b.weight_reduced.unwrap());
            assert!((x - y).abs() <= 1e-8, "{world} ranks, {}: {x} {y}", a.block);
        }
        for (a, b) in one.summary.iter().zip(&other.summary) {
            assert!((a.trace - b.trace).abs() <= 1e-10 * a.frobenius, "{world} ranks, {}", a.block);
        }
    }
}

/// Activations below a group's blocks that are kept, in memory or in a file, are those that are computed again.
#[test]
fn the_prefix_cache_changes_no_bit() {
    let folder = folder();
    let with = |cache: &str, memory: &str, operator: &str| {
        let set = |key: &str, value: &str| format!("{key}=\"{value}\"");
        let overrides = [
            set("hessian.prefix_cache", cache),
            set("hessian.memory", memory),
            set("hessian.operator", operator),
            "hessian.slots=3".to_owned(),
            "lanczos.steps=6".to_owned(),
            "blocks.include=[\"*\"]".to_owned(),
        ];
        computed(&folder, 2, &overrides).tridiagonal
    };
    for operator in ["hessian", "gauss_newton"] {
        let off = with("off", "1GB", operator);
        for (cache, memory) in [("memory", "1GB"), ("file", "1GB"), ("file", "61MB")] {
            let kept = with(cache, memory, operator);
            assert_eq!(off.len(), kept.len());
            for (a, b) in off.iter().zip(&kept) {
                let bits = |row: &TridiagonalRow| (row.alpha.to_bits(), row.beta.to_bits());
                assert_eq!((&a.block, a.step, bits(a)), (&b.block, b.step, bits(b)), "{operator}, {cache}, {memory}");
            }
        }
    }
}

/// Activations that are computed again in the reverse pass are those that were kept, with and without the prefix cache.
#[test]
fn recomputation_changes_nothing() {
    let folder = folder();
    let with = |recompute: bool, operator: &str, include: &str, cache: &str| {
        let overrides = [
            format!("hessian.recompute={recompute}"),
            format!("hessian.operator={operator}"),
            format!("blocks.include=[\"{include}\"]"),
            format!("hessian.prefix_cache={cache}"),
            "hessian.precision=f64".to_owned(),
            "hessian.slots=3".to_owned(),
            "lanczos.steps=6".to_owned(),
        ];
        computed(&folder, 2, &overrides)
    };
    for operator in ["hessian", "gauss_newton"] {
        for (include, cache) in [("*", "memory"), ("*", "off"), ("transformer.h.1.*", "off"), ("*.mlp.*", "memory")] {
            let (kept, again) = (with(false, operator, include, cache), with(true, operator, include, cache));
            let distance = distance_of_steps(&kept, &again);
            assert!(distance <= 1e-13, "{operator}, {include}, {cache}: {distance:e}");
        }
    }
}

/// The comparison can fail.
#[test]
fn the_comparison_sees_a_little_more_than_its_tolerance() {
    let folder = folder();
    let one = found(&folder, "f64", 20, 1, 3);
    let mut other = found(&folder, "f64", 20, 1, 4);
    assert!(distance_of_steps(&one, &other) <= 1e-12);
    other.tridiagonal.iter_mut().for_each(|row| row.beta *= 1.0 + 1e-11);
    other.nodes.iter_mut().for_each(|row| row.node += 1e-5 * row.node.abs().max(1e-3));
    assert!(distance_of_steps(&one, &other) > 1e-12);
    assert!(distance_of_measures(&one, &other) > 1e-7);
}

#[test]
fn start_vectors_are_the_same_in_every_world() {
    let config = configuration(&folder(), &[]);
    let layout = config.network.layout().unwrap();
    for block in job::blocks(&config, &layout).unwrap() {
        let vector = |comm: &_| start::<f32>(&block, &layout, 1, &Settings::default(), comm).values;
        let whole = vector(&solo::comm());
        for world in [2, 3, 5] {
            let slices = threads::run(world, |comm| Ok(vector(&comm))).unwrap().concat();
            assert!(whole.iter().map(|x| x.to_bits()).eq(slices.iter().map(|x| x.to_bits())), "{}", block.name);
        }
    }
}

/// Nested batches on three ranks: the rows of one, within rounding, and all ranks stop at the same batch.
#[test]
fn a_study_of_nested_batches_does_not_depend_on_the_world() {
    let folder = folder();
    let study = |world: usize, stop: f64| {
        let url = format!("memory://worlds-study-{world}-{stop}");
        let settings = ["hessian.precision=f64", "lanczos.steps=6", "batch.tokens=128", "batch.order=permuted"];
        let convergence = ["convergence.from=32", "convergence.to=128", "convergence.draws=10"].map(String::from);
        let last = [format!("convergence.stop_below={stop}"), format!("output.url=\"{url}\"")];
        let config = configuration(&folder, &[&settings.map(String::from)[..], &convergence, &last].concat());
        let table = config.convergence.clone().unwrap();
        let run = |comm| convergence::run(&config, &table, &comm, &Silent).map(drop);
        let outcome: Result<()> = if world == 1 { run(solo::comm()) } else { threads::run(world, run).map(drop) };
        outcome.unwrap();
        let results = Results::open(&url).unwrap().run(Some("worlds")).unwrap();
        assert!(results.is_done());
        results.read::<ConvergenceRow>().unwrap()
    };
    let (one, three) = (study(1, 1e-9), study(3, 1e-9));
    assert_eq!((one.len(), three.len()), (6 * 3, 6 * 3), "five blocks and the whole network in three batches");
    for (a, b) in one.iter().zip(&three) {
        assert_eq!((&a.block, a.tokens), (&b.block, b.tokens));
        let unit = a.lambda_max - a.lambda_min;
        for (x, y) in [(a.w1_error, b.w1_error), (a.lambda_max, b.lambda_max), (a.lambda_max_error, b.lambda_max_error)]
        {
            assert!((x - y).abs() < 1e-9 * unit, "{a:?} {b:?}");
        }
    }
    assert_eq!(study(3, 0.99).iter().map(|row| row.tokens).max(), Some(64));
}
