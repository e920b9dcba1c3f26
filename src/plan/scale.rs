//! What a run takes on ranks that are not here: hours, memory of each rank, exchange, storage.
//!
//! Hours are matrix work over a rate, and the rate is a data sheet's peak times a stated efficiency, or was measured
//! (`calibration`). Reductions, elementwise work and storage are in that efficiency, not counted by themselves. Nothing
//! here touches data, weights, output or a device.

use std::fmt;

use serde::Serialize;

use super::calibration::Calibration;
use super::devices::{Device, assumed_efficiency, mode_name};
use super::memory::{Resources, amount as bytes};
use super::pace::Pace;
use super::paper::{Beside, beside};
use super::volume::Storage;
use super::{Facts, Plan, Planner, Rate, duration};
use crate::block::Block;
use crate::config::{Config, Precision};
use crate::data::Cut;
use crate::engine::Arithmetic;
use crate::{Error, Result};

/// Share of an accelerator's memory that a plan takes.
const USABLE: f64 = 0.9;
/// Segments where the configuration names no number (`data::micro_batches`).
pub(super) const SEGMENTS: usize = 8;

/// The ranks of a plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Target {
    /// Device or machine.
    pub name: String,
    /// Number of ranks, one a device.
    pub ranks: usize,
    /// Arithmetic of matrix products.
    pub math: &'static str,
    /// Peak of one rank, TFLOP/s; `None` where the rate was measured.
    pub peak_tflops: Option<f64>,
    /// Share of the peak that is assumed.
    pub efficiency: Option<f64>,
    /// Rate of one rank, GFLOP/s.
    pub gflops: f64,
    /// Memory of one rank that may be used, bytes.
    pub memory_bytes: f64,
    /// Where the rate comes from.
    pub source: String,
}

impl Target {
    /// From the data sheet.
    ///
    /// # Errors
    /// [`Error::Config`] for an arithmetic that the device does not have, and for f64, which the table lacks.
    pub fn of_device(device: &Device, ranks: usize, config: &Config, efficiency: Option<f64>) -> Result<Self> {
        let math = config.hessian.math;
        refuse_f64(config)?;
        Self::in_mode(device, ranks, math, efficiency).ok_or_else(|| {
            Error::Config(format!(
                "hessian.math = \"{}\": a {} has no such tensor cores; take \"f32\"",
                mode_name(math),
                device.product
            ))
        })
    }

    /// From the data sheet in any arithmetic; `None` for one that the device does not have.
    pub fn in_mode(device: &Device, ranks: usize, math: Arithmetic, efficiency: Option<f64>) -> Option<Self> {
        let peak = device.peak(math)?;
        let (share, whose) = match efficiency {
            Some(share) => (share, "as given"),
            None => (assumed_efficiency(math), "assumed, not measured there"),
        };
        Some(Self {
            name: device.name.into(),
            ranks,
            math: mode_name(math),
            peak_tflops: Some(peak),
            efficiency: Some(share),
            gflops: 1e3 * peak * share,
            memory_bytes: USABLE * 1e9 * device.memory_gb,
            source: format!("data sheet of {} (dense), efficiency {share} ({whose})", device.product),
        })
    }

    /// From a measurement elsewhere; the memory is the device's, if one is named.
    ///
    /// # Errors
    /// [`Error::Config`] for another arithmetic than was measured, or another kind of device.
    pub fn of_calibration(found: &Calibration, device: Option<&Device>, ranks: usize, config: &Config) -> Result<Self> {
        found.check(&config.hessian)?;
        device.map_or(Ok(()), |device| found.check_device(device))?;
        Ok(Self {
            name: device.map_or(found.conditions.measured_on().into(), |device| device.name.into()),
            ranks,
            math: mode_name(found.conditions.math),
            peak_tflops: None,
            efficiency: None,
            gflops: found.gflops,
            memory_bytes: USABLE * 1e9 * device.map_or(found.conditions.memory_gb, |device| device.memory_gb),
            source: format!("measured on {} by hesspec bench {}", found.conditions.measured_on(), found.hesspec),
        })
    }

    /// Ranks like this machine, at the rate that one product has here.
    pub fn like_here(rate: Rate, memory_bytes: f64, ranks: usize, config: &Config) -> Self {
        Self {
            name: "machine like this".into(),
            ranks,
            math: mode_name(config.hessian.math),
            peak_tflops: None,
            efficiency: None,
            gflops: rate.gflops,
            memory_bytes,
            source: "measured here on one micro-batch".into(),
        }
    }

    /// What one of its ranks has; `hessian.memory` goes first.
    pub fn resources(&self, config: &Config) -> Resources {
        let budget = config.hessian.memory.as_ref().map_or(self.memory_bytes, |limit| limit.get() as f64);
        Resources { ranks: self.ranks, budget, device: None }
    }
}

/// The table of devices has no f64.
pub(super) fn refuse_f64(config: &Config) -> Result<()> {
    if config.hessian.precision == Precision::F32 {
        return Ok(());
    }
    Err(Error::Config(
        "hessian.precision = \"f64\": plans for a --device are in f32; f64 is for verification on CPUs".into(),
    ))
}

/// Memory of one rank in the largest group, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RankMemory {
    /// Weights and activations of primal and slots.
    pub activations_bytes: f64,
    /// Whole vectors: tangents, adjoints, sums.
    pub vectors_bytes: f64,
    /// This rank's share of the Lanczos bases.
    pub basis_bytes: f64,
    /// All of it.
    pub total_bytes: f64,
    /// What may be used.
    pub usable_bytes: f64,
}

/// A run on other ranks.
#[derive(Debug, Clone, Serialize)]
pub struct ScalePlan {
    /// The ranks.
    pub target: Target,
    /// Share of the ranks' time in which they have a micro-batch: segments whose micro-batches the ranks do not divide
    /// leave some idle.
    pub busy: f64,
    /// Duration of the run (with `[convergence]`: of all batches), hours.
    pub hours: f64,
    /// Duration times ranks, in days of one rank.
    pub gpu_days: f64,
    /// Memory of one rank.
    pub memory: RankMemory,
    /// Bytes that one rank hands over to collectives in the whole run.
    pub exchange_bytes: f64,
    /// Storage.
    pub storage: Storage,
    /// This plan and the paper's figures.
    pub beside: Vec<Beside>,
    /// Blocks, groups, products, operations.
    pub plan: Plan,
}

impl ScalePlan {
    /// The plan of a configuration on these ranks.
    ///
    /// # Errors
    /// [`Error::Config`] for a batch whose size only the data knows; those of [`Plan::new`].
    pub fn new(config: &Config, target: Target) -> Result<Self> {
        let resources = target.resources(config);
        let mut plan = Plan::new(config, &[], resources)?;
        let (Some(tokens), Some(flop)) = (plan.tokens, plan.flop) else {
            let key = config.network.unit().key();
            return Err(Error::Config(format!(
                "{key} is not set, so that only the data knows it: give it, as in --set {key}=245760"
            )));
        };
        let facts = Facts::of(config)?;
        let (planner, blocks) = (Planner::new(config, &facts, resources)?, &facts.blocks);
        let samples = tokens / config.network.unit().predictions;
        let busy = busy(config, samples, plan.micro_batch, target.ranks);
        let rate = target.gflops * 1e9 * target.ranks as f64 * busy;
        plan.seconds = Some(flop / rate);
        plan.pace = Pace::planned(config, &plan, rate);
        if let Some(study) = &mut plan.convergence {
            study.seconds = Some(study.flop / rate);
        }
        let hours = plan.convergence.as_ref().and_then(|study| study.seconds).unwrap_or(flop / rate) / 3600.0;
        let gpu_days = hours * target.ranks as f64 / 24.0;
        let products = plan.num_products as f64;
        let largest_days = flop / rate * target.ranks as f64 / 86_400.0;
        let what = if plan.convergence.is_some() { "this plan's largest batch" } else { "this plan" };
        let this = Beside::new(format!("{what}, {}", target.name), tokens as f64, products, largest_days);
        Ok(Self {
            busy,
            hours,
            gpu_days,
            memory: planner.rank_memory(blocks, &plan),
            exchange_bytes: planner.exchange_bytes(blocks, &plan),
            storage: planner.storage(blocks, &plan, hours),
            beside: [vec![this], beside(&target)?].concat(),
            target,
            plan,
        })
    }
}

/// Micro-batches over the places that they take: the ranks go through a segment together.
pub(super) fn busy(config: &Config, samples: usize, micro_batch: usize, ranks: usize) -> f64 {
    let (units, unit) = match config.cut() {
        Cut::Samples => (samples, 1),
        Cut::MicroBatches => (samples.div_ceil(micro_batch), micro_batch),
    };
    let segments = config.batch.segments.unwrap_or(SEGMENTS.min(units)).max(1);
    let share = |part: usize| (part as u128 * units as u128 / segments as u128) as usize;
    let of_segment = |s: usize| ((share(s + 1) - share(s)) * unit).div_ceil(micro_batch);
    let (all, places) = (0..segments).fold((0, 0), |(all, places), segment| {
        let count = of_segment(segment);
        (all + count, places + count.div_ceil(ranks) * ranks)
    });
    all as f64 / places.max(1) as f64
}

impl Planner<'_> {
    pub(super) fn slots<'b>(&self, blocks: &'b [Block], pairs: &[crate::hessian::Pair]) -> Vec<&'b Block> {
        pairs.iter().map(|(at, _)| &blocks[*at]).collect()
    }

    /// Memory of the group that needs most.
    fn rank_memory(&self, blocks: &[Block], plan: &Plan) -> RankMemory {
        let largest = plan.groups.iter().max_by(|a, b| a.memory_bytes.total_cmp(&b.memory_bytes));
        let slots = largest.map_or(Vec::new(), |group| self.slots(blocks, &group.pairs));
        let total_bytes = self.bytes(&slots);
        let shares: Vec<(f64, f64)> = slots
            .iter()
            .map(|block| {
                let shares = self.cost.block(self.layout, block);
                (0.0, shares.weights + shares.attention)
            })
            .collect();
        let activations_bytes = self.memory.group(&shares);
        let basis_bytes = self.basis_bytes(&slots) / self.memory.ranks;
        let vectors_bytes = total_bytes - activations_bytes - basis_bytes;
        RankMemory { activations_bytes, vectors_bytes, basis_bytes, total_bytes, usable_bytes: self.budget }
    }
}

impl fmt::Display for ScalePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, plan, .. } = self;
        writeln!(f, "run              {}", plan.run)?;
        writeln!(
            f,
            "on               {} x {}, math {}: {} each",
            target.ranks,
            target.name,
            target.math,
            rate(target.gflops)
        )?;
        writeln!(f, "rate             {}", target.source)?;
        let tokens = plan.tokens.unwrap_or(0);
        writeln!(
            f,
            "{:<16} {tokens} in micro-batches of {} {}s; ranks busy {:.1} %",
            format!("{}s", plan.unit.prediction),
            plan.micro_batch,
            plan.unit.sample,
            100.0 * self.busy
        )?;
        writeln!(
            f,
            "products H v     {} in {} sweeps, {} groups",
            plan.num_products,
            plan.num_sweeps(),
            plan.groups.len()
        )?;
        if let Some(flop) = plan.flop {
            writeln!(f, "work             {flop:.3e} FLOP")?;
        }
        if let Some(study) = &plan.convergence {
            writeln!(
                f,
                "convergence      {} batches from {} {}s: {:.3e} FLOP, {:.2} times the largest",
                study.batches.len(),
                study.batches[0],
                plan.unit.prediction,
                study.flop,
                study.times_largest
            )?;
        }
        writeln!(
            f,
            "time             {}: {:.1} GPU-hours, {:.2} GPU-days",
            duration(3600.0 * self.hours),
            24.0 * self.gpu_days,
            self.gpu_days
        )?;
        if let Some(pace) = &plan.pace {
            writeln!(f, "a segment        {pace}")?;
        }
        self.volumes(f)?;
        self.comparison(f)
    }
}

impl ScalePlan {
    fn volumes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory, storage, .. } = self;
        writeln!(
            f,
            "memory a rank    {} of {}: activations and weights {}, vectors {}, basis shards {}",
            bytes(memory.total_bytes),
            bytes(memory.usable_bytes),
            bytes(memory.activations_bytes),
            bytes(memory.vectors_bytes),
            bytes(memory.basis_bytes)
        )?;
        writeln!(f, "exchange         {} handed over by each rank", bytes(self.exchange_bytes))?;
        writeln!(
            f,
            "storage          tables {}; checkpoints {} at most, {} written; tokens read {}",
            bytes(storage.tables_bytes),
            bytes(storage.checkpoint_peak_bytes),
            bytes(storage.checkpoint_written_bytes),
            bytes(storage.tokens_read_bytes)
        )
    }

    fn comparison(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:>10}  {:>8}  {:>9}  {:>10}  beside the paper", "tokens", "products", "GPU-days", "tokens/s")?;
        for line in &self.beside {
            writeln!(
                f,
                "{:>10.3e}  {:>8}  {:>9.2}  {:>10.0}  {}",
                line.tokens, line.products, line.gpu_days, line.tokens_per_second, line.what
            )?;
        }
        Ok(())
    }
}

/// `33.5 TFLOP/s`.
fn rate(gflops: f64) -> String {
    if gflops >= 1e3 { format!("{:.1} TFLOP/s", gflops / 1e3) } else { format!("{gflops:.1} GFLOP/s") }
}
