//! What is asked for of each (block, probe) pair: steps, start vectors, weights.

use std::rc::Rc;

use super::complement::BlockComplement;
use super::operator::{Kind, Reduction};
use super::pass::Precision;
use super::prefix::PrefixBudget;
use super::sharded::Slice;
use crate::block::{Block, Layout};
use crate::cluster::Comm;
use crate::krylov::{self, Reorthogonalize, Schedule, SharedComplement, Short};
use crate::probe::{ProbeKind, probe};
use crate::spectrum::Weights;

/// One (block, probe) pair: the block's place among a run's blocks, and the number of the probe.
pub type Pair = (usize, u32);

/// What is computed.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Hessian or Gauss-Newton.
    pub kind: Kind,
    /// How micro-batches add up.
    pub reduction: Reduction,
    /// Lanczos steps m.
    pub steps: usize,
    /// Random start vectors of each block.
    pub probes: u32,
    /// Random start vectors of the block `full`.
    pub full_probes: u32,
    /// Their distribution.
    pub probe: ProbeKind,
    /// Seed of the probes.
    pub seed: u64,
    /// How the basis is kept orthogonal.
    pub reorthogonalize: Reorthogonalize,
    /// Whether V' H_s V is kept for each segment s of the data, from which errors of the data are computed. Needs an orthogonal
    /// basis.
    pub segment_matrices: bool,
    /// Which weights densities, distances and moments use.
    pub weights: Weights,
    /// With [`Weights::Deflated`]: what follows every (block, probe) pair's steps. Else unused.
    pub short: Short,
    /// Most (block, probe) pairs that share a sweep: the memory grows with it.
    pub slots: usize,
    /// Whether activations are computed again in the reverse pass, for problems with [`Stages`](super::Stages): a fraction
    /// of the memory, for a third (the whole network) to a half (one block) more time.
    pub recompute: bool,
    /// What may be kept of the activations below a group's blocks, for problems with [`Stages`](super::Stages).
    pub prefix: PrefixBudget,
}

impl Default for Settings {
    /// 100 steps, 4 probes (2 of the whole network), full reorthogonalisation, 8 slots, 1 GiB of activations.
    fn default() -> Self {
        Self {
            kind: Kind::Hessian,
            reduction: Reduction::Mean,
            steps: 100,
            probes: 4,
            full_probes: 2,
            probe: ProbeKind::Gaussian,
            seed: 1337,
            reorthogonalize: Reorthogonalize::Full,
            segment_matrices: true,
            weights: Weights::Raw,
            short: Short { starts: 20, steps: 5 },
            slots: 8,
            recompute: false,
            prefix: PrefixBudget { memory: 1 << 30, file: 0 },
        }
    }
}

impl Settings {
    /// Number of probes of a block.
    pub fn probes_of(&self, block: &Block) -> u32 {
        if block.is_full() { self.full_probes } else { self.probes }
    }

    /// The short recursions that are asked for.
    pub fn short(&self) -> Option<Short> {
        (self.weights == Weights::Deflated).then_some(self.short)
    }

    /// The steps of each of a block's probes, for a block of dimension `dim`.
    pub fn schedule(&self, dim: usize) -> Schedule {
        Schedule::new(dim, self.steps, self.short())
    }
}

/// This rank's slice of the start vector of a (block, probe) pair, not yet normalised.
pub fn start<T: Precision>(block: &Block, layout: &Layout, number: u32, settings: &Settings, comm: &Comm) -> Slice<T> {
    let len = block.num_params(layout);
    let entries = probe(settings.probe, settings.seed, &block.name, number, comm.shard(len).range());
    Slice { values: entries.into_iter().map(T::from_f64).collect(), len }
}

/// What Lanczos is asked to do for a (block, probe) pair.
pub fn slot_settings(block: &Block, probe: u32, eta: f64, segments: usize, settings: &Settings) -> krylov::Settings {
    let keeps = settings.segment_matrices && settings.reorthogonalize == Reorthogonalize::Full;
    krylov::Settings {
        label: format!("block `{}`, probe {probe}", block.name),
        steps: settings.steps,
        reorthogonalize: settings.reorthogonalize,
        eta,
        segments: if keeps { segments } else { 0 },
    }
}

/// Where the short recursions of a (block, probe) pair begin.
pub fn complement<'a, T: Precision>(
    block: &Block,
    layout: &Layout,
    probe: u32,
    eta: f64,
    settings: &'a Settings,
    comm: &'a Comm,
) -> SharedComplement<'a, Slice<T>> {
    Rc::new(BlockComplement::new(block, layout, probe, eta, settings, comm))
}
