//! What a training costs: multiply-adds, memory, time. Forward and backward together are three forward passes.

use std::fmt;
use std::time::Instant;

use serde::Serialize;

use super::memory::{self, Lanczos, Memory, Resources};
use super::{Facts, PREDICTIONS_PER_PASS, duration, measured};
use crate::config::{Config, Optimizer, Precision as Digits};
use crate::datasets::Unit;
use crate::engine::Kernels;
use crate::hessian::Kind;
use crate::hessian::Precision;
use crate::job::{self, Job, On, Task};
use crate::{Error, Result, cluster};

/// Forward passes of a gradient: one forward, two backward; one more where activations are computed again.
const GRADIENT_PASSES: f64 = 3.0;

/// A training on this machine.
#[derive(Debug, Clone, Serialize)]
pub struct TrainingPlan {
    /// Name of the run.
    pub run: String,
    /// Parameters of the network.
    pub num_params: usize,
    /// What samples and predictions are called.
    pub unit: Unit,
    /// Trainings, one for each learning rate.
    pub trainings: usize,
    /// Steps of each.
    pub steps: usize,
    /// Samples of a step.
    pub batch: usize,
    /// Samples per micro-batch.
    pub micro_batch: usize,
    /// How often each sees every sample of the batch; `None` if that is all of data which is not here.
    pub epochs: Option<f64>,
    /// Multiply-adds of a forward pass, per prediction.
    pub forward_multiply_adds: f64,
    /// Floating-point operations of all trainings (two per multiply-add), looks at held-out samples of a known number included.
    pub flop: f64,
    /// Where work and memory of the network come from.
    pub profile: measured::Source,
    /// Predicted peak memory of a rank, bytes.
    pub memory_bytes: f64,
    /// Rate of a gradient's matrix work here, GFLOP/s, if it was measured.
    pub gflops: Option<f64>,
    /// Predicted duration of one process, seconds.
    pub seconds: Option<f64>,
}

impl TrainingPlan {
    /// The plan of a configuration with `[train]`, on so many ranks, which share the micro-batches of a step.
    ///
    /// # Errors
    /// [`Error::Config`] for a configuration without `[train]`, and for sizes that make no network.
    pub fn new(config: &Config, ranks: usize) -> Result<Self> {
        let (train, facts) = (config.training()?, Facts::of(config)?);
        let (unit, num_params) = (config.network.unit(), facts.layout.num_params());
        // a pass of each rank at least, and no larger ones than products have
        let most = (PREDICTIONS_PER_PASS / unit.predictions).max(1).min(train.batch.div_ceil(ranks));
        let micro_batch = config.batch.micro_batch.unwrap_or(most).min(train.batch);
        let forward = facts.profile.products.iter().map(|product| product.multiply_adds).sum::<f64>();
        let drawn = (train.steps * train.batch) as f64;
        let looks = train
            .held_out
            .as_ref()
            .map_or(0.0, |held_out| train.steps.div_ceil(held_out.every) as f64 * held_out.samples.unwrap_or(0) as f64);
        let passes = gradient_passes(config) * drawn + looks;
        let trainings = train.learning_rate.numbers().len();
        let lanczos = Lanczos { number: number(config), basis: 0, ranks };
        let (predictions, recompute) = (micro_batch * unit.predictions, config.hessian.recompute);
        let memory = Memory::of(&facts.profile, num_params, predictions, recompute, Kind::Hessian, lanczos);
        let vectors = match train.optimizer {
            Optimizer::Sgd => usize::from(train.momentum.is_some_and(|momentum| momentum > 0.0)),
            Optimizer::Adam | Optimizer::AdamW => 2,
        };
        Ok(Self {
            run: config.run.name.clone(),
            num_params,
            unit,
            trainings,
            steps: train.steps,
            batch: train.batch,
            micro_batch,
            epochs: config.num_samples().map(|samples| drawn / samples as f64),
            forward_multiply_adds: forward,
            flop: 2.0 * forward * unit.predictions as f64 * passes * trainings as f64,
            profile: facts.source,
            memory_bytes: memory.training(vectors),
            gflops: None,
            seconds: None,
        })
    }

    /// Adds the rate of a gradient on one micro-batch of made-up samples, and the duration at that rate.
    ///
    /// # Errors
    /// [`Error::Environment`] for a backend that this build does not have; those of the network.
    pub fn timed(mut self, config: &Config) -> Result<Self> {
        let seconds = job::dispatch(config, Timing { micro_batch: self.micro_batch })?;
        let predictions = (self.micro_batch * self.unit.predictions) as f64;
        let flops = 2.0 * self.forward_multiply_adds * predictions * gradient_passes(config) / seconds;
        (self.gflops, self.seconds) = (Some(flops / 1e9), Some(self.flop / flops));
        Ok(self)
    }

    /// Refuses what does not fit into a rank's memory.
    ///
    /// # Errors
    /// [`Error::Environment`]
    pub fn check_memory(&self, Resources { budget, .. }: Resources) -> Result<()> {
        if self.memory_bytes <= budget {
            return Ok(());
        }
        let (needed, budget) = (memory::amount(self.memory_bytes), memory::amount(budget));
        Err(Error::Environment(format!(
            "the training needs {needed}, {budget} may be used. Take a smaller batch.micro_batch, hessian.recompute = true, or raise \
             hessian.memory"
        )))
    }
}

fn gradient_passes(config: &Config) -> f64 {
    GRADIENT_PASSES + f64::from(u8::from(config.hessian.recompute))
}

/// Bytes of a number.
fn number(config: &Config) -> usize {
    match config.hessian.precision {
        Digits::F32 => size_of::<f32>(),
        Digits::F64 => size_of::<f64>(),
    }
}

/// Seconds of the whole network's gradient on one micro-batch, after one to warm up.
struct Timing {
    micro_batch: usize,
}

impl Task for Timing {
    type Output = f64;

    fn run<K: Kernels, T: Precision>(self, config: &Config, on: On<'_, K, T>) -> Result<f64> {
        let job = Job::synthetic(config, &on, self.micro_batch, self.micro_batch)?;
        let (comm, full) = (cluster::solo::comm(), job.layout.full());
        let operator = job.operator(&comm);
        operator.gradient(&full)?;
        let begin = Instant::now();
        operator.gradient(&full)?;
        Ok(begin.elapsed().as_secs_f64())
    }
}

impl fmt::Display for TrainingPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sample = self.unit.sample;
        writeln!(f, "run              {}", self.run)?;
        writeln!(f, "parameters       {}", self.num_params)?;
        if self.trainings > 1 {
            writeln!(f, "trainings        {}, one for each learning rate", self.trainings)?;
        }
        let (steps, batch) = (self.steps, self.batch);
        writeln!(f, "steps            {steps} of {batch} {sample}s in micro-batches of {}", self.micro_batch)?;
        if let Some(epochs) = self.epochs {
            writeln!(f, "epochs           {epochs:.2}")?;
        }
        writeln!(f, "work             {:.3e} FLOP", self.flop)?;
        writeln!(f, "memory           {}{}", memory::amount(self.memory_bytes), self.profile)?;
        if let Some(gflops) = self.gflops {
            writeln!(f, "rate             {gflops:.1} GFLOP/s, measured on the gradient of one micro-batch")?;
        }
        if let Some(seconds) = self.seconds {
            writeln!(f, "time             about {}", duration(seconds))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::networks::Registry;

    fn plan(more: &str, ranks: usize) -> TrainingPlan {
        let text = format!(
            "[model.mlp]\nsizes = [20, 10, 5]\n[data.images]\npath = \"x\"\nlabels = \"y\"\n[batch]\nsamples = 50\n[train]\nsteps = 8\n\
             batch = 24\noptimizer = \"adamw\"\nlearning_rate = 0.1\n{more}"
        );
        let config = parse(&text, "test", "test", &[], &Registry::built_in()).unwrap();
        TrainingPlan::new(&config, ranks).unwrap()
    }

    #[test]
    fn work_is_three_forward_passes_over_all_samples_that_are_drawn() {
        let one = plan("", 1);
        assert_eq!((one.forward_multiply_adds, one.flop), (250.0, 2.0 * 3.0 * 250.0 * 192.0));
        assert_eq!((one.micro_batch, one.epochs), (24, Some(3.84)));
        assert_eq!(plan("", 5).micro_batch, 5, "a pass for each rank");
        let looked = plan("[train.held_out]\ndata = { path = \"z\" }\nsamples = 10\nevery = 4\n", 1);
        assert_eq!(looked.flop - one.flop, 2.0 * 250.0 * 20.0);
        let text = looked.to_string();
        assert!(text.contains("steps            8 of 24 images in micro-batches of 24"), "{text}");
    }
}
