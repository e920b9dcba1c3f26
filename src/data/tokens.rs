//! Files of 16-bit tokens, memory-mapped.
//!
//! Two formats, told apart by the header:
//! - nanoGPT `.bin`: nothing but little-endian uint16.
//! - llm.c shard: 256 little-endian int32 (magic 20240520, version 1, number of tokens, zeros), then uint16.
//!
//! A nanoGPT file cannot be taken for a shard by accident: the magic's low half is the token 55432, beyond GPT-2's vocabulary.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::file_error;
use crate::{Error, Result};

const HEADER_BYTES: usize = 256 * 4;
const MAGIC: i32 = 20240520;
/// llm.c's format for Llama 3: 32-bit tokens.
const MAGIC_LLAMA: i32 = 20240801;
const VERSION: i32 = 1;

/// How a file holds its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Raw uint16.
    NanoGpt,
    /// A header, then uint16.
    LlmC,
}

/// The tokens of one file or of several shards, one after the other.
#[derive(Debug)]
pub struct Tokens {
    shards: Vec<Shard>,
    len: usize,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    format: Format,
    map: Mmap,
    /// Position of the shard's first token among all.
    first: usize,
    len: usize,
}

impl Tokens {
    /// Opens a file, or all files that a glob matches, sorted by name.
    ///
    /// # Errors
    /// [`Error::Config`]: no such file, or not a whole number of tokens, or not what its header says.
    pub fn open(path: &str) -> Result<Self> {
        let mut shards = Vec::new();
        let mut len = 0;
        for file in files(path)? {
            let shard = Shard::open(file, len)?;
            len += shard.len;
            shards.push(shard);
        }
        Ok(Self { shards, len })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true of opened files.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The files, in order, with their formats.
    pub fn files(&self) -> impl Iterator<Item = (&Path, Format)> {
        self.shards.iter().map(|shard| (shard.path.as_path(), shard.format))
    }

    /// The tokens at these positions, across shards.
    ///
    /// # Errors
    /// [`Error::Config`] beyond the end.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<u16>> {
        if range.end > self.len {
            return Err(Error::Config(format!(
                "{}: tokens {} to {} are asked for, and there are {}",
                self.name(),
                range.start,
                range.end,
                self.len
            )));
        }
        let mut out = Vec::with_capacity(range.len());
        for shard in &self.shards {
            let start = range.start.max(shard.first);
            let end = range.end.min(shard.first + shard.len);
            if start < end {
                out.extend(shard.tokens(start - shard.first..end - shard.first));
            }
        }
        Ok(out)
    }

    /// As [`Tokens::read`], and every token is below `vocabulary`.
    ///
    /// # Errors
    /// [`Error::Config`] with file and position of the first token that is not.
    pub fn read_below(&self, range: Range<usize>, vocabulary: usize) -> Result<Vec<u16>> {
        let start = range.start;
        let tokens = self.read(range)?;
        match tokens.iter().position(|token| usize::from(*token) >= vocabulary) {
            None => Ok(tokens),
            Some(index) => Err(self.beyond(start + index, tokens[index], vocabulary)),
        }
    }

    fn beyond(&self, position: usize, token: u16, vocabulary: usize) -> Error {
        let place = self.shards.iter().rev().find(|shard| shard.first <= position);
        let (file, position) = match place {
            Some(shard) => (shard.path.display().to_string(), position - shard.first),
            None => (self.name(), position),
        };
        Error::Config(format!(
            "{file}: token {token} at position {position} is not below the model's vocabulary of {vocabulary}\n\
             HINT: set the model's vocabulary to what `hesspec data inspect {file}` says, or prepare the data with the \
             model's tokenizer"
        ))
    }

    /// The file, or the first of several, for messages.
    fn name(&self) -> String {
        let more = if self.shards.len() > 1 { format!(" and {} more", self.shards.len() - 1) } else { String::new() };
        self.shards.first().map_or("no file".into(), |shard| format!("{}{more}", shard.path.display()))
    }
}

impl Shard {
    fn open(path: PathBuf, first: usize) -> Result<Self> {
        let file = File::open(&path).map_err(|error| {
            file_error(&path, format!("cannot open the tokens: {error}\nHINT: make them with `hesspec data prepare`"))
        })?;
        let metadata = file.metadata().map_err(|error| file_error(&path, error))?;
        if metadata.is_dir() {
            return Err(file_error(
                &path,
                "is a folder\nHINT: name the file in it, or a glob such as \"folder/*.bin\"",
            ));
        }
        if metadata.len() == 0 {
            return Err(file_error(&path, "is empty\nHINT: make it again with `hesspec data prepare`"));
        }
        // SAFETY: the map is read-only. A file that somebody truncates during the run ends the process with SIGBUS;
        // the alternative, reading everything into memory, is worse for files of many gigabytes.
        let map =
            unsafe { Mmap::map(&file) }.map_err(|error| file_error(&path, format!("cannot be mapped: {error}")))?;
        let format = format(&path, &map)?;
        let len = match format {
            Format::NanoGpt => raw_len(&path, map.len())?,
            Format::LlmC => shard_len(&path, &map)?,
        };
        Ok(Self { path, format, map, first, len })
    }

    fn tokens(&self, range: Range<usize>) -> impl Iterator<Item = u16> {
        let header = if self.format == Format::LlmC { HEADER_BYTES } else { 0 };
        let bytes = &self.map[header + 2 * range.start..header + 2 * range.end];
        bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
    }
}

/// The file of a plain path, or those of a glob, sorted.
fn files(path: &str) -> Result<Vec<PathBuf>> {
    let path = path.strip_prefix("file://").unwrap_or(path);
    if path.contains("://") {
        return Err(Error::Config(format!(
            "{path}: tokens are memory-mapped and cannot be read from a URL yet\nHINT: copy the file and name its path"
        )));
    }
    if !path.contains(['*', '?', '[']) || Path::new(path).exists() {
        return Ok(vec![PathBuf::from(path)]);
    }
    let pattern = glob::glob(path).map_err(|error| Error::Config(format!("{path}: not a glob: {error}")))?;
    let mut found = pattern
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| Error::Config(format!("{path}: {error}")))?;
    found.sort();
    if found.is_empty() {
        return Err(file_error(Path::new(path), "no file matches this glob"));
    }
    Ok(found)
}

/// Entry `index` of a header, where the file is long enough to have one.
fn header_entry(map: &[u8], index: usize) -> Option<i32> {
    let bytes = map.get(..HEADER_BYTES)?.get(4 * index..4 * index + 4)?;
    bytes.try_into().ok().map(i32::from_le_bytes)
}

fn format(path: &Path, map: &[u8]) -> Result<Format> {
    match (header_entry(map, 0), header_entry(map, 1)) {
        (Some(MAGIC), Some(VERSION)) => Ok(Format::LlmC),
        (Some(magic @ (MAGIC | MAGIC_LLAMA)), Some(version)) => Err(file_error(
            path,
            format!(
                "an llm.c shard with magic {magic} and version {version}; expected magic {MAGIC}, version {VERSION} \
                 (GPT-2, uint16)\nHINT: write the shards again with llm.c's dev/data scripts for GPT-2"
            ),
        )),
        _ => Ok(Format::NanoGpt),
    }
}

fn raw_len(path: &Path, bytes: usize) -> Result<usize> {
    if !bytes.is_multiple_of(2) {
        return Err(file_error(
            path,
            format!(
                "has {bytes} bytes, which is no whole number of uint16 tokens\n\
                 HINT: the file is truncated or no nanoGPT .bin; make it again with `hesspec data prepare`"
            ),
        ));
    }
    Ok(bytes / 2)
}

fn shard_len(path: &Path, map: &[u8]) -> Result<usize> {
    let declared = header_entry(map, 2).unwrap_or_default();
    let found = map.len() - HEADER_BYTES;
    let len = usize::try_from(declared).unwrap_or_default();
    if len == 0 || found != 2 * len {
        return Err(file_error(
            path,
            format!(
                "the header says {declared} tokens ({} bytes), after it there are {found} bytes\n\
                 HINT: the shard is truncated or was still being written; fetch or write it again",
                2 * i64::from(declared)
            ),
        ));
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::write;
    use tempfile::TempDir;

    fn raw(tokens: &[u16]) -> Vec<u8> {
        tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
    }

    fn shard(magic: i32, version: i32, declared: i32, tokens: &[u16]) -> Vec<u8> {
        let mut header = [0i32; 256];
        header[..3].copy_from_slice(&[magic, version, declared]);
        let mut bytes: Vec<u8> = header.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        bytes.extend(raw(tokens));
        bytes
    }

    fn open(folder: &TempDir, pattern: &str) -> Result<Tokens> {
        Tokens::open(folder.path().join(pattern).to_str().unwrap())
    }

    fn assert_refused(bytes: Vec<u8>, parts: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path().join("x.bin"), bytes).unwrap();
        let error = open(&folder, "x.bin").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        for part in ["x.bin", "HINT"].iter().chain(parts) {
            assert!(error.to_string().contains(part), "`{part}` is not in: {error}");
        }
    }

    #[test]
    fn both_formats_are_told_apart_and_joined_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let long: Vec<u16> = (0..2000).collect();
        write(folder.path().join("b.bin"), shard(MAGIC, VERSION, 3, &[7, 8, 65535])).unwrap();
        write(folder.path().join("a.bin"), raw(&long)).unwrap();
        write(folder.path().join("c.bin"), raw(&[9])).unwrap();
        let tokens = open(&folder, "*.bin").unwrap();
        assert_eq!((tokens.len(), tokens.is_empty()), (2004, false));
        let formats: Vec<Format> = tokens.files().map(|(_, format)| format).collect();
        assert_eq!(formats, [Format::NanoGpt, Format::LlmC, Format::NanoGpt]);
        assert_eq!(tokens.read(1998..2004).unwrap(), [1998, 1999, 7, 8, 65535, 9]);
        assert_eq!(tokens.read(2000..2001).unwrap(), [7]);
        assert_eq!(tokens.read(5..5).unwrap(), [0u16; 0]);
        assert_eq!(tokens.read(0..2000).unwrap(), long);
        assert!(tokens.read(2000..2005).unwrap_err().to_string().contains("and 2 more"));
    }

    #[test]
    fn damaged_files_are_refused() {
        assert_refused(vec![1, 2, 3], &["3 bytes", "truncated"]);
        assert_refused(vec![], &["is empty"]);
        assert_refused(shard(MAGIC, VERSION, 4, &[1, 2, 3]), &["says 4 tokens (8 bytes)", "there are 6 bytes"]);
        assert_refused(shard(MAGIC, VERSION, 2, &[1, 2, 3]), &["says 2 tokens"]);
        assert_refused(shard(MAGIC, VERSION, -1, &[1]), &["says -1 tokens"]);
        assert_refused(shard(MAGIC, 2, 1, &[1]), &["version 2"]);
        assert_refused(shard(MAGIC_LLAMA, 7, 1, &[1]), &["20240801"]);
    }

    #[test]
    fn missing_files_say_what_was_tried() {
        let folder = tempfile::tempdir().unwrap();
        let tried = folder.path().join("none.bin");
        for (pattern, part) in
            [("none.bin", tried.to_str().unwrap()), ("*.bin", "no file matches"), ("", "is a folder")]
        {
            let error = open(&folder, pattern).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(part), "{error}");
        }
        let relative = Tokens::open("no-such-file.bin").unwrap_err().to_string();
        assert!(relative.contains(&crate::config::absolute(Path::new("no-such-file.bin"))), "{relative}");
        assert!(Tokens::open("s3://bucket/x.bin").unwrap_err().to_string().contains("URL"));
    }

    #[test]
    fn a_token_beyond_the_vocabulary_is_found_in_its_file() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path().join("a.bin"), raw(&[1, 2, 3])).unwrap();
        write(folder.path().join("b.bin"), raw(&[4, 65, 5])).unwrap();
        let tokens = open(&folder, "*.bin").unwrap();
        assert_eq!(tokens.read_below(0..6, 66).unwrap().len(), 6);
        let error = tokens.read_below(1..6, 65).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let message = error.to_string();
        assert!(
            message.contains("b.bin: token 65 at position 1 is not below the model's vocabulary of 65"),
            "{message}"
        );
    }
}
