//! The rate of this machine, from products on one micro-batch of synthetic tokens.

use std::time::Instant;

use burn_backend::tensor::Device;
use serde::Serialize;

use super::{Plan, cost::Cost};
use crate::block::Block;
use crate::config::Config;
use crate::engine::Kernels;
use crate::hessian::{Precision, start};
use crate::job::{self, Job, Task};
use crate::{Error, Result};

/// How fast products are here.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    /// Matrix work per second of H v with one slot, GFLOP/s.
    pub gflops: f64,
    /// Seconds of that product.
    pub seconds: f64,
}

/// Times one product of the plan's most expensive block on one micro-batch (after one to warm up).
pub fn measure(config: &Config, plan: &Plan) -> Result<Rate> {
    job::dispatch(config, Timing { micro_batch: plan.micro_batch })
}

struct Timing {
    micro_batch: usize,
}

impl Task for Timing {
    type Output = Rate;

    fn run<K: Kernels, T: Precision>(self, config: &Config, device: Device<K>) -> Result<Rate> {
        let job = Job::<K, T>::synthetic(config, &device, self.micro_batch, self.micro_batch)?;
        let sizes = job::gpt2(config)?;
        let cost = Cost::of(&sizes);
        let shares = |block: &Block| cost.block(&job.layout, block);
        let total = |block: &Block| shares(block).weights + shares(block).attention;
        let Some(block) = job.blocks.iter().max_by(|a, b| total(a).total_cmp(&total(b))) else {
            return Err(Error::Config("the configuration asks for no block".into()));
        };
        let comm = crate::cluster::solo::comm();
        let mut operator = job.operator(&comm);
        operator.slots = vec![block];
        let settings = crate::hessian::Settings::default();
        let v = start::<T>(block, &job.layout, 0, &settings, &comm).values;
        operator.on_micro_batch(0, &[(0, &v)])?;
        let begin = Instant::now();
        operator.on_micro_batch(0, &[(0, &v)])?;
        let seconds = begin.elapsed().as_secs_f64();
        let passes = cost.sweep(&[(shares(block), block.kind == "full")], false);
        let flop = 2.0 * cost.forward() * passes * (self.micro_batch * sizes.context) as f64;
        Ok(Rate { gflops: flop / seconds / 1e9, seconds })
    }
}
