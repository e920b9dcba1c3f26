//! `[data.*]`: on what the loss is computed.

use serde::{Deserialize, Serialize};

/// `[data.*]`: exactly one of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Data {
    /// `[data.tokens]`
    Tokens(TokenFiles),
}

/// `[data.tokens]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenFiles {
    /// File, or glob over several shards; nanoGPT uint16 or llm.c, told apart by the header.
    pub path: String,
}
