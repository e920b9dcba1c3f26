//! `hesspec plan`: what a run would do, from the configuration alone. Needs neither data nor weights nor a writable output,
//! and for other ranks than this machine's neither their device nor its backend.

use std::path::PathBuf;

use clap::Args;

use super::common::{ConfigArguments, local, print, print_json};
use crate::config::Config;
use crate::networks::Registry;
use crate::plan::budget::BudgetPlan;
use crate::plan::calibration::Calibration;
use crate::plan::devices::Device;
use crate::plan::memory::Resources;
use crate::plan::scale::{ScalePlan, Target};
use crate::plan::training::TrainingPlan;
use crate::plan::{self, Expectation, Plan};
use crate::shown::Url;
use crate::{Error, Result};

/// A thousand devices for a year.
const MOST_HOURS: f64 = 1e7;
/// Nothing that computes is so far from its peak.
const LEAST_SHARE: f64 = 1e-3;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Number of ranks, one a device.
    #[arg(long, default_value_t = 1, value_name = "N")]
    world: usize,
    /// Accelerator to plan for: v100, a100, h100, h200, b200, l40s, ....
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Share of the device's peak to count on. Default: 0.5 in f32, 0.3 in 3xtf32, 0.18 in tf32, 0.1 in bf16.
    #[arg(long, value_name = "SHARE", requires = "device", conflicts_with = "calibration")]
    efficiency: Option<f64>,
    /// The rate as `hesspec bench CONFIG --calibration FILE` measured it.
    #[arg(long, value_name = "FILE", value_parser = local)]
    calibration: Option<PathBuf>,
    /// Turn it round: the largest batch, steps and probes that fit into so many hours of one device.
    #[arg(long, value_name = "GPU_HOURS")]
    budget: Option<f64>,
    /// Tables of a finished run with [convergence], for the error to expect from --budget.
    #[arg(long, value_name = "URL", requires = "budget")]
    convergence: Option<Url>,
    /// Which run of --convergence, where there are several.
    #[arg(long, value_name = "NAME", requires = "convergence")]
    run: Option<String>,
    /// Do not time a product: no rate, no duration.
    #[arg(long)]
    no_timing: bool,
}

/// Prints the plan.
pub fn main(arguments: &Arguments, networks: &Registry, json: bool) -> Result<()> {
    if arguments.world == 0 {
        return Err(Error::Config("--world 0: expected 1 or more".into()));
    }
    if let Some(share) = arguments.efficiency.filter(|share| !(LEAST_SHARE..=1.0).contains(share)) {
        let expected = format!("expected a share of the peak, from {LEAST_SHARE} to 1");
        return Err(Error::Config(format!("--efficiency {share:?}: {expected}")));
    }
    let config = arguments.config.load(networks)?;
    if config.train.is_some() {
        return training(arguments, &config, json);
    }
    if let Some(hours) = arguments.budget {
        return budget(arguments, &config, hours, json);
    }
    match target(arguments, &config)? {
        Some(target) => elsewhere(&config, target, json),
        None => here(arguments, &config, json),
    }
}

/// A training on this machine, instead of spectra.
fn training(arguments: &Arguments, config: &Config, json: bool) -> Result<()> {
    let is_elsewhere = arguments.world > 1 || arguments.device.is_some() || arguments.calibration.is_some();
    if is_elsewhere || arguments.budget.is_some() {
        return Err(Error::Config(
            "[train]: a training is planned for this machine alone; leave --world, --device, --calibration and --budget out".into(),
        ));
    }
    let plan = TrainingPlan::new(config, config.run.ranks.unwrap_or(1))?;
    let fits = plan.check_memory(Resources::here(config)?);
    let plan = if arguments.no_timing || fits.is_err() { plan } else { plan.timed(config)? };
    if json { print_json(&plan) } else { print(plan.to_string().trim_end()) }?;
    fits // the plan is shown also where it cannot be carried out
}

/// One process on this machine.
fn here(arguments: &Arguments, config: &Config, json: bool) -> Result<()> {
    let plan = Plan::new(config, &[], Resources::here(config)?)?;
    let fits = plan::check_memory(&plan);
    let plan = if arguments.no_timing || fits.is_err() { plan } else { timed(config, plan)? };
    if json { print_json(&plan) } else { print(plan.to_string().trim_end()) }?;
    fits // the plan is shown also where it cannot be carried out
}

/// With this machine's rate, where this build has the backend.
fn timed(config: &Config, plan: Plan) -> Result<Plan> {
    match plan::measure(config, &plan) {
        Ok(rate) => Ok(plan.with_rate(config, rate)),
        Err(Error::Environment(why)) => {
            tracing::warn!("no rate and no duration: {why}. For another machine, name its --device or a --calibration");
            Ok(plan)
        }
        Err(error) => Err(error),
    }
}

/// Other ranks than one process here; `None` where nothing says so.
fn target(arguments: &Arguments, config: &Config) -> Result<Option<Target>> {
    let ranks = arguments.world;
    let device = arguments.device.as_deref().map(Device::named).transpose()?;
    if let Some(path) = &arguments.calibration {
        return Target::of_calibration(&Calibration::load(path)?, device.as_ref(), ranks, config).map(Some);
    }
    match device {
        Some(device) => Target::of_device(&device, ranks, config, arguments.efficiency).map(Some),
        None if ranks == 1 => Ok(None),
        None if arguments.no_timing => {
            Err(Error::Config(format!("--world {ranks} --no-timing: no rate; name a --device or a --calibration")))
        }
        None => {
            let resources = Resources::alone(config)?;
            let plan = Plan::new(config, &[], resources)?;
            let rate = plan::measure(config, &plan)?;
            Ok(Some(Target::like_here(rate, resources.budget, ranks, config)))
        }
    }
}

fn elsewhere(config: &Config, target: Target, json: bool) -> Result<()> {
    let plan = ScalePlan::new(config, target)?;
    if json { print_json(&plan) } else { print(plan.to_string().trim_end()) }?;
    plan::check_memory(&plan.plan)
}

fn budget(arguments: &Arguments, config: &Config, hours: f64, json: bool) -> Result<()> {
    if !(hours > 0.0 && hours <= MOST_HOURS) {
        let expected = format!("expected hours of one device, above 0 and at most {MOST_HOURS:e}");
        return Err(Error::Config(format!("--budget {hours:?}: {expected}")));
    }
    let expectation = match &arguments.convergence {
        Some(url) => Expectation::from_results(url, arguments.run.as_deref())?,
        None => Expectation::stated(),
    };
    let device = arguments.device.as_deref().map(Device::named).transpose()?;
    let (ranks, share) = (arguments.world, arguments.efficiency);
    let plan = match (&arguments.calibration, &device) {
        (Some(path), device) => {
            BudgetPlan::on_calibrated(config, &Calibration::load(path)?, device.as_ref(), ranks, hours, expectation)
        }
        (None, Some(device)) => BudgetPlan::on_device(config, device, ranks, share, hours, expectation),
        (None, None) => Err(Error::Config("--budget: hours of what? Name a --device or a --calibration".into())),
    }?;
    if json { print_json(&plan) } else { print(plan.to_string().trim_end()) }
}
