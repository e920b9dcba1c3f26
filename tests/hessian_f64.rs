//! H v and G v of GPT-2 against finite differences of the gradient, all unit vectors, in f64 on flex.
//!
//! Its own binary: burn's default float type is process-wide.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};
use hesspec::block::{Block, Layout};
use hesspec::cluster::solo;
use hesspec::engine::SecondOrder;
use hesspec::hessian::{BlockOperator, Kind, Listed, Problem, cast, self_tests};
use hesspec::krylov::Operator;
use hesspec::models::{Names, Partition, VectorObject, partition};
use hesspec::networks::gpt2::{Gelu, Gpt2, Gpt2Config, NAMES, structure};
use hesspec::output::{EigenvectorRow, Results, SummaryRow, TridiagonalRow};
use hesspec::worker::Progress;
use hesspec::{Analysis, Curvature};

type Plain = burn_flex::Flex;

struct Tokens;

impl<B: Backend> Problem<B> for Tokens {
    type Model = Gpt2<B>;
    type Batch = (Tensor<B, 2, Int>, Tensor<B, 1, Int>);

    fn outputs(&self, model: &Gpt2<B>, batch: &Self::Batch) -> Tensor<B, 2> {
        model.forward(batch.0.clone()).flatten(0, 1)
    }

    fn loss(&self, outputs: Tensor<B, 2>, batch: &Self::Batch) -> Tensor<B, 1> {
        let log_p = burn::tensor::activation::log_softmax(outputs, 1);
        let rows = batch.1.dims()[0];
        log_p.gather(1, batch.1.clone().reshape([rows, 1])).mean().neg()
    }

    fn weight(&self, batch: &Self::Batch) -> f64 {
        batch.1.dims()[0] as f64
    }

    fn names(&self) -> &Names {
        &NAMES
    }
}

fn small() -> Gpt2Config {
    Gpt2Config { layers: 2, heads: 2, embedding: 4, mlp: 4, context: 2, vocabulary: 5, ..Gpt2Config::nano() }
}

fn cases() -> Vec<(&'static str, Gpt2Config)> {
    vec![
        ("C.2", Gpt2Config { layer_norm: false, ..small() }),
        ("LayerNorm", small()),
        ("bias, untied", Gpt2Config { bias: true, tied: false, context: 3, ..small() }),
        ("tanh GELU", Gpt2Config { bias: true, gelu: Gelu::Tanh, ..small() }),
    ]
}

type B = SecondOrder<Plain>;

fn model(config: &Gpt2Config) -> Gpt2<B> {
    let device = Default::default();
    let model = config.init::<B>(&device).unwrap();
    // far from the nearly linear initial network
    hesspec::models::fill(model, &NAMES, burn::tensor::DType::F64, |name, shape| {
        let count = shape.iter().product();
        let values = hesspec::probe::probe(hesspec::probe::ProbeKind::Gaussian, 3, name, 0, 0..count);
        Ok(Some(TensorData::new(values.iter().map(|x| 0.5 * x).collect::<Vec<f64>>(), shape.to_vec())))
    })
    .unwrap()
}

fn batches(config: &Gpt2Config) -> Listed<(Tensor<B, 2, Int>, Tensor<B, 1, Int>)> {
    let device = Default::default();
    let batch = |seed: i32| {
        let count = 2 * config.context as i32;
        let tokens =
            |shift: i32| (0..count).map(|i| (i * 7 + seed * 3 + shift) % config.vocabulary as i32).collect::<Vec<_>>();
        let inputs = Tensor::from_data(TensorData::new(tokens(0), [2, config.context]), &device);
        let targets = Tensor::from_data(TensorData::new(tokens(1), [2 * config.context]), &device);
        (inputs, targets)
    };
    Listed::new(vec![batch(0), batch(1)], |batch| Problem::<B>::weight(&Tokens, batch))
}

fn dense(operator: &mut BlockOperator<'_, Plain, f64>) -> Vec<Vec<f64>> {
    let dim = operator.dims()[0];
    let block = operator.slots[0];
    let units: Vec<Vec<f64>> = (0..dim).map(|i| (0..dim).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    units
        .chunks(7)
        .flat_map(|chunk| {
            operator.slots = vec![block; chunk.len()];
            operator.products(chunk).unwrap()
        })
        .collect()
}

#[test]
fn products_with_all_unit_vectors_are_the_derivative_of_the_gradient() {
    for (name, config) in cases() {
        let (model, data, layout) = (model(&config), batches(&config), config.layout());
        let full = layout.full();
        let comm = hesspec::cluster::solo::comm();
        let mut operator = BlockOperator::<Plain, f64>::new(&Tokens, &model, &layout, &data, &comm);
        operator.slots = vec![&full];
        let h = dense(&mut operator);
        let scale = h.iter().flatten().fold(0f64, |m, x| m.max(x.abs()));
        assert!(asymmetry(&h) < 1e-13 * scale, "{name}");
        operator.slots = vec![&full];
        for check in self_tests(&operator, 1).unwrap() {
            println!("{name}: {check:?}");
            assert_eq!(check.outcome, hesspec::hessian::Outcome::Passed, "{name}: {check:?}");
        }
        for block in partition(&layout, &structure(config.embedding / config.heads), Partition::Head).unwrap() {
            let sub = dense(&mut operator_with(&model, &data, &layout, &block, &comm));
            let indices = indices(&layout, &block);
            for (i, row) in sub.iter().enumerate() {
                for (j, value) in row.iter().enumerate() {
                    let expected = h[indices[i]][indices[j]];
                    assert!((value - expected).abs() < 1e-12 * scale, "{name}, {}: {value} {expected}", block.name);
                }
            }
        }
    }
}

fn operator_with<'a>(
    model: &'a Gpt2<B>,
    data: &'a Listed<<Tokens as Problem<B>>::Batch>,
    layout: &'a Layout,
    block: &'a Block,
    comm: &'a hesspec::cluster::Comm,
) -> BlockOperator<'a, Plain, f64> {
    let mut operator = BlockOperator::new(&Tokens, model, layout, data, comm);
    operator.slots = vec![block];
    operator
}

/// Positions of a block's entries in the network's flat order.
fn indices(layout: &Layout, block: &Block) -> Vec<usize> {
    let whole = |parameter: usize| {
        let p = &layout.parameters()[parameter];
        Some((p.offset..p.offset + p.num_params()).collect::<Vec<usize>>())
    };
    block.gather(layout, whole, 0)
}

#[test]
fn gauss_newton_is_positive_semi_definite_and_symmetric() {
    for (name, config) in cases() {
        let (model, data, layout) = (model(&config), batches(&config), config.layout());
        let (full, comm) = (layout.full(), hesspec::cluster::solo::comm());
        let mut operator = operator_with(&model, &data, &layout, &full, &comm);
        operator.kind = Kind::GaussNewton;
        let g = dense(&mut operator);
        let scale = g.iter().flatten().fold(0f64, |m, x| m.max(x.abs()));
        assert!(scale > 1e-3);
        assert!(g.iter().enumerate().all(|(i, row)| row[i] > -1e-14 * scale), "{name}");
        assert!(asymmetry(&g) < 1e-13 * scale, "{name}");
    }
}

/// max |h_ij - h_ji|.
fn asymmetry(h: &[Vec<f64>]) -> f64 {
    let row = |(i, row): (usize, &Vec<f64>)| {
        row.iter().zip(h).map(move |(x, other)| (x - other[i]).abs()).fold(0.0, f64::max)
    };
    h.iter().enumerate().map(row).fold(0.0, f64::max)
}

/// One place says what the configuration asks for: the run's operator and the library's settings cannot differ.
#[test]
fn settings_are_what_the_configuration_says() {
    use hesspec::hessian::Reduction;
    let text = "[model.gpt2]\n[data.tokens]\npath = \"none\"\n[hessian]\noperator = \"gauss_newton\"\nreduction = \"sum\"\nrecompute = true";
    let config = hesspec::config::parse(text, "a.toml", "a", &[], &hesspec::networks::Registry::built_in()).unwrap();
    let settings = hesspec::job::settings(&config);
    assert_eq!((settings.kind, settings.reduction, settings.recompute), (Kind::GaussNewton, Reduction::Sum, true));
}

/// Counts what it hears.
#[derive(Default)]
struct Heard {
    total: AtomicU64,
    done: AtomicU64,
}

impl Progress for Heard {
    fn begin(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    fn skip(&self, _: u64) {}

    fn advance(&self, _: &str, done: u64) {
        self.done.fetch_max(done, Ordering::Relaxed);
    }

    fn log(&self, _: &str) {}
}

/// Eigenvectors of an analysis are those of the operator, within the bound that they come with; their masses and norms add up to 1.
/// Ranks change rounding alone, and who listens hears of every micro-batch.
#[test]
fn an_analysis_has_eigenvectors_on_one_rank_and_on_three() {
    let config = small();
    let (model, layout, data) = (model(&config), config.layout(), batches(&config));
    let heard = Heard::default();
    let analysis = || {
        let of = Analysis::<Plain, _, _>::new(&Tokens, &model, &data).probes(1).steps(40).eigenvectors(6);
        of.settings(|settings| settings.slots = 3).progress(&heard)
    };
    let alone = analysis().run().unwrap();
    assert_eq!(heard.total.load(Ordering::Relaxed), heard.done.load(Ordering::Relaxed));
    let together = analysis().run_on_ranks(3).unwrap();
    let comm = solo::comm();
    let mut found = 0;
    for (one, three) in alone.blocks().iter().zip(together.blocks()) {
        let scale = one.spectrum.largest();
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * scale;
        assert!(close(one.moments().trace, three.moments().trace), "{}", one.block.name);
        assert_eq!(one.eigenvectors.len(), three.eigenvectors.len());
        let mut operator = BlockOperator::<Plain, f64>::new(&Tokens, &model, &layout, &data, &comm);
        for (pair, other) in one.eigenvectors.iter().zip(&three.eigenvectors) {
            operator.slots = vec![&one.block];
            let product = operator.products(std::slice::from_ref(&pair.vector)).unwrap().remove(0);
            let residual =
                product.iter().zip(&pair.vector).map(|(x, u)| (x - pair.eigenvalue * u).powi(2)).sum::<f64>().sqrt();
            assert!(residual <= pair.residual_bound + 1e-12 * scale, "{}: {residual:e}, {pair:?}", one.block.name);
            let norm: f64 = pair.vector.iter().map(|u| u * u).sum();
            let mass: f64 = pair.mass.iter().map(|(_, mass)| mass).sum();
            assert!((norm - 1.0).abs() < 1e-12 && (mass - 1.0).abs() < 1e-12, "{norm}, {mass}");
            assert!(close(pair.eigenvalue, other.eigenvalue));
            found += 1;
        }
    }
    assert!(found > 20, "{found} eigenvectors");
}

/// What is saved is a run: its tables are what was found, and its file of eigenvectors has them.
#[test]
fn an_analysis_is_saved_as_a_run() {
    let config = small();
    let (model, data, folder) = (model(&config), batches(&config), tempfile::tempdir().unwrap());
    let url = folder.path().to_str().unwrap();
    let analysis = Analysis::<Plain, _, _>::new(&Tokens, &model, &data).probes(2).steps(12).eigenvectors(2);
    let found = analysis.run().unwrap();
    found.save(url, "mine").unwrap();
    let run = Results::open(url).unwrap().run(Some("mine")).unwrap();
    assert!(run.is_done());
    let summary: Vec<SummaryRow> = run.read().unwrap();
    for (row, block) in summary.iter().zip(found.blocks()) {
        let moments = block.moments();
        assert_eq!((&row.block, row.trace, row.lambda_max), (&block.block.name, moments.trace, moments.lambda_max));
    }
    let rows: Vec<TridiagonalRow> = run.read().unwrap();
    assert_eq!(
        rows.len(),
        found.blocks().iter().flat_map(|block| &block.tridiagonals).map(|t| t.steps()).sum::<usize>()
    );
    let vectors: Vec<EigenvectorRow> = run.read().unwrap();
    assert_eq!(vectors.len(), found.blocks().iter().map(|block| block.eigenvectors.len()).sum::<usize>());
    for row in vectors {
        let pair = &found[row.block.as_str()].eigenvectors[row.index as usize];
        assert_eq!((row.eigenvalue, row.gradient_overlap), (pair.eigenvalue, pair.gradient_overlap));
        let file = std::fs::read(folder.path().join(row.file)).unwrap();
        let read = VectorObject::read::<f64>(&file, found.layout(), &found[row.block.as_str()].block).unwrap();
        assert_eq!(read[row.index as usize], pair.vector);
    }
    let again = found.save(url, "mine").expect_err("taken");
    assert!(again.exit_code() == 2 && again.to_string().contains("choose another name"), "{again}");
}

/// A flag of the caller's ends it, on all ranks, with the exit code of an interruption.
#[test]
fn an_analysis_is_stopped_by_a_flag() {
    let config = small();
    let (model, data, stop) = (model(&config), batches(&config), AtomicBool::new(true));
    let analysis = || Analysis::<Plain, _, _>::new(&Tokens, &model, &data).steps(2).stop(&stop);
    for outcome in [analysis().run(), analysis().run_on_ranks(2)] {
        let error = outcome.expect_err("stopped");
        assert_eq!(error.exit_code(), 75, "{error}");
    }
}

/// What a caller of the library can get wrong is an error that says what, not a panic.
#[test]
fn the_library_refuses_what_it_cannot_use() {
    let config = small();
    let model = model(&config);
    let refused = |outcome: hesspec::Result<Curvature>, parts: &[&str]| {
        let error = outcome.map(drop).expect_err("refused");
        assert_eq!(error.exit_code(), 2, "{error}");
        parts.iter().for_each(|part| assert!(error.to_string().contains(part), "`{part}` is not in: {error}"));
    };
    let data = batches(&config);
    let of = |model, data| Analysis::<Plain, _, _>::new(&Tokens, model, data).steps(2).probes(1);
    refused(of(&model, &data).settings(|settings| settings.recompute = true).run(), &["Problem::stages"]);
    let device = Default::default();
    let empty = (Tensor::zeros([0, config.context], &device), Tensor::zeros([0], &device));
    let weightless = Listed::new(vec![empty], |batch| Problem::<B>::weight(&Tokens, batch));
    refused(of(&model, &weightless).run(), &["micro-batch 0", "weight is 0, 0 in all"]);
    let none = Listed::new(Vec::new(), |batch| Problem::<B>::weight(&Tokens, batch));
    refused(of(&model, &none).run(), &["no micro-batch"]);
    let mut mixed = model.clone();
    mixed.transformer.wte = cast(mixed.transformer.wte, DType::F32);
    refused(of(&mixed, &data).run(), &["parameter `transformer.wte.weight` is in f32", "all of them in f32", "cast"]);
}
