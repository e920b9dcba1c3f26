//! Which pairs share a sweep, and what that costs in work and memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::cost::{Cost, Kept};
use super::memory::{self, Memory, Resources};
use super::{Facts, Group, PlannedBlock, group_name, micro_batch, probes_of};
use crate::block::{Block, Layout};
use crate::config::{Config, Precision, PrefixCache};
use crate::hessian::Pair;
use crate::hessian::PrefixBudget;
use crate::krylov::Reorthogonalize;
use crate::{Result, job};

/// Most slots of a group: the primal's share of a slot is then an eighth.
const MOST_SLOTS: usize = 8;

/// The block of each slot.
fn blocks_of(pairs: &[Pair]) -> Vec<usize> {
    pairs.iter().map(|(at, _)| *at).collect()
}

/// What a plan is made with.
pub(super) struct Planner<'a> {
    pub(super) config: &'a Config,
    pub(super) layout: &'a Layout,
    pub(super) cost: Cost,
    pub(super) memory: Memory,
    pub(super) micro_batch: usize,
    pub(super) budget: f64,
    /// Bytes that may be taken on an accelerator, where there is one.
    pub(super) device: Option<f64>,
    /// Bytes of the activations that enter a branch, for the whole batch, if that is known.
    prefix_bytes: Option<f64>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        config: &'a Config,
        facts: &'a Facts,
        Resources { ranks, budget, device }: Resources,
    ) -> Result<Self> {
        let Facts { layout, blocks, profile, .. } = facts;
        let number = if config.hessian.precision == Precision::F64 { 8 } else { 4 };
        let basis = match config.lanczos.reorthogonalize {
            Reorthogonalize::Full => config.lanczos.steps + config.lanczos.short().map_or(1, |short| short.steps + 1),
            Reorthogonalize::None => 3,
        };
        let (predictions, num_params) = (config.network.unit().predictions, layout.num_params());
        let of = |samples| {
            let lanczos = memory::Lanczos { number, basis, ranks };
            let recompute = config.hessian.recompute;
            let memory =
                Memory::of(profile, num_params, samples * predictions, recompute, config.hessian.operator, lanczos);
            if config.batch.segments == Some(1) { memory.of_one_segment() } else { memory }
        };
        let mut micro_batch = micro_batch(config)?;
        let entry_bytes = profile.entry * number as f64;
        let prefix_bytes = config.num_predictions().map(|predictions| predictions as f64 * entry_bytes / ranks as f64);
        let (cost, memory) = (Cost::of(profile), of(micro_batch));
        let mut planner = Self { config, layout, cost, memory, micro_batch, budget, device, prefix_bytes };
        // a micro-batch that was not asked for shrinks until one slot of every block fits, in f64 as well
        let fits =
            |planner: &Self| blocks.iter().all(|block| planner.fits(&[block])) && planner.guard_bytes(blocks) <= budget;
        while config.batch.micro_batch.is_none() && micro_batch > 1 && !fits(&planner) {
            micro_batch /= 2;
            (planner.micro_batch, planner.memory) = (micro_batch, of(micro_batch));
        }
        Ok(planner)
    }

    pub(super) fn blocks(&self, blocks: &[Block]) -> Vec<PlannedBlock> {
        let planned = |block: &Block| {
            let num_params = block.num_params(self.layout);
            PlannedBlock {
                name: block.name.clone(),
                num_params,
                probes: probes_of(self.config, block),
                steps: job::schedule(self.config, num_params).products(),
                shares: self.cost.block(self.layout, block),
            }
        };
        blocks.iter().map(planned).collect()
    }

    /// Bytes of a group in this machine's memory; for an accelerator whose own memory is not known, in one with everything.
    pub(super) fn bytes(&self, slots: &[&Block]) -> f64 {
        let sizes = self.sizes_of(slots);
        let steps = match (self.device, self.config.hessian.backend.is_cpu()) {
            (Some(_), _) => self.memory.beside_device(&sizes),
            (None, true) => self.memory.group(&sizes),
            (None, false) => self.memory.group(&sizes) + self.memory.scores(slots.len()),
        };
        // what the steps have freed is in no piece for a file (measured: it comes on top)
        steps + slots.iter().map(|block| self.ending_bytes(block)).fold(0.0, f64::max)
    }

    /// Bytes of a block's file of eigenvectors, and of the vector that is on its way there: as it comes, and by parameter.
    fn ending_bytes(&self, block: &Block) -> f64 {
        let vector = block.num_params(self.layout) as f64 + self.touched(block);
        if self.config.eigenvectors.is_some() { self.file_bytes(block) + vector * self.memory.number } else { 0.0 }
    }

    /// Bytes of a block's file of eigenvectors, which has whole parameters and is put together on rank 0; 0 if none are wanted.
    pub(super) fn file_bytes(&self, block: &Block) -> f64 {
        let count = self.config.eigenvectors.map_or(0, |asked| asked.count.min(block.num_params(self.layout)));
        self.touched(block) * count as f64 * self.memory.number
    }

    /// Entries of all parameters that a block has a part of.
    fn touched(&self, block: &Block) -> f64 {
        block.parameters().iter().map(|&at| self.layout.parameters()[at].num_params() as f64).sum()
    }

    /// Bytes of a group on the accelerator, and those that may be taken.
    fn on_device(&self, slots: &[&Block]) -> Option<(f64, f64)> {
        let share = |(block, (_, share)): (&&Block, (f64, f64))| (self.touched(block), share);
        let sizes: Vec<_> = slots.iter().zip(self.sizes_of(slots)).map(share).collect();
        self.device.map(|budget| (self.memory.on_device(&sizes), budget))
    }

    fn fits(&self, slots: &[&Block]) -> bool {
        self.bytes(slots) <= self.budget && self.on_device(slots).is_none_or(|(bytes, budget)| bytes <= budget)
    }

    /// For each slot its block's dimension and the share of the network above it.
    fn sizes_of(&self, slots: &[&Block]) -> Vec<(f64, f64)> {
        let slot = |block: &&Block| {
            let shares = self.cost.block(self.layout, block);
            (block.num_params(self.layout) as f64, shares.weights + shares.attention)
        };
        slots.iter().map(slot).collect()
    }

    /// Bytes of the whole Lanczos bases of these slots, on all ranks together.
    pub(super) fn basis_bytes(&self, slots: &[&Block]) -> f64 {
        let dims = slots.iter().map(|block| block.num_params(self.layout) as f64);
        dims.map(|dim| self.memory.basis.min(dim) * dim * self.memory.number).sum()
    }

    /// The pairs that are not in `finished`, in groups.
    pub(super) fn groups(&self, blocks: &[Block], finished: &[Pair]) -> Vec<Group> {
        let of_block = |at: usize| (0..probes_of(self.config, &blocks[at])).map(move |probe| (at, probe));
        let pairs = (0..blocks.len()).flat_map(of_block).filter(|pair| !finished.contains(pair));
        // of thousands of probes most groups hold the same blocks
        let mut alike: HashMap<Vec<usize>, Group> = HashMap::new();
        let group = |pairs: Vec<Pair>| match alike.entry(blocks_of(&pairs)) {
            Entry::Occupied(known) => Group { name: group_name(pairs[0]), pairs, ..known.get().clone() },
            Entry::Vacant(new) => new.insert(self.group(blocks, pairs)).clone(),
        };
        self.packed(blocks, pairs, |slots| self.fits(slots)).into_iter().map(group).collect()
    }

    /// Pairs in their order, as many together as fit; the whole network by itself.
    fn packed(
        &self,
        blocks: &[Block],
        pairs: impl Iterator<Item = Pair>,
        fit: impl Fn(&[&Block]) -> bool,
    ) -> Vec<Vec<Pair>> {
        let most = self.config.hessian.slots.unwrap_or(MOST_SLOTS);
        let mut groups: Vec<Vec<Pair>> = Vec::new();
        let mut known: HashMap<Vec<usize>, bool> = HashMap::new();
        for pair in pairs {
            let is_full = |(at, _): Pair| blocks[at].is_full();
            let joins = groups.last().is_some_and(|group| {
                let mut together = blocks_of(group);
                together.push(pair.0);
                let fits = |at: &Vec<usize>| fit(&at.iter().map(|at| &blocks[*at]).collect::<Vec<_>>());
                let same_kind = is_full(group[0]) == is_full(pair);
                same_kind && group.len() < most && *known.entry(together).or_insert_with_key(fits)
            });
            match groups.last_mut().filter(|_| joins) {
                Some(group) => group.push(pair),
                None => groups.push(vec![pair]),
            }
        }
        groups
    }

    fn group(&self, blocks: &[Block], pairs: Vec<Pair>) -> Group {
        let slots: Vec<&Block> = pairs.iter().map(|(at, _)| &blocks[*at]).collect();
        let costs: Vec<_> = slots.iter().map(|block| (self.cost.block(self.layout, block), block.is_full())).collect();
        let memory_bytes = self.bytes(&slots);
        let device_bytes = self.on_device(&slots).map(|(bytes, _)| bytes);
        let prefix = self.keeps_prefix(memory_bytes);
        let forward_passes = self.cost.sweep(&costs, Kept { prefix, recompute: self.config.hessian.recompute });
        Group { name: group_name(pairs[0]), forward_passes, memory_bytes, device_bytes, prefix, pairs }
    }

    /// Blocks whose products are measured against f64 together: one vector each, as many as fit.
    pub(super) fn error_groups(&self, blocks: &[Block]) -> Vec<Vec<usize>> {
        let pairs = (0..blocks.len()).map(|at| (at, 0));
        let fit = |slots: &[&Block]| match self.config.hessian.backend.is_cpu() {
            true => self.memory.errors(&self.sizes_of(slots)) <= self.budget,
            false => self.fits(slots),
        };
        let groups = self.packed(blocks, pairs, fit);
        groups.into_iter().map(|pairs| pairs.into_iter().map(|(at, _)| at).collect()).collect()
    }

    /// Predicted peak of the products that are measured against f64. None where there is no such reference: a product is then
    /// measured against itself, in the memory of its group.
    fn error_bytes(&self, blocks: &[Block]) -> f64 {
        if self.config.hessian.precision == Precision::F64 || !self.config.hessian.backend.is_cpu() {
            return 0.0;
        }
        let slots = |group: &Vec<usize>| group.iter().map(|at| &blocks[*at]).collect::<Vec<_>>();
        let bytes = |group: &Vec<usize>| self.memory.errors(&self.sizes_of(&slots(group)));
        self.error_groups(blocks).iter().map(bytes).fold(0.0, f64::max)
    }

    /// Predicted peak of the self-tests, which take the first block (a later one if its Hessian vanishes).
    fn self_test_bytes(&self, blocks: &[Block]) -> f64 {
        let Some(block) = blocks.first().filter(|_| self.config.hessian.backend.is_cpu()) else { return 0.0 };
        let parameters = block.pieces.iter().map(|piece| self.layout.parameters()[piece.parameter].num_params());
        let largest = parameters.max().unwrap_or(0) as f64;
        let (dim, share) = self.sizes_of(&[block])[0];
        self.memory.self_test(dim, largest, share)
    }

    /// Predicted peak of what is tested and measured before the first group.
    pub(super) fn guard_bytes(&self, blocks: &[Block]) -> f64 {
        self.error_bytes(blocks).max(self.self_test_bytes(blocks))
    }

    /// Whether the activations that enter a branch fit beside a group, for all of the batch.
    fn keeps_prefix(&self, group_bytes: f64) -> bool {
        match self.config.hessian.prefix_cache {
            PrefixCache::Off => false,
            PrefixCache::File => true,
            PrefixCache::Memory => {
                self.prefix_bytes.is_some_and(|prefix| prefix <= (self.budget - group_bytes).max(0.0))
            }
        }
    }

    /// What a group may keep of the activations below its blocks.
    pub(super) fn prefix_budget(&self, slots: &[&Block]) -> PrefixBudget {
        let memory = (self.budget - self.bytes(slots)).max(0.0) as usize;
        match self.config.hessian.prefix_cache {
            PrefixCache::Off => PrefixBudget::NONE,
            PrefixCache::Memory => PrefixBudget { memory, file: 0 },
            PrefixCache::File => PrefixBudget { memory, file: usize::MAX },
        }
    }
}
