//! Token files and the batches cut from them.
//!
//! This room owns the formats on disk (`format`, `shard`, `tokens`, over a network `remote`; `idx`, `cifar`; `pairs` of
//! sentences, and which of their tokens are hidden, `masking`), how files of text become them (`prepare`,
//! `settings`), how that is written down and held against what is there (`meta`, `beside`), what they hold (`inspect`), and how a
//! batch is ordered and cut (`permutation`, `micro_batches`). It knows no tensors and no models: tokens leave as integers.

mod beside;
mod cifar;
mod format;
mod idx;
mod inspect;
mod masking;
mod meta;
mod micro_batches;
mod pairs;
mod permutation;
mod prepare;
mod random;
mod remote;
mod settings;
mod shard;
mod tokens;
mod unpacked;

pub use cifar::{Cifar, CifarKind};
pub use format::{Format, TokenType};
pub use idx::Idx;
pub use inspect::{Frequency, Inspection, inspect};
pub use masking::Masking;
pub use meta::{Described, Meta, TokenFile, Tokenizer};
pub use micro_batches::{Cut, MicroBatch, MicroBatches};
pub use pairs::{Pair, read_pairs};
pub use permutation::{Order, Permutation};
pub use prepare::{Advance, OnAdvance, PairPreparation, Preparation, Prepared, PreparedPairs, prepare, prepare_pairs};
pub use settings::{OnError, Settings, Source, TextFormat};
pub use tokens::Tokens;

use std::fmt::Display;
use std::path::Path;

use crate::Error;
use crate::storage::absolute;

/// `path: problem`, with the absolute path where the given one is relative.
fn file_error(path: &Path, problem: impl Display) -> Error {
    let is_url = path.to_string_lossy().contains("://");
    let tried = if path.is_absolute() || is_url { String::new() } else { format!(" (tried {})", absolute(path)) };
    Error::Config(format!("{}: {problem}{tried}", path.display()))
}
