//! What is formed from bases, against a small network's dense Hessian in f64: eigenvectors, on one and on two ranks and after kills
//! at any moment, and sums over the diagonal, with the coverage of their errors.
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
use hesspec::coordinator;
use hesspec::hessian::{Pair, Settings};
use hesspec::job::{self, Job, On};
use hesspec::models::cells::{CellKind, Cells};
use hesspec::networks::Registry;
use hesspec::output::{DiagonalRow, EigenvectorMassRow, EigenvectorRow, Results};
use hesspec::spectrum::eigen;
use hesspec::worker::{self, DiagonalSum, Finished, Observer, Progress, Wanted, run_group};
use hesspec::{Error, Result, tables};
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
    if world == 1 {
        run(solo::comm()).unwrap()
    } else {
        threads::run(world, run).map(drop).unwrap()
    }
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
                // what the run itself says of it, which knows the gap from its nodes alone
                let stated = 2.0 * row.angle + tolerance / gap + ROUNDING;
                assert!(sine <= stated, "{what}: sine {sine:e}, stated {stated:e}, {row:?}");
                assert!((dot(u, u) - 1.0).abs() <= ROUNDING, "{what}");
                let overlap = dot(u, &dense.gradient).abs() / dot(&dense.gradient, &dense.gradient).sqrt();
                assert!((row.gradient_overlap.unwrap() - overlap).abs() <= 1e-10, "{what}: {overlap} {row:?}");
                (sharp, all) = (sharp + usize::from(bound < 1e-6), all + 1);
            }
        }
        // the same vectors, signs as well
        for ((a, u), (b, v)) in
            one[&block.name].0.iter().zip(&one[&block.name].1).zip(two[&block.name].0.iter().zip(&two[&block.name].1))
        {
            let (_, _, gap) = dense.nearest(u, a.eigenvalue);
            let apart = u.iter().zip(v).map(|(u, v)| (u - v).powi(2)).sum::<f64>().sqrt();
            assert!(
                apart <= 2.0 * ((a.residual_bound + b.residual_bound + 2.0 * tolerance) / gap + ROUNDING),
                "{}: {apart:e}",
                a.block
            );
        }
    }
    println!("{sharp} of {all} vectors have a bound below 1e-6");
    assert!(sharp >= all / 2 && all >= 30, "{sharp} of {all}");
}

/// Ends a group at one of its checks, of which there is one a segment.
struct Killed {
    at: Option<usize>,
    checks: Cell<usize>,
}

impl Observer for Killed {
    fn check(&self) -> Result<()> {
        self.checks.set(self.checks.get() + 1);
        if Some(self.checks.get()) == self.at { Err(Error::Other("killed".into())) } else { Ok(()) }
    }
}

/// What a group gives, with the bytes of its files; `killed`: at this check it ends.
fn group(
    job: &Job<Flex, f64>,
    comm: &Comm,
    settings: &Settings,
    pairs: &[Pair],
    checkpoint: Option<&Checkpoint>,
    killed: Option<usize>,
) -> Result<(Finished, Vec<Vec<u8>>)> {
    let files = RefCell::new(Vec::new());
    let write = |_, _, bytes: Vec<u8>| {
        files.borrow_mut().push(bytes);
        Ok("file".to_owned())
    };
    let etas = vec![0.0; job.blocks.len()];
    let (diagonal, structure) = (job.config.diagonal.as_ref(), job.config.network.structure());
    let observer = Killed { at: killed, checks: Cell::new(0) };
    let context = worker::Context {
        checkpoint,
        every: Duration::ZERO,
        eigenvectors: job.config.eigenvectors.map(|asked| Wanted { count: asked.count, write: &write }),
        diagonal: diagonal.map(|diagonal| (diagonal.by.as_slice(), structure)),
        ..worker::Context::new(&etas, 1.0, &observer)
    };
    let found = run_group(&job.work(comm, settings), "b00000-p000", pairs, &context)?;
    Ok((found, files.into_inner()))
}

/// The last block is done after six steps, which the others' recursions outlive. The gradient's sweep comes after all.
#[test]
fn a_killed_group_ends_with_the_same_bits() {
    let place = tempfile::tempdir().unwrap();
    let settings = ["blocks.include=[\"*.wpe.*\",\"*.ln_f.weight\"]", "model.gpt2.layer_norm=true", "lanczos.steps=24"];
    let more = ["diagonal.by=[\"part\",\"row\"]"];
    let job =
        job(&configuration(&place, &[&settings[..], &more].concat().into_iter().map(String::from).collect::<Vec<_>>()));
    let (comm, settings) = (solo::comm(), job::settings(&job.config));
    let run = |folder: &TempDir, killed| {
        let checkpoint = Checkpoint::open(folder.path().to_str().unwrap(), "r", "identity")?;
        group(&job, &comm, &settings, &[(0, 0), (0, 1), (1, 0)], Some(&checkpoint), killed)
    };
    let whole = tempfile::tempdir().unwrap();
    let (expected, files) = run(&whole, None).unwrap();
    assert_eq!((files.len(), expected.diagonal.len()), (2, 2 * (1 + 4) + 1));
    let (segments, sweeps) = (job.data().num_segments(), expected.steps.len() + 1);
    // here and there, and everywhere around the last step and the gradient
    for killed in (1..=sweeps * segments).filter(|at| at % 13 == 1 || at + 2 * segments > sweeps * segments) {
        let folder = tempfile::tempdir().unwrap();
        assert!(run(&folder, Some(killed)).is_err(), "{killed}");
        let _ = run(&folder, Some(2)); // once more, unless that is its end
        let (found, again) = run(&folder, None).unwrap();
        assert!(found.eigenvectors == expected.eigenvectors && again == files, "killed at check {killed}");
        assert!(found.diagonal == expected.diagonal, "killed at check {killed}");
    }
}

/// The table of what each probe found.
fn diagonal(job: &Job<Flex, f64>, found: Vec<DiagonalSum>) -> Vec<DiagonalRow> {
    tables::diagonal(tables::diagonal_probes(&job.blocks, found))
}

/// Blocks of 42, 36 and 48 entries, four probes: in about 68 % of all cells and seeds the dense sum is within one error, and the mean
/// over seeds is the dense sum.
#[test]
fn errors_of_the_diagonal_hold() {
    const SEEDS: u64 = 150;
    let place = tempfile::tempdir().unwrap();
    let settings = [
        "blocks.full=false",
        "lanczos.steps=2",
        "lanczos.probes=4",
        "diagonal.by=[\"part\",\"row\",\"neuron\",\"head\"]",
    ];
    let mut config = configuration(&place, &settings.map(String::from));
    config.eigenvectors = None;
    let job = job(&config);
    let pairs: Vec<Pair> = (0..job.blocks.len()).flat_map(|at| (0..4).map(move |probe| (at, probe))).collect();
    let estimate = |comm: &Comm, seed: u64| {
        let settings = Settings { seed, ..job::settings(&config) };
        let found = group(&job, comm, &settings, &pairs, None, None).unwrap().0;
        (diagonal(&job, found.diagonal), found.slots)
    };
    let structure = config.network.structure();
    let kinds = [CellKind::Part, CellKind::Row, CellKind::Neuron, CellKind::Head];
    let mut truths = Vec::new();
    for block in &job.blocks {
        let dense = Dense::of(&job, block);
        let cells = Cells::of(&job.layout, &structure, block, &kinds).unwrap();
        let sums = cells.sums(0..dense.rows.len(), |i| dense.rows[i][i]);
        truths.extend(cells.list().iter().cloned().zip(sums).map(|(cell, sum)| (block.name.clone(), cell, sum)));
    }
    // wte: 7 rows; q: 6 rows, 6 neurons, 2 heads; c_fc: 6 rows, 8 neurons
    assert_eq!(truths.len(), 3 + 7 + 6 + 6 + 2 + 6 + 8);
    let (mut within, mut twice, mut sums) = (0, 0, vec![(0.0, 0.0); truths.len()]);
    for seed in 0..SEEDS {
        let (rows, slots) = estimate(&solo::comm(), seed);
        assert_eq!(rows.len(), truths.len());
        for ((row, (block, cell, truth)), (sum, squares)) in rows.iter().zip(&truths).zip(&mut sums) {
            assert_eq!((&row.block, &row.part, row.kind.as_str()), (block, &cell.part, cell.kind.name()));
            assert_eq!((row.index as usize, row.num_entries as usize), (cell.index, cell.num_entries));
            let (difference, error) = (row.value - truth, row.error.unwrap());
            (within, twice) =
                (within + i32::from(difference.abs() <= error), twice + i32::from(difference.abs() <= 2.0 * error));
            (*sum, *squares) = (*sum + difference, *squares + difference * difference);
        }
        // all of a block is d alpha_1, the trace's estimate
        for (at, block) in job.blocks.iter().enumerate() {
            let of_block = slots.iter().filter(|slot| slot.pair.0 == at).map(|slot| slot.tridiagonal.alpha[0]);
            let trace = block.num_params(&job.layout) as f64 * of_block.sum::<f64>() / 4.0;
            let part = rows.iter().find(|row| row.block == block.name && row.kind == "part").unwrap();
            assert!((part.value - trace).abs() <= 1e-12 * (trace.abs() + part.error.unwrap()), "{part:?}: {trace}");
        }
    }
    let all = f64::from(SEEDS as u32) * truths.len() as f64;
    let (one, two) = (f64::from(within) / all, f64::from(twice) / all);
    println!("one error holds {one:.3}, two {two:.3}");
    assert!((0.62..0.75).contains(&one) && two > 0.85, "one error holds {one:.3}, two {two:.3}");
    for ((sum, squares), (block, cell, _)) in sums.iter().zip(&truths) {
        let deviations = (sum / SEEDS as f64) / (squares.sqrt() / SEEDS as f64);
        assert!(deviations.abs() < 4.5, "{block} {cell:?}: {deviations} standard errors off"); // 38 cells
    }
    // on three ranks the same to rounding
    let one = estimate(&solo::comm(), 1).0;
    let three = threads::run(3, |comm| {
        let job = self::job(&config);
        let settings = Settings { seed: 1, ..job::settings(&config) };
        let found = group(&job, &comm, &settings, &pairs, None, None)?.0;
        Ok(diagonal(&job, found.diagonal))
    });
    for (rank, rows) in three.unwrap().iter().enumerate() {
        for (a, b) in one.iter().zip(rows) {
            let close = (a.value - b.value).abs() <= 1e-11 * (a.value.abs() + a.error.unwrap());
            assert!(close && (&a.block, a.index) == (&b.block, b.index), "rank {rank}: {a:?}, {b:?}");
        }
    }
}
