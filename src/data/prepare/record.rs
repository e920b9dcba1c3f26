//! `progress.json`: how far a preparation has come. It is written after every shard, in any case before the last file is
//! put in its place, and goes when `meta.json` is there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::file_error;
use super::super::format::TokenType;
use super::super::meta::{PROGRESS, TokenFile};
use super::super::settings::Settings;
use super::cut::Place;
use super::skipped::OfSource;
use super::write::replace;
use crate::{Error, Result};

/// Where the next shard begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Position {
    /// The piece that it begins in ...
    pub place: Place,
    /// ... after so many of the piece's tokens, a separator in front of it included.
    pub done: usize,
    /// The last token before the piece.
    pub last: Option<u32>,
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
    /// What was passed over so far, by source.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped: BTreeMap<usize, OfSource>,
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
        let text = crate::file::read_to_string(&path).map_err(|error| file_error(&path, error))?;
        let record: Self = serde_json::from_str(&text)
            .map_err(|error| file_error(&path, format!("not a record of ours: {error}\nHINT: {}", anew(folder))))?;
        if let Some(difference) = record.settings.difference(settings) {
            return Err(file_error(
                &path,
                format!("an unfinished preparation had {difference}\nHINT: choose another --output; {}", anew(folder)),
            ));
        }
        record.shards.iter().try_for_each(|shard| check_shard(folder, shard, settings.dtype))?;
        Ok(Some(record))
    }

    pub fn save(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string(self).map_err(|error| Error::Other(format!("{PROGRESS}: {error}")))?;
        replace(&path(folder), text.as_bytes())
    }
}

/// Forgets the record, where there is one.
pub(super) fn remove(folder: &Path) -> Result<()> {
    super::write::remove(&path(folder))
}

fn path(folder: &Path) -> PathBuf {
    folder.join(PROGRESS)
}

/// Refuses a finished file that is not there in its size.
pub(super) fn check_file(folder: &Path, file: &str, num_tokens: u64, dtype: TokenType) -> Result<()> {
    let bytes = dtype.width() as u64 * num_tokens;
    let path = folder.join(file);
    let problem = match std::fs::metadata(&path) {
        Ok(metadata) if metadata.len() == bytes => return Ok(()),
        Ok(metadata) => format!("has {} bytes, expected {bytes} of {num_tokens} tokens", metadata.len()),
        Err(error) => format!("is missing ({error})"),
    };
    Err(file_error(&path, format!("{problem}\nHINT: restore the file; {}", anew(folder))))
}

/// Refuses a finished shard that is not as it was written.
fn check_shard(folder: &Path, shard: &TokenFile, dtype: TokenType) -> Result<()> {
    check_file(folder, &shard.file, shard.num_tokens, dtype)?;
    let path = folder.join(&shard.file);
    let mut hasher = Sha256::new();
    let read = crate::file::open(&path).and_then(|mut file| std::io::copy(&mut file, &mut hasher));
    read.map_err(|error| Error::Storage(format!("{}: cannot be read: {error}", path.display())))?;
    if format!("{:x}", hasher.finalize()) == shard.sha256 {
        return Ok(());
    }
    let problem = format!("is not what was written ({PROGRESS} has another SHA-256)");
    Err(file_error(&path, format!("{problem}\nHINT: restore the file; {}", anew(folder))))
}

/// How to begin from nothing; the folder may hold other files, too.
pub(super) fn anew(folder: &Path) -> String {
    let folder = folder.display();
    format!("to begin anew, delete meta.json, {PROGRESS} and train*.bin in {folder}")
}
