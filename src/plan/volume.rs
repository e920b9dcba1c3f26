//! What a run moves: bytes between ranks, and to and from storage.

use serde::Serialize;

use super::{Group, Plan, Planner};
use crate::block::Block;
use crate::config::Basis;
use crate::hessian::Pair;
use crate::job;
use crate::krylov::Reorthogonalize;

/// What goes to storage and comes from it, bytes; to a factor of two.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Storage {
    /// All tables, and files of eigenvectors.
    pub tables_bytes: f64,
    /// Checkpoints that lie there at the same time, at most.
    pub checkpoint_peak_bytes: f64,
    /// Checkpoints written in all.
    pub checkpoint_written_bytes: f64,
    /// Tokens read, all sweeps and ranks together.
    pub tokens_read_bytes: f64,
}

/// Compressed bytes of one entry of a segment matrix, of one node and of one distance, as measured on real runs.
const PER_SEGMENT_ENTRY: f64 = 9.0;
const PER_NODE: f64 = 40.0;
const PER_DISTANCE: f64 = 40.0;
/// Compressed bytes of a density, at the default width.
const PER_DENSITY: f64 = 25e3;
/// Distances between two blocks: metrics and their variants.
const DISTANCES: f64 = 7.0;

impl Planner<'_> {
    fn products(&self, block: &Block) -> f64 {
        job::schedule(self.config, block.num_params(self.layout)).products() as f64
    }

    fn steps(&self, block: &Block) -> f64 {
        self.config.lanczos.steps.min(block.num_params(self.layout)) as f64
    }

    fn segments(&self, plan: &Plan) -> f64 {
        let samples = plan.tokens.unwrap_or(0) / plan.unit.predictions;
        self.config.batch.segments.unwrap_or(super::scale::SEGMENTS.min(samples)) as f64
    }

    /// ARCHITECTURE.md, "What a step exchanges": vectors gathered, sums scattered.
    pub(super) fn exchange_bytes(&self, blocks: &[Block], plan: &Plan) -> f64 {
        let ranks = self.memory.ranks as usize;
        if ranks == 1 {
            return 0.0;
        }
        let per_entry = self.memory.number + 8.0 * self.segments(plan);
        let of_pair = |(at, _): &Pair| {
            let block = &blocks[*at];
            let padded = block.num_params(self.layout).div_ceil(ranks) * ranks;
            self.products(block) * padded as f64 * per_entry
        };
        let runs = plan.convergence.as_ref().map_or(1.0, |study| study.batches.len() as f64);
        runs * plan.groups.iter().flat_map(|group| &group.pairs).map(of_pair).sum::<f64>()
    }

    pub(super) fn storage(&self, blocks: &[Block], plan: &Plan, hours: f64) -> Storage {
        let with_segments = self.config.lanczos.reorthogonalize == Reorthogonalize::Full;
        let segments = if with_segments { self.segments(plan) } else { 0.0 };
        let of_pair = |(at, _): &Pair| {
            let steps = self.steps(&blocks[*at]);
            PER_SEGMENT_ENTRY * segments * steps * (steps + 1.0) / 2.0 + PER_NODE * steps
        };
        let pairs = || plan.groups.iter().flat_map(|group| &group.pairs);
        let count = blocks.len() as f64;
        let files: f64 = blocks.iter().map(|block| self.file_bytes(block)).sum();
        let distances = PER_DISTANCE * DISTANCES * count * (count + 1.0) / 2.0;
        let (basis, sums): (Vec<f64>, Vec<f64>) =
            plan.groups.iter().map(|group| self.checkpoint(blocks, group)).unzip();
        let peak = basis.iter().zip(&sums).map(|(basis, sums)| basis + sums).fold(0.0, f64::max);
        let saves = hours * 3600.0 / (self.config.checkpoint.every.duration().as_secs().max(1) as f64);
        let largest_sums = sums.iter().copied().fold(0.0, f64::max);
        let study = plan.convergence.as_ref();
        let (runs, batches) = study.map_or((1.0, 1.0), |study| (study.batches.len() as f64, study.times_largest));
        Storage {
            tables_bytes: runs * (pairs().map(of_pair).sum::<f64>() + PER_DENSITY * count + distances + files),
            checkpoint_peak_bytes: peak,
            checkpoint_written_bytes: runs * basis.iter().sum::<f64>() + saves * largest_sums,
            tokens_read_bytes: 2.0 * batches * plan.tokens.unwrap_or(0) as f64 * plan.num_sweeps() as f64,
        }
    }

    /// Bytes of a group's checkpoints: its basis at the end, and the sums of one sweep in f64.
    fn checkpoint(&self, blocks: &[Block], group: &Group) -> (f64, f64) {
        if self.config.checkpoint.basis == Basis::None {
            return (0.0, 0.0);
        }
        let slots = self.slots(blocks, &group.pairs);
        let dims: f64 = slots.iter().map(|block| block.num_params(self.layout) as f64).sum();
        (self.basis_bytes(&slots), 8.0 * dims)
    }
}
