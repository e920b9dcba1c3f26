//! `[quadratic]` and `[[quadratic.block]]`: every key, its default and its checks.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{Output, check_run_name, read_text, stem};
use crate::document::{self, Check, Node, Value};
use crate::shown::Url;
use crate::{Error, Result};

/// Blocks above this size take their eigen-decompositions minutes.
const MOST_DIM: usize = 2_000;
/// More trials than any quantile has digits.
const MOST_TRIALS: usize = 1_000_000;

/// A whole experiment, every default filled in and every value checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Partition key of every table. Default: the configuration file's stem.
    pub name: String,
    /// Seed of the matrices, the start and the eigenvalues that are drawn. Default: 1337.
    pub seed: u64,
    /// Problems that are drawn. Default: 1000.
    pub trials: usize,
    /// The first so many of them run the optimizers. Default: 100.
    pub paths: usize,
    /// Iterations that an optimizer has. Default: 10000.
    pub iterations: usize,
    /// The loss that is asked for, as a share of the loss at the start. Default: 1e-6.
    pub accuracy: f64,
    /// Adam's values of beta2; 1 keeps the preconditioner of the start. Default: 1 and 0.999.
    pub beta2: Vec<f64>,
    /// Adam's learning rates, all of which are tried. Default: 1, 2 and 5 times powers of ten from 1e-4 to 1.
    pub learning_rates: Vec<f64>,
    /// How eigenvalues are brought to `range`. Default: they stay as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
    /// Smallest and largest eigenvalue after scaling. Default: 1 and 2000.
    pub range: [f64; 2],
    /// `[[quadratic.block]]`: the blocks of H.
    pub blocks: Vec<BlockKeys>,
    /// `[output]`
    pub output: Output,
}

/// Which eigenvalues are shifted and scaled together, so that the smallest and the largest are the ends of `range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Those of all blocks: what blocks differ by stays.
    Joint,
    /// Those of each block by themselves: all blocks have the same condition number.
    Blocks,
}

/// `[[quadratic.block]]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlockKeys {
    /// Default: `block.0`, `block.1` and so on.
    pub name: String,
    /// The eigenvalues; or `spectrum` and `dim`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eigenvalues: Option<Vec<f64>>,
    /// The density that eigenvalues are drawn from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spectrum: Option<Spectrum>,
    /// Dimension of the block.
    pub dim: usize,
    /// The start in all trials. Default: standard normal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Vec<f64>>,
}

/// The positive part of a block's density, smoothed from the table `nodes` of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spectrum {
    /// Where the tables are: the output.url of the run.
    pub url: Url,
    /// The run; may be left out where there is one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The block.
    pub block: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    quadratic: Keys,
    #[serde(default)]
    output: Output,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    name: Option<String>,
    #[serde(default = "default_seed")]
    seed: u64,
    #[serde(default = "default_trials")]
    trials: usize,
    #[serde(default = "default_paths")]
    paths: usize,
    #[serde(default = "default_iterations")]
    iterations: usize,
    #[serde(default = "default_accuracy")]
    accuracy: f64,
    #[serde(default = "default_beta2")]
    beta2: Vec<f64>,
    #[serde(default = "default_learning_rates")]
    learning_rates: Vec<f64>,
    scale: Option<Scale>,
    #[serde(default = "default_range")]
    range: Vec<f64>,
    block: Vec<RawBlock>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBlock {
    name: Option<String>,
    eigenvalues: Option<Vec<f64>>,
    spectrum: Option<Spectrum>,
    dim: Option<usize>,
    start: Option<Vec<f64>>,
}

fn default_seed() -> u64 {
    1337
}

fn default_trials() -> usize {
    1000
}

fn default_paths() -> usize {
    100
}

fn default_iterations() -> usize {
    10_000
}

fn default_accuracy() -> f64 {
    1e-6
}

fn default_beta2() -> Vec<f64> {
    vec![1.0, 0.999]
}

fn default_learning_rates() -> Vec<f64> {
    let of_decade = |power: f64| [1.0, 2.0, 5.0].map(|digit| digit / power);
    [1e4, 1e3, 1e2, 1e1].into_iter().flat_map(of_decade).chain([1.0]).collect()
}

fn default_range() -> Vec<f64> {
    vec![1.0, 2000.0]
}

/// Reads, merges and checks the TOML file at `path`; every override is `table.key=value`, as given to `--set`.
///
/// # Errors
/// [`Error::Config`] with `file:line:column` (or the `--set` in question), the key, the value and what is allowed.
pub fn load(path: &Path, overrides: &[String]) -> Result<Config> {
    parse(&read_text(path)?, &path.display().to_string(), &stem(path), overrides)
}

/// As [`load`], from text. `source` names it in errors, `default_name` is used where `quadratic.name` is absent.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, source: &str, default_name: &str, overrides: &[String]) -> Result<Config> {
    let mut tree = document::parse(text, source)?;
    overrides.iter().try_for_each(|argument| document::set(&mut tree, argument))?;
    let Raw { quadratic: keys, output } = document::read(&tree)?;
    let check = Check::table(&tree, "quadratic.");
    check_numbers(&check, &keys)?;
    let range = match *keys.range.as_slice() {
        [low, high] if 0.0 < low && low < high && high.is_finite() => [low, high],
        _ => {
            let (origin, found) = (check.origin("range"), &keys.range);
            return Err(Error::Config(format!(
                "{origin}: quadratic.range = {found:?}: expected two numbers above 0, the larger one last"
            )));
        }
    };
    Check::document(&tree).place("output.url", &output.url, output.url.refused())?;
    let name = keys.name.unwrap_or_else(|| default_name.to_owned());
    check_run_name(&format!("{}: quadratic.name", check.origin("name")), &name)?;
    Ok(Config {
        name,
        seed: keys.seed,
        trials: keys.trials,
        paths: keys.paths,
        iterations: keys.iterations,
        accuracy: keys.accuracy,
        beta2: keys.beta2,
        learning_rates: keys.learning_rates,
        scale: keys.scale,
        range,
        blocks: blocks(&tree, keys.block)?,
        output,
    })
}

fn check_numbers(check: &Check<'_>, keys: &Keys) -> Result<()> {
    check.size("trials", keys.trials, MOST_TRIALS)?;
    check.size("paths", keys.paths, keys.trials)?;
    check.size("iterations", keys.iterations, 1_000_000_000)?;
    let is_share = keys.accuracy > 0.0 && keys.accuracy < 1.0;
    check.that(is_share, "accuracy", keys.accuracy, "expected a number between 0 and 1")?;
    let shown = |numbers: &[f64]| format!("{numbers:?}");
    let all = |numbers: &[f64], holds: fn(f64) -> bool| !numbers.is_empty() && numbers.iter().all(|x| holds(*x));
    let problem = "expected numbers above 0, up to 1";
    check.that(all(&keys.beta2, |x| x > 0.0 && x <= 1.0), "beta2", shown(&keys.beta2), problem)?;
    let problem = "expected finite numbers above 0";
    let rates = &keys.learning_rates;
    check.that(all(rates, |x| x > 0.0 && x.is_finite()), "learning_rates", shown(rates), problem)
}

/// The blocks, each checked with the places of its own table.
fn blocks(tree: &Node, raw: Vec<RawBlock>) -> Result<Vec<BlockKeys>> {
    let list = tree.find("quadratic.block");
    let nodes: &[Node] = match list.map(|node| &node.value) {
        Some(Value::Array(nodes)) => nodes,
        _ => &[],
    };
    if raw.is_empty() {
        let origin = list.map_or(&tree.origin, |node| &node.origin);
        return Err(Error::Config(format!("{origin}: quadratic.block = []: expected one block or more")));
    }
    let mut blocks: Vec<BlockKeys> = Vec::new();
    for (number, (keys, node)) in raw.into_iter().zip(nodes).enumerate() {
        let block = block(number, keys, &Check::table(node, ""))?;
        let is_new = blocks.iter().all(|other| other.name != block.name);
        Check::table(node, "").that(is_new, "name", &block.name, "another block has this name; choose another one")?;
        blocks.push(block);
    }
    Ok(blocks)
}

fn block(number: usize, keys: RawBlock, check: &Check<'_>) -> Result<BlockKeys> {
    let name = keys.name.unwrap_or_else(|| format!("block.{number}"));
    let RawBlock { mut eigenvalues, spectrum, dim, start, .. } = keys;
    let dim = match (&mut eigenvalues, &spectrum) {
        (Some(values), None) => {
            let shown = format!("{values:?}");
            let is_good = !values.is_empty() && values.iter().all(|x| *x > 0.0 && x.is_finite());
            check.that(is_good, "eigenvalues", shown, "expected finite numbers above 0, one or more")?;
            values.sort_by(f64::total_cmp);
            let problem = format!("the block has {} eigenvalues; leave dim out", values.len());
            check.that(dim.is_none_or(|dim| dim == values.len()), "dim", dim.unwrap_or(0), problem)?;
            values.len()
        }
        (None, Some(spectrum)) => {
            let missing = "expected how many eigenvalues are drawn";
            check.that(dim.is_some(), "dim", "missing", missing)?;
            check.place("spectrum.url", &spectrum.url, spectrum.url.refused())?;
            dim.unwrap_or(0)
        }
        _ => {
            let problem = "expected either eigenvalues = [1, 2, 3] or \
                           spectrum = { url = \"results\", run = \"NAME\", block = \"NAME\" } with dim";
            return Err(Error::Config(format!("{}: quadratic.block `{name}`: {problem}", check.origin("name"))));
        }
    };
    check.size("dim", dim, MOST_DIM)?;
    if let Some(start) = &start {
        let is_good = start.len() == dim && start.iter().all(|x| x.is_finite() && *x != 0.0);
        let problem = format!("expected {dim} finite numbers, none of them 0: the block's dimension");
        check.that(is_good, "start", format!("{start:?}"), problem)?;
    }
    Ok(BlockKeys { name, eigenvalues, spectrum, dim, start })
}
