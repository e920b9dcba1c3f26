//! From configuration to computation: the problem, the model with its weights, the batch, on the backend asked for.
//!
//! Owns the one place where a backend and a precision become types ([`dispatch`]); everything after it is generic.

use std::marker::PhantomData;
use std::ops::Range;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use burn_backend::tensor::Device;

use crate::block::{Block, Layout};
use crate::cluster::Comm;
use crate::config::{self, Config, Model};
use crate::data::{Cut, Feed, MicroBatches as Cuts, Tokens, Windows};
use crate::engine::{Arithmetic, Kernels, SecondOrder, linear_cross_entropy};
use crate::hessian::{BlockOperator, Kind, MicroBatches, Precision, Problem, Reduction, Stages};
use crate::krylov::{Schedule, Short};
use crate::models::{Gelu, Gpt2, Gpt2Config, Initialisation, Names, Structure, initialise, partition, weights};
use crate::{Error, Result};

/// Next-token prediction by GPT-2: mean cross-entropy over all predicted tokens.
#[derive(Debug, Clone, Copy)]
pub struct LanguageModel;

/// Inputs (windows, context) and targets (windows * context).
#[derive(Debug, Clone)]
pub struct TokenBatch<K: Kernels> {
    inputs: Tensor<SecondOrder<K>, 2, Int>,
    targets: Tensor<SecondOrder<K>, 1, Int>,
}

impl<K: Kernels> Problem<SecondOrder<K>> for LanguageModel {
    type Model = Gpt2<SecondOrder<K>>;
    type Batch = TokenBatch<K>;

    fn outputs(&self, model: &Self::Model, batch: &TokenBatch<K>) -> Tensor<SecondOrder<K>, 2> {
        model.forward(batch.inputs.clone()).flatten(0, 1)
    }

    fn loss(&self, outputs: Tensor<SecondOrder<K>, 2>, batch: &TokenBatch<K>) -> Tensor<SecondOrder<K>, 1> {
        let [rows] = batch.targets.dims();
        log_softmax(outputs, 1).gather(1, batch.targets.clone().reshape([rows, 1])).mean().neg()
    }

    fn weight(&self, batch: &TokenBatch<K>) -> f64 {
        batch.targets.dims()[0] as f64
    }

    fn names(&self) -> &Names {
        &Names::GPT2
    }

    /// Head and cross-entropy as one operation: nothing of size (tokens, vocabulary) survives.
    fn total_loss(&self, model: &Self::Model, batch: &TokenBatch<K>) -> Tensor<SecondOrder<K>, 1> {
        let hidden = model.hidden(batch.inputs.clone()).flatten(0, 1);
        linear_cross_entropy(hidden, model.head_weight(), batch.targets.clone())
    }

    fn stages(&self) -> Option<&dyn Stages<SecondOrder<K>, Self::Model, TokenBatch<K>>> {
        Some(self)
    }
}

/// Stage 1 + b is the residual stream before branch b, and before the last norm behind the last branch.
impl<K: Kernels> Stages<SecondOrder<K>, Gpt2<SecondOrder<K>>, TokenBatch<K>> for LanguageModel {
    fn stage_of(&self, model: &Gpt2<SecondOrder<K>>, parameter: &str) -> usize {
        let Some(inside) = parameter.strip_prefix("transformer.h.") else {
            let is_above = parameter.starts_with("transformer.ln_f.") || parameter == "lm_head.weight";
            return if is_above { 1 + model.num_branches() } else { 0 };
        };
        let Some((layer, part)) = inside.split_once('.') else { return 0 };
        let in_mlp = part.starts_with("mlp.") || part.starts_with("ln_2.");
        layer.parse::<usize>().map_or(0, |layer| 1 + 2 * layer + usize::from(in_mlp))
    }

    fn num_stages(&self, model: &Gpt2<SecondOrder<K>>) -> usize {
        1 + model.num_branches()
    }

    fn first(&self, model: &Gpt2<SecondOrder<K>>, batch: &TokenBatch<K>) -> Tensor<SecondOrder<K>, 2> {
        model.embed(batch.inputs.clone())
    }

    fn advance(
        &self,
        model: &Gpt2<SecondOrder<K>>,
        stages: Range<usize>,
        entry: Tensor<SecondOrder<K>, 2>,
        batch: &TokenBatch<K>,
    ) -> Tensor<SecondOrder<K>, 2> {
        model.stream(entry, stages.start - 1..stages.end - 1, batch.inputs.dims())
    }

    fn outputs_from(
        &self,
        model: &Gpt2<SecondOrder<K>>,
        stage: usize,
        entry: Tensor<SecondOrder<K>, 2>,
        batch: &TokenBatch<K>,
    ) -> Tensor<SecondOrder<K>, 2> {
        model.logits(hidden_from(model, stage, entry, batch))
    }

    fn total_loss_from(
        &self,
        model: &Gpt2<SecondOrder<K>>,
        stage: usize,
        entry: Tensor<SecondOrder<K>, 2>,
        batch: &TokenBatch<K>,
    ) -> Tensor<SecondOrder<K>, 1> {
        let hidden = hidden_from(model, stage, entry, batch);
        linear_cross_entropy(hidden, model.head_weight(), batch.targets.clone())
    }
}

/// Activations below the head, from those that enter a stage.
fn hidden_from<K: Kernels>(
    model: &Gpt2<SecondOrder<K>>,
    stage: usize,
    entry: Tensor<SecondOrder<K>, 2>,
    batch: &TokenBatch<K>,
) -> Tensor<SecondOrder<K>, 2> {
    model.norm(model.stream(entry, stage - 1..model.num_branches(), batch.inputs.dims()))
}

/// Where a micro-batch's tokens come from.
enum Source {
    Files(Feed),
    /// Pseudo-random tokens, for plans and timings without data.
    Synthetic {
        context: usize,
    },
}

/// The batch of a run: windows of tokens, cut into segments of micro-batches.
pub struct TokenData<K: Kernels> {
    source: Source,
    cuts: Cuts,
    vocabulary: usize,
    num_predictions: usize,
    device: Device<K>,
}

impl<K: Kernels> TokenData<K> {
    /// Windows that are differentiated in one pass, by micro-batch.
    pub fn cuts(&self) -> &Cuts {
        &self.cuts
    }

    /// SHA-256 of the batch's tokens; `None` for synthetic ones.
    pub fn sha256(&self) -> Result<Option<String>> {
        match &self.source {
            Source::Files(feed) => feed.sha256().map(Some),
            Source::Synthetic { .. } => Ok(None),
        }
    }

    /// Number of predicted tokens.
    pub fn num_predictions(&self) -> usize {
        self.num_predictions
    }

    /// Share of the batch in the segments from `segment` on.
    pub fn share_from(&self, segment: usize) -> f64 {
        let windows = |from: usize| -> usize {
            self.cuts.all().iter().filter(|cut| cut.segment >= from).map(|cut| cut.windows.len()).sum()
        };
        windows(segment) as f64 / windows(0).max(1) as f64
    }
}

impl<K: Kernels> MicroBatches for TokenData<K> {
    type Batch = TokenBatch<K>;

    fn len(&self) -> usize {
        self.cuts.all().len()
    }

    fn num_segments(&self) -> usize {
        self.cuts.num_segments()
    }

    fn segment(&self, index: usize) -> usize {
        self.cuts.all()[index].segment
    }

    fn get(&self, index: usize) -> Result<TokenBatch<K>> {
        let range = self.cuts.all()[index].windows.clone();
        let num_windows = range.len();
        let (inputs, targets, context) = match &self.source {
            Source::Files(feed) => {
                let batch = feed.batch(&self.cuts, index, self.vocabulary)?;
                (batch.inputs, batch.targets, batch.context)
            }
            Source::Synthetic { context } => {
                let all: Vec<i32> = (range.start * context..range.end * context + 1)
                    .map(|at| ((at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as i32 % self.vocabulary as i32)
                    .collect();
                (all[..all.len() - 1].to_vec(), all[1..].to_vec(), *context)
            }
        };
        let count = targets.len();
        Ok(TokenBatch {
            inputs: Tensor::from_data(TensorData::new(inputs, [num_windows, context]), &self.device),
            targets: Tensor::from_data(TensorData::new(targets, [count]), &self.device),
        })
    }

    fn total_weight(&self) -> f64 {
        self.num_predictions as f64
    }
}

/// Everything that a sweep needs, on a backend `K` in a precision `T`.
pub struct Job<K: Kernels, T> {
    /// The configuration it was made from.
    pub config: Config,
    /// The network's parameters.
    pub layout: Layout,
    /// The blocks asked for, `full` last.
    pub blocks: Vec<Block>,
    /// The loss.
    pub problem: LanguageModel,
    /// The network with its weights.
    pub model: Gpt2<SecondOrder<K>>,
    /// The batch.
    pub data: TokenData<K>,
    precision: PhantomData<T>,
}

impl<K: Kernels, T: Precision> Job<K, T> {
    /// The operator over the whole batch, with no slots yet.
    pub fn operator<'a>(&'a self, comm: &'a Comm) -> BlockOperator<'a, K, LanguageModel, TokenData<K>, T> {
        let mut operator = BlockOperator::new(&self.problem, &self.model, &self.layout, &self.data, comm);
        (operator.kind, operator.reduction) = kind_and_reduction(&self.config);
        operator.recompute = self.config.hessian.recompute;
        operator
    }

    /// Reads weights and opens data. `micro_batch` is the number of windows per pass.
    pub fn open(config: &Config, device: &Device<K>, micro_batch: usize) -> Result<Self> {
        let sizes = gpt2(config)?;
        let files = token_files(config);
        let tokens = Tokens::open(&files.path, files.cache_bytes())?;
        let windows = Windows::asked_by(config.tokens_key(), &config.batch, sizes.context, tokens.len())?;
        let (num_windows, num_predictions) = (windows.num_windows(), windows.num_predictions());
        let source = Source::Files(Feed::new(tokens, windows));
        let model = model::<K, T>(config, device)?;
        Self::assemble(config, device, micro_batch, source, num_windows, num_predictions, model)
    }

    /// The same network with random weights on `num_windows` windows of synthetic tokens: for plans and timings.
    pub fn synthetic(config: &Config, device: &Device<K>, micro_batch: usize, num_windows: usize) -> Result<Self> {
        let sizes = gpt2(config)?;
        let source = Source::Synthetic { context: sizes.context };
        let model = fresh_model::<K, T>(config, &sizes, device)?;
        Self::assemble(config, device, micro_batch, source, num_windows, num_windows * sizes.context, model)
    }

    fn assemble(
        config: &Config,
        device: &Device<K>,
        micro_batch: usize,
        source: Source,
        num_windows: usize,
        num_predictions: usize,
        model: Gpt2<SecondOrder<K>>,
    ) -> Result<Self> {
        let sizes = gpt2(config)?;
        // Synthetic tokens carry no sampling error: one segment, so that micro-batches are as large as asked for.
        let segments = match source {
            Source::Files(_) => config.batch.segments,
            Source::Synthetic { .. } => Some(1),
        };
        let cuts = Cuts::new(num_windows, micro_batch, segments, cut(config))?;
        let data = TokenData { source, cuts, vocabulary: sizes.vocabulary, num_predictions, device: device.clone() };
        let layout = sizes.layout();
        let blocks = blocks(config, &layout)?;
        let precision = PhantomData;
        Ok(Self { config: config.clone(), layout, blocks, problem: LanguageModel, model, data, precision })
    }
}

/// Which operator, and how micro-batches add up.
pub fn kind_and_reduction(config: &Config) -> (Kind, Reduction) {
    let kind = match config.hessian.operator {
        config::Operator::Hessian => Kind::Hessian,
        config::Operator::GaussNewton => Kind::GaussNewton,
    };
    let reduction = match config.hessian.reduction {
        config::Reduction::Mean => Reduction::Mean,
        config::Reduction::Sum => Reduction::Sum,
    };
    (kind, reduction)
}

/// What stays whole when the batch is cut: where micro-batch means are summed, the micro-batch is part of the loss.
pub fn cut(config: &Config) -> Cut {
    match config.hessian.reduction {
        config::Reduction::Mean => Cut::Windows,
        config::Reduction::Sum => Cut::MicroBatches,
    }
}

/// Sizes and variants of the network.
pub fn gpt2(config: &Config) -> Result<Gpt2Config> {
    let Model::Gpt2(model) = &config.model;
    let sizes = Gpt2Config {
        layers: model.layers,
        heads: model.heads,
        embedding: model.embedding,
        mlp: model.mlp,
        context: model.context,
        vocabulary: model.vocabulary,
        bias: model.bias,
        tied: model.tied,
        layer_norm: model.layer_norm,
        gelu: match model.gelu {
            config::Gelu::Erf => Gelu::Erf,
            config::Gelu::Tanh => Gelu::Tanh,
        },
    };
    sizes.validate()?;
    Ok(sizes)
}

/// The short recursions that are asked for.
pub fn short(config: &Config) -> Option<Short> {
    config.lanczos.short().map(|(starts, steps)| Short { starts, steps })
}

/// The steps of each probe of a block of dimension `dim`.
pub fn schedule(config: &Config, dim: usize) -> Schedule {
    Schedule::new(dim, config.lanczos.steps, short(config))
}

/// All blocks of the configured partition, in network order.
pub fn all_blocks(config: &Config, layout: &Layout) -> Result<Vec<Block>> {
    partition(layout, &Structure::gpt2(gpt2(config)?.heads), partition_kind(config.blocks.partition))
}

/// The blocks that a configuration asks for, in network order, `full` last.
pub fn blocks(config: &Config, layout: &Layout) -> Result<Vec<Block>> {
    let all = all_blocks(config, layout)?;
    let names: Vec<&str> = all.iter().map(|block| block.name.as_str()).collect();
    let chosen = config.blocks.filter()?.select(&names)?;
    let mut blocks: Vec<Block> = chosen.into_iter().map(|at| all[at].clone()).collect();
    if config.blocks.full {
        blocks.push(layout.full());
    }
    Ok(blocks)
}

/// A block by its name, from any of the configured partition's blocks, or `full`.
pub fn block_named(config: &Config, layout: &Layout, name: &str) -> Result<Block> {
    if name == "full" {
        return Ok(layout.full());
    }
    let all = all_blocks(config, layout)?;
    all.iter().find(|block| block.name == name).cloned().ok_or_else(|| {
        let known: Vec<&str> = all.iter().map(|block| block.name.as_str()).collect();
        Error::Config(format!(
            "--block {name}: no such block with blocks.partition = {}; expected `full` or one of {}",
            config::as_toml(&config.blocks.partition),
            known.join(", ")
        ))
    })
}

fn partition_kind(partition: config::Partition) -> crate::models::Partition {
    match partition {
        config::Partition::Parameter => crate::models::Partition::Parameter,
        config::Partition::Layer => crate::models::Partition::Layer,
        config::Partition::Head => crate::models::Partition::Head,
        config::Partition::Module => crate::models::Partition::Module,
    }
}

fn token_files(config: &Config) -> &config::TokenFiles {
    let config::Data::Tokens(files) = &config.data;
    files
}

/// The network with the weights that the configuration names, or initialised.
pub fn model<K: Kernels, T: Precision>(config: &Config, device: &Device<K>) -> Result<Gpt2<SecondOrder<K>>> {
    let sizes = gpt2(config)?;
    match config.model.weights() {
        Some(source) => weights::load(sizes.init(device)?, &Names::GPT2, source, T::DTYPE),
        None => fresh_model::<K, T>(config, &sizes, device),
    }
}

fn fresh_model<K: Kernels, T: Precision>(
    config: &Config,
    sizes: &Gpt2Config,
    device: &Device<K>,
) -> Result<Gpt2<SecondOrder<K>>> {
    let Model::Gpt2(model) = &config.model;
    let how = match model.init {
        config::Gpt2Init::NanoGpt => Initialisation::NanoGpt,
        config::Gpt2Init::Paper => Initialisation::Paper,
    };
    initialise(sizes.init(device)?, sizes.layers, how, config.run.seed, T::DTYPE)
}

/// Something to do once backend and precision are types.
pub trait Task {
    /// What comes out.
    type Output;
    /// Does it.
    fn run<K: Kernels, T: Precision>(self, config: &Config, device: Device<K>) -> Result<Self::Output>;
}

/// Whether this build has the backend, the data the batch, and the weights the network's parameters. Nothing is computed,
/// and no weights' numbers are read.
///
/// # Errors
/// Those of [`dispatch`], of opening tokens, and of [`weights::check`].
pub fn preflight(config: &Config) -> Result<()> {
    struct Nothing;
    impl Task for Nothing {
        type Output = ();
        fn run<K: Kernels, T: Precision>(self, _config: &Config, _device: Device<K>) -> Result<()> {
            Ok(())
        }
    }
    dispatch(config, Nothing)?;
    num_windows(config)?;
    match config.model.weights() {
        Some(source) => weights::check(&gpt2(config)?.layout(), &Names::GPT2, source),
        None => Ok(()),
    }
}

/// Windows of the batch in the data.
///
/// # Errors
/// Those of opening tokens; [`Error::Config`] if the data has too few.
pub fn num_windows(config: &Config) -> Result<usize> {
    let files = token_files(config);
    let tokens = Tokens::open(&files.path, files.cache_bytes())?;
    Ok(Windows::new(&config.batch, gpt2(config)?.context, tokens.len())?.num_windows())
}

/// Runs a task on the configured backend in the configured precision.
///
/// # Errors
/// [`Error::Environment`] for a backend that this build does not have, or a precision or math mode that it cannot do.
pub fn dispatch<A: Task>(config: &Config, task: A) -> Result<A::Output> {
    check_math(&config.hessian)?;
    arithmetic(&config.hessian).scope(|| on_backend(config, task))
}

fn on_backend<A: Task>(config: &Config, task: A) -> Result<A::Output> {
    let hessian = &config.hessian;
    match hessian.backend {
        config::Backend::Flex => on::<burn_flex::Flex, A>(config, Default::default(), task),
        #[cfg(feature = "ndarray")]
        config::Backend::Ndarray => match hessian.precision {
            config::Precision::F32 => task.run::<burn_ndarray::NdArray<f32>, f32>(config, Default::default()),
            config::Precision::F64 => task.run::<burn_ndarray::NdArray<f64>, f64>(config, Default::default()),
        },
        #[cfg(feature = "cuda")]
        config::Backend::Cuda => {
            let ordinal = hessian.device.unwrap_or(0);
            let refused = |why| Error::Environment(format!("hessian.backend = \"cuda\": {why}"));
            crate::engine::kernels::cuda::usable(ordinal).map_err(refused)?;
            let device = burn_cuda::CudaDevice::new(ordinal);
            match hessian.fusion {
                true => single::<burn_cuda::Cuda, A>(config, device, task),
                false => single::<crate::engine::kernels::CudaUnfused, A>(config, device, task),
            }
        }
        #[cfg(feature = "wgpu")]
        config::Backend::Wgpu => match hessian.fusion {
            true => single::<burn_wgpu::Wgpu, A>(config, Default::default(), task),
            false => single::<crate::engine::kernels::WgpuUnfused, A>(config, Default::default(), task),
        },
        #[allow(unreachable_patterns)] // all of them are built with all features
        other => {
            let name = config::as_toml(&other);
            Err(Error::Environment(format!(
                "hessian.backend = {name}: this build does not have it; build with `cargo build --release --features {}`, or use \"flex\"",
                name.trim_matches('"')
            )))
        }
    }
}

fn on<K: Kernels, A: Task>(config: &Config, device: Device<K>, task: A) -> Result<A::Output> {
    match config.hessian.precision {
        config::Precision::F32 => task.run::<K, f32>(config, device),
        config::Precision::F64 => task.run::<K, f64>(config, device),
    }
}

/// Backends whose floats are f32.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn single<K: Kernels, A: Task>(config: &Config, device: Device<K>, task: A) -> Result<A::Output> {
    match config.hessian.precision {
        config::Precision::F32 => task.run::<K, f32>(config, device),
        config::Precision::F64 => Err(Error::Environment(
            "hessian.precision = \"f64\": verification in f64 runs on the backends \"flex\" and \"ndarray\"".into(),
        )),
    }
}

/// The model of the configuration's accelerator, where the driver says it.
pub fn accelerator(config: &Config) -> Option<String> {
    #[cfg(feature = "cuda")]
    if config.hessian.backend == config::Backend::Cuda {
        return crate::engine::kernels::cuda::name(config.hessian.device.unwrap_or(0)).ok();
    }
    let _ = config;
    None
}

/// How f32 matrices are multiplied.
pub fn arithmetic(hessian: &config::Hessian) -> Arithmetic {
    match hessian.math {
        config::Math::F32 => Arithmetic::Native,
        config::Math::Tf32x3 => Arithmetic::Tf32x3,
        config::Math::Tf32 => Arithmetic::Tf32,
        config::Math::Bf16 => Arithmetic::Bf16,
    }
}

fn check_math(hessian: &config::Hessian) -> Result<()> {
    let refused = match (hessian.math, hessian.backend, hessian.precision) {
        (config::Math::F32, _, _) => return Ok(()),
        (_, config::Backend::Flex, _) => {
            "flex multiplies in f32; other arithmetics are for GPUs (ndarray emulates them)"
        }
        (_, _, config::Precision::F64) => "it is about products in f32, and hessian.precision is \"f64\"",
        _ => return Ok(()),
    };
    let math = config::as_toml(&hessian.math);
    Err(Error::Environment(format!("hessian.math = {math}: {refused}; use \"f32\"")))
}
