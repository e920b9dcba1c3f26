//! What the TOML file says, as plain values.
//!
//! This room owns every key, its default and its allowed values, and the errors that name file, line and
//! column. It knows nothing of the world, devices or the contents of other files: what a `Config` *means* on
//! a given machine is the plan's business, and after the plan nobody reads the TOML again.
//!
//! ```text
//! text -tree-> nodes with origins -(--set)-> nodes -reader-> Document (raw) -validate-> Config (resolved)
//! ```
//!
//! Adding a model kind: one file beside `gpt2.rs`, one variant in `model.rs`.

mod blocks;
mod convergence;
mod data;
mod document;
mod gpt2;
mod model;
mod reader;
mod resolved;
mod sections;
mod tree;
mod units;
mod validate;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Serialize;

pub use blocks::{BlockFilter, Blocks, Partition};
pub use convergence::Convergence;
pub use data::{Data, TokenFiles};
pub use gpt2::{Gelu, Gpt2, Gpt2Init};
pub use model::Model;
pub use resolved::{Difference, differences};
pub use sections::{
    Axis, Backend, Basis, Batch, Checkpoint, Density, Distance, Hessian, Lanczos, Math, Metric, Operator, Order,
    Output, Precision, PrefixCache, ProbeKind, Reduction, Reorthogonalize, Run, Sigma, WeightKind,
};
pub use units::{Bytes, Interval};

use crate::{Error, Result};

/// A whole configuration, every default filled in and every value checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// `[run]`: name, seed, threads.
    pub run: Run,
    /// `[model.*]`: which network.
    pub model: Model,
    /// `[data.*]`: on what.
    pub data: Data,
    /// `[batch]`: which part of the data.
    pub batch: Batch,
    /// `[hessian]`: which operator, and how it is computed.
    pub hessian: Hessian,
    /// `[blocks]`: which principal sub-matrices of it.
    pub blocks: Blocks,
    /// `[lanczos]`: steps and probes.
    pub lanczos: Lanczos,
    /// `[density]`: how nodes become a curve.
    pub density: Density,
    /// `[distance]`: between which measures of two spectra.
    pub distance: Distance,
    /// `[convergence]`: instead of one batch, several nested ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub convergence: Option<Convergence>,
    /// `[checkpoint]`: what an interruption may cost.
    pub checkpoint: Checkpoint,
    /// `[output]`: where the tables go.
    pub output: Output,
}

impl Config {
    /// The key that says how many tokens the batch has.
    pub fn tokens_key(&self) -> &'static str {
        if self.convergence.is_some() { "convergence.to" } else { "batch.tokens" }
    }
}

/// More than anybody writes into a configuration.
const MOST_BYTES: u64 = 16 << 20;

/// Reads, merges and checks the TOML file at `path`; every override is `table.key=value`, as given to `--set`.
///
/// # Errors
/// [`Error::Config`] with `file:line:column` (or the `--set` in question), the key, the value and what is allowed.
pub fn load(path: impl AsRef<Path>, overrides: &[String]) -> Result<Config> {
    let path = path.as_ref();
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_string(&mut text));
    read.map_err(|error| {
        Error::Config(format!("{}: cannot read the configuration ({error}); tried {}", path.display(), absolute(path)))
    })?;
    if text.len() as u64 > MOST_BYTES {
        let expected = format!("expected a configuration, of at most {MOST_BYTES} bytes");
        return Err(Error::Config(format!("{}: is too large; {expected}", path.display())));
    }
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    parse(&text, &path.display().to_string(), &stem, overrides)
}

/// As [`load`], from text. `source` names it in errors, `default_name` is used where `run.name` is absent.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, source: &str, default_name: &str, overrides: &[String]) -> Result<Config> {
    let mut tree = tree::parse(text, source)?;
    for argument in overrides {
        tree::set(&mut tree, argument)?;
    }
    model::refuse_later_kinds(&tree)?;
    let document: document::Document = reader::read(&tree)?;
    let config = document.resolve(default_name);
    validate::check(&config, &tree)?;
    Ok(config)
}

/// A value as the TOML file has it, for messages.
pub fn as_toml(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| error.to_string()) // texts, numbers and lists are written alike
}

/// The absolute form of a path for error messages; relative paths count from the current directory.
pub fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}
