//! What dialogues become pairs by, and what comes of it; builds with tokenizers have the rest in `paired`.

use std::path::PathBuf;

use serde::Serialize;

use crate::Result;
use crate::shown::Url;

/// What to prepare.
#[derive(Debug, Clone)]
pub struct PairPreparation {
    /// `movie_lines.txt` of Cornell's corpus, by path or URL.
    pub lines: Url,
    /// `movie_conversations.txt`.
    pub conversations: Url,
    /// A `tokenizer.json` of Hugging Face's.
    pub tokenizer: Url,
    /// The most tokens of a pair; longer ones are cut.
    pub context: usize,
    /// Seed of the random choice of pairs that do not belong together.
    pub seed: u64,
    /// The file; gzipped where its name ends in `.gz`.
    pub output: PathBuf,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PreparedPairs {
    /// Number of pairs.
    pub pairs: usize,
    /// Tokens of all pairs.
    pub tokens: usize,
    /// Tokens are below this.
    pub vocabulary: usize,
    /// The token that others are hidden behind, if the tokenizer has one.
    pub mask: Option<u32>,
    /// The tokenizer's other special tokens.
    pub never: Vec<u32>,
}

/// Writes a pair for everything that follows something; in half of them, chosen by the seed and the pair's number, another text of the
/// corpus stands in place of what follows.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) for inputs that are not what they should be, with file and line;
/// [`Error::Environment`](crate::Error::Environment) where this build has no tokenizers; [`Error::Storage`](crate::Error::Storage).
pub fn prepare_pairs(request: &PairPreparation) -> Result<PreparedPairs> {
    #[cfg(feature = "tokenizers")]
    return super::paired::write(request);
    #[cfg(not(feature = "tokenizers"))]
    Err(super::without_tokenizers(&request.tokenizer))
}
