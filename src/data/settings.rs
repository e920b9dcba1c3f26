//! What decides about prepared tokens: compared before anything is made again or gone on with.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::format::TokenType;
use super::meta::Tokenizer;
use crate::storage::Input;

/// What a file of text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextFormat {
    /// One document.
    Text,
    /// A document a line.
    #[serde(rename = "jsonl")]
    JsonLines,
    /// A document a row.
    Parquet,
    /// A document a file.
    Tar,
}

/// What happens at a line or row that has no text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The preparation ends.
    #[default]
    Stop,
    /// It is counted, listed and passed over.
    Skip,
}

impl std::str::FromStr for TextFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        named(text, "format", "text, jsonl, parquet, tar")
    }
}

impl std::str::FromStr for OnError {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        named(text, "way to go on", "stop, skip")
    }
}

/// A value by the name that serde gives it.
fn named<T: DeserializeOwned>(text: &str, what: &str, allowed: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|_| format!("there is no {what} {text:?}; allowed: {allowed}"))
}

/// The name that serde gives a value.
fn name_of(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| Some(value.as_str()?.to_owned())).unwrap_or_else(|| "none".into())
}

/// How tokens are made, and of what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How text becomes tokens.
    pub tokenizer: Tokenizer,
    /// With a tokenizer of Hugging Face's: the SHA-256 of its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_sha256: Option<String>,
    /// What goes between documents, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// Width of the tokens.
    #[serde(default)]
    pub dtype: TokenType,
    /// Field of a JSON line or column of a Parquet file.
    pub text_field: String,
    /// What all sources are; `None`: what name and content say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<TextFormat>,
    /// What happens at a line or row that has no text.
    #[serde(default)]
    pub on_error: OnError,
    /// Tokens of a shard; `None`: one file.
    pub shard_tokens: Option<u64>,
    /// Most bytes of a piece of a document: places count pieces.
    pub piece_bytes: usize,
    /// The sources, in order.
    pub sources: Vec<Source>,
}

/// One source as it was when it was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// As it was named, without the secrets of a URL.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// What is different once its content has been replaced ([`Input::version`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl Source {
    /// What is remembered of an input.
    pub fn of(input: &Input) -> Self {
        Self { name: input.name.to_string(), bytes: input.len(), version: input.version().map(str::to_owned) }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let version = self.version.as_ref().map_or(String::new(), |version| format!(", {version}"));
        write!(f, "{} ({} bytes{version})", self.name, self.bytes)
    }
}

impl Settings {
    /// The first thing that differs from `now`, in words.
    pub fn difference(&self, now: &Self) -> Option<String> {
        let shards = |tokens: Option<u64>| tokens.map_or("none".to_string(), |tokens| tokens.to_string());
        let pairs = [
            ("--tokenizer", self.tokenizer.to_string(), now.tokenizer.to_string()),
            ("SHA-256 of the tokenizer", name_of(&self.tokenizer_sha256), name_of(&now.tokenizer_sha256)),
            ("--separator", name_of(&self.separator), name_of(&now.separator)),
            ("--text-field", self.text_field.clone(), now.text_field.clone()),
            ("--format", name_of(&self.format), name_of(&now.format)),
            ("--on-error", name_of(&self.on_error), name_of(&now.on_error)),
            ("--shard-tokens", shards(self.shard_tokens), shards(now.shard_tokens)),
            ("bytes of a piece", self.piece_bytes.to_string(), now.piece_bytes.to_string()),
            ("number of sources", self.sources.len().to_string(), now.sources.len().to_string()),
        ];
        let source = self.sources.iter().zip(&now.sources).find(|(old, new)| old != new);
        let source = source.map(|(old, new)| ("source", old.to_string(), new.to_string()));
        let pair = pairs.into_iter().find(|(_, old, new)| old != new).or(source);
        pair.map(|(what, old, new)| format!("{what} {old}, now {new}"))
    }
}
