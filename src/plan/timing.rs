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

/// A pass is believed when another one took as long, within this factor.
const AGREEMENT: f64 = 1.03;

/// The rate of passes that were repeated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Repeated {
    /// Rate of the fastest pass.
    pub rate: Rate,
    /// Passes on the clock.
    pub passes: usize,
    /// The second fastest's seconds over the fastest's.
    pub spread: f64,
}

impl Repeated {
    /// Whether two passes agree: else something else was going on here, and the rate says nothing.
    pub fn is_trusted(&self) -> bool {
        self.spread <= AGREEMENT
    }

    /// What the seconds of all passes say.
    fn of(seconds: &[f64], flop: f64) -> Self {
        let mut sorted = seconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let fastest = sorted.first().copied().unwrap_or(f64::INFINITY);
        let spread = sorted.get(1).map_or(f64::INFINITY, |second| second / fastest);
        Self { rate: Rate { gflops: flop / fastest / 1e9, seconds: fastest }, passes: sorted.len(), spread }
    }
}

/// Times one product of the plan's most expensive block on one micro-batch (after one to warm up), without what a sweep costs
/// once: vectors that are cut and travel.
///
/// # Errors
/// [`Error::Config`] if there is no block; those of the backend.
pub fn measure(config: &Config, plan: &Plan) -> Result<Rate> {
    let share = |block: &PlannedBlock| block.shares.weights + block.shares.attention;
    let dearest = (0..plan.blocks.len()).max_by(|&a, &b| share(&plan.blocks[a]).total_cmp(&share(&plan.blocks[b])));
    Ok(timed(config, plan, dearest.into_iter().collect(), 1)?.rate)
}

/// Times the products of all slots of the plan's most expensive group, together, the same way, until two passes agree or
/// `most` were made.
///
/// # Errors
/// As [`measure`].
pub fn measure_group(config: &Config, plan: &Plan, most: usize) -> Result<Repeated> {
    let dearest = plan.groups.iter().max_by(|a, b| plan.work(a).total_cmp(&plan.work(b)));
    timed(config, plan, dearest.map_or(Vec::new(), |group| group.pairs.iter().map(|(at, _)| *at).collect()), most)
}

fn timed(config: &Config, plan: &Plan, blocks: Vec<usize>, most: usize) -> Result<Repeated> {
    if blocks.is_empty() {
        return Err(Error::Config("the configuration asks for no block".into()));
    }
    job::dispatch(config, Timing { micro_batch: plan.micro_batch, blocks, most })
}

struct Timing {
    micro_batch: usize,
    /// The block of each slot.
    blocks: Vec<usize>,
    /// Passes at most.
    most: usize,
}

impl Task for Timing {
    type Output = Repeated;

    fn run<K: Kernels, T: Precision>(self, config: &Config, on: On<'_, K, T>) -> Result<Repeated> {
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
        let shares: Vec<_> = slots.iter().map(|block| (cost.block(&job.layout, block), block.is_full())).collect();
        let passes = cost.sweep(&shares, Kept { prefix: false, recompute: config.hessian.recompute });
        let flop = 2.0 * cost.forward() * passes * (self.micro_batch * config.network.unit().predictions) as f64;
        let mut seconds = Vec::new();
        loop {
            let begin = Instant::now();
            sweep.rehearse(0)?;
            seconds.push(begin.elapsed().as_secs_f64());
            let found = Repeated::of(&seconds, flop);
            if found.passes >= self.most || found.is_trusted() {
                return Ok(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_trusted_when_two_passes_agree() {
        let of = |seconds: &[f64]| Repeated::of(seconds, 1e9);
        assert!(!of(&[2.0]).is_trusted() && !of(&[2.0, 3.0]).is_trusted());
        let found = of(&[9.0, 2.0, 5.0, 2.05]);
        assert!(found.is_trusted() && found.passes == 4 && found.rate.gflops == 0.5, "{found:?}");
    }
}
