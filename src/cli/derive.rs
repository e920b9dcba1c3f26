//! `hesspec derive`

use clap::{Args, ValueEnum};

use super::common::{print, print_json};
use crate::Result;
use crate::config::{self, Metric};
use crate::derive::{Changes, Derived, derive};
use crate::networks::Registry;
use crate::shown::Url;
use crate::spectrum::Weights;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Where the tables are: the output.url of the run.
    url: Url,
    /// Which run, where there are several.
    #[arg(long, value_name = "NAME")]
    run: Option<String>,
    /// What the derived run is called.
    #[arg(long, value_name = "NEW")]
    name: String,
    /// density.axis
    #[arg(long)]
    axis: Option<AxisArgument>,
    /// density.sigma: `relative=SHARE` of the common axis, or `absolute=WIDTH` in units of the coordinate.
    #[arg(long, value_parser = sigma)]
    sigma: Option<config::Sigma>,
    /// density.axis_scale: a number, or `resolved` for the finest that the run resolves.
    #[arg(long, value_parser = axis_scale)]
    axis_scale: Option<AxisScale>,
    /// distance.metrics, separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = metric)]
    metrics: Option<Vec<Metric>>,
    /// lanczos.weights; deflated ones need a run that has their short recursions.
    #[arg(long)]
    weights: Option<WeightsArgument>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AxisArgument {
    Asinh,
    Linear,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum WeightsArgument {
    Raw,
    VarianceReduced,
    Deflated,
}

#[derive(Debug, Clone, Copy)]
struct AxisScale(Option<f64>);

type Parsed<T> = std::result::Result<T, String>;

fn sigma(text: &str) -> Parsed<config::Sigma> {
    match text.split_once('=') {
        Some(("relative", share)) => positive(share).map(config::Sigma::Relative),
        Some(("absolute", width)) => positive(width).map(config::Sigma::Absolute),
        _ => Err("expected relative=SHARE or absolute=WIDTH".into()),
    }
}

fn axis_scale(text: &str) -> Parsed<AxisScale> {
    if text == "resolved" { Ok(AxisScale(None)) } else { positive(text).map(|scale| AxisScale(Some(scale))) }
}

fn positive(text: &str) -> Parsed<f64> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| format!("`{text}`: expected a finite number above 0"))
}

fn metric(text: &str) -> Parsed<Metric> {
    Metric::named(text).map_err(|error| error.to_string())
}

/// Derives.
pub fn main(arguments: &Arguments, networks: &Registry, json: bool) -> Result<()> {
    let changes = Changes {
        axis: arguments.axis.map(|axis| match axis {
            AxisArgument::Asinh => config::Axis::Asinh,
            AxisArgument::Linear => config::Axis::Linear,
        }),
        sigma: arguments.sigma,
        axis_scale: arguments.axis_scale.map(|scale| scale.0),
        metrics: arguments.metrics.clone(),
        weights: arguments.weights.map(|weights| match weights {
            WeightsArgument::Raw => Weights::Raw,
            WeightsArgument::VarianceReduced => Weights::VarianceReduced,
            WeightsArgument::Deflated => Weights::Deflated,
        }),
    };
    let log = |line: &str| tracing::info!("{line}");
    let derived = derive(&arguments.url, arguments.run.as_deref(), &changes, &arguments.name, networks, &log)?;
    if json { print_json(&derived) } else { print(&summary(&derived)) }
}

fn summary(derived: &Derived) -> String {
    let Derived { run, url, blocks, incomplete, was_done, seconds } = derived;
    let what = match was_done {
        true => format!("run `{run}`: already derived"),
        false => format!("run `{run}`: derived from {blocks} blocks in {seconds:.1} s"),
    };
    let lacking = match incomplete.len() {
        0 => String::new(),
        lacking => {
            format!("\nthe run is not done: {lacking} blocks are missing or lack probes ({} ...)", incomplete[0])
        }
    };
    format!("{what}; its tables are in {url}{lacking}\nfigures: hesspec report {url} --run {run}")
}
