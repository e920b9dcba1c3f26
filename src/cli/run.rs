//! `hesspec run`

use std::ffi::CStr;

use super::launch::{Arguments, Shared, launch};
use super::progress::Meter;
use crate::cluster::Comm;
use crate::config::Config;
use crate::coordinator::{self, Outcome};
use crate::networks::Registry;
use crate::series::{convergence, states};
use crate::{Error, Result};

/// The answer to the first request to stop.
const HEARD: &CStr = c"\nhesspec: heard; the run stops at the end of the segment at hand, and saves. A second Ctrl-C leaves at once, unsaved\n";

/// Computes, or continues.
pub fn main(arguments: &Arguments, networks: &Registry, json: bool) -> Result<()> {
    launch(arguments, networks, json, &Shared { heard: HEARD, check, on_rank, summary })
}

/// What was trained is another run's subject.
fn check(config: &Config) -> Result<()> {
    let Some(_) = &config.train else { return Ok(()) };
    let (run, kind) = (&config.run.name, config.network.network_kind());
    Err(Error::Config(format!(
        "run `{run}`: [train] is for `hesspec train`. For spectra of what it trained leave [train] out, choose another run.name, and \
         name the weights in model.{kind}.weights"
    )))
}

fn on_rank(config: &Config, comm: &Comm) -> Result<Outcome> {
    match (&config.convergence, &config.series) {
        (Some(study), _) => convergence::run(config, study, comm, &Meter::new()),
        (None, Some(series)) => states::run(config, series, comm, &Meter::new()),
        (None, None) => coordinator::run(config, comm, &Meter::new()),
    }
}

fn summary(outcome: &Outcome) -> String {
    let Outcome { run, url, groups_found, groups_computed, num_products, seconds } = outcome;
    let what = if *groups_computed == 0 {
        format!("run `{run}`: already done, nothing was left to compute; its tables are in {url}")
    } else {
        format!(
            "run `{run}`: {groups_computed} groups ({groups_found} were there), {num_products} products in {seconds:.1} s; \
             the tables are in {url}"
        )
    };
    format!("{what}\nfigures: hesspec report {url} --run {run}")
}
