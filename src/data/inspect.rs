//! What a file of tokens holds.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::shard::Shard;
use super::{TokenType, Tokenizer, Tokens, file_error};
use crate::Result;
use crate::shown::Url;

/// Tokens that are read at a time.
const PIECE: usize = 1 << 20;
/// Bytes of remote files that are kept: everything is read once.
const CACHE: u64 = 1 << 20;
/// Tokens of the excerpt.
const EXCERPT: usize = 256;
/// Tokens of the histogram's head.
const MOST_FREQUENT: usize = 10;

/// What a file of tokens, or a glob of them, holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// As asked for.
    pub path: Url,
    /// The format of each file.
    pub formats: Vec<(String, &'static str)>,
    /// Files whose SHA-256 is the one in meta.json; those that meta.json does not list are not counted.
    pub num_verified: usize,
    /// Number of tokens in all.
    pub num_tokens: usize,
    /// The largest token: the model's vocabulary must be larger.
    pub max_token: u32,
    /// Number of different tokens that occur.
    pub num_distinct: usize,
    /// The most frequent tokens, most frequent first.
    pub most_frequent: Vec<Frequency>,
    /// From meta.json, where there is one.
    pub tokenizer: Option<Tokenizer>,
    /// From meta.json: what the model's vocabulary must be at least.
    pub vocabulary_size: Option<usize>,
    /// The first tokens as text, where meta.json says how.
    pub excerpt: Option<String>,
}

/// How often a token occurs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Frequency {
    /// The token.
    pub token: u32,
    /// Its text, where meta.json says how.
    pub text: Option<String>,
    /// How often.
    pub count: u64,
}

/// Reads all tokens of a file or glob (`dtype`: as of [`Tokens::open`]), and holds each file's SHA-256 against meta.json, where it is listed there.
///
/// # Errors
/// As [`Tokens::open`]; [`crate::Error::Config`] for a file with another hash.
pub fn inspect(path: impl Into<Url>, dtype: Option<TokenType>) -> Result<Inspection> {
    let path = path.into();
    let tokens = Tokens::open(&path, CACHE, dtype)?;
    let counts = count(&tokens)?;
    let meta = tokens.meta();
    let decode = |tokens: &[u32]| meta.and_then(|meta| meta.decode(tokens));

    let mut present: Vec<(u32, u64)> = counts.into_iter().collect();
    let max_token = present.last().map_or(0, |(token, _)| *token);
    let num_distinct = present.len();
    present.sort_by_key(|(token, count)| (std::cmp::Reverse(*count), *token));
    let most_frequent = present.iter().take(MOST_FREQUENT);
    Ok(Inspection {
        path,
        formats: tokens.files().map(|(file, format)| (file.to_string(), format.name())).collect(),
        num_verified: tokens.shards().iter().filter(|shard| shard.sha256.is_some()).count(),
        num_tokens: tokens.len(),
        max_token,
        num_distinct,
        most_frequent: most_frequent
            .map(|(token, count)| Frequency { token: *token, text: decode(&[*token]), count: *count })
            .collect(),
        tokenizer: meta.map(|meta| meta.tokenizer),
        vocabulary_size: meta.map(|meta| meta.vocabulary_size),
        excerpt: decode(&tokens.read(0..tokens.len().min(EXCERPT))?),
    })
}

/// Occurrences of each token; every file with a known hash has it.
fn count(tokens: &Tokens) -> Result<BTreeMap<u32, u64>> {
    let mut narrow = vec![0u64; 1 << 16];
    let mut wide = BTreeMap::new();
    for shard in tokens.shards() {
        let end = shard.first + shard.len;
        let mut hasher = Sha256::new();
        for start in (shard.first..end).step_by(PIECE) {
            let some = tokens.read(start..(start + PIECE).min(end))?;
            some.iter().for_each(|token| match narrow.get_mut(*token as usize) {
                Some(count) => *count += 1,
                None => *wide.entry(*token).or_insert(0) += 1,
            });
            let width = shard.format.width();
            hasher
                .update(some.iter().flat_map(|token| token.to_le_bytes().into_iter().take(width)).collect::<Vec<u8>>());
        }
        check(shard, &format!("{:x}", hasher.finalize()))?;
    }
    let narrow = (0..).zip(narrow).filter(|(_, count)| *count > 0);
    Ok(narrow.chain(wide).collect())
}

/// The hash of a file's tokens is that of the file: what meta.json describes has no header.
fn check(shard: &Shard, found: &str) -> Result<()> {
    match &shard.sha256 {
        Some(expected) if expected != found => Err(file_error(
            Path::new(&shard.name),
            format!(
                "its SHA-256 is {found}, but meta.json beside it says {expected}\nHINT: the file was changed, or has the name \
                 of another; fetch it again"
            ),
        )),
        _ => Ok(()),
    }
}
