//! `hesspec plan`: what a run would do, from the configuration alone. Needs neither data nor weights nor a writable output.

use clap::Args;

use super::common::{ConfigArguments, print, print_json};
use crate::plan::memory::Resources;
use crate::plan::{self, Plan};
use crate::{Error, Result};

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Number of processes.
    #[arg(long, default_value_t = 1)]
    world: usize,
    /// Backend to plan for; overrides hessian.backend.
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Do not time a product: no rate, no duration.
    #[arg(long)]
    no_timing: bool,
}

/// Prints the plan.
pub fn main(arguments: &Arguments, json: bool) -> Result<()> {
    if arguments.world != 1 {
        return Err(Error::Environment(format!(
            "--world {}: plans are made for one process yet; ask for --world 1",
            arguments.world
        )));
    }
    let overrides = arguments.device.iter().map(|name| format!("hessian.backend={name:?}"));
    let config = arguments.config.load_with(overrides)?;
    let plan = Plan::new(&config, &[], Resources::alone(&config)?)?;
    let fits = plan::check_memory(&plan);
    let plan = if arguments.no_timing || fits.is_err() {
        plan
    } else {
        let rate = plan::measure(&config, &plan)?;
        plan.with_rate(rate)
    };
    if json { print_json(&plan) } else { print(plan.to_string().trim_end()) }?;
    fits // the plan is shown also where it cannot be carried out
}
