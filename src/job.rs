//! From configuration to computation: the network with its weights on the batch, on the backend asked for.
//!
//! Owns the one place where a backend and a precision become types ([`dispatch`]); everything after it is generic.

use burn_backend::tensor::Device;

use crate::block::{Block, Layout, Piece};
use crate::cluster::Comm;
use crate::config::{self, Config};
use crate::datasets::RunData;
use crate::document::nearest;
use crate::engine::{Arithmetic, Kernels};
use crate::hessian::{BlockOperator, Precision, PrefixBudget, Settings};
use crate::krylov::Schedule;
use crate::models::own::own;
use crate::models::{Partition, partition, weights};
use crate::networks::{Instance, Opening, Opens, Source};
use crate::worker::Work;
use crate::{Error, Result};

/// Everything that a sweep needs, on a backend `K` in a precision `T`.
pub struct Job<K: Kernels, T: Precision> {
    /// The configuration it was made from.
    pub config: Config,
    /// The network's parameters.
    pub layout: Layout,
    /// The blocks asked for, `full` last.
    pub blocks: Vec<Block>,
    instance: Box<dyn Instance<K, T>>,
}

impl<K: Kernels, T: Precision> Job<K, T> {
    /// The operator over the whole batch, with no slots yet.
    pub fn operator<'a>(&'a self, comm: &'a Comm) -> BlockOperator<'a, K, T> {
        let mut operator = BlockOperator::of(self.instance.passes(), comm);
        let hessian = &self.config.hessian;
        (operator.kind, operator.reduction, operator.recompute) =
            (hessian.operator, hessian.reduction, hessian.recompute);
        operator
    }

    /// What groups are made of, on these ranks.
    pub fn work<'a>(&'a self, comm: &'a Comm, settings: &'a Settings) -> Work<'a, K, T> {
        Work { operator: self.operator(comm), blocks: &self.blocks, settings, starts: None }
    }

    /// The batch.
    pub fn data(&self) -> &dyn RunData {
        self.instance.data()
    }

    /// The network on the batch.
    pub fn instance(&self) -> &dyn Instance<K, T> {
        &*self.instance
    }

    /// SHA-256 of the names and values of all parameters.
    pub fn weights_sha256(&self) -> String {
        self.instance.weights_sha256()
    }

    /// Reads weights and opens data. `micro_batch` is the number of samples per pass.
    ///
    /// # Errors
    /// Those of the data and of the weights.
    pub fn open(config: &Config, on: &On<'_, K, T>, micro_batch: usize) -> Result<Self> {
        Self::opened(config, on, micro_batch, Source::Data(config.choice()), config.batch.segments)
    }

    /// The configuration's network with random weights on `num_samples` made-up samples: for plans and timings. These carry no sampling
    /// error: one segment, so that micro-batches are as large as asked for.
    ///
    /// # Errors
    /// Those of the network.
    pub fn synthetic(config: &Config, on: &On<'_, K, T>, micro_batch: usize, num_samples: usize) -> Result<Self> {
        Self::opened(config, on, micro_batch, Source::Synthetic(num_samples), Some(1))
    }

    fn opened(
        config: &Config,
        on: &On<'_, K, T>,
        micro_batch: usize,
        samples: Source,
        segments: Option<usize>,
    ) -> Result<Self> {
        let opening = Opening { seed: config.run.seed, samples, micro_batch, segments, cut: config.cut() };
        let instance = on.network.open(&opening, &on.device)?;
        let layout = config.network.layout()?;
        let blocks = blocks(config, &layout)?;
        Ok(Self { config: config.clone(), layout, blocks, instance })
    }
}

/// What `[hessian]` and `[lanczos]` say, as the library takes it.
pub fn settings(config: &Config) -> Settings {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (hessian, lanczos, default) = (&config.hessian, &config.lanczos, Settings::default());
    Settings {
        kind: hessian.operator,
        reduction: hessian.reduction,
        recompute: hessian.recompute,
        slots: hessian.slots.unwrap_or(default.slots),
        steps: lanczos.steps,
        probes: count(lanczos.probes),
        full_probes: count(lanczos.full_probes),
        probe: lanczos.probe,
        seed: config.run.seed,
        reorthogonalize: lanczos.reorthogonalize,
        segment_matrices: true,
        weights: lanczos.weights,
        short: lanczos.short().unwrap_or(default.short),
        prefix: PrefixBudget::NONE, // the plan's business
    }
}

/// The steps of each probe of a block of dimension `dim`.
pub fn schedule(config: &Config, dim: usize) -> Schedule {
    Schedule::new(dim, config.lanczos.steps, config.lanczos.short())
}

/// All blocks of the configured partition, in network order, and those of the user's own.
pub fn all_blocks(config: &Config, layout: &Layout) -> Result<Vec<Block>> {
    let mut blocks = partitioned(config, layout)?;
    blocks.extend(own_blocks(config, layout, &blocks)?);
    Ok(blocks)
}

/// All blocks of the configured partition, in network order.
pub fn partitioned(config: &Config, layout: &Layout) -> Result<Vec<Block>> {
    partition(layout, &config.network.structure(), config.blocks.partition)
}

/// The blocks that a configuration asks for, in network order, then those of the user's own, `full` last.
pub fn blocks(config: &Config, layout: &Layout) -> Result<Vec<Block>> {
    let all = partitioned(config, layout)?;
    let names: Vec<&str> = all.iter().map(|block| block.name.as_str()).collect();
    let chosen = config.blocks.filter()?.select(&names)?;
    let mut blocks: Vec<Block> = chosen.into_iter().map(|at| all[at].clone()).collect();
    blocks.extend(own_blocks(config, layout, &all)?);
    if config.blocks.full {
        blocks.push(layout.full());
    }
    Ok(blocks)
}

/// The blocks of the user's own; `others`: those of the partition.
fn own_blocks(config: &Config, layout: &Layout, others: &[Block]) -> Result<Vec<Block>> {
    if config.blocks.own.is_empty() {
        return Ok(Vec::new());
    }
    let parts = partition(layout, &config.network.structure(), Partition::Parameter)?;
    let names: Vec<&str> = parts.iter().map(|block| block.name.as_str()).collect();
    let block = |asked: &config::OwnBlock| {
        if others.iter().any(|other| other.name == asked.name) {
            let name = &asked.name;
            return Err(Error::Config(format!("blocks.own: the partition has a block `{name}`; choose another name")));
        }
        let included = asked.filter()?.select(&names)?;
        let mut pieces: Vec<Piece> = included.into_iter().flat_map(|at| parts[at].pieces.clone()).collect();
        for range in &asked.ranges {
            pieces.push(piece(layout, range)?);
        }
        own(layout, &asked.name, pieces)
    };
    config.blocks.own.iter().map(block).collect()
}

/// A range of a parameter that is there.
fn piece(layout: &Layout, range: &config::OwnRange) -> Result<Piece> {
    let config::OwnRange { parameter, axis, start, end } = range;
    let refused = |problem: String| Error::Config(format!("blocks.own.ranges: parameter {parameter:?} {problem}"));
    let at = layout.find(parameter).ok_or_else(|| {
        let names: Vec<&str> = layout.parameters().iter().map(|parameter| parameter.name.as_str()).collect();
        let hint = nearest(parameter, &names).map_or(String::new(), |name| format!("; did you mean `{name}`?"));
        refused(format!("is not one of this network{hint}"))
    })?;
    let shape = &layout.parameters()[at].shape;
    match shape.get(*axis) {
        Some(len) if start < end && end <= len => Ok(Piece::cut(at, *axis, *start..*end)),
        Some(len) => {
            Err(refused(format!("has the indices 0 to {len} (excluded) along axis {axis}, found {start} to {end}")))
        }
        None => Err(refused(format!("of shape {shape:?} has no axis {axis}"))),
    }
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

/// Something to do once backend and precision are types.
pub trait Task {
    /// What comes out.
    type Output;
    /// Does it.
    fn run<K: Kernels, T: Precision>(self, config: &Config, on: On<'_, K, T>) -> Result<Self::Output>;
}

/// The configuration's network, and the device that it is to be opened on.
pub struct On<'a, K: Kernels, T: Precision> {
    /// The network.
    pub network: &'a dyn Opens<K, T>,
    /// The device.
    pub device: Device<K>,
}

/// The batch's number of samples, if this build has the backend, the data the batch, and the weights the network's parameters.
/// Nothing is computed, and no weights' numbers are read.
///
/// # Errors
/// Those of [`dispatch`], of opening tokens, and of [`weights::check`].
pub fn preflight(config: &Config) -> Result<usize> {
    struct Nothing;
    impl Task for Nothing {
        type Output = ();
        fn run<K: Kernels, T: Precision>(self, _config: &Config, _on: On<'_, K, T>) -> Result<()> {
            Ok(())
        }
    }
    dispatch(config, Nothing)?;
    let network = &config.network;
    let num_samples = network.num_samples(&config.choice())?;
    if let Some(source) = network.weights() {
        weights::check(&network.stored()?, network.names(), source)?;
    }
    Ok(num_samples)
}

/// Runs a task on the configured backend in the configured precision.
///
/// # Errors
/// [`Error::Environment`] for a backend that this build does not have, or a precision or math mode that it cannot do.
pub fn dispatch<A: Task>(config: &Config, task: A) -> Result<A::Output> {
    check_math(&config.hessian)?;
    config.hessian.math.scope(|| on_backend(config, task))
}

fn on_backend<A: Task>(config: &Config, task: A) -> Result<A::Output> {
    let (hessian, network) = (&config.hessian, &*config.network.0);
    match (hessian.backend, hessian.precision) {
        (config::Backend::Flex, config::Precision::F32) => {
            on::<burn_flex::Flex, f32, A>(config, network, Default::default(), task)
        }
        (config::Backend::Flex, config::Precision::F64) => {
            on::<burn_flex::Flex, f64, A>(config, network, Default::default(), task)
        }
        #[cfg(feature = "ndarray")]
        (config::Backend::Ndarray, config::Precision::F32) => {
            on::<burn_ndarray::NdArray<f32>, f32, A>(config, network, Default::default(), task)
        }
        #[cfg(feature = "ndarray")]
        (config::Backend::Ndarray, config::Precision::F64) => {
            on::<burn_ndarray::NdArray<f64>, f64, A>(config, network, Default::default(), task)
        }
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        (config::Backend::Cuda | config::Backend::Wgpu, config::Precision::F64) => Err(Error::Environment(
            "hessian.precision = \"f64\": verification in f64 runs on the backends \"flex\" and \"ndarray\"".into(),
        )),
        #[cfg(feature = "cuda")]
        (config::Backend::Cuda, config::Precision::F32) => {
            let ordinal = hessian.device.unwrap_or(0);
            let refused = |why| Error::Environment(format!("hessian.backend = \"cuda\": {why}"));
            crate::engine::kernels::cuda::usable(ordinal).map_err(refused)?;
            let device = burn_cuda::CudaDevice::new(ordinal);
            match hessian.fusion {
                true => on::<burn_cuda::Cuda, f32, A>(config, network, device, task),
                false => on::<crate::engine::kernels::CudaUnfused, f32, A>(config, network, device, task),
            }
        }
        #[cfg(feature = "wgpu")]
        (config::Backend::Wgpu, config::Precision::F32) => match hessian.fusion {
            true => on::<burn_wgpu::Wgpu, f32, A>(config, network, Default::default(), task),
            false => on::<crate::engine::kernels::WgpuUnfused, f32, A>(config, network, Default::default(), task),
        },
        #[allow(unreachable_patterns)] // all of them are built with all features
        (other, _) => {
            let name = config::as_toml(&other);
            Err(Error::Environment(format!(
                "hessian.backend = {name}: this build does not have it; build with `cargo build --release --features {}`, or use \"flex\"",
                name.trim_matches('"')
            )))
        }
    }
}

fn on<K: Kernels, T: Precision, A: Task>(
    config: &Config,
    network: &dyn Opens<K, T>,
    device: Device<K>,
    task: A,
) -> Result<A::Output> {
    task.run(config, On { network, device })
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

fn check_math(hessian: &config::Hessian) -> Result<()> {
    let refused = match (hessian.math, hessian.backend, hessian.precision) {
        (Arithmetic::F32, _, _) => return Ok(()),
        (_, config::Backend::Flex, _) => {
            "flex multiplies in f32; other arithmetics are for GPUs (ndarray emulates them)"
        }
        (_, _, config::Precision::F64) => "it is about products in f32, and hessian.precision is \"f64\"",
        _ => return Ok(()),
    };
    let math = config::as_toml(&hessian.math);
    Err(Error::Environment(format!("hessian.math = {math}: {refused}; use \"f32\"")))
}
