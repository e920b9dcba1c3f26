//! How much memory a group of slots needs, and how much there is.
//!
//! The model, at its peak, which is where the reverse pass begins or where it ends: the parameters and their tangents; the
//! activations that the forward pass keeps, or the adjoints that take their place; the sums in f64; the Lanczos bases.
//! tests/memory/check.py holds it to 15 % of real runs.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::limits::Limits;
#[cfg(feature = "cuda")]
use crate::config::Backend;
use crate::config::Config;
use crate::hessian::Kind;
use crate::networks::{Profile, Recomputed};
use crate::{Error, Result};

/// Resident memory of a process that has done nothing yet.
const PROCESS: f64 = 60e6;
/// What an allocator that keeps all memory takes beyond what is in use at the peak (measured, tests/memory/check.py).
pub(super) const OVERHEAD: f64 = 1.08;
/// What an allocator takes so for vectors of what is tested and measured before the first group: f32 and f64 alternate, products and gradients,
/// and little of what one frees has the sizes that the next one asks for.
const OVERHEAD_BEFORE: f64 = 1.38;
/// What an accelerator's libraries and scratch memory take, logits of cross-entropy's chunks among it.
const CONTEXT: f64 = 1e9;
/// What CubeCL's pools take on an accelerator beyond what is in use: 1.03 measured (24.5 GB for GPT-2 124M with 4 windows and 4
/// slots), and some for the pages of larger tensors.
const OVERHEAD_ON_DEVICE: f64 = 1.15;
/// Matrices of the outputs' size that a Gauss-Newton product has at once, of the primal and of each slot: outputs, their logarithmic
/// softmax, adjoints of both, what the loss's curvature makes of the tangents, and the start of the reverse pass (measured,
/// tests/memory/check.py).
const OUTPUTS_OF_PRIMAL: f64 = 6.0;
const OUTPUTS_OF_SLOT: f64 = 3.0;
/// Matrices of (time, time) that attention has at once there, per component: weights, scores, and their adjoints.
const SCORES_AT_ONCE: f64 = 4.0;
/// Bytes of an f64.
const WIDE: f64 = size_of::<f64>() as f64;
/// Share of the free memory that a plan takes: the system and the reports need some.
const USABLE: f64 = 0.85;

/// Sizes from which memory is predicted.
#[derive(Debug, Clone)]
pub struct Memory {
    /// Bytes of a number.
    pub number: f64,
    /// Numbers that the forward pass of one prediction keeps, per component (primal, or one slot).
    pub per_prediction: f64,
    /// Numbers that one prediction keeps inside the stage that is computed again, if that is how it is: for every component, whatever its share.
    pub at_once: f64,
    /// Numbers of one prediction's outputs, where products form them as a whole.
    pub outputs: f64,
    /// Attention's weights of one layer, which accelerators form as matrices: numbers per prediction and component.
    pub scores: f64,
    /// Predictions of a micro-batch.
    pub predictions: f64,
    /// Parameters of the network.
    pub num_params: f64,
    /// Basis vectors that Lanczos keeps.
    pub basis: f64,
    /// Ranks that share them.
    pub ranks: f64,
    /// Bytes of an entry of the sum over the segments so far: none where there is one segment, whose sum it becomes.
    pub sum_so_far: f64,
}

/// What Lanczos takes beside the network.
#[derive(Debug, Clone, Copy)]
pub struct Lanczos {
    /// Bytes of a number.
    pub number: usize,
    /// Basis vectors that are kept.
    pub basis: usize,
    /// Ranks that share them.
    pub ranks: usize,
}

impl Memory {
    /// Memory of a network with `num_params` parameters, and so many predictions per micro-batch; `recompute`: of passes that compute
    /// their stages again, if the network has any; `kind`: of the products.
    pub fn of(
        profile: &Profile,
        num_params: usize,
        predictions: usize,
        recompute: bool,
        kind: Kind,
        lanczos: Lanczos,
    ) -> Self {
        let kept = Recomputed { kept: profile.kept, at_once: 0.0 };
        let Recomputed { kept, at_once } = profile.recomputed.filter(|_| recompute).unwrap_or(kept);
        let outputs = if kind == Kind::GaussNewton { profile.outputs } else { 0.0 };
        Self {
            number: lanczos.number as f64,
            per_prediction: kept,
            at_once,
            outputs,
            scores: profile.scores,
            predictions: predictions as f64,
            num_params: num_params as f64,
            basis: lanczos.basis as f64,
            ranks: lanczos.ranks as f64,
            sum_so_far: WIDE,
        }
    }

    /// Memory for a batch in one segment, whose sum is the total.
    pub fn of_one_segment(self) -> Self {
        Self { sum_so_far: 0.0, ..self }
    }

    /// Bytes of a group: each slot with its block's dimension and the share of the network above it.
    pub fn group(&self, slots: &[(f64, f64)]) -> f64 {
        let total = |of: &dyn Fn(f64, f64) -> f64| slots.iter().map(|(dim, share)| of(*dim, *share)).sum::<f64>();
        let highest = slots.iter().map(|(_, share)| *share).fold(0.0, f64::max);
        let components = highest + total(&|_, share| share);
        let at_once = self.at_once(slots.len());
        let activations = self.predictions * self.number * (components * self.per_prediction + at_once);
        let adjoints = total(&|dim, _| dim * self.number);
        // a slot's tangent and a segment's sum are whole on every rank; the sum so far, a product and the basis are cut
        let whole = total(&|dim, _| dim * (self.number + 8.0));
        let cut = total(&|dim, _| dim * (self.sum_so_far + self.number * (1.0 + self.basis.min(dim)))) / self.ranks;
        PROCESS + OVERHEAD * (self.num_params * self.number + activations.max(adjoints) + whole + cut)
    }

    /// Bytes of a training: the parameters as a vector and in the network, so many vectors that the optimizer keeps, the gradient on
    /// the network and as a vector, its sum, and what a pass keeps of the activations.
    pub fn training(&self, vectors: usize) -> f64 {
        let numbers = self.num_params * (4.0 + vectors as f64);
        let activations = self.predictions * (self.per_prediction + self.at_once(0));
        PROCESS + OVERHEAD * (self.number * (numbers + activations) + self.num_params * WIDE)
    }

    /// Numbers of one prediction that are there for a while only, with so many slots.
    fn at_once(&self, slots: usize) -> f64 {
        let slots = slots as f64;
        (1.0 + slots) * self.at_once + (OUTPUTS_OF_PRIMAL + OUTPUTS_OF_SLOT * slots) * self.outputs
    }

    /// Bytes of a group on an accelerator, which holds the network, its tangents, what a pass makes of them, and the sums; slots
    /// as for [`Memory::group`], but the dimension is that of all parameters that the block has a piece of.
    pub fn on_device(&self, slots: &[(f64, f64)]) -> f64 {
        let total = |of: &dyn Fn(f64, f64) -> f64| slots.iter().map(|(dim, share)| of(*dim, *share)).sum::<f64>();
        let highest = slots.iter().map(|(_, share)| *share).fold(0.0, f64::max);
        let components = highest + total(&|_, share| share);
        let at_once = self.at_once(slots.len());
        let activations =
            self.predictions * self.number * (components * self.per_prediction + at_once) + self.scores(slots.len());
        let dims = total(&|dim, _| dim);
        let held = self.num_params * self.number + activations.max(dims * self.number) + dims * (self.number + WIDE);
        CONTEXT + OVERHEAD_ON_DEVICE * held
    }

    /// Bytes of attention's matrices that an accelerator has at once, with so many slots.
    pub fn scores(&self, slots: usize) -> f64 {
        self.predictions * self.number * (1.0 + slots as f64) * SCORES_AT_ONCE * self.scores
    }

    /// Bytes of the same group on the host: weights, tangents and sums on their way, the sum so far, and the basis.
    pub fn beside_device(&self, slots: &[(f64, f64)]) -> f64 {
        Self { per_prediction: 0.0, at_once: 0.0, outputs: 0.0, ..self.clone() }.group(slots)
    }

    /// Bytes of products in f64 beside those in f32, on one rank; slots as for [`Memory::group`].
    pub fn errors(&self, slots: &[(f64, f64)]) -> f64 {
        let total = |of: &dyn Fn(f64, f64) -> f64| slots.iter().map(|(dim, share)| of(*dim, *share)).sum::<f64>();
        let highest = slots.iter().map(|(_, share)| *share).fold(0.0, f64::max);
        let dims = total(&|dim, _| dim);
        // v in both precisions, H v in f32, the tangent; then H v in f64 on the parameters and in vectors
        let (held, adjoints) = (dims * 2.0 * (self.number + WIDE), dims * 2.0 * WIDE);
        let components = (highest + total(&|_, share| share)) * self.per_prediction;
        let at_once = self.at_once(slots.len());
        self.before(held, components + at_once, adjoints)
    }

    /// Bytes of the central difference of a block's gradient in f64, which is where the self-tests take the most: on one rank,
    /// for a block of dimension `dim` below a share of the network; `largest`: entries of its largest parameter.
    pub fn self_test(&self, dim: f64, largest: f64, share: f64) -> f64 {
        // v and H v in all precisions, one gradient, the block's parameters moved along v; then the other gradient on the
        // parameters and in one vector, into which it goes parameter by parameter
        let held = 2.0 * dim * (self.precisions() + WIDE);
        self.before(held, share * self.per_prediction + self.at_once(0), WIDE * (2.0 * dim + largest))
    }

    /// Bytes of what is done in f64 before the first group: beside the models, vectors, and activations (numbers per prediction) or
    /// the adjoints that take their place.
    fn before(&self, held: f64, activations: f64, adjoints: f64) -> f64 {
        let activations = OVERHEAD * self.predictions * WIDE * activations;
        let models = OVERHEAD * self.num_params * self.precisions();
        PROCESS + models + OVERHEAD_BEFORE * held + activations.max(OVERHEAD_BEFORE * adjoints)
    }

    /// Bytes of a number in all precisions there are: a run in f32 has a reference in f64.
    fn precisions(&self) -> f64 {
        if self.number < WIDE { self.number + WIDE } else { WIDE }
    }
}

/// What a rank has to work with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resources {
    /// Ranks that share vectors and bases.
    pub ranks: usize,
    /// Bytes that this rank may take.
    pub budget: f64,
    /// Bytes that it may take on its accelerator, if that has memory of its own and says how much.
    pub device: Option<f64>,
}

impl Resources {
    /// Resources of one process by itself.
    pub fn alone(config: &Config) -> Result<Self> {
        Self::of(config, 1, 1)
    }

    /// Resources of each rank of this machine that `hesspec run` has without a launcher.
    pub fn here(config: &Config) -> Result<Self> {
        let ranks = config.run.ranks.unwrap_or(1);
        Self::of(config, ranks, ranks)
    }

    /// Resources of each of `ranks`, `here` of which share this machine: `hessian.memory`, or a share of what is free
    /// ([`Limits`]).
    pub fn of(config: &Config, ranks: usize, here: usize) -> Result<Self> {
        let budget = match &config.hessian.memory {
            Some(limit) => limit.get() as f64,
            None => USABLE * Limits::here()?.of_rank(here, config.run.ranks.unwrap_or(1)),
        };
        Ok(Self { ranks, budget, device: free_at_first(config).map(|free| USABLE * free) })
    }
}

/// [`free_on_device`] when it was first asked for: what this process took and freed since then stays in pools, for it to take again.
fn free_at_first(config: &Config) -> Option<f64> {
    static FIRST: Mutex<BTreeMap<usize, f64>> = Mutex::new(BTreeMap::new());
    let mut first = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
    let ordinal = config.hessian.device.unwrap_or(0);
    if config.hessian.backend.is_cpu() {
        return None;
    }
    if let Some(free) = first.get(&ordinal) {
        return Some(*free);
    }
    let free = free_on_device(config)?;
    first.insert(ordinal, free);
    Some(free)
}

/// Free bytes of the configuration's accelerator, if it is here, has memory of its own and says how much.
pub fn free_on_device(config: &Config) -> Option<f64> {
    #[cfg(feature = "cuda")]
    if config.hessian.backend == Backend::Cuda {
        return crate::engine::kernels::cuda::free_memory(config.hessian.device.unwrap_or(0)).ok();
    }
    let _ = config;
    None
}

/// `1.50 GB`: bytes in the largest unit that leaves a number from 1 on.
pub fn amount(bytes: f64) -> String {
    let units = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    match units.into_iter().find(|(_, size)| bytes >= *size) {
        Some((unit, size)) => format!("{:.2} {unit}", bytes / size),
        None => format!("{bytes:.0} B"),
    }
}

/// The message for what does not fit into an accelerator's memory.
pub fn does_not_fit_on_device(what: &str, needed: f64, budget: f64) -> Error {
    Error::Environment(format!(
        "{what} needs {} of the accelerator's memory, {} may be used. Take a smaller batch.micro_batch, hessian.recompute = true, \
         or leave the block out",
        amount(needed),
        amount(budget)
    ))
}

/// The message for what does not fit even with one slot.
pub fn does_not_fit(what: &str, needed: f64, budget: f64) -> Error {
    Error::Environment(format!(
        "{} needs {}, {} may be used. Take fewer lanczos.steps (the basis is steps x dimension), \
         a smaller batch.micro_batch, hessian.recompute = true, fewer eigenvectors where these are asked for (eigenvectors.count), leave \
         the block out, or raise hessian.memory",
        what,
        amount(needed),
        amount(budget)
    ))
}
