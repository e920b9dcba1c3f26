//! `hesspec dense`: the Hessians of small blocks as matrices.

use clap::Args;

use super::common::{ConfigArguments, print, print_json};
use super::progress::Meter;
use super::table::table;
use crate::Result;
use crate::dense::{Finding, Findings, dense};
use crate::networks::Registry;
use crate::shown::Url;
use crate::worker::Progress;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Where the tables go; overrides output.url.
    #[arg(long, value_name = "URL")]
    output: Option<Url>,
}

/// Computes, or continues.
pub fn main(arguments: &Arguments, networks: &Registry, json: bool) -> Result<()> {
    let mut config = arguments.config.load(networks)?;
    if let Some(url) = &arguments.output {
        config.output.url = url.clone();
    }
    let meter = Meter::new();
    let begun = std::cell::Cell::new(false);
    let progress = |done: usize, total: usize| {
        if !begun.replace(true) {
            meter.begin(total as u64);
            meter.skip(done as u64);
        }
        meter.advance(&config.run.name, done as u64);
    };
    let findings = dense(&config, &progress, &|line: &str| tracing::info!("{line}"))?;
    if json { print_json(&findings) } else { print(&summary(&findings)) }
}

fn summary(findings: &Findings) -> String {
    let Findings { run, url, blocks, was_done, seconds } = findings;
    let header = [
        "block",
        "parameters",
        "Frobenius norm",
        "asymmetry",
        "parts",
        "between parts",
        "entries there",
        "rank",
        "kappa",
        "kappa after 1/|g|",
        "status",
    ];
    let rows: Vec<Vec<String>> = blocks.iter().map(row).collect();
    let state = if *was_done { "was there already".to_owned() } else { format!("{seconds:.1} s") };
    format!(
        "{}\nrun `{run}`: {state}; tables `dense`, `dense_blocks` and `dense_shares` in {url}\nfigures: hesspec report {url} --run {run}",
        table(&header, &rows)
    )
}

fn row(found: &Finding) -> Vec<String> {
    let share = |value: Option<f64>| value.map_or("none".to_owned(), |value| format!("{value:.4}"));
    vec![
        found.block.clone(),
        found.num_params.to_string(),
        format!("{:.4e}", found.frobenius),
        found.asymmetry.map_or("none".into(), |value| format!("{value:.1e}")),
        found.num_parts.to_string(),
        share(found.off_diagonal),
        share(Some(found.off_diagonal_entries)),
        found.condition.map_or("none".into(), |condition| condition.rank.to_string()),
        found.condition.map_or("none".into(), |condition| format!("{:.3e}", condition.kappa)),
        found.condition.map_or("none".into(), |condition| format!("{:.3e}", condition.kappa_adam)),
        found.status.clone(),
    ]
}
