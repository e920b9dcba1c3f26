//! One file of 16-bit tokens.
//!
//! Two formats, told apart by the header:
//! - nanoGPT `.bin`: nothing but little-endian uint16.
//! - llm.c shard: 256 little-endian int32 (magic 20240520, version 1, number of tokens, zeros), then uint16.
//!
//! A nanoGPT file cannot be taken for a shard by accident: the magic's low half is the token 55432, beyond GPT-2's vocabulary.

use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

use super::file_error;
use super::meta::Meta;
use crate::{Result, file};

/// Bytes of llm.c's header.
pub(super) const HEADER_BYTES: usize = 256 * 4;
pub(super) const MAGIC: i32 = 20240520;
/// llm.c's format for Llama 3: 32-bit tokens.
pub(super) const MAGIC_LLAMA: i32 = 20240801;
pub(super) const VERSION: i32 = 1;

/// How a file holds its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Raw uint16.
    NanoGpt,
    /// A header, then uint16.
    LlmC,
}

/// Where the bytes of a file are.
#[derive(Debug)]
pub(super) enum Content {
    /// In memory, as far as the operating system reads them.
    Mapped(Mmap),
    /// On the storage, under this number.
    Object(usize),
}

impl Content {
    /// Some bytes of a mapped file; none of an object.
    pub fn mapped(&self, bytes: Range<usize>) -> &[u8] {
        match self {
            Self::Mapped(map) => &map[bytes],
            Self::Object(_) => &[],
        }
    }

    /// The object's number.
    pub fn object(&self) -> Option<usize> {
        match self {
            Self::Mapped(_) => None,
            Self::Object(number) => Some(*number),
        }
    }
}

/// One file of tokens.
#[derive(Debug)]
pub(super) struct Shard {
    /// Path or URL.
    pub name: String,
    pub format: Format,
    pub content: Content,
    /// Position of the shard's first token among all.
    pub first: usize,
    /// Number of tokens.
    pub len: usize,
    /// SHA-256 that the meta.json beside it gives.
    pub sha256: Option<String>,
}

impl Shard {
    /// Maps a local file.
    pub fn map(path: &Path, meta: Option<&Meta>) -> Result<Self> {
        let opened = file::open(path).map_err(|error| {
            file_error(path, format!("cannot open the tokens: {error}\nHINT: make them with `hesspec data prepare`"))
        })?;
        let metadata = opened.metadata().map_err(|error| file_error(path, error))?;
        if metadata.is_dir() {
            return Err(file_error(path, "is a folder\nHINT: name the file in it, or a glob such as \"folder/*.bin\""));
        }
        if metadata.len() == 0 {
            return Err(file_error(path, "is empty\nHINT: make it again with `hesspec data prepare`"));
        }
        // SAFETY: the map is read-only. A file that somebody truncates during the run ends the process with SIGBUS;
        // the alternative, reading everything into memory, is worse for files of many gigabytes.
        let map =
            unsafe { Mmap::map(&opened) }.map_err(|error| file_error(path, format!("cannot be mapped: {error}")))?;
        let (bytes, header) = (map.len() as u64, map[..map.len().min(HEADER_BYTES)].to_vec());
        Self::new(path.display().to_string(), Content::Mapped(map), bytes, &header, meta)
    }

    /// A file of `bytes` bytes, the first of which are `header`.
    pub fn new(name: String, content: Content, bytes: u64, header: &[u8], meta: Option<&Meta>) -> Result<Self> {
        let path = Path::new(&name);
        let format = format(path, header)?;
        let len = match format {
            Format::NanoGpt => raw_len(path, bytes)?,
            Format::LlmC => shard_len(path, header, bytes)?,
        };
        let sha256 = check_meta(path, len, meta)?;
        Ok(Self { format, content, first: 0, len, name, sha256 })
    }

    /// Where these of its tokens lie.
    pub fn bytes(&self, tokens: Range<usize>) -> Range<usize> {
        let header = if self.format == Format::LlmC { HEADER_BYTES } else { 0 };
        header + 2 * tokens.start..header + 2 * tokens.end
    }
}

/// A raw file has nothing in it that says how long it should be; the meta.json beside it has, and a hash, which is returned.
fn check_meta(path: &Path, len: usize, meta: Option<&Meta>) -> Result<Option<String>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some(described) = meta.and_then(|meta| meta.files().find(|file| file.file == name)) else { return Ok(None) };
    if described.num_tokens != len as u64 {
        return Err(file_error(
            path,
            format!(
                "has {len} tokens, but meta.json beside it says {}\nHINT: the file is truncated or one of them was replaced; \
                 fetch it again, or prepare the tokens again into another folder",
                described.num_tokens
            ),
        ));
    }
    Ok(described.sha256.map(str::to_owned))
}

/// Entry `index` of a header, where the file is long enough to have one.
fn header_entry(header: &[u8], index: usize) -> Option<i32> {
    let bytes = header.get(..HEADER_BYTES)?.get(4 * index..4 * index + 4)?;
    bytes.try_into().ok().map(i32::from_le_bytes)
}

fn format(path: &Path, header: &[u8]) -> Result<Format> {
    match (header_entry(header, 0), header_entry(header, 1)) {
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

fn raw_len(path: &Path, bytes: u64) -> Result<usize> {
    if bytes == 0 {
        return Err(file_error(path, "is empty\nHINT: make it again with `hesspec data prepare`"));
    }
    if !bytes.is_multiple_of(2) {
        return Err(file_error(
            path,
            format!(
                "has {bytes} bytes, which is no whole number of uint16 tokens\n\
                 HINT: the file is truncated or no nanoGPT .bin; make it again with `hesspec data prepare`"
            ),
        ));
    }
    Ok((bytes / 2) as usize)
}

fn shard_len(path: &Path, header: &[u8], bytes: u64) -> Result<usize> {
    let declared = header_entry(header, 2).unwrap_or_default();
    let found = bytes - HEADER_BYTES as u64;
    let len = usize::try_from(declared).unwrap_or_default();
    if len == 0 || found != 2 * len as u64 {
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
