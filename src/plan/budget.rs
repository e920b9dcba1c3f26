//! A plan turned round: what fits into so many hours of an accelerator, in each arithmetic, and how good it would be.

use std::fmt;

use serde::Serialize;

use super::calibration::Calibration;
use super::devices::{Device, MODES, rounding};
use super::scale::{Target, refuse_f64};
use super::{Expectation, Plan, StudyPlan};
use crate::config::Config;
use crate::engine::Arithmetic;
use crate::{Error, Result};

/// Settings beside the configured ones: (steps, probes of blocks, probes of the whole network).
const SETTINGS: [(usize, usize, usize); 4] = [(100, 10, 10), (100, 4, 2), (50, 2, 1), (30, 1, 1)];
/// More steps and probes than anybody needs.
const MOST: usize = 10_000;

/// What fits in one arithmetic.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fit {
    /// Arithmetic of matrix products.
    pub math: &'static str,
    /// Rate of one rank, GFLOP/s.
    pub gflops: f64,
    /// What was held fixed, and what was made as large as fits.
    pub what: String,
    /// Lanczos steps.
    pub steps: usize,
    /// Probes of each block.
    pub probes: usize,
    /// Probes of the whole network.
    pub full_probes: usize,
    /// Predicted tokens of the batch.
    pub tokens: usize,
    /// Error of the density from the data to expect (W1), a share of the spectral range.
    pub w1_error: f64,
    /// Error of the extreme nodes to expect, a share of the spectral range.
    pub extremes_error: f64,
    /// Relative rounding error of the operands.
    pub rounding: f64,
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct BudgetPlan {
    /// The budget, hours of one accelerator.
    pub gpu_hours: f64,
    /// Device or machine.
    pub device: String,
    /// Ranks that share it.
    pub ranks: usize,
    /// Where the rates come from, by arithmetic.
    pub sources: Vec<String>,
    /// The law of the errors.
    pub expectation: Expectation,
    /// What fits.
    pub fits: Vec<Fit>,
}

impl BudgetPlan {
    /// What fits on a device in every arithmetic that it has.
    ///
    /// # Errors
    /// [`Error::Config`] if not even the smallest batch fits; those of [`Plan::new`].
    pub fn on_device(
        config: &Config,
        device: &Device,
        ranks: usize,
        efficiency: Option<f64>,
        gpu_hours: f64,
        expectation: Expectation,
    ) -> Result<Self> {
        refuse_f64(config)?;
        let targets = MODES.iter().filter_map(|math| Some((*math, Target::in_mode(device, ranks, *math, efficiency)?)));
        Self::on(config, targets.collect(), gpu_hours, expectation)
    }

    /// What fits at a measured rate.
    ///
    /// # Errors
    /// As [`BudgetPlan::on_device`].
    pub fn on_calibrated(
        config: &Config,
        found: &Calibration,
        device: Option<&Device>,
        ranks: usize,
        gpu_hours: f64,
        expectation: Expectation,
    ) -> Result<Self> {
        let target = Target::of_calibration(found, device, ranks, config)?;
        Self::on(config, vec![(config.hessian.math, target)], gpu_hours, expectation)
    }

    fn on(
        config: &Config,
        targets: Vec<(Arithmetic, Target)>,
        gpu_hours: f64,
        expectation: Expectation,
    ) -> Result<Self> {
        let mut fits = Vec::new();
        for (math, target) in &targets {
            let mode = Mode { config, math: *math, target, flop: gpu_hours * 3600.0 * target.gflops * 1e9 };
            fits.extend(mode.fits(&expectation)?);
        }
        if fits.is_empty() {
            return Err(Error::Config(format!(
                "--budget {gpu_hours}: not even one sample with one step and probe fits; take fewer blocks, or more hours"
            )));
        }
        Ok(Self {
            gpu_hours,
            device: targets.first().map_or(String::new(), |(_, target)| target.name.clone()),
            ranks: targets.first().map_or(1, |(_, target)| target.ranks),
            sources: targets.iter().map(|(_, target)| format!("{}: {}", target.math, target.source)).collect(),
            expectation,
            fits,
        })
    }
}

/// One arithmetic and what the budget buys in it.
struct Mode<'a> {
    config: &'a Config,
    math: Arithmetic,
    target: &'a Target,
    /// Operations of the whole budget.
    flop: f64,
}

/// (steps, probes of blocks, probes of the whole network).
type Setting = (usize, usize, usize);

impl Mode<'_> {
    fn fits(&self, expectation: &Expectation) -> Result<Vec<Fit>> {
        let lanczos = &self.config.lanczos;
        let own = (lanczos.steps, lanczos.probes, lanczos.full_probes);
        let context = self.config.network.unit().predictions;
        let mut fits = Vec::new();
        let settings = [own].into_iter().chain(SETTINGS.into_iter().filter(|setting| *setting != own));
        for setting in settings {
            let tokens = self.largest_batch(setting, context)?;
            let what = if setting == own { "configured" } else { "other" };
            let what = format!("{what} steps and probes: tokens");
            fits.extend((tokens > 0).then(|| self.fit(&what, setting, tokens, expectation)));
        }
        if let Some(tokens) = self.config.num_predictions() {
            let (steps, probes, full_probes) = own;
            let affordable = |setting: Setting| self.fits_with(setting, tokens);
            if let Some(most) = largest(|steps| affordable((steps, probes, full_probes)))? {
                fits.push(self.fit(
                    "configured tokens and probes: steps",
                    (most, probes, full_probes),
                    tokens,
                    expectation,
                ));
            }
            if let Some(most) = largest(|probes| affordable((steps, probes, probes.min(full_probes))))? {
                fits.push(self.fit(
                    "configured tokens and steps: probes",
                    (steps, most, most.min(full_probes)),
                    tokens,
                    expectation,
                ));
            }
        }
        Ok(fits)
    }

    fn fit(&self, what: &str, (steps, probes, full_probes): Setting, tokens: usize, expectation: &Expectation) -> Fit {
        let (w1_error, extremes_error) = expectation.at(tokens);
        Fit {
            math: self.target.math,
            gflops: self.target.gflops,
            what: what.into(),
            steps,
            probes,
            full_probes,
            tokens,
            w1_error,
            extremes_error,
            rounding: rounding(self.math),
        }
    }

    /// The largest multiple of the context that fits. Activations below a block are kept between sweeps only where they
    /// fit, which a batch of unknown size is taken not to.
    fn largest_batch(&self, setting: Setting, context: usize) -> Result<usize> {
        let tokens = |flop_per_token: f64| (self.flop / flop_per_token) as usize / context * context;
        let least = tokens(self.flop_per_token(setting, None)?);
        if least == 0 {
            return Ok(0);
        }
        let more = tokens(self.flop_per_token(setting, Some(least))?);
        Ok(if more > least && self.fits_with(setting, more)? { more } else { least })
    }

    fn fits_with(&self, setting: Setting, tokens: usize) -> Result<bool> {
        Ok(self.flop_per_token(setting, Some(tokens))? * tokens as f64 <= self.flop)
    }

    /// Operations of a run per token of its batch; a study of nested batches pays for all of them.
    fn flop_per_token(&self, (steps, probes, full_probes): Setting, tokens: Option<usize>) -> Result<f64> {
        let mut config = self.config.clone();
        (config.lanczos.steps, config.lanczos.probes, config.lanczos.full_probes) = (steps, probes, full_probes);
        config.batch.set_num_predictions(config.network.unit(), tokens);
        let plan = Plan::new(&config, &[], self.target.resources(&config))?;
        let longest =
            |group: &super::Group| group.pairs.iter().map(|(at, _)| plan.blocks[*at].steps).max().unwrap_or(0);
        let passes: f64 = plan.groups.iter().map(|group| longest(group) as f64 * group.forward_passes).sum();
        let times = self.config.convergence.as_ref().map_or(1.0, StudyPlan::times_largest);
        Ok(2.0 * plan.forward_multiply_adds * passes * times)
    }
}

/// The largest number up to [`MOST`] that is affordable, by bisection; cost grows with it.
fn largest(affordable: impl Fn(usize) -> Result<bool>) -> Result<Option<usize>> {
    if !affordable(1)? {
        return Ok(None);
    }
    if affordable(MOST)? {
        return Ok(Some(MOST));
    }
    let (mut good, mut bad) = (1, MOST);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if affordable(middle)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Ok(Some(good))
}

impl fmt::Display for BudgetPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Expectation { w1, extremes, source } = &self.expectation;
        writeln!(f, "budget           {} GPU-hours on {} x {}", self.gpu_hours, self.ranks, self.device)?;
        for rate in &self.sources {
            writeln!(f, "rate             {rate}")?;
        }
        writeln!(
            f,
            "error to expect  {w1:.3} / sqrt(tokens) of the density (W1), {extremes:.3} / sqrt(tokens) of the extreme eigenvalues,\n                 \
             in spectral ranges, worst block; from {source}"
        )?;
        writeln!(
            f,
            "\n{:>6}  {:>13}  {:>5}  {:>6}  {:>4}  {:>9}  {:>9}  {:>9}  held fixed: largest that fits",
            "math", "tokens", "steps", "probes", "full", "W1", "extremes", "rounding"
        )?;
        for fit in &self.fits {
            writeln!(
                f,
                "{:>6}  {:>13}  {:>5}  {:>6}  {:>4}  {:>9.1e}  {:>9.1e}  {:>9.1e}  {}",
                fit.math,
                fit.tokens,
                fit.steps,
                fit.probes,
                fit.full_probes,
                fit.w1_error,
                fit.extremes_error,
                fit.rounding,
                fit.what
            )?;
        }
        Ok(())
    }
}
