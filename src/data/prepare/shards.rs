//! Tokens into one file, or into shards of equal length with a record after each of them.

use std::path::{Path, PathBuf};

use super::super::file_error;
use super::super::meta::{PROGRESS, TokenFile};
use super::cut::Piece;
use super::encode::Encoder;
use super::record::{Position, Record, anew};
use super::skipped::Skipped;
use super::write::TokenWriter;
use crate::{Error, Result};

/// Name of the file where there is one.
pub(super) const SINGLE: &str = "train.bin";
/// What all shards match.
pub(super) const PATTERN: &str = "train_*.bin";

fn shard_name(number: usize) -> String {
    format!("train_{number:06}.bin")
}

/// Whether a file has the name of a shard.
fn is_shard(name: &str) -> bool {
    let number = name.strip_prefix("train_").and_then(|rest| rest.strip_suffix(".bin"));
    number.is_some_and(|number| number.len() >= 6 && number.bytes().all(|digit| digit.is_ascii_digit()))
}

/// Refuses a folder with tokens of which nothing says what they are.
pub(super) fn refuse_unknown(folder: &Path) -> Result<()> {
    let unreadable = |error: std::io::Error| Error::Storage(format!("{}: {error}", folder.display()));
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        if let Some(name) = name.to_str().filter(|name| *name == SINGLE || is_shard(name)) {
            let problem = format!("holds {name}, and neither meta.json nor {PROGRESS} says what it is");
            let hint = format!("choose another --output; {}", anew(folder));
            return Err(file_error(folder, format!("{problem}\nHINT: {hint}")));
        }
    }
    Ok(())
}

/// Where tokens go.
pub(super) struct Shards<'a> {
    folder: PathBuf,
    encoder: &'a Encoder,
    skipped: &'a Skipped,
    record: Record,
    current: Option<TokenWriter>,
    last: Option<u32>,
    num_documents: u64,
    /// Tokens of the next piece that the finished shards hold.
    skip: usize,
}

impl<'a> Shards<'a> {
    /// Goes on where `record` stands.
    pub fn new(folder: &Path, encoder: &'a Encoder, skipped: &'a Skipped, record: Record) -> Self {
        let Position { last, num_documents, done, .. } = record.position;
        Self { folder: folder.into(), encoder, skipped, record, current: None, last, num_documents, skip: done }
    }

    /// Tokens so far.
    pub fn num_tokens(&self) -> u64 {
        let finished: u64 = self.record.shards.iter().map(|shard| shard.num_tokens).sum();
        finished + self.current.as_ref().map_or(0, TokenWriter::num_tokens)
    }

    /// Documents so far.
    pub fn num_documents(&self) -> u64 {
        self.num_documents
    }

    /// The tokens of the next piece, behind a separator where a document begins.
    pub fn push(&mut self, piece: &Piece, tokens: &[u32]) -> Result<()> {
        let before = Position { place: piece.place, done: 0, last: self.last, num_documents: self.num_documents };
        let is_next_document = piece.starts && self.num_documents > 0;
        let separator = if is_next_document { self.encoder.separator(self.last) } else { None };
        self.num_documents += u64::from(piece.starts);
        let all: Vec<u32> = separator.into_iter().chain(tokens.iter().copied()).collect();
        let mut done = std::mem::take(&mut self.skip).min(all.len());
        while done < all.len() {
            let end = all.len().min(done.saturating_add(self.room()));
            self.current()?.push(&all[done..end])?;
            done = end;
            if self.room() == 0 {
                self.close()?;
                self.record.position = Position { done, ..before };
                self.record.skipped = self.skipped.found();
                self.record.save(&self.folder)?;
            }
        }
        self.last = all.last().copied().or(self.last);
        Ok(())
    }

    /// Tokens that the current file may still take.
    fn room(&self) -> usize {
        let Some(most) = self.record.settings.shard_tokens else { return usize::MAX };
        let taken = self.current.as_ref().map_or(0, TokenWriter::num_tokens);
        usize::try_from(most - taken).unwrap_or(usize::MAX)
    }

    fn current(&mut self) -> Result<&mut TokenWriter> {
        let writer = match self.current.take() {
            Some(writer) => writer,
            None => TokenWriter::create(&self.folder.join(self.name()), self.record.settings.dtype.width())?,
        };
        Ok(self.current.insert(writer))
    }

    fn name(&self) -> String {
        match self.record.settings.shard_tokens {
            None => SINGLE.into(),
            Some(_) => shard_name(self.record.shards.len()),
        }
    }

    fn close(&mut self) -> Result<()> {
        let file = self.name();
        if let Some(writer) = self.current.take() {
            let (num_tokens, sha256) = writer.finish()?;
            self.record.shards.push(TokenFile { file, num_tokens, sha256 });
        }
        Ok(())
    }

    /// Puts the last file in its place; all files, in order. Until meta.json is there, the record says that they are unfinished.
    pub fn finish(mut self) -> Result<Vec<TokenFile>> {
        self.record.skipped = self.skipped.found();
        self.record.save(&self.folder)?;
        self.close()?;
        Ok(self.record.shards)
    }
}
