//! The rate of this machine, from products on one micro-batch of made-up samples.

use std::time::Instant;

use serde::Serialize;

use super::cost::{Cost, Kept};
use super::{Facts, Plan, PlannedBlock};
use crate::block::Block;
use crate::config::Config;
use crate::engine::Kernels;
use crate::hessian::{Precision, start};
use crate::job::{self, Job, On, Task};
use crate::{Error, Result};

/// How fast products are here.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    /// Matrix work per second of the pass that was timed, GFLOP/s.
    pub gflops: f64,
    /// Seconds of that pass.
    pub seconds: f64,
}

/// Times one product of the plan's most expensive block on one micro-batch (after one to warm up), without what a sweep costs
/// once: vectors that are cut and travel.
///
/// # Errors
/// [`Error::Config`] if there is no block; those of the backend.
pub fn measure(config: &Config, plan: &Plan) -> Result<Rate> {
    let share = |block: &PlannedBlock| block.shares.weights + block.shares.attention;
    let dearest = (0..plan.blocks.len()).max_by(|&a, &b| share(&plan.blocks[a]).total_cmp(&share(&plan.blocks[b])));
    timed(config, plan, dearest.into_iter().collect())
}

/// Times the products of all slots of the plan's most expensive group, together, the same way.
///
/// # Errors
/// As [`measure`].
pub fn measure_group(config: &Config, plan: &Plan) -> Result<Rate> {
    let dearest = plan.groups.iter().max_by(|a, b| plan.work(a).total_cmp(&plan.work(b)));
    timed(config, plan, dearest.map_or(Vec::new(), |group| group.pairs.iter().map(|(at, _)| *at).collect()))
}

fn timed(config: &Config, plan: &Plan, blocks: Vec<usize>) -> Result<Rate> {
    if blocks.is_empty() {
        return Err(Error::Config("the configuration asks for no block".into()));
    }
    job::dispatch(config, Timing { micro_batch: plan.micro_batch, blocks })
}

struct Timing {
    micro_batch: usize,
    /// The block of each slot.
    blocks: Vec<usize>,
}

impl Task for Timing {
    type Output = Rate;

    fn run<K: Kernels, T: Precision>(self, config: &Config, on: On<'_, K, T>) -> Result<Rate> {
        let job = Job::synthetic(config, &on, self.micro_batch, self.micro_batch)?;
        let cost = Cost::of(&Facts::of(config)?.profile);
        let slots: Vec<&Block> = self.blocks.iter().map(|&at| &job.blocks[at]).collect();
        let comm = crate::cluster::solo::comm();
        let mut operator = job.operator(&comm);
        operator.slots.clone_from(&slots);
        let settings = crate::hessian::Settings::default();
        let starts: Vec<_> = slots.iter().map(|block| start::<T>(block, &job.layout, 0, &settings, &comm)).collect();
        let sweep = operator.sweep(&starts.iter().enumerate().collect::<Vec<_>>())?;
        sweep.rehearse(0)?;
        let begin = Instant::now();
        sweep.rehearse(0)?;
        let seconds = begin.elapsed().as_secs_f64();
        let shares: Vec<_> = slots.iter().map(|block| (cost.block(&job.layout, block), block.kind == "full")).collect();
        let passes = cost.sweep(&shares, Kept { prefix: false, recompute: config.hessian.recompute });
        let flop = 2.0 * cost.forward() * passes * (self.micro_batch * config.network.unit().predictions) as f64;
        Ok(Rate { gflops: flop / seconds / 1e9, seconds })
    }
}
