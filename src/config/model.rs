//! Which network: one variant a kind, one file a variant.

use serde::{Deserialize, Serialize};

use super::gpt2::Gpt2;
use super::tree::Node;
use crate::shown::Url;
use crate::{Error, Result};

/// Kinds that the contract names and this version does not have.
const LATER_KINDS: [&str; 5] = ["mlp", "resnet", "vgg", "vit", "bert"];

/// `[model.*]`: exactly one of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// `[model.gpt2]`
    Gpt2(Gpt2),
}

impl Model {
    /// Tokens per window, for models of text.
    pub fn context(&self) -> Option<usize> {
        match self {
            Model::Gpt2(gpt2) => Some(gpt2.context),
        }
    }

    /// Number of distinct tokens, for models of text.
    pub fn vocabulary(&self) -> Option<usize> {
        match self {
            Model::Gpt2(gpt2) => Some(gpt2.vocabulary),
        }
    }

    /// Path or URL of the weights, where they are not initialised from the seed.
    pub fn weights(&self) -> Option<&Url> {
        match self {
            Model::Gpt2(gpt2) => gpt2.weights.as_ref(),
        }
    }
}

/// A kind of the contract that is not built yet is neither a typing error nor ignored.
pub(super) fn refuse_later_kinds(root: &Node) -> Result<()> {
    let kinds = root.find("model").map_or(&[][..], Node::entries);
    match kinds.iter().find(|entry| LATER_KINDS.contains(&entry.key.as_str())) {
        None => Ok(()),
        Some(entry) => Err(Error::Config(format!(
            "{}: [model.{}] is not built yet; this version has [model.gpt2], and any burn model of your own through the library",
            entry.key_origin, entry.key
        ))),
    }
}
