//! `progress.json`: how far a preparation in shards has come. It is written after every shard and goes at the end.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::file_error;
use super::super::meta::{TokenFile, Tokenizer};
use super::cut::{PIECE_BYTES, Place};
use super::write::replace;
use crate::storage::Input;
use crate::{Error, Result};

const FILE_NAME: &str = "progress.json";

/// What decides about the tokens and their files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub tokenizer: Tokenizer,
    pub text_field: String,
    pub shard_tokens: Option<u64>,
    /// How documents are cut: places count these pieces.
    piece_bytes: usize,
    /// Name and bytes of every source.
    sources: Vec<(String, u64)>,
}

impl Settings {
    pub fn new(tokenizer: Tokenizer, text_field: &str, shard_tokens: Option<u64>, sources: &[Input]) -> Self {
        let sources = sources.iter().map(|source| (source.name.clone(), source.len())).collect();
        Self { tokenizer, text_field: text_field.into(), shard_tokens, piece_bytes: PIECE_BYTES, sources }
    }

    /// The first thing that differs, in words.
    fn difference(&self, other: &Self) -> Option<String> {
        let pairs = [
            ("tokenizer", format!("{:?}", self.tokenizer), format!("{:?}", other.tokenizer)),
            ("text field", self.text_field.clone(), other.text_field.clone()),
            ("--shard-tokens", format!("{:?}", self.shard_tokens), format!("{:?}", other.shard_tokens)),
            ("size of a piece", self.piece_bytes.to_string(), other.piece_bytes.to_string()),
            ("number of sources", self.sources.len().to_string(), other.sources.len().to_string()),
        ];
        let sources = self.sources.iter().zip(&other.sources).find(|(old, new)| old != new);
        let source = sources.map(|(old, new)| format!("{} of {} bytes, now {} of {}", old.0, old.1, new.0, new.1));
        let pair = pairs.into_iter().find(|(_, old, new)| old != new);
        pair.map(|(what, old, new)| format!("{what} {old}, now {new}")).or(source)
    }
}

/// Where the next shard begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Position {
    /// The piece that it begins in ...
    pub place: Place,
    /// ... after so many of the piece's tokens, a separator in front of it included.
    pub done: usize,
    /// The last token before the piece.
    pub last: Option<u16>,
    /// Documents that began before the piece.
    pub num_documents: u64,
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub settings: Settings,
    /// `char`: the vocabulary, so that it need not be collected again.
    pub vocabulary: Option<Vec<String>>,
    /// The shards that are there.
    pub shards: Vec<TokenFile>,
    pub position: Position,
}

impl Record {
    /// What an earlier preparation with the same settings left; `None` where there was none.
    ///
    /// # Errors
    /// [`Error::Config`] where it had other settings or sources, or its shards are not what it says.
    pub fn load(folder: &Path, settings: &Settings) -> Result<Option<Self>> {
        let path = path(folder);
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(|error| file_error(&path, error))?;
        let anew = format!("To begin anew, remove {}", path.display());
        let record: Self = serde_json::from_str(&text)
            .map_err(|error| file_error(&path, format!("not a record of ours: {error}\nHINT: {anew}")))?;
        if let Some(difference) = record.settings.difference(settings) {
            return Err(file_error(
                &path,
                format!("an unfinished preparation had {difference}\nHINT: {anew}, or choose another --output"),
            ));
        }
        for shard in &record.shards {
            let file = folder.join(&shard.file);
            let found = std::fs::metadata(&file).map_or(0, |metadata| metadata.len());
            if found != 2 * shard.num_tokens {
                return Err(file_error(
                    &file,
                    format!(
                        "has {found} bytes, expected {} of {} tokens\nHINT: {anew}",
                        2 * shard.num_tokens,
                        shard.num_tokens
                    ),
                ));
            }
        }
        Ok(Some(record))
    }

    pub fn save(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string(self).map_err(|error| Error::Other(format!("{FILE_NAME}: {error}")))?;
        replace(&path(folder), text.as_bytes())
    }
}

/// Forgets the record, where there is one.
pub(super) fn remove(folder: &Path) -> Result<()> {
    super::write::remove(&path(folder))
}

fn path(folder: &Path) -> PathBuf {
    folder.join(FILE_NAME)
}
