//! What the TOML file says, as plain values.
//!
//! This room owns every key, its default and its allowed values, and the errors that name file, line and
//! column. It knows nothing of the world, devices or the contents of other files: what a `Config` *means* on
//! a given machine is the plan's business, and after the plan nobody reads the TOML again.
//!
//! ```text
//! text -document-> nodes with origins -> Raw (as written) -validate-> Config (resolved)
//! ```
//!
//! `[model.*]` and `[data.*]` are not owned here: their keys are those of the networks and data sets that the program has.

mod blocks;
mod convergence;
mod ending;
mod network;
mod raw;
mod resolved;
mod sections;
mod series;
mod train;
mod validate;

#[cfg(test)]
mod tests;

use std::io::Read;
use std::path::Path;

use serde::Serialize;

pub use blocks::{BlockFilter, Blocks, OwnBlock, OwnRange};
pub use convergence::Convergence;
pub use ending::{Diagonal, Eigenvectors};
pub use network::Configured;
pub use resolved::{Difference, differences};
pub use sections::{
    Axis, Backend, Basis, Batch, Checkpoint, Density, Distance, Hessian, Lanczos, Output, Precision, PrefixCache, Run,
    Sigma,
};
pub use series::Series;
pub use train::{HeldOut, Moments, Optimizer, Schedule, Train};
pub use validate::check_run_name;

pub use crate::data::Order;
pub use crate::document::{Bytes, Interval};
pub use crate::spectrum::Metric;

use crate::data::Cut;
use crate::datasets::{Choice, Unit};
use crate::document;
use crate::hessian::Reduction;
use crate::networks::Registry;
use crate::storage::absolute;
use crate::{Error, Result, file};

/// A whole configuration, every default filled in and every value checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// `[run]`: name, seed, threads.
    pub run: Run,
    /// `[model.*]` and `[data.*]`: which network, on what.
    #[serde(flatten)]
    pub network: Configured,
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
    /// `[series]`: instead of one state of the network, several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series: Option<Series>,
    /// `[eigenvectors]`: also those, as many as asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eigenvectors: Option<Eigenvectors>,
    /// `[diagonal]`: also sums over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diagonal: Option<Diagonal>,
    /// `[train]`: how `hesspec train` changes the parameters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<Train>,
    /// `[checkpoint]`: what an interruption may cost.
    pub checkpoint: Checkpoint,
    /// `[output]`: where the tables go.
    pub output: Output,
}

impl Config {
    /// The key that says how large the batch is.
    pub fn size_key(&self) -> String {
        match &self.convergence {
            Some(_) => "convergence.to".into(),
            None => self.network.unit().key(),
        }
    }

    /// Number of samples of the batch; `None`: all that the data has.
    pub fn num_samples(&self) -> Option<usize> {
        self.batch.num_predictions().map(|predictions| predictions / self.network.unit().predictions)
    }

    /// Number of predictions of the batch; `None`: all that the data has.
    pub fn num_predictions(&self) -> Option<usize> {
        self.num_samples().map(|samples| samples * self.network.unit().predictions)
    }

    /// Makes the batch have so many samples.
    pub fn set_num_samples(&mut self, num_samples: Option<usize>) {
        let unit = self.network.unit();
        self.batch.set_num_predictions(unit, num_samples.map(|samples| samples * unit.predictions));
    }

    /// Which samples make up the batch.
    pub fn choice(&self) -> Choice {
        let sections::Batch { start, stride, order, seed, .. } = self.batch;
        Choice { key: self.size_key(), num_samples: self.num_samples(), start, stride, order, seed }
    }

    /// What stays whole when the batch is cut: where micro-batch means are summed, or samples of a micro-batch depend on each
    /// other, the micro-batch is part of the loss.
    pub fn cut(&self) -> Cut {
        match self.hessian.reduction {
            Reduction::Mean if self.network.is_separable() => Cut::Samples,
            _ => Cut::MicroBatches,
        }
    }
}

/// More than anybody writes into a configuration.
const MOST_BYTES: u64 = 16 << 20;

/// Reads, merges and checks the TOML file at `path`; every override is `table.key=value`, as given to `--set`. `networks` are
/// those that `[model.*]` may name.
///
/// # Errors
/// [`Error::Config`] with `file:line:column` (or the `--set` in question), the key, the value and what is allowed.
pub fn load(path: impl AsRef<Path>, overrides: &[String], networks: &Registry) -> Result<Config> {
    let path = path.as_ref();
    parse(&read_text(path)?, &path.display().to_string(), &stem(path), overrides, networks)
}

/// The text of a configuration.
///
/// # Errors
/// [`Error::Config`] for a file that cannot be read or is larger than any configuration.
pub fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = file::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_string(&mut text));
    read.map_err(|error| {
        Error::Config(format!("{}: cannot read the configuration ({error}); tried {}", path.display(), absolute(path)))
    })?;
    if text.len() as u64 > MOST_BYTES {
        let expected = format!("expected a configuration, of at most {MOST_BYTES} bytes");
        return Err(Error::Config(format!("{}: is too large; {expected}", path.display())));
    }
    Ok(text)
}

/// What a run is called that its configuration gives no name.
pub fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// As [`load`], from text. `source` names it in errors, `default_name` is used where `run.name` is absent.
///
/// # Errors
/// As [`load`].
pub fn parse(
    text: &str,
    source: &str,
    default_name: &str,
    overrides: &[String],
    networks: &Registry,
) -> Result<Config> {
    let mut tree = document::parse(text, source)?;
    for argument in overrides {
        document::set(&mut tree, argument)?;
    }
    let raw: raw::Raw = document::read(&tree)?;
    let config = raw.resolve(default_name, Configured(networks.read(&tree)?))?;
    validate::check(&config, &tree)?;
    Ok(config)
}

/// As [`parse`], from what [`Config::resolved_json`] wrote: the weights need not be there any more. Numbers are not read as JSON, which would cost them their last bit.
///
/// # Errors
/// As [`load`].
pub fn from_json(text: &str, source: &str, default_name: &str, networks: &Registry) -> Result<Config> {
    parse(&resolved::json_to_toml(text), source, default_name, &[], &networks.for_records())
}

/// A value as the TOML file has it, for messages.
pub fn as_toml(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| error.to_string()) // texts, numbers and lists are written alike
}
