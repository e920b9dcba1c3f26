//! What a configuration means on this machine: blocks, groups of slots, products, multiply-adds, memory, time.
//!
//! A plan is made before anything is spent, from the configuration alone; neither data nor weights are read.

pub mod budget;
pub mod calibration;
pub mod cost;
pub mod devices;
mod expectation;
pub mod limits;
pub mod measured;
pub mod memory;
pub mod pace;
mod paper;
mod planner;
pub mod scale;
pub mod shape;
mod study;
mod timing;
pub mod training;
mod volume;

use std::fmt;

use serde::Serialize;

use crate::block::{Block, Layout};
use crate::config::{Config, Series};
use crate::datasets::Unit;
use crate::hessian::{Pair, PrefixBudget};
use crate::networks::Profile;
use crate::{Error, Result, data, job};
use cost::Shares;
use memory::Resources;
use pace::Pace;
use planner::Planner;

pub use expectation::Expectation;
pub use study::StudyPlan;
pub use timing::{Rate, measure};

/// Tokens of a micro-batch, if nothing else is said: enough for large matrices, small enough for caches and memory.
const PREDICTIONS_PER_PASS: usize = 1024;

/// Most blocks of a run: distances are between all pairs of them.
const MOST_PAIRED: usize = 500;

/// The name of the group whose first pair this is.
pub fn group_name((block, probe): Pair) -> String {
    format!("b{block:05}-p{probe:03}")
}

/// Pairs that share their sweeps over the data.
#[derive(Debug, Clone, Serialize)]
pub struct Group {
    /// Names the group's parts: its first pair, so that it does not depend on how the rest is grouped.
    pub name: String,
    /// (index of the block, probe).
    pub pairs: Vec<Pair>,
    /// Forward passes of matrix work in one sweep over a token.
    pub forward_passes: f64,
    /// Predicted peak memory, bytes, without what the prefix cache adds in what is left.
    pub memory_bytes: f64,
    /// Predicted peak memory of the accelerator, bytes, where it says how much it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_bytes: Option<f64>,
    /// Whether the activations below its blocks are kept between sweeps.
    pub prefix: bool,
}

/// One block of the plan.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedBlock {
    /// Its name.
    pub name: String,
    /// Dimension of its Hessian.
    pub num_params: usize,
    /// Probes.
    pub probes: u32,
    /// Products H v of each probe: `lanczos.steps`, or the dimension if that is smaller, and those of the short recursions.
    pub steps: usize,
    /// Shares of the forward pass from the block up.
    pub shares: Shares,
}

/// A run on this machine.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Name of the run.
    pub run: String,
    /// Parameters of the network.
    pub num_params: usize,
    /// What samples and predictions are called.
    pub unit: Unit,
    /// Predictions of the batch, whatever they are called; `None` if that is all of data which is not here.
    pub tokens: Option<usize>,
    /// Samples per micro-batch.
    pub micro_batch: usize,
    /// The blocks.
    pub blocks: Vec<PlannedBlock>,
    /// The groups.
    pub groups: Vec<Group>,
    /// Products H v over the whole batch, of all slots.
    pub num_products: usize,
    /// Multiply-adds of a forward pass, per token.
    pub forward_multiply_adds: f64,
    /// Floating-point operations of the whole run (two per multiply-add).
    pub flop: Option<f64>,
    /// Where work and memory of the network come from.
    pub profile: measured::Source,
    /// Predicted peak memory, bytes.
    pub memory_bytes: f64,
    /// Predicted peak memory of the accelerator, bytes, where it says how much it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_bytes: Option<f64>,
    /// Memory that may be used, bytes.
    pub budget_bytes: f64,
    /// Memory of the accelerator that may be used, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_budget_bytes: Option<f64>,
    /// Measured rate, if it was measured.
    pub rate: Option<Rate>,
    /// Predicted duration, seconds.
    pub seconds: Option<f64>,
    /// Predicted time of a segment, and the notice that a job's end needs.
    pub pace: Option<Pace>,
    /// With `[convergence]`: all its batches; everything else is of the largest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub convergence: Option<StudyPlan>,
    /// With `[series]`: how many members at least; everything else is of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<usize>,
}

/// What a plan needs to know of a network.
pub(crate) struct Facts {
    /// Its parameters.
    pub layout: Layout,
    /// The blocks asked for.
    pub blocks: Vec<Block>,
    /// Its work and memory.
    pub profile: Profile,
    /// Where that comes from.
    pub source: measured::Source,
}

impl Facts {
    /// What there is to know of a configuration's network.
    pub fn of(config: &Config) -> Result<Self> {
        let layout = config.network.layout()?;
        let blocks = job::blocks(config, &layout)?;
        let (profile, source) = match config.network.profile() {
            Some(profile) => (profile, measured::Source::Stated),
            None => measured::profile(config, &layout)?,
        };
        Ok(Self { layout, blocks, profile, source })
    }
}

impl Plan {
    /// The plan of a configuration for its pairs that are not in `finished`. Whether it fits: [`check_memory`].
    ///
    /// # Errors
    /// [`Error::Config`] for blocks that do not exist; [`Error::Environment`] if the machine does not say its memory.
    pub fn new(config: &Config, finished: &[Pair], resources: Resources) -> Result<Self> {
        let facts = Facts::of(config)?;
        check_pairs(&facts.blocks)?;
        let planner = Planner::new(config, &facts, resources)?;
        let Facts { layout, blocks, .. } = &facts;
        let groups = planner.groups(blocks, finished);
        let tokens = config.num_predictions();
        let planned = planner.blocks(blocks);
        let products = |group: &Group| group.pairs.iter().map(|(at, _)| planned[*at].steps).sum::<usize>();
        let passes: f64 = groups.iter().map(|group| group.num_sweeps(&planned) as f64 * group.forward_passes).sum();
        let forward = planner.cost.forward();
        let num_products = groups.iter().map(products).sum();
        let flop = tokens.map(|tokens| 2.0 * forward * passes * tokens as f64);
        let study = config.convergence.as_ref().zip(flop);
        Ok(Self {
            run: config.run.name.clone(),
            num_params: layout.num_params(),
            unit: config.network.unit(),
            tokens,
            micro_batch: planner.micro_batch,
            num_products,
            flop,
            profile: facts.source,
            memory_bytes: groups.iter().map(|group| group.memory_bytes).fold(planner.guard_bytes(blocks), f64::max),
            device_bytes: groups.iter().filter_map(|group| group.device_bytes).reduce(f64::max),
            budget_bytes: planner.budget,
            device_budget_bytes: planner.device,
            forward_multiply_adds: forward,
            blocks: planned,
            groups,
            rate: None,
            seconds: None,
            pace: None,
            members: config.series.as_ref().map(Series::least_members),
            convergence: study.map(|(study, flop)| StudyPlan::new(study, num_products, flop)),
        })
    }

    /// Adds a measured rate, and the durations that follow from it for the plan's configuration.
    pub fn with_rate(mut self, config: &Config, rate: Rate) -> Self {
        self.pace = Pace::planned(config, &self, 1e9 * rate.gflops);
        self.seconds = self.flop.map(|flop| flop / (rate.gflops * 1e9));
        if let Some(study) = &mut self.convergence {
            study.seconds = Some(study.flop / (rate.gflops * 1e9));
        }
        self.rate = Some(rate);
        self
    }

    /// Sweeps over the data, summed over groups.
    pub fn num_sweeps(&self) -> usize {
        self.groups.iter().map(|group| group.num_sweeps(&self.blocks)).sum()
    }

    /// Forward passes of matrix work over a token, in all sweeps of a group.
    pub fn work(&self, group: &Group) -> f64 {
        group.num_sweeps(&self.blocks) as f64 * group.forward_passes
    }
}

impl Group {
    /// Sweeps over the data: the most steps of any of its slots.
    fn num_sweeps(&self, blocks: &[PlannedBlock]) -> usize {
        self.pairs.iter().map(|(at, _)| blocks[*at].steps).max().unwrap_or(0)
    }
}

/// Work and memory of the configuration's network: as it says, or measured here.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) for sizes that make no network.
pub fn profile(config: &Config) -> Result<Profile> {
    Ok(Facts::of(config)?.profile)
}

/// Samples of a micro-batch: as configured, or about [`PREDICTIONS_PER_PASS`] predictions, and no more than a segment has.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) where a segment would be empty.
pub fn micro_batch(config: &Config) -> Result<usize> {
    let each = config.network.unit().predictions;
    let wanted = config.batch.micro_batch.unwrap_or((PREDICTIONS_PER_PASS / each).max(1));
    let Some(all) = config.num_samples() else { return Ok(wanted) };
    let cut = config.cut();
    // where segments do not depend on micro-batches, whole segments will do: a list of all is long for 10^10 tokens
    let samples = if cut == data::Cut::Samples { all.max(1) } else { wanted };
    let cuts = data::MicroBatches::new(all, samples, config.batch.segments, cut)?;
    let longest = cuts.all().iter().map(|micro_batch| micro_batch.samples.len()).max();
    Ok(longest.unwrap_or(wanted).min(wanted))
}

/// Probes of a block.
pub fn probes_of(config: &Config, block: &Block) -> u32 {
    let probes = if block.is_full() { config.lanczos.full_probes } else { config.lanczos.probes };
    u32::try_from(probes).unwrap_or(u32::MAX)
}

/// What this rank may keep of the activations below a group's blocks: what the memory budget leaves beside the group.
pub fn prefix_budget(config: &Config, pairs: &[Pair], resources: Resources) -> Result<PrefixBudget> {
    let facts = Facts::of(config)?;
    let slots: Vec<&Block> = pairs.iter().map(|(at, _)| &facts.blocks[*at]).collect();
    Ok(Planner::new(config, &facts, resources)?.prefix_budget(&slots))
}

/// Blocks whose products are measured against f64 together: one vector each, as many as fit.
pub fn error_groups(config: &Config, resources: Resources) -> Result<Vec<Vec<usize>>> {
    let facts = Facts::of(config)?;
    Ok(Planner::new(config, &facts, resources)?.error_groups(&facts.blocks))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "run              {}", self.run)?;
        writeln!(f, "parameters       {}", self.num_params)?;
        match self.tokens {
            Some(tokens) => {
                let (what, samples) = (format!("{}s", self.unit.prediction), self.unit.sample);
                writeln!(f, "{what:<16} {tokens} in micro-batches of {} {samples}s", self.micro_batch)?;
            }
            None => writeln!(f, "{:<16} all of the data (unknown here)", format!("{}s", self.unit.prediction))?,
        }
        writeln!(f, "blocks           {} (largest {})", self.blocks.len(), largest(&self.blocks))?;
        writeln!(f, "groups           {} of at most {} slots", self.groups.len(), most_slots(&self.groups))?;
        writeln!(f, "products H v     {} in {} sweeps", self.num_products, self.num_sweeps())?;
        if let Some(flop) = self.flop {
            writeln!(f, "work             {flop:.3e} FLOP")?;
        }
        let (peak, budget) = (memory::amount(self.memory_bytes), memory::amount(self.budget_bytes));
        writeln!(f, "memory           {peak} of {budget} that may be used{}", self.profile)?;
        if let Some((peak, budget)) = self.device_bytes.zip(self.device_budget_bytes) {
            let (peak, budget) = (memory::amount(peak), memory::amount(budget));
            writeln!(f, "device memory    {peak} of {budget} that may be used")?;
        }
        if let Some(rate) = &self.rate {
            writeln!(f, "rate             {:.1} GFLOP/s, measured on one micro-batch", rate.gflops)?;
        }
        if let Some(seconds) = self.seconds {
            writeln!(f, "time             about {}", duration(seconds))?;
        }
        if let Some(pace) = &self.pace {
            writeln!(f, "a segment        {pace}")?;
        }
        if let Some(members) = self.members {
            let time = self.seconds.map(|seconds| format!(", about {}", duration(seconds * members as f64)));
            let time = time.unwrap_or_default();
            writeln!(f, "series           {members} runs like this one, globs taken for one each{time}")?;
        }
        if let Some(study) = &self.convergence {
            let (count, times) = (study.batches.len(), study.times_largest);
            let time = study.seconds.map_or(String::new(), |seconds| format!(", about {}", duration(seconds)));
            writeln!(
                f,
                "convergence      {count} batches from {} {}s: {:.3e} FLOP, {times:.2} times the largest{time}",
                study.batches[0], self.unit.prediction, study.flop
            )?;
        }
        writeln!(f, "\n{:>12}  {:>6}  {:>5}  {:>6}  block", "dimension", "probes", "steps", "share")?;
        for block in &self.blocks {
            let share = block.shares.weights + block.shares.attention;
            writeln!(
                f,
                "{:>12}  {:>6}  {:>5}  {share:>6.3}  {}",
                block.num_params, block.probes, block.steps, block.name
            )?;
        }
        Ok(())
    }
}

fn largest(blocks: &[PlannedBlock]) -> usize {
    blocks.iter().map(|block| block.num_params).max().unwrap_or(0)
}

fn most_slots(groups: &[Group]) -> usize {
    groups.iter().map(|group| group.pairs.len()).max().unwrap_or(0)
}

/// `7 ms`, `3.2 s`, `40 s`, `12 min`, `3.1 h`, `6.9 days`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", 1e3 * s),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// Refuses more blocks than all pairs of which are compared.
fn check_pairs(blocks: &[Block]) -> Result<()> {
    let count = blocks.iter().filter(|block| !block.is_full()).count();
    if count <= MOST_PAIRED {
        return Ok(());
    }
    Err(Error::Config(format!(
        "these are {count} blocks, and all pairs of them would be compared; expected {MOST_PAIRED} or fewer. Narrow blocks.include, for \
         example to one layer, put several together by [[blocks.own]], or make several runs"
    )))
}

/// Refuses a plan that does not fit, naming the block that does not: groups are already as small as they go.
///
/// # Errors
/// [`Error::Environment`]
pub fn check_memory(plan: &Plan) -> Result<()> {
    let largest = plan.groups.iter().max_by(|a, b| a.memory_bytes.total_cmp(&b.memory_bytes));
    if let Some(group) = largest.filter(|group| group.memory_bytes > plan.budget_bytes) {
        let (at, _) = group.pairs[0];
        let what = format!("block `{}`: one slot of it", plan.blocks[at].name);
        return Err(memory::does_not_fit(&what, group.memory_bytes, plan.budget_bytes));
    }
    if let Some(budget) = plan.device_budget_bytes {
        let bytes = |group: &&Group| group.device_bytes.unwrap_or(0.0);
        let largest = plan.groups.iter().max_by(|a, b| bytes(a).total_cmp(&bytes(b)));
        if let Some(group) = largest.filter(|group| bytes(group) > budget) {
            let what = format!("block `{}`: one slot of it", plan.blocks[group.pairs[0].0].name);
            return Err(memory::does_not_fit_on_device(&what, bytes(&group), budget));
        }
    }
    if plan.memory_bytes > plan.budget_bytes {
        let what = "what is tested and measured before the first group, products and gradients in f64,";
        return Err(memory::does_not_fit(what, plan.memory_bytes, plan.budget_bytes));
    }
    Ok(())
}
