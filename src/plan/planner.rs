//! Which pairs share a sweep, and what that costs in work and memory.

use super::cost::{Cost, Kept};
use super::memory::{Memory, Resources};
use super::{Group, Pair, PlannedBlock, micro_batch, probes_of};
use crate::block::{Block, Layout};
use crate::config::{Config, Precision, PrefixCache, Reorthogonalize};
use crate::hessian::PrefixBudget;
use crate::models::Gpt2Config;
use crate::{Result, data, job};

/// Most slots of a group: the primal's share of a slot is then an eighth.
const MOST_SLOTS: usize = 8;

/// What a plan is made with.
pub(super) struct Planner<'a> {
    pub(super) config: &'a Config,
    pub(super) sizes: &'a Gpt2Config,
    pub(super) layout: &'a Layout,
    pub(super) cost: Cost,
    pub(super) memory: Memory,
    pub(super) micro_batch: usize,
    pub(super) budget: f64,
    /// Bytes of the activations that enter a branch, for the whole batch, if that is known.
    prefix_bytes: Option<f64>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        config: &'a Config,
        sizes: &'a Gpt2Config,
        layout: &'a Layout,
        blocks: &[Block],
        Resources { ranks, budget }: Resources,
    ) -> Result<Self> {
        let number = if config.hessian.precision == Precision::F64 { 8 } else { 4 };
        let basis = match config.lanczos.reorthogonalize {
            Reorthogonalize::Full => config.lanczos.steps + config.lanczos.short().map_or(1, |(_, steps)| steps + 1),
            Reorthogonalize::None => 3,
        };
        let of = |windows| match (Memory::of(sizes, windows, number, basis, ranks), config.hessian.recompute) {
            (memory, true) => memory.recomputed(sizes),
            (memory, false) => memory,
        };
        let mut micro_batch = micro_batch(config)?;
        let windows = data::num_windows(&config.batch, sizes.context);
        let prefix_bytes =
            windows.map(|windows| (windows * sizes.context * sizes.embedding * number) as f64 / ranks as f64);
        let (cost, memory) = (Cost::of(sizes), of(micro_batch));
        let mut planner = Self { config, sizes, layout, cost, memory, micro_batch, budget, prefix_bytes };
        // a micro-batch that was not asked for shrinks until one slot of every block fits, in f64 as well
        let fits = |planner: &Self| {
            blocks.iter().all(|block| planner.bytes(&[block]) <= budget) && planner.error_bytes(blocks) <= budget
        };
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

    pub(super) fn bytes(&self, slots: &[&Block]) -> f64 {
        let slot = |block: &&Block| {
            let shares = self.cost.block(self.layout, block);
            (block.num_params(self.layout) as f64, shares.weights + shares.attention)
        };
        self.memory.group(&slots.iter().map(slot).collect::<Vec<_>>())
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
        self.packed(blocks, pairs).into_iter().map(|pairs| self.group(blocks, pairs)).collect()
    }

    /// Pairs in their order, as many together as fit; the whole network by itself.
    pub(super) fn packed(&self, blocks: &[Block], pairs: impl Iterator<Item = Pair>) -> Vec<Vec<Pair>> {
        let most = self.config.hessian.slots.unwrap_or(MOST_SLOTS);
        let mut groups: Vec<Vec<Pair>> = Vec::new();
        for pair in pairs {
            let block = &blocks[pair.0];
            let joins = groups.last().is_some_and(|group| {
                let mut slots: Vec<&Block> = group.iter().map(|(at, _)| &blocks[*at]).collect();
                let same_kind = (slots[0].kind == "full") == (block.kind == "full");
                slots.push(block);
                same_kind && group.len() < most && self.bytes(&slots) <= self.budget
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
        let costs: Vec<_> =
            slots.iter().map(|block| (self.cost.block(self.layout, block), block.kind == "full")).collect();
        let (at, probe) = pairs[0];
        let memory_bytes = self.bytes(&slots);
        let prefix = self.keeps_prefix(memory_bytes);
        let forward_passes = self.cost.sweep(&costs, Kept { prefix, recompute: self.config.hessian.recompute });
        Group { name: format!("b{at:05}-p{probe:03}"), forward_passes, memory_bytes, prefix, pairs }
    }

    /// The same for products in f64 that are made once.
    pub(super) fn in_f64(&self) -> Self {
        let memory = Memory { number: size_of::<f64>() as f64, basis: 1.0, ranks: 1.0, ..self.memory.clone() };
        Self { memory, cost: Cost::of(self.sizes), ..*self }
    }

    /// Predicted peak of the products that are measured against f64, the model in f32 beside that in f64. None where there
    /// is no such reference: a product is then measured against itself, in the memory of its group.
    pub(super) fn error_bytes(&self, blocks: &[Block]) -> f64 {
        if self.config.hessian.precision == Precision::F64 || !self.config.hessian.backend.is_cpu() {
            return 0.0;
        }
        let planner = self.in_f64();
        let groups = planner.packed(blocks, (0..blocks.len()).map(|at| (at, 0)));
        let bytes = |pairs: &Vec<Pair>| planner.bytes(&pairs.iter().map(|(at, _)| &blocks[*at]).collect::<Vec<_>>());
        self.memory.num_params * self.memory.number + groups.iter().map(bytes).fold(0.0, f64::max)
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
