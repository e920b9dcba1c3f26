//! Files of tokens, one after the other: local ones memory-mapped, those on object storage read in ranges.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::beside;
use super::format::{Format, TokenType};
use super::meta::Meta;
use super::remote::Remote;
use super::shard::{Content, Shard};
use crate::shown::Url;
use crate::storage::{Access, Location, expand, local_path};
use crate::{Error, Result};

/// The tokens of one file or of several shards, one after the other.
#[derive(Debug)]
pub struct Tokens {
    shards: Vec<Shard>,
    len: usize,
    /// Where the shards are, unless they are local.
    remote: Option<Remote>,
    /// The description beside the first of them.
    meta: Option<Meta>,
}

impl Tokens {
    /// Opens a file, or all files that a glob matches, sorted by name; a path or a URL. Of a URL at most `cache` bytes are
    /// kept in memory. `dtype`: the numbers that the files consist of, if that is not to be told by their content.
    ///
    /// # Errors
    /// [`Error::Config`]: no such file, or not a whole number of tokens, or not what its header or the meta.json beside it
    /// says, or of an unfinished preparation; [`Error::Environment`] for a URL whose feature is not built; [`Error::Storage`] where it does not answer.
    pub fn open(path: impl Into<Url>, cache: u64, dtype: Option<TokenType>) -> Result<Self> {
        let path = path.into();
        let names = expand(&path)?;
        let mut tokens = match local_path(&path)? {
            Some(_) => Self::local(path.exposed(), &names, dtype)?,
            None if path.has_query() => Self::behind_query(&path, cache, dtype)?,
            None => Self::on_storage(path.exposed(), &names, cache, dtype)?,
        };
        for shard in &mut tokens.shards {
            shard.first = tokens.len;
            tokens.len += shard.len;
        }
        Ok(tokens)
    }

    /// Local files, mapped.
    fn local(pattern: &str, names: &[Url], dtype: Option<TokenType>) -> Result<Self> {
        let paths = names.iter().map(|name| Ok(local_path(name)?.unwrap_or_default()));
        let paths: Vec<PathBuf> = paths.collect::<Result<_>>()?;
        let (mut shards, mut metas) = (Vec::new(), Vec::new());
        for files in paths.chunk_by(|a, b| a.parent() == b.parent()) {
            let folder = files[0].parent().unwrap_or(Path::new(""));
            let meta = beside::local(folder)?;
            if let Some(meta) = &meta {
                let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let found: Vec<String> = files.iter().map(name).collect();
                beside::check(&folder.to_string_lossy(), pattern, meta, &found)?;
            }
            for path in files {
                shards.push(Shard::map(path, meta.as_ref(), dtype)?);
            }
            metas.push(meta);
        }
        Ok(Self { shards, len: 0, remote: None, meta: metas.into_iter().next().flatten() })
    }

    /// One file whose URL is good for it alone: nothing beside it is asked for.
    fn behind_query(url: &Url, cache: u64, dtype: Option<TokenType>) -> Result<Self> {
        let (location, object) = Location::of_object(url)?;
        let remote = Remote::new(location, vec![object], cache)?;
        let (bytes, header) = remote.describe(0)?;
        let shard = Shard::new(url.to_string(), Content::Object(0), bytes, &header, None, dtype)?;
        Ok(Self { shards: vec![shard], len: 0, remote: Some(remote), meta: None })
    }

    fn on_storage(pattern: &str, names: &[Url], cache: u64, dtype: Option<TokenType>) -> Result<Self> {
        let parent = names.first().map(|name| name.split().0).unwrap_or_default();
        let location = Location::open(&parent, Access::Read)?;
        let inside = |name: &Url| match name.split() {
            (folder, object) if folder == parent => Ok(object.to_string()),
            _ => {
                Err(Error::Config(format!("{name}: is not in `{parent}`; all files of a glob must lie in one folder")))
            }
        };
        let objects: Vec<String> = names.iter().map(inside).collect::<Result<_>>()?;
        let meta = beside::remote(&location)?;
        if let Some(meta) = &meta {
            beside::check(&parent.to_string(), pattern, meta, &objects)?;
        }
        let remote = Remote::new(location, objects, cache)?;
        let mut shards = Vec::new();
        for (object, name) in names.iter().enumerate() {
            let (bytes, header) = remote.describe(object)?;
            let content = Content::Object(object);
            shards.push(Shard::new(name.to_string(), content, bytes, &header, meta.as_ref(), dtype)?);
        }
        Ok(Self { shards, len: 0, remote: Some(remote), meta })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true of opened files.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether reading means waiting for a network.
    pub fn is_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// The files, in order, with their formats.
    pub fn files(&self) -> impl Iterator<Item = (&str, Format)> {
        self.shards.iter().map(|shard| (shard.name.as_str(), shard.format))
    }

    /// The files, with what is known of each.
    pub(super) fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// What meta.json says that stands beside the first file, where one does.
    pub fn meta(&self) -> Option<&Meta> {
        self.meta.as_ref()
    }

    /// Bytes of the widest file's tokens: 1, 2 or 4.
    pub fn width(&self) -> usize {
        self.shards.iter().map(|shard| shard.format.width()).max().unwrap_or(2)
    }

    /// The tokens at these positions, across shards.
    ///
    /// # Errors
    /// [`Error::Config`] beyond the end, [`Error::Storage`] where the storage does not answer.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<u32>> {
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
        for (shard, bytes) in self.parts(range) {
            let width = shard.format.width();
            match (&shard.content, &self.remote) {
                (Content::Object(object), Some(remote)) => {
                    push_numbers(&mut out, &remote.read(*object, bytes.start as u64..bytes.end as u64)?, width);
                }
                (content, _) => push_numbers(&mut out, content.mapped(bytes), width),
            }
        }
        Ok(out)
    }

    /// Fetches what these ranges need and is not at hand, in few requests; nothing to do for local files.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn prefetch(&self, ranges: &[Range<usize>]) -> Result<()> {
        let Some(remote) = &self.remote else { return Ok(()) };
        let parts = ranges.iter().flat_map(|range| self.parts(range.clone()));
        let wanted: Vec<(usize, Range<u64>)> = parts
            .filter_map(|(shard, bytes)| Some((shard.content.object()?, bytes.start as u64..bytes.end as u64)))
            .collect();
        remote.prefetch(&wanted)
    }

    /// Shards and bytes in them that hold these positions.
    fn parts(&self, range: Range<usize>) -> impl Iterator<Item = (&Shard, Range<usize>)> {
        self.shards.iter().filter_map(move |shard| {
            let start = range.start.max(shard.first);
            let end = range.end.min(shard.first + shard.len);
            (start < end).then(|| (shard, shard.bytes(start - shard.first..end - shard.first)))
        })
    }

    /// As [`Tokens::read`], and every token is below `vocabulary`.
    ///
    /// # Errors
    /// [`Error::Config`] with file and position of the first token that is not.
    pub fn read_below(&self, range: Range<usize>, vocabulary: usize) -> Result<Vec<u32>> {
        let start = range.start;
        let tokens = self.read(range)?;
        match tokens.iter().position(|token| *token as usize >= vocabulary) {
            None => Ok(tokens),
            Some(index) => Err(self.beyond(start + index, tokens[index], vocabulary)),
        }
    }

    fn beyond(&self, position: usize, token: u32, vocabulary: usize) -> Error {
        let place = self.shards.iter().rev().find(|shard| shard.first <= position);
        let (file, position) = match place {
            Some(shard) => (shard.name.clone(), position - shard.first),
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
        self.shards.first().map_or("no file".into(), |shard| format!("{}{more}", shard.name))
    }
}

/// Little-endian numbers of `width` bytes: 1, 2 or 4.
fn push_numbers(out: &mut Vec<u32>, bytes: &[u8], width: usize) {
    match width {
        1 => out.extend(bytes.iter().map(|byte| u32::from(*byte))),
        2 => out.extend(bytes.chunks_exact(2).map(|pair| u32::from(u16::from_le_bytes([pair[0], pair[1]])))),
        _ => out.extend(bytes.chunks_exact(4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::{MAGIC, MAGIC_LLAMA, VERSION};
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
        Tokens::open(folder.path().join(pattern).to_str().unwrap(), 0, None)
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
        assert_eq!(tokens.read(5..5).unwrap(), [0u32; 0]);
        assert_eq!(tokens.read(0..2000).unwrap(), (0..2000).collect::<Vec<u32>>());
        assert!(tokens.read(2000..2005).unwrap_err().to_string().contains("and 2 more"));
    }

    #[test]
    fn shards_on_object_storage_are_the_same_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::open("memory://tokens/some/shards", Access::Write).unwrap();
        let long: Vec<u16> = (0..40_000).collect();
        let files = [("a.bin", raw(&long)), ("b.bin", shard(MAGIC, VERSION, 3, &[7, 8, 9])), ("c.bin", raw(&[1]))];
        for (name, bytes) in files {
            write(folder.path().join(name), &bytes).unwrap();
            location.put(name, bytes).unwrap();
        }
        let (local, remote) =
            (open(&folder, "*.bin").unwrap(), Tokens::open("memory://tokens/some/shards/*.bin", 20_000, None).unwrap());
        assert!(remote.is_remote() && !local.is_remote() && remote.len() == local.len());
        remote.prefetch(&[5..10, 39_990..40_004]).unwrap();
        for range in [0..40_004, 3..4, 39_990..40_004, 8_000..9_000, 5..5] {
            assert_eq!(remote.read(range.clone()).unwrap(), local.read(range).unwrap());
        }
        location.put("progress.json", "{}").unwrap();
        assert!(
            Tokens::open("memory://tokens/some/shards/c.bin", 0, None).unwrap_err().to_string().contains("unfinished")
        );
        location.delete("progress.json").unwrap();
        location.put("meta.json", "").unwrap();
        let error = Tokens::open("memory://tokens/some/shards/c.bin", 0, None).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("shards/meta.json: not a description"), "{error}");
        location.delete("meta.json").unwrap();
        location.put("c.bin", vec![1, 2, 3]).unwrap();
        let error = Tokens::open("memory://tokens/some/shards/c.bin", 0, None).unwrap_err().to_string();
        assert!(error.contains("c.bin: has 3 bytes"), "{error}");
    }

    #[test]
    fn damaged_files_are_refused() {
        assert_refused(vec![1, 2, 3], &["3 bytes", "truncated"]);
        assert_refused(vec![], &["is empty"]);
        assert_refused(shard(MAGIC, VERSION, 4, &[1, 2, 3]), &["says 4 tokens (8 bytes)", "there are 6 bytes"]);
        assert_refused(shard(MAGIC, VERSION, 2, &[1, 2, 3]), &["says 2 tokens"]);
        assert_refused(shard(MAGIC, VERSION, -1, &[1]), &["says -1 tokens"]);
        assert_refused(shard(MAGIC, 2, 1, &[1]), &["version 2"]);
        assert_refused(shard(MAGIC_LLAMA, 1, 1, &[1]), &["20240801"]);
        assert_refused(shard(MAGIC_LLAMA, 7, 1, &[1]), &["says 1 tokens (4 bytes)", "there are 2 bytes"]);
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
        let relative = Tokens::open("no-such-file.bin", 0, None).unwrap_err().to_string();
        assert!(relative.contains(&crate::storage::absolute(Path::new("no-such-file.bin"))), "{relative}");
        let remote = Tokens::open("memory://no-such-place/x.bin", 0, None).unwrap_err();
        assert!(remote.exit_code() == 2 && remote.to_string().contains("no such object"), "{remote}");
        if cfg!(not(feature = "s3")) {
            let remote = Tokens::open("s3://bucket/x.bin", 0, None).unwrap_err();
            assert!(remote.exit_code() == 3 && remote.to_string().contains("--features s3"), "{remote}");
        }
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
