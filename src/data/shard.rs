//! One file of tokens: where its bytes are, and what is known of it.

use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

use super::file_error;
use super::format::{Format, HEADER_BYTES, TokenType, recognise};
use super::meta::{Described, Meta};
use crate::{Result, file};

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
    pub fn map(path: &Path, meta: Option<&Meta>, dtype: Option<TokenType>) -> Result<Self> {
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
        Self::new(path.display().to_string(), Content::Mapped(map), bytes, &header, meta, dtype)
    }

    /// A file of `bytes` bytes, the first of which are `header`. `dtype`: what it holds, if that is not to be told by its content.
    pub fn new(
        name: String,
        content: Content,
        bytes: u64,
        header: &[u8],
        meta: Option<&Meta>,
        dtype: Option<TokenType>,
    ) -> Result<Self> {
        let path = Path::new(&name);
        let ours = meta.filter(|meta| described(path, meta).is_some()).map(|meta| meta.dtype); // whatever they look like
        let (format, len) = recognise(path, header, bytes, dtype.or(ours))?;
        let sha256 = check_meta(path, len, meta)?;
        Ok(Self { format, content, first: 0, len, name, sha256 })
    }

    /// Where these of its tokens lie.
    pub fn bytes(&self, tokens: Range<usize>) -> Range<usize> {
        let (header, width) = (self.format.header(), self.format.width());
        header + width * tokens.start..header + width * tokens.end
    }
}

/// What the meta.json beside a file says of it.
fn described<'a>(path: &Path, meta: &'a Meta) -> Option<Described<'a>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    meta.files().find(|file| file.file == name)
}

/// A raw file has nothing in it that says how long it should be; the meta.json beside it has, and a hash, which is returned.
fn check_meta(path: &Path, len: usize, meta: Option<&Meta>) -> Result<Option<String>> {
    let Some(described) = meta.and_then(|meta| described(path, meta)) else { return Ok(None) };
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
