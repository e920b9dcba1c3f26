//! Networks of burn's own modules through the library, in f32 and in f64, with burn's default float type as it is: f32.

use burn::module::{Module, Param};
use burn::nn::attention::{MhaInput, MultiHeadAttention, MultiHeadAttentionConfig, generate_autoregressive_mask};
use burn::nn::{Linear, LinearConfig, Lstm, LstmConfig, RmsNorm, RmsNormConfig, RotaryEncoding, RotaryEncodingConfig};
use burn::tensor::activation::{leaky_relu, relu};
use burn::tensor::backend::Backend;
use burn::tensor::ops::PadMode;
use burn::tensor::{DType, Tensor, TensorData, linalg};
use hesspec::Analysis;
use hesspec::engine::SecondOrder;
use hesspec::hessian::{BlockOperator, Check, Listed, Outcome, Precision, Problem, cast, product_errors, self_tests};
use hesspec::models::{Names, parameters};
use hesspec::probe::{ProbeKind, probe};

type Plain = burn_flex::Flex;
type B = SecondOrder<Plain>;
type Outputs<M> = fn(&M, Tensor<B, 3>) -> Tensor<B, 2>;

const ROWS: usize = 6;
const TIME: usize = 4;
const WIDTH: usize = 4;

/// A network M with these outputs; the loss is far from quadratic in them.
struct Of<M>(Outputs<M>);

impl<M: Module<B>> Problem<B> for Of<M> {
    type Model = M;
    type Batch = Tensor<B, 3>;

    fn outputs(&self, model: &M, batch: &Self::Batch) -> Tensor<B, 2> {
        (self.0)(model, batch.clone())
    }

    fn loss(&self, outputs: Tensor<B, 2>, _: &Self::Batch) -> Tensor<B, 1> {
        (outputs.clone() * outputs.clone() + outputs.sin()).mean()
    }

    fn weight(&self, batch: &Self::Batch) -> f64 {
        batch.dims()[0] as f64
    }
}

fn batch(rows: usize) -> Tensor<B, 3> {
    let values = probe(ProbeKind::Gaussian, 5, "batch", 0, 0..rows * TIME * WIDTH);
    Tensor::from_data(TensorData::new(values, [rows, TIME, WIDTH]).convert::<f32>(), &Default::default())
}

/// The relative error of a product, what it was measured against, and the self-tests.
fn tried<T: Precision, M: Module<B>>(model: &M, outputs: Outputs<M>, rows: usize) -> (f64, &'static str, Vec<Check>) {
    let (problem, data) = (Of(outputs), Listed::new(vec![batch(rows)], |x: &Tensor<B, 3>| x.dims()[0] as f64));
    let (layout, comm) = (parameters(model, &Names::BURN), hesspec::cluster::solo::comm());
    let block = layout.full();
    let mut operator = BlockOperator::<Plain, T>::new(&problem, model, &layout, &data, &comm);
    operator.slots = vec![&block];
    let error = product_errors(&operator, 3, &[vec![0]], &|| false).unwrap()[0];
    let v = probe(ProbeKind::Gaussian, 9, "v", 0, 0..layout.num_params());
    let size = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let as_t: Vec<T> = v.iter().map(|x| T::from_f64(*x)).collect();
    let product: Vec<f64> = operator.products(&[as_t]).unwrap()[0].iter().map(|x| x.to_f64()).collect();
    (error.eta * size(&v) / size(&product), error.reference, self_tests(&operator, 2).unwrap())
}

/// Right in f64 to f64's accuracy; in f32 measured against that, and off by f32's rounding.
fn check<M: Module<B>>(name: &str, model: M, outputs: Outputs<M>) {
    let (error, reference, checks) = tried::<f32, M>(&model, outputs, ROWS);
    println!("{name}, f32: {error:.2e} against {reference}");
    assert!(reference == "f64" && (1e-9..1e-4).contains(&error), "{name}: {error:e} against {reference}");
    assert!(checks.iter().all(|check| check.outcome != Outcome::Failed), "{name}, f32: {checks:#?}");
    let (error, reference, checks) = tried::<f64, M>(&cast(model, DType::F64), outputs, ROWS);
    println!("{name}, f64: {error:.2e} against {reference}");
    assert!(error < 1e-13, "{name}, f64: {error:e}");
    assert!(checks.iter().all(|check| check.outcome == Outcome::Passed), "{name}, f64: {checks:#?}");
}

fn linear() -> Linear<B> {
    LinearConfig::new(WIDTH, WIDTH).init(&Default::default())
}

#[derive(Module, Debug)]
struct Normed<B: Backend> {
    first: Linear<B>,
    norm: RmsNorm<B>,
}

#[derive(Module, Debug)]
struct Rotated<B: Backend> {
    first: Linear<B>,
    angles: RotaryEncoding<B>,
}

#[test]
fn modules_that_make_constants_work_in_both_precisions() {
    let device = Default::default();
    B::seed(&device, 1);
    check("Linear", linear(), |m, x| m.forward(x).tanh().flatten(0, 1));
    let lstm: Lstm<B> = LstmConfig::new(WIDTH, 3, true).init(&device);
    check("Lstm", lstm, |m, x| m.forward(x, None).0.flatten(0, 1));
    let norm = RmsNormConfig::new(WIDTH).init(&device);
    check("RmsNorm", Normed { first: linear(), norm }, |m, x| m.norm.forward(m.first.forward(x)).flatten(0, 1));
    let angles = RotaryEncodingConfig::new(TIME, WIDTH).init(&device);
    let rotated = Rotated { first: linear(), angles };
    check("RotaryEncoding", rotated, |m, x| m.angles.forward(m.first.forward(x)).cumsum(1).flatten(0, 1));
    check("pad", linear(), |m, x| {
        let padded = m.forward(x).pad([(1, 2), (0, 1)], PadMode::Constant(0.3));
        padded.cumsum(1).tanh().flatten(0, 1)
    });
    let attention: MultiHeadAttention<B> = MultiHeadAttentionConfig::new(WIDTH, 2).with_dropout(0.0).init(&device);
    check("MultiHeadAttention", attention, |m, x| {
        let [rows, time, _] = x.dims();
        let mask = generate_autoregressive_mask::<B>(rows, time, &x.device());
        m.forward(MhaInput::self_attn(x).mask_attn(mask)).context.flatten(0, 1)
    });
}

#[derive(Module, Debug)]
struct Layers<B: Backend> {
    first: Linear<B>,
    second: Linear<B>,
}

fn layers() -> Layers<B> {
    B::seed(&Default::default(), 2);
    Layers { first: linear(), second: linear() }
}

fn central(checks: &[Check]) -> &Check {
    checks.iter().find(|check| check.name == "central difference").unwrap()
}

/// A network with kinks need not say so: a step is found that crosses none, or it is said that there is none.
#[test]
fn kinks_are_seen() {
    let networks: [(&str, Outputs<Layers<B>>); 4] = [
        ("relu", |m, x| m.second.forward(relu(m.first.forward(x))).flatten(0, 1)),
        ("leaky relu", |m, x| m.second.forward(leaky_relu(m.first.forward(x), 0.1)).flatten(0, 1)),
        ("abs", |m, x| m.second.forward(m.first.forward(x).abs()).flatten(0, 1)),
        ("maximum", |m, x| m.second.forward(m.first.forward(x)).max_dim(1).squeeze_dim(1)),
    ];
    for (name, outputs) in networks {
        for rows in [2, 4000] {
            let model = cast(layers(), DType::F64);
            let (.., checks) = tried::<f64, _>(&model, outputs, rows);
            println!("{name}, {rows} rows: {:?}", central(&checks));
            assert_ne!(central(&checks).outcome, Outcome::Failed, "{name}, {rows} rows: {checks:#?}");
            let (.., checks) = tried::<f32, _>(&layers(), outputs, rows);
            assert_ne!(central(&checks).outcome, Outcome::Failed, "{name}, {rows} rows, f32: {checks:#?}");
        }
    }
    let at_a_kink: Outputs<Layers<B>> = |m, x| m.second.forward(relu(m.first.forward(x * 0.0) * 0.0)).flatten(0, 1);
    let (.., checks) = tried::<f64, _>(&cast(layers(), DType::F64), at_a_kink, 3);
    println!("at a kink: {:?}", central(&checks));
}

/// A product that is wrong away from every kink still fails, and the message says what might be meant.
#[test]
fn a_wrong_product_fails_for_all_its_kinks() {
    let stopped: Outputs<Layers<B>> = |m, x| {
        let first = relu(m.first.forward(x));
        (m.second.forward(first.clone()) * first.detach()).flatten(0, 1)
    };
    let (.., checks) = tried::<f64, _>(&cast(layers(), DType::F64), stopped, 4);
    let check = central(&checks);
    assert_eq!(check.outcome, Outcome::Failed, "{check:?}");
    assert!(check.detail.contains("Problem::has_kinks"), "{check:?}");
}

#[derive(Module, Debug)]
struct Matrix<B: Backend> {
    matrix: Param<Tensor<B, 2>>,
}

fn matrix(rows: usize) -> Matrix<B> {
    let values = probe(ProbeKind::Gaussian, 4, "matrix", 0, 0..rows * rows);
    let data = TensorData::new(values, [rows, rows]);
    Matrix {
        matrix: Param::from_tensor(Tensor::<B, 2>::from_data(data, (&Default::default(), DType::F64)).require_grad()),
    }
}

fn sum(x: Tensor<B, 2>) -> Tensor<B, 2> {
    x.sum().reshape([1, 1])
}

/// What burn composes from slices, gathers and scatters has its products by their rules: nothing is lost on the way.
#[test]
fn determinants_and_factors_have_their_products() {
    let functions: [(&str, Outputs<Matrix<B>>); 5] = [
        ("diag", |m, _| sum(linalg::diag::<B, 2, 1, _>(m.matrix.val()).prod_dim(0).sin().unsqueeze())),
        ("L", |m, _| sum(linalg::lu::<B, 2, 1>(m.matrix.val()).1.sin())),
        ("U", |m, _| sum(linalg::lu::<B, 2, 1>(m.matrix.val()).2.sin())),
        ("det", |m, _| sum(linalg::det::<B, 3, 2, 1>(m.matrix.val().unsqueeze()).sin().unsqueeze())),
        ("dets", |m, _| {
            let x = m.matrix.val();
            let [n, _] = x.dims();
            let both = Tensor::stack::<3>(vec![x.clone(), x.sin() + Tensor::eye(n, &Default::default()) * 2.0], 0);
            sum(linalg::det::<B, 3, 2, 1>(both).sin().unsqueeze())
        }),
    ];
    for (name, outputs) in functions {
        for size in [2, 3, 4, 7] {
            let (error, _, checks) = tried::<f64, _>(&matrix(size), outputs, 1);
            assert!(error < 1e-12, "{name} of {size}: {error:e}");
            assert_eq!(central(&checks).outcome, Outcome::Passed, "{name} of {size}: {checks:#?}");
            let (error, reference, _) = tried::<f32, _>(&cast(matrix(size), DType::F32), outputs, 1);
            assert!(reference == "f64" && error < 1e-3, "{name} of {size}, f32: {error:e} against {reference}");
        }
    }
}

/// What is frozen is no parameter, in any precision.
#[test]
fn a_frozen_parameter_stays_frozen_in_another_precision() {
    let mut model = linear();
    model.bias = model.bias.map(|bias| bias.set_require_grad(false));
    let names = |model: &Linear<B>| {
        parameters(model, &Names::BURN).parameters().iter().map(|p| p.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&model), ["weight"]);
    assert_eq!(names(&cast(model, DType::F64)), ["weight"]);
}

/// Started by mpirun, each process would do all of it.
#[test]
fn one_of_several_processes_is_refused() {
    const INNER: &str = "OMPI_COMM_WORLD_SIZE";
    if std::env::var_os(INNER).is_none() {
        let mut inner = std::process::Command::new(std::env::current_exe().unwrap());
        inner.args(["--exact", "one_of_several_processes_is_refused"]);
        inner.env(INNER, "2").env("OMPI_COMM_WORLD_RANK", "1").env("OMPI_COMM_WORLD_LOCAL_RANK", "1");
        assert!(inner.status().unwrap().success());
        return;
    }
    let model = linear();
    let data = Listed::new(vec![batch(2)], |_: &Tensor<B, 3>| 2.0);
    let problem = Of::<Linear<B>>(|m, x| m.forward(x).flatten(0, 1));
    let error = Analysis::<Plain, _, _>::new(&problem, &model, &data).steps(2).run().expect_err("refused");
    assert_eq!(error.exit_code(), 3, "{error}");
    for part in ["mpirun (OMPI_COMM_WORLD_RANK", "started 2", "each would do the whole job"] {
        assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
    }
}
