//! Files that appear whole or not at all: written under another name in the same folder, synced, renamed.

use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::{Error, Result};

fn storage(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::Storage(format!("{}: cannot be written: {error}", path.display()))
}

/// A file under its temporary name; removed unless it is renamed. What a killed process leaves is written over by the next.
struct Temporary {
    path: PathBuf,
    temporary: PathBuf,
}

impl Temporary {
    fn new(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Self { path: path.into(), temporary: path.with_file_name(format!(".{name}.tmp")) }
    }

    fn rename(self, file: &File) -> Result<()> {
        file.sync_all().map_err(storage(&self.path))?;
        fs::rename(&self.temporary, &self.path).map_err(storage(&self.path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing to remove; after an error that one is already on its way up.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Puts `bytes` at `path`.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = Temporary::new(path);
    let mut file = File::create(&temporary.temporary).map_err(storage(path))?;
    file.write_all(bytes).map_err(storage(path))?;
    temporary.rename(&file)
}

/// Removes a file; one that is not there is fine.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::Storage(format!("{}: cannot be removed: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// A stream of tokens into a raw file of uint16 or uint32, with count and hash.
pub(super) struct TokenWriter {
    temporary: Temporary,
    file: BufWriter<File>,
    hasher: Sha256,
    num_tokens: u64,
    /// Bytes of a token, 2 or 4.
    width: usize,
}

impl TokenWriter {
    pub fn create(path: &Path, width: usize) -> Result<Self> {
        let temporary = Temporary::new(path);
        let file = File::create(&temporary.temporary).map_err(storage(path))?;
        Ok(Self { temporary, file: BufWriter::new(file), hasher: Sha256::new(), num_tokens: 0, width })
    }

    pub fn push(&mut self, tokens: &[u32]) -> Result<()> {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes().into_iter().take(self.width)).collect();
        self.file.write_all(&bytes).map_err(storage(&self.temporary.path))?;
        self.hasher.update(&bytes);
        self.num_tokens += tokens.len() as u64;
        Ok(())
    }

    pub fn num_tokens(&self) -> u64 {
        self.num_tokens
    }

    /// Puts the file in its place; number of tokens and SHA-256.
    pub fn finish(self) -> Result<(u64, String)> {
        let path = self.temporary.path.clone();
        let file = self.file.into_inner().map_err(|error| storage(&path)(error.into_error()))?;
        self.temporary.rename(&file)?;
        Ok((self.num_tokens, format!("{:x}", self.hasher.finalize())))
    }
}
