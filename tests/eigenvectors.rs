//! Eigenvectors of a small network's blocks against dense ones in f64, on one and on two ranks, and after kills at any moment.
//!
//! Tolerances: |H u - lambda u| is the row's residual bound, but for rounding of products and of sums over a basis, which is
//! [`ROUNDING`] |H|; the angle to the dense eigenvector is at most that over the gap (Davis and Kahan).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use hesspec::block::Block;
use hesspec::checkpoint::Checkpoint;
use hesspec::cluster::{Comm, solo, threads};
use hesspec::config::{self, Config};
use hesspec::coordinator::{self, Progress};
use hesspec::hessian::PrefixBudget;
use hesspec::job::{Job, On};
use hesspec::networks::Registry;
use hesspec::output::{EigenvectorMassRow, EigenvectorRow, Results};
use hesspec::spectrum::eigen;
use hesspec::worker::{self, Finished, Wanted, run_group};
use hesspec::{Error, Result};
use safetensors::SafeTensors;
use tempfile::TempDir;

type Flex = burn_flex::Flex;

/// Of |H|: 400 terms of eps each.
const ROUNDING: f64 = 400.0 * f64::EPSILON;

/// Of the whole network some have converged in 60 steps; the blocks, of at most 48 entries, are exact.
const CONFIG: &str = r#"
[model.gpt2]
layers = 1
heads = 2
embedding = 6
mlp = 8
context = 4
vocabulary = 7
layer_norm = false

[data.tokens]
path = "TOKENS"

[batch]
tokens = 40
segments = 3
micro_batch = 2

[hessian]
precision = "f64"

[blocks]
include = ["*.wte.*", "*.attn.q.*", "*.mlp.c_fc.*"]

[lanczos]
steps = 60
probes = 2
full_probes = 1

[eigenvectors]
count = 5

[distance]
grid_points = 2000
"#;

struct Silent;

impl Progress for Silent {
    fn skip(&self, _count: u64) {}
    fn begin(&self, _: u64) {}
    fn advance(&self, _: &str, _: u64) {}
    fn log(&self, _: &str) {}
}

fn configuration(folder: &TempDir, overrides: &[String]) -> Config {
    let path = folder.path().join("train.bin");
    let tokens = (0..400u32).flat_map(|at| ((at.wrapping_mul(2_654_435_761) >> 16) as u16 % 7).to_le_bytes());
    std::fs::write(&path, tokens.collect::<Vec<u8>>()).unwrap();
    let text = CONFIG.replace("TOKENS", path.to_str().unwrap());
    config::parse(&text, "vectors.toml", "vectors", overrides, &Registry::built_in()).unwrap()
}

fn job(config: &Config) -> Job<Flex, f64> {
    let on = On::<Flex, f64> { network: &*config.network.0, device: Default::default() };
    Job::open(config, &on, 2).unwrap()
}

/// A block's Hessian, row by row, and its gradient.
struct Dense {
    block: Block,
    rows: Vec<Vec<f64>>,
    gradient: Vec<f64>,
    values: Vec<f64>,
    vectors: Vec<Vec<f64>>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

impl Dense {
    fn of(job: &Job<Flex, f64>, block: &Block) -> Self {
        let (comm, dim) = (solo::comm(), block.num_params(&job.layout));
        let mut operator = job.operator(&comm);
        let gradient = operator.gradient(block).unwrap().values;
        let unit = |i: usize| (0..dim).map(|j| f64::from(u8::from(i == j))).collect::<Vec<f64>>();
        let units: Vec<Vec<f64>> = (0..dim).map(unit).collect();
        let product = |units: &[Vec<f64>]| {
            operator.slots = vec![block; units.len()];
            operator.products(units).unwrap()
        };
        let rows: Vec<Vec<f64>> = units.chunks(16).flat_map(product).collect();
        let lower: Vec<f64> = (0..dim).flat_map(|i| rows[i][..=i].to_vec()).collect();
        let found = eigen::packed_symmetric(dim, &lower).unwrap();
        let vectors = (0..dim).map(|at| (0..dim).map(|i| found.vectors[(i, at)]).collect()).collect();
        Self { block: block.clone(), rows, gradient, values: found.values, vectors }
    }

    fn scale(&self) -> f64 {
        self.values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
    }

    fn residual(&self, u: &[f64], eigenvalue: f64) -> f64 {
        let squares = self.rows.iter().zip(u).map(|(row, x)| (dot(row, u) - eigenvalue * x).powi(2));
        squares.sum::<f64>().sqrt()
    }

    /// The nearest dense eigenvector's sine to u, and the gap between its eigenvalue and the others.
    fn nearest(&self, u: &[f64], eigenvalue: f64) -> (f64, f64, f64) {
        let distance = |at: &usize| (self.values[*at] - eigenvalue).abs();
        let mut order: Vec<usize> = (0..self.values.len()).collect();
        order.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
        let w = &self.vectors[order[0]];
        let along = dot(u, w);
        let sine = u.iter().zip(w).map(|(u, w)| (u - along * w).powi(2)).sum::<f64>().sqrt();
        (sine, distance(&order[0]), distance(&order[1]))
    }
}

/// Vectors of a block's file, in its flat order.
fn vectors(job: &Job<Flex, f64>, block: &Block, bytes: &[u8], count: usize) -> Vec<Vec<f64>> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    assert_eq!(file.len(), count * block.parameters().len());
    let vector = |index: usize| {
        let values = |parameter: usize| {
            let parameter = &job.layout.parameters()[parameter];
            let tensor = file.tensor(&format!("{}@{index}", parameter.name)).unwrap();
            assert_eq!(tensor.shape(), parameter.shape);
            Some(tensor.data().chunks(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect::<Vec<_>>())
        };
        let flat = block.gather(&job.layout, values, 0.0);
        let whole: f64 = block.parameters().iter().flat_map(|at| values(*at)).flatten().map(|x| x * x).sum();
        assert!((dot(&flat, &flat) - whole).abs() == 0.0, "zero outside of the block");
        flat
    };
    (0..count).map(vector).collect()
}

/// Rows and vectors by block.
type Found = BTreeMap<String, (Vec<EigenvectorRow>, Vec<Vec<f64>>)>;

fn computed(folder: &TempDir, world: usize) -> (Job<Flex, f64>, Found) {
    let url = folder.path().join(format!("out-{world}"));
    let config = configuration(folder, &[format!("output.url={:?}", url.to_str().unwrap())]);
    let run = |comm: Comm| coordinator::run(&config, &comm, &Silent).map(drop);
    if world == 1 { run(solo::comm()).unwrap() } else { threads::run(world, run).map(drop).unwrap() }
    let (job, results) = (job(&config), Results::open(url.to_str().unwrap()).unwrap().run(None).unwrap());
    let (rows, mass) = (results.read::<EigenvectorRow>().unwrap(), results.read::<EigenvectorMassRow>().unwrap());
    let mut found = Found::new();
    for block in &job.blocks {
        let rows: Vec<EigenvectorRow> = rows.iter().filter(|row| row.block == block.name).cloned().collect();
        let Some(first) = rows.first() else { continue };
        let bytes = std::fs::read(url.join(&first.file)).unwrap();
        let vectors = vectors(&job, block, &bytes, rows.len());
        for (row, u) in rows.iter().zip(&vectors) {
            let of_row = mass.iter().filter(|mass| mass.block == row.block && mass.index == row.index);
            let by_parameter: Vec<&str> = of_row.clone().map(|mass| mass.parameter.as_str()).collect();
            let names = block.parameters().into_iter().map(|at| job.layout.parameters()[at].name.as_str());
            assert_eq!(by_parameter, names.collect::<Vec<_>>());
            assert!((of_row.map(|mass| mass.mass).sum::<f64>() - dot(u, u)).abs() < 1e-14);
        }
        found.insert(block.name.clone(), (rows, vectors));
    }
    (job, found)
}

#[test]
fn eigenvectors_are_those_of_the_dense_hessian_on_one_rank_and_on_two() {
    let folder = tempfile::tempdir().unwrap();
    let (job, one) = computed(&folder, 1);
    let (_, two) = computed(&folder, 2);
    assert_eq!(one.keys().collect::<Vec<_>>(), two.keys().collect::<Vec<_>>());
    assert_eq!(one.len(), job.blocks.len());
    let (mut sharp, mut all) = (0, 0);
    for block in &job.blocks {
        let dense = Dense::of(&job, block);
        let tolerance = ROUNDING * dense.scale();
        let mut largest: Vec<f64> = dense.values.iter().map(|value| value.abs()).collect();
        largest.sort_by(|a, b| b.total_cmp(a));
        for found in [&one, &two] {
            let (rows, vectors) = &found[&dense.block.name];
            for (index, (row, u)) in rows.iter().zip(vectors).enumerate() {
                let what = format!("{} {index}", row.block);
                assert_eq!(row.index as usize, index);
                assert!((row.eigenvalue.abs() - largest[index]).abs() <= row.residual_bound + tolerance, "{what}");
                let residual = dense.residual(u, row.eigenvalue);
                assert!(residual <= row.residual_bound + tolerance, "{what}: {residual:e} {row:?}");
                let (sine, error, gap) = dense.nearest(u, row.eigenvalue);
                let bound = (row.residual_bound + tolerance) / gap;
                assert!(error <= row.residual_bound + tolerance, "{what}: {error:e} {row:?}");
                assert!(sine <= bound + ROUNDING, "{what}: sine {sine:e}, bound {bound:e}, {row:?}");
                assert!((dot(u, u) - 1.0).abs() <= ROUNDING, "{what}");
                let overlap = dot(u, &dense.gradient).abs() / dot(&dense.gradient, &dense.gradient).sqrt();
                assert!((row.gradient_overlap.unwrap() - overlap).abs() <= 1e-10, "{what}: {overlap} {row:?}");
                (sharp, all) = (sharp + usize::from(bound < 1e-6), all + 1);
            }
        }
        // the same vectors, signs as well
        for ((a, u), (b, v)) in one[&block.name].0.iter().zip(&one[&block.name].1).zip(two[&block.name].0.iter().zip(&two[&block.name].1)) {
            let (_, _, gap) = dense.nearest(u, a.eigenvalue);
            let apart = u.iter().zip(v).map(|(u, v)| (u - v).powi(2)).sum::<f64>().sqrt();
            assert!(apart <= 2.0 * ((a.residual_bound + b.residual_bound + 2.0 * tolerance) / gap + ROUNDING), "{}: {apart:e}", a.block);
        }
    }
    println!("{sharp} of {all} vectors have a bound below 1e-6");
    assert!(sharp >= all / 2 && all >= 30, "{sharp} of {all}");
}

/// What a group gives, with the bytes of its files; `killed`: at this check, of which there is one a segment, it ends.
fn group(job: &Job<Flex, f64>, folder: &TempDir, killed: Option<usize>) -> Result<(Finished, Vec<Vec<u8>>)> {
    let comm = solo::comm();
    let settings = coordinator::settings(&job.config);
    let pairs: Vec<(usize, u32)> = vec![(0, 0), (0, 1), (1, 0)];
    let checkpoint = Checkpoint::open(folder.path().to_str().unwrap(), "r")?;
    let (checks, files) = (Cell::new(0), RefCell::new(Vec::new()));
    let write = |_, _, bytes: Vec<u8>| {
        files.borrow_mut().push(bytes);
        Ok("file".to_owned())
    };
    let check = || {
        checks.set(checks.get() + 1);
        if Some(checks.get()) == killed { Err(Error::Other("killed".into())) } else { Ok(()) }
    };
    let context = worker::Context {
        comm: &comm,
        settings: &settings,
        etas: &vec![0.0; job.blocks.len()],
        checkpoint: Some(&checkpoint),
        every: Duration::ZERO,
        prefix: PrefixBudget::NONE,
        eigenvectors: Some(Wanted { count: 3, write: &write }),
        advance: &|_| {},
        log: &|_| {},
        skip: &|_| (),
        segment: &|_| (),
        check: &check,
        measured: &|_| (),
    };
    let found = run_group(job, "b00000-p000", &pairs, &context)?;
    Ok((found, files.into_inner()))
}

/// The last block is done after six steps, which the others' recursions outlive. The gradient's sweep comes after all.
#[test]
fn a_killed_group_ends_with_the_same_bits() {
    let place = tempfile::tempdir().unwrap();
    let blocks = ["blocks.include=[\"*.wpe.*\",\"*.ln_f.weight\"]", "model.gpt2.layer_norm=true", "lanczos.steps=24"];
    let job = job(&configuration(&place, &blocks.map(String::from)));
    let whole = tempfile::tempdir().unwrap();
    let (expected, files) = group(&job, &whole, None).unwrap();
    assert_eq!(files.len(), 2);
    let segments = job.data().num_segments();
    let sweeps = expected.steps.len() + 1;
    for killed in 1..=sweeps * segments {
        let folder = tempfile::tempdir().unwrap();
        let mut kills = 0;
        for at in [killed, 2] {
            kills += usize::from(group(&job, &folder, Some(at)).is_err());
        }
        assert!(kills > 0, "{killed}");
        let (found, again) = group(&job, &folder, None).unwrap();
        assert!(found.eigenvectors == expected.eigenvectors && again == files, "killed at check {killed}");
    }
}
