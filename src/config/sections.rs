//! The tables that every run has, with every key and its default; `[model.*]`, `[data.*]` and `[blocks]` have their own files.

use serde::{Deserialize, Serialize};

use crate::data::Order;
use crate::datasets::Unit;
use crate::document::{Bytes, Interval};
use crate::engine::Arithmetic;
use crate::hessian::{Kind, Reduction};
use crate::krylov::{Reorthogonalize, Short};
use crate::probe::ProbeKind;
use crate::shown::Url;
use crate::spectrum::{METRICS, Metric, Weights};

/// `[run]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// Partition key of every table. Default: the configuration file's stem.
    pub name: String,
    /// Seed of initialisation and probes. Default: 1337.
    pub seed: u64,
    /// Number of CPU threads. Default: all cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Ranks of one process, each with its share of the threads; on CPUs, without a launcher. More ranks of fewer threads use
    /// the cores better and take more memory. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<usize>,
}

/// `[batch]`: which samples of the data (windows of tokens, images) make up the loss.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Batch {
    /// Number of predicted tokens, a multiple of the context, for data that consists of tokens. Default: all that it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// Number of samples, for all other data. Default: all that it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Position of the first sample: its number, or the first token of the first window. Default: 0.
    pub start: usize,
    /// Distance between the positions of two samples. Default: 1, for windows of tokens the context.
    pub stride: usize,
    /// Which samples come first. Default: sequential.
    pub order: Order,
    /// Seed of `order = "permuted"`. Default: `run.seed`.
    pub seed: u64,
    /// Samples per micro-batch. Default: chosen by the plan; with `reduction = "sum"`, whose scale depends on it, the paper's 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Number of segments. Default: 8, or the number of samples where that is smaller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segments: Option<usize>,
}

impl Batch {
    /// Number of predictions, under either spelling; `None`: all that the data has.
    pub fn num_predictions(&self) -> Option<usize> {
        self.tokens.or(self.samples)
    }

    /// Sets it, in the spelling that belongs to the data.
    pub fn set_num_predictions(&mut self, unit: Unit, num_predictions: Option<usize>) {
        (self.tokens, self.samples) = match unit.prediction {
            "token" => (num_predictions, None),
            _ => (None, num_predictions),
        };
    }
}

/// `[hessian]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hessian {
    /// Which symmetric operator. Default: the Hessian.
    pub operator: Kind,
    /// How micro-batches add up. Default: mean.
    pub reduction: Reduction,
    /// Floating-point type of the whole computation. Default: f32.
    pub precision: Precision,
    /// Arithmetic of matrix products on GPUs. Default: f32.
    pub math: Arithmetic,
    /// burn backend. Default: flex.
    pub backend: Backend,
    /// Whether a GPU's elementwise operations are fused. Default: true.
    pub fusion: bool,
    /// The GPU, an ordinal among the visible ones. Default: the rank's number on its machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<usize>,
    /// Most slots, (block, probe) pairs, of one sweep. Default: as many as the memory allows, chosen by the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<usize>,
    /// Memory the plan may use on each rank, like "8GB". Default: what the machine has free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Whether a long run first tries a few sizes of micro-batch and numbers of slots, where these are not given. Default: true.
    pub autotune: bool,
    /// Whether activations inside the layers are computed again in the reverse pass instead of kept: a fraction of the
    /// memory, for a third (the whole network) to a half (one block) more time. Default: false.
    pub recompute: bool,
    /// Where the activations below a group's blocks are kept between its sweeps. Default: memory.
    pub prefix_cache: PrefixCache,
}

impl Default for Hessian {
    fn default() -> Self {
        Self {
            operator: Kind::Hessian,
            reduction: Reduction::Mean,
            precision: Precision::F32,
            math: Arithmetic::F32,
            backend: Backend::Flex,
            fusion: true,
            device: None,
            slots: None,
            memory: None,
            autotune: true,
            recompute: false,
            prefix_cache: PrefixCache::Memory,
        }
    }
}

/// Floating-point type of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// IEEE single precision, sums and scalars in f64.
    F32,
    /// Everything in f64: verification.
    F64,
}

/// Where activations that every sweep of a group needs are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrefixCache {
    /// In what the groups leave of the memory; what does not fit is computed again.
    Memory,
    /// In memory, and what does not fit there in an unnamed file in the directory for temporary files ($TMPDIR).
    File,
    /// Nowhere: every sweep starts at the tokens.
    Off,
}

/// burn backends a build may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// burn-flex: CPU, fused kernels.
    Flex,
    /// burn-ndarray: CPU, reference.
    Ndarray,
    /// burn-cuda.
    Cuda,
    /// burn-wgpu.
    Wgpu,
}

impl Backend {
    /// Whether it computes on the processor: with f64 beside f32, and on cores that ranks of one process can share.
    pub fn is_cpu(self) -> bool {
        matches!(self, Self::Flex | Self::Ndarray)
    }
}

/// `[lanczos]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lanczos {
    /// Steps m of every recursion. Default: 100, the paper.
    pub steps: usize,
    /// Probes of each block. Default: 4; the paper: 10.
    pub probes: usize,
    /// Probes of the whole network. Default: 2; the paper: 10.
    pub full_probes: usize,
    /// Distribution of the probes. Default: Gaussian (paper, C.1).
    pub probe: ProbeKind,
    /// Default: full; without it a converged eigenvalue shows up several times.
    pub reorthogonalize: Reorthogonalize,
    /// Quadrature weights that densities and distances use. Default: raw.
    pub weights: Weights,
    /// With deflated weights: start vectors of short recursions after each probe's steps. Default: 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short_starts: Option<usize>,
    /// Steps from each of the short recursions' start vectors. Default: 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short_steps: Option<usize>,
}

impl Default for Lanczos {
    fn default() -> Self {
        Self {
            steps: 100,
            probes: 4,
            full_probes: 2,
            probe: ProbeKind::Gaussian,
            reorthogonalize: Reorthogonalize::Full,
            weights: Weights::Raw,
            short_starts: None,
            short_steps: None,
        }
    }
}

impl Lanczos {
    /// Fills in what depends on other keys.
    pub fn resolved(self) -> Self {
        if self.weights != Weights::Deflated {
            return self;
        }
        let (starts, steps) = (self.short_starts.unwrap_or(20), self.short_steps.unwrap_or(5));
        Self { short_starts: Some(starts), short_steps: Some(steps), ..self }
    }

    /// Start vectors and steps of the short recursions, of a resolved configuration.
    pub fn short(&self) -> Option<Short> {
        let pair = self.short_starts.zip(self.short_steps).filter(|_| self.weights == Weights::Deflated);
        pair.map(|(starts, steps)| Short { starts, steps })
    }
}

/// `[density]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Density {
    /// Width of the Gaussian on every node. Default: relative 1/(m - 1)/sqrt(8 ln 3).
    pub sigma: Sigma,
    /// Coordinate in which sigma is constant. Default: asinh.
    pub axis: Axis,
    /// lambda_c of the asinh axis. Default: the finest that the run resolves, at least 10 x the largest noise floor and 1e-4 x the
    /// largest |node|.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub axis_scale: Option<f64>,
}

/// Width of the Gaussian on every node.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sigma {
    /// Share of the common axis, in its own coordinate.
    Relative(f64),
    /// In units of the coordinate.
    Absolute(f64),
}

/// Coordinate of a density.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// asinh(lambda / lambda_c).
    #[default]
    Asinh,
    /// lambda.
    Linear,
}

/// `[distance]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Distance {
    /// Default: all, what is resolved best first.
    pub metrics: Vec<Metric>,
    /// Grid of `symkl_paper`. Default: 500,000.
    pub grid_points: usize,
}

impl Default for Distance {
    fn default() -> Self {
        Self { metrics: METRICS.to_vec(), grid_points: 500_000 }
    }
}

/// `[checkpoint]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpoint {
    /// Also within a sweep. Default: "10m".
    pub every: Interval,
    /// Default: keep.
    pub basis: Basis,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { every: Interval::minutes(10), basis: Basis::Keep }
    }
}

/// What is kept of the Lanczos basis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// A group continues where it stopped.
    Keep,
    /// A group restarts.
    None,
}

/// `[output]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Output {
    /// Path, or URL of any object store. Default: "results".
    pub url: Url,
}

impl Default for Output {
    fn default() -> Self {
        Self { url: "results".into() }
    }
}
