//! `[data.*]`: on what the loss is computed.

use serde::{Deserialize, Serialize};

use super::units::Bytes;
use crate::shown::Url;

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
    /// File, or glob over several shards; a path or a URL. nanoGPT uint16 or llm.c, told apart by the header.
    pub path: Url,
    /// Memory of each rank for tokens from a URL, like "1GB". Default: 256 MiB. What does not fit is read again in every
    /// sweep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Bytes>,
}

impl TokenFiles {
    /// Bytes that may be kept.
    pub fn cache_bytes(&self) -> u64 {
        self.cache.as_ref().map_or(256 << 20, Bytes::get)
    }
}
