//! `hesspec train`

use std::ffi::CStr;

use super::launch::{Arguments, Shared, launch};
use super::progress::Meter;
use crate::Result;
use crate::cluster::Comm;
use crate::config::Config;
use crate::networks::Registry;
use crate::train::{self, Outcome, Trained};

/// The answer to the first request to stop.
const HEARD: &CStr =
    c"\nhesspec: heard; the training stops after the step at hand, and saves. A second Ctrl-C leaves at once, unsaved\n";

/// Trains, or continues.
pub fn main(arguments: &Arguments, networks: &Registry, json: bool) -> Result<()> {
    let check = |config: &Config| config.training().map(drop);
    launch(arguments, networks, json, &Shared { heard: HEARD, check, on_rank, summary })
}

fn on_rank(config: &Config, comm: &Comm) -> Result<Trained> {
    train::run(config, comm, &Meter::new())
}

fn summary(Trained { runs, best }: &Trained) -> String {
    let mut lines: Vec<String> = runs.iter().map(described).collect();
    if runs.len() > 1 {
        lines.push(format!("best: {best}"));
    }
    let last = runs.iter().find(|outcome| outcome.run == *best).and_then(|outcome| outcome.checkpoints.last());
    if let Some((first, folder)) = runs.first().zip(last) {
        lines.push(format!("weights: {}/{folder}", first.url.to_string().trim_end_matches('/')));
    }
    lines.join("\n")
}

/// A training in a line.
fn described(outcome: &Outcome) -> String {
    let Outcome { run, url, was_done, ending, seconds, .. } = outcome;
    let shown = |value: Option<f64>| value.map_or("none".into(), |value| format!("{value:.4}"));
    let what = match (ending.diverged, was_done) {
        (Some(step), _) => format!("diverged at step {step}"),
        (None, true) => "already done".into(),
        (None, false) => format!("{} steps in {seconds:.1} s", ending.steps),
    };
    let held_out = ending.held_out_loss.map_or(String::new(), |loss| {
        let right = ending.held_out_accuracy.map_or(String::new(), |share| format!(" ({:.2} % right)", 100.0 * share));
        format!(", held out {loss:.4}{right}")
    });
    format!("run `{run}`: {what}; loss {}{held_out}; table `training` in {url}", shown(ending.loss))
}
