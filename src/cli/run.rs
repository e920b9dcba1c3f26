//! `hesspec run`

use clap::Args;

use super::common::{ConfigArguments, print, print_json};
use super::progress::Meter;
use crate::cluster::world;
use crate::coordinator::{self, Outcome};
use crate::{Error, Result};

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Where the tables go; overrides output.url.
    #[arg(long, value_name = "URL")]
    output: Option<String>,
}

/// Computes, or continues.
pub fn main(arguments: &Arguments, json: bool) -> Result<()> {
    refuse_several_processes()?;
    let mut config = arguments.config.load()?;
    if let Some(url) = &arguments.output {
        if url.is_empty() {
            return Err(Error::Config("--output \"\": expected a path or URL".into()));
        }
        config.output.url = url.clone();
    }
    let meter = Meter::new();
    let outcome = coordinator::run(&config, &meter)?;
    drop(meter);
    if json { print_json(&outcome) } else { print(&summary(&outcome)) }
}

/// Started by mpirun or srun with several ranks, each would do the whole job.
fn refuse_several_processes() -> Result<()> {
    let world = world::discover(&world::Flags::default(), &world::environment())?;
    if world.size == 1 {
        return Ok(());
    }
    Err(Error::Environment(format!(
        "rank {} of {} (by {}): this version runs as one process; start it without the launcher, or with one rank",
        world.rank, world.size, world.launcher
    )))
}

fn summary(outcome: &Outcome) -> String {
    let Outcome { run, url, groups_found, groups_computed, num_products, seconds } = outcome;
    let what = if *groups_computed == 0 {
        format!("run `{run}` was already done; its tables are in {url}")
    } else {
        format!(
            "run `{run}`: {groups_computed} groups ({groups_found} were there), {num_products} products in {seconds:.1} s; \
             the tables are in {url}"
        )
    };
    format!("{what}\nfigures: hesspec report {url} --run {run}")
}
