//! What a file of tokens holds.

use std::path::Path;

use serde::Serialize;

use super::meta::Meta;
use super::{Format, Tokenizer, Tokens};
use crate::Result;

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
    pub path: String,
    /// The format of each file.
    pub formats: Vec<(String, &'static str)>,
    /// Number of tokens in all.
    pub num_tokens: usize,
    /// The largest token: the model's vocabulary must be larger.
    pub max_token: u16,
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
    pub token: u16,
    /// Its text, where meta.json says how.
    pub text: Option<String>,
    /// How often.
    pub count: u64,
}

/// Reads all tokens of a file or glob.
///
/// # Errors
/// As [`Tokens::open`]; also where meta.json describes other tokens than those beside it.
pub fn inspect(path: &str) -> Result<Inspection> {
    let tokens = Tokens::open(path, CACHE)?;
    let counts = count(&tokens)?;
    let first = tokens.files().next().map(|(first, _)| first);
    let meta = match first.filter(|_| !tokens.is_remote()) {
        Some(first) => Meta::beside(Path::new(first))?,
        None => None,
    };
    let decode = |tokens: &[u16]| meta.as_ref().map(|meta| meta.decode(tokens));

    let mut present: Vec<(u16, u64)> = (0..=u16::MAX).zip(counts).filter(|(_, count)| *count > 0).collect();
    let max_token = present.last().map_or(0, |(token, _)| *token);
    let num_distinct = present.len();
    present.sort_by_key(|(token, count)| (std::cmp::Reverse(*count), *token));
    let most_frequent = present.iter().take(MOST_FREQUENT);
    Ok(Inspection {
        path: path.into(),
        formats: tokens.files().map(|(file, format)| (file.to_string(), name(format))).collect(),
        num_tokens: tokens.len(),
        max_token,
        num_distinct,
        most_frequent: most_frequent
            .map(|(token, count)| Frequency { token: *token, text: decode(&[*token]), count: *count })
            .collect(),
        tokenizer: meta.as_ref().map(|meta| meta.tokenizer),
        vocabulary_size: meta.as_ref().map(|meta| meta.vocabulary_size),
        excerpt: decode(&tokens.read(0..tokens.len().min(EXCERPT))?),
    })
}

fn name(format: Format) -> &'static str {
    match format {
        Format::NanoGpt => "nanoGPT uint16",
        Format::LlmC => "llm.c uint16, version 1",
    }
}

/// Occurrences of each of the 65,536 tokens.
fn count(tokens: &Tokens) -> Result<Vec<u64>> {
    let mut counts = vec![0u64; 1 << 16];
    for start in (0..tokens.len()).step_by(PIECE) {
        for token in tokens.read(start..(start + PIECE).min(tokens.len()))? {
            counts[usize::from(token)] += 1;
        }
    }
    Ok(counts)
}
