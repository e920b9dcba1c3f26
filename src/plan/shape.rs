//! Samples of a micro-batch and slots of a sweep, chosen by trying a few.
//!
//! Neither changes what is computed, only how fast: larger micro-batches fill a device, more slots share the primal
//! pass, both cost memory. A trial times one pass of the plan's most expensive group on made-up samples, and its plan's
//! whole work at that rate is what the choice goes by. Trials climb by factors of two and together take at most
//! 1/200 of the run's work: short runs, which gain nothing, keep the default and stay reproducible to the bit. A trial whose
//! repeated passes do not agree, as on a busy machine, decides nothing.

use serde::{Deserialize, Serialize};

use super::memory::Resources;
use super::timing::{self, Repeated};
use super::{Plan, check_memory, duration, scale};
use crate::config::Config;
use crate::{Error, Result};

/// Share of a run's passes that trials may cost.
const SHARE: f64 = 1.0 / 200.0;
/// Passes of a trial: one to warm up, and two on the clock that agree; more, up to so many, where they do not.
const PASSES: f64 = 3.0;
const MOST_PASSES: f64 = 6.0;
/// What a shape must gain over the best so far: less is noise of two trials, each of which is trusted to 3 %.
const GAIN: f64 = 1.06;

/// How a sweep is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Samples of a micro-batch.
    pub micro_batch: usize,
    /// Most slots of a group.
    pub slots: usize,
}

/// A shape and the duration of the run that was predicted from its rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// What was tried.
    pub shape: Shape,
    /// Rate of one pass, GFLOP/s.
    pub gflops: f64,
    /// Seconds of the whole run.
    pub seconds: f64,
}

/// The shape of a run, and what it was chosen from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The fastest.
    pub shape: Shape,
    /// In the order they were made; empty where nothing was tried.
    pub trials: Vec<Trial>,
}

impl Shape {
    /// What the plan takes if nothing is tried.
    pub fn of(plan: &Plan) -> Self {
        let slots = plan.groups.iter().map(|group| group.pairs.len()).max().unwrap_or(1);
        Self { micro_batch: plan.micro_batch, slots }
    }

    /// The configuration with this shape.
    pub fn fixed(self, config: &Config) -> Config {
        let mut config = config.clone();
        (config.batch.micro_batch, config.hessian.slots) = (Some(self.micro_batch), Some(self.slots));
        config
    }

    /// This shape, but for what a configuration gives.
    pub fn unless_given(self, config: &Config) -> Self {
        let (micro_batch, slots) = (config.batch.micro_batch, config.hessian.slots);
        Self { micro_batch: micro_batch.unwrap_or(self.micro_batch), slots: slots.unwrap_or(self.slots) }
    }

    /// Work of a pass, in passes of another shape.
    fn times(self, other: Self) -> f64 {
        (self.micro_batch * self.slots) as f64 / (other.micro_batch * other.slots) as f64
    }
}

/// The fastest shape of a configuration on this machine, on as many ranks as share the work; what the configuration says
/// stays. Where `stop` says so, the best so far. `log` hears what is tried and what it came to.
///
/// # Errors
/// Those of the plan, and of the products that are timed.
pub fn choose(config: &Config, resources: Resources, stop: &dyn Fn() -> bool, log: &dyn Fn(&str)) -> Result<Choice> {
    choose_by(config, resources, stop, log, timing::measure_group)
}

fn choose_by(
    config: &Config,
    resources: Resources,
    stop: &dyn Fn() -> bool,
    log: &dyn Fn(&str),
    measure: impl Fn(&Config, &Plan, usize) -> Result<Repeated>,
) -> Result<Choice> {
    let plan = Plan::new(config, &[], resources)?;
    let start = Shape::of(&plan);
    let left = num_passes(&plan, resources).map_or(0.0, |passes| passes * SHARE);
    let (may_spend, pass, trials) = (left, None, Vec::new());
    let mut search = Search { config, resources, stop, log, measure, start, left, pass, trials };
    let (sizes, slots) = (config.batch.micro_batch.is_none(), config.hessian.slots.is_none());
    // the start and one larger shape, or nothing can be compared
    if !config.hessian.autotune || !(sizes || slots) || may_spend < 3.0 * PASSES || search.attempt(start)?.is_none() {
        return Ok(Choice { shape: start, trials: Vec::new() });
    }
    let mut best = start;
    if sizes {
        best = search.climb(best, |shape, size| Shape { micro_batch: size, ..shape }, |shape| shape.micro_batch)?;
    }
    if slots {
        best = search.climb(best, |shape, slots| Shape { slots, ..shape }, |shape| shape.slots)?;
    }
    Ok(Choice { shape: best, trials: search.trials })
}

/// Passes over a micro-batch that one rank makes, if the batch is known.
fn num_passes(plan: &Plan, resources: Resources) -> Option<f64> {
    let samples = plan.tokens? / plan.unit.predictions;
    Some(plan.num_sweeps() as f64 * samples.div_ceil(plan.micro_batch) as f64 / resources.ranks as f64)
}

struct Search<'a, M> {
    config: &'a Config,
    resources: Resources,
    stop: &'a dyn Fn() -> bool,
    log: &'a dyn Fn(&str),
    measure: M,
    start: Shape,
    /// Passes of the first shape that trials may still cost.
    left: f64,
    /// Seconds of such a pass, once one was made.
    pass: Option<f64>,
    trials: Vec<Trial>,
}

impl<M: Fn(&Config, &Plan, usize) -> Result<Repeated>> Search<'_, M> {
    /// Doubles one number of a shape while that gains; halves it if the first doubling did not.
    fn climb(
        &mut self,
        from: Shape,
        with: impl Fn(Shape, usize) -> Shape,
        number: impl Fn(Shape) -> usize,
    ) -> Result<Shape> {
        let mut best = from;
        for next in [|n: usize| 2 * n, |n: usize| n / 2] {
            while number(best) < usize::MAX / 2 && next(number(best)) > 0 {
                let candidate = with(best, next(number(best)));
                if !self.gains(candidate, best)? {
                    break;
                }
                best = candidate;
            }
            if best != from {
                break;
            }
        }
        Ok(best)
    }

    fn gains(&mut self, candidate: Shape, best: Shape) -> Result<bool> {
        let of = |trials: &[Trial], shape| trials.iter().find(|trial| trial.shape == shape).map(|trial| trial.seconds);
        let Some(seconds) = self.attempt(candidate)? else { return Ok(false) };
        Ok(of(&self.trials, best).is_some_and(|before| seconds * GAIN < before))
    }

    /// The run's duration in this shape; `None` if it does not fit, is no other shape, would cost too much to try, or is not
    /// to be told here.
    fn attempt(&mut self, shape: Shape) -> Result<Option<f64>> {
        let one = shape.times(self.start);
        let config = shape.fixed(self.config);
        let plan = match Plan::new(&config, &[], self.resources) {
            Ok(plan) if PASSES * one <= self.left && Shape::of(&plan) == shape && !(self.stop)() => plan,
            Ok(_) | Err(Error::Config(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        if check_memory(&plan).is_err() {
            return Ok(None);
        }
        let Some(flop) = plan.flop else { return Ok(None) };
        let samples = plan.tokens.unwrap_or(0) / plan.unit.predictions;
        let busy = scale::busy(&config, samples, shape.micro_batch, self.resources.ranks);
        self.announce(shape);
        let most = (self.left / one).floor().min(MOST_PASSES) - 1.0; // without the one that warms up
        let found = (self.measure)(&config, &plan, most as usize)?;
        let Repeated { rate, passes, spread } = found;
        self.left -= one * (1.0 + passes as f64);
        self.pass.get_or_insert(rate.seconds / one);
        let Shape { micro_batch, slots } = shape;
        let tried =
            format!("shape {micro_batch} x {slots}: {:.1} GFLOP/s, {} a pass", rate.gflops, duration(rate.seconds));
        if !found.is_trusted() {
            (self.log)(&format!(
                "{tried}; not trusted, as no two of {passes} passes agree (the nearest by a factor of {spread:.2})"
            ));
            return Ok(None);
        }
        (self.log)(&tried);
        let seconds = flop / (rate.gflops * 1e9 * self.resources.ranks as f64 * busy);
        self.trials.push(Trial { shape, gflops: rate.gflops, seconds });
        Ok(Some(seconds))
    }

    /// What is tried now and, once a pass was timed, for about how long.
    fn announce(&self, Shape { micro_batch, slots }: Shape) {
        let time = |passes: f64| self.pass.map(|pass| duration(pass * passes));
        let what = format!("shape: trying micro-batches of {micro_batch} samples x {slots} slots on made-up ones");
        let shape = Shape { micro_batch, slots };
        (self.log)(&match time(PASSES * shape.times(self.start)).zip(time(self.left)) {
            Some((this, all)) => format!("{what}, about {this}; all trials take at most {all} more"),
            None => format!("{what}; all trials take at most {:.1} % of the run", 100.0 * SHARE),
        });
    }
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shape { micro_batch, slots } = self.shape;
        write!(f, "shape: micro-batches of {micro_batch} samples, at most {slots} slots")?;
        if self.trials.len() < 2 {
            return Ok(());
        }
        let tried = |trial: &Trial| format!("{} x {}: {:.1}", trial.shape.micro_batch, trial.shape.slots, trial.gflops);
        let tried: Vec<String> = self.trials.iter().map(tried).collect();
        write!(
            f,
            ", the fastest of {} tried (samples x slots: GFLOP/s; {}). To fix it: batch.micro_batch = {micro_batch}, \
             hessian.slots = {slots}",
            tried.len(),
            tried.join(", ")
        )
    }
}

#[cfg(test)]
#[path = "shape_tests.rs"]
mod tests;
