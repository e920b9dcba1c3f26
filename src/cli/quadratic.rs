//! `hesspec quadratic`

use std::path::PathBuf;

use clap::Args;

use super::common::{local, print, print_json};
use super::table::table;
use crate::Result;
use crate::quadratic::{self, Findings, Statistic};
use crate::shown::Url;

#[derive(Debug, Args)]
pub struct Arguments {
    /// The TOML file; see the folder configs/quadratic.
    #[arg(value_name = "CONFIG", value_parser = local)]
    config: PathBuf,
    /// Override a key, as in `--set quadratic.trials=50`; may be repeated.
    #[arg(long = "set", value_name = "TABLE.KEY=VALUE")]
    set: Vec<String>,
    /// Where the tables go; overrides output.url.
    #[arg(long, value_name = "URL")]
    output: Option<Url>,
}

/// Computes, or says again what was found.
pub fn main(arguments: &Arguments, json: bool) -> Result<()> {
    let mut config = quadratic::load(&arguments.config, &arguments.set)?;
    if let Some(url) = &arguments.output {
        config.output.url = url.clone();
    }
    let findings = quadratic::run(&config, &|line: &str| tracing::info!("{line}"))?;
    if json { print_json(&findings) } else { print(&summary(&findings)) }
}

fn summary(findings: &Findings) -> String {
    let Findings { run, url, blocks, kappa, statistics, was_done, seconds } = findings;
    let rows: Vec<Vec<String>> = blocks
        .iter()
        .map(|block| {
            let numbers = [block.lambda_min, block.lambda_max, block.kappa].map(short);
            [block.block.clone(), block.dim.to_string()].into_iter().chain(numbers).collect()
        })
        .collect();
    let spectra = table(&["block", "dim", "smallest", "largest", "kappa"], &rows);
    let rows: Vec<Vec<String>> = statistics.iter().map(row).collect();
    let header = ["quantity", "block", "trials", "missing", "quartile", "median", "quartile", "mean", "max"];
    let state = if *was_done { "the tables were there already" } else { "its tables are written" };
    format!(
        "{spectra}\nall: kappa {}\n\n{}\n\nrun `{run}`: {seconds:.1} s; {state}, in {url}\nfigures: hesspec report {url} --run {run}",
        short(*kappa),
        table(&header, &rows)
    )
}

fn row(found: &Statistic) -> Vec<String> {
    let number = |value: Option<f64>| value.map_or("none".to_owned(), short);
    let Statistic { quantity, block, trials, missing, lower_quartile, median, upper_quartile, mean, max } = found;
    let names = [quantity.clone(), block.clone().unwrap_or_else(|| "all".into())];
    let counts = [trials.to_string(), missing.to_string()];
    let numbers = [lower_quartile, median, upper_quartile, mean, max].map(|value| number(*value));
    names.into_iter().chain(counts).chain(numbers).collect()
}

/// Four digits.
fn short(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e6).contains(&size) {
        return format!("{value:.3e}");
    }
    let digits = if size >= 1.0 { (3 - size.log10().floor() as i32).max(0) as usize } else { 4 };
    format!("{value:.digits$}")
}
