//! `meta.json` beside prepared tokens: how to read them back. It is written last, so that where it is, the tokens are whole.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tiktoken_rs::r50k_base_singleton;

use super::file_error;
use super::format::TokenType;
use super::settings::Settings;
use crate::Result;

/// Name of the file, in the folder of the tokens.
pub(super) const FILE_NAME: &str = "meta.json";
/// Name of the record that stands there until then (`prepare`).
pub(super) const PROGRESS: &str = "progress.json";

/// GPT-2's token between documents.
pub(super) const END_OF_TEXT: u32 = 50256;

/// How text becomes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tokenizer {
    /// Each distinct character of the text, in the order of Unicode: nanoGPT's Shakespeare.
    Char,
    /// Each byte.
    Byte,
    /// GPT-2's byte-pair encoding.
    Gpt2,
    /// A `tokenizer.json` of Hugging Face's.
    HuggingFace,
}

impl fmt::Display for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Char => "char",
            Self::Byte => "byte",
            Self::Gpt2 => "gpt2",
            Self::HuggingFace => "huggingface",
        })
    }
}

impl std::str::FromStr for Tokenizer {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "char" => Ok(Self::Char),
            "byte" => Ok(Self::Byte),
            "gpt2" => Ok(Self::Gpt2),
            other => Err(format!(
                "there is no tokenizer {other:?}; allowed: char, byte, gpt2, or the path of a tokenizer.json"
            )),
        }
    }
}

/// One file of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenFile {
    /// Its name.
    pub file: String,
    /// Number of tokens in it.
    pub num_tokens: u64,
    /// SHA-256 of the file.
    pub sha256: String,
}

impl TokenFile {
    fn described(&self) -> Described<'_> {
        Described { file: &self.file, num_tokens: self.num_tokens, sha256: Some(&self.sha256) }
    }
}

/// What is said of one file of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Described<'a> {
    /// Its name.
    pub file: &'a str,
    /// Number of tokens in it.
    pub num_tokens: u64,
    /// SHA-256 of the file, where it was written down.
    pub sha256: Option<&'a str>,
}

/// What prepared tokens are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The tokens' file, or a glob of its shards, in the same folder.
    pub file: String,
    /// "uint16" or "uint32", little-endian, no header.
    pub dtype: TokenType,
    /// How text became tokens.
    pub tokenizer: Tokenizer,
    /// Tokens are below this: what the model's vocabulary must be at least.
    pub vocabulary_size: usize,
    /// Number of tokens in all.
    pub num_tokens: u64,
    /// Number of documents.
    pub num_documents: u64,
    /// Lines and rows without a text that were passed over; `skipped.txt` lists them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub num_skipped: u64,
    /// What stands between two documents.
    pub separator: String,
    /// SHA-256 of the file; absent where there are shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The shards, in order; absent where there is one file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<TokenFile>,
    /// The files it was made from, as they were named.
    pub sources: Vec<String>,
    /// How it was made, to tell whether the same is asked for again; absent in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    /// `char`: the character of each token, by its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<Vec<String>>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Meta {
    /// The one beside a file of tokens, where there is one.
    ///
    /// # Errors
    /// [`crate::Error::Config`] where it is no meta.json of ours.
    pub fn beside(tokens: &Path) -> Result<Option<Self>> {
        let path = tokens.with_file_name(FILE_NAME);
        if !path.exists() {
            return Ok(None);
        }
        let text = crate::file::read(&path).map_err(|error| file_error(&path, error))?;
        Self::parse(&path, &text).map(Some)
    }

    /// From the content of the file that is named.
    pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Self> {
        serde_json::from_slice(text).map_err(|error| {
            file_error(
                path,
                format!(
                    "not a description of tokens: {error}\nHINT: restore it; if it has nothing to do with the tokens beside \
                     it, move it elsewhere"
                ),
            )
        })
    }

    /// The files that it describes, in order.
    pub fn files(&self) -> impl Iterator<Item = Described<'_>> {
        let single = self.shards.is_empty().then(|| Described {
            file: &self.file,
            num_tokens: self.num_tokens,
            sha256: self.sha256.as_deref(),
        });
        self.shards.iter().map(TokenFile::described).chain(single)
    }

    /// The text of some tokens; a character that is cut, or a token beyond the vocabulary, is U+FFFD. `None` where a tokenizer of Hugging
    /// Face's would have to be at hand.
    pub fn decode(&self, tokens: &[u32]) -> Option<String> {
        Some(match self.tokenizer {
            Tokenizer::HuggingFace => return None,
            Tokenizer::Char => {
                let vocabulary = self.vocabulary.as_deref().unwrap_or_default();
                tokens.iter().map(|token| vocabulary.get(*token as usize).map_or("\u{fffd}", String::as_str)).collect()
            }
            Tokenizer::Byte => {
                // 255 occurs in no UTF-8 text
                let bytes: Vec<u8> = tokens.iter().map(|token| u8::try_from(*token).unwrap_or(u8::MAX)).collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Tokenizer::Gpt2 => decode_gpt2(tokens),
        })
    }
}

fn decode_gpt2(tokens: &[u32]) -> String {
    let bytes_of = |token: &u32| match r50k_base_singleton().decode_bytes(&[*token]) {
        Ok(bytes) => bytes,
        Err(_) => "\u{fffd}".into(), // 50257 and above: the padding of a vocabulary of 50304
    };
    String::from_utf8_lossy(&tokens.iter().flat_map(bytes_of).collect::<Vec<u8>>()).into_owned()
}
