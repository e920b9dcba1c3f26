//! `[model.gpt2]`: a preset, and every key that overrides it.

use serde::{Deserialize, Serialize};

use crate::shown::Url;

/// A GPT-2, as nanoGPT's model.py has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Gpt2Keys")]
pub struct Gpt2 {
    /// Number of transformer blocks.
    pub layers: usize,
    /// Attention heads; they divide `embedding`.
    pub heads: usize,
    /// Width of the residual stream.
    pub embedding: usize,
    /// Width of the MLP's hidden layer.
    pub mlp: usize,
    /// Tokens per window, and number of position embeddings.
    pub context: usize,
    /// Number of distinct tokens.
    pub vocabulary: usize,
    /// Biases in linear layers and LayerNorms. Default: false.
    pub bias: bool,
    /// `lm_head` is `wte`. Default: true.
    pub tied: bool,
    /// False: the paper's C.2 models. Default: true.
    pub layer_norm: bool,
    /// Default: erf.
    pub gelu: Gelu,
    /// Default: nanogpt.
    pub init: Gpt2Init,
    /// Path or URL of safetensors or a PyTorch checkpoint; absent: initialised from `run.seed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Url>,
}

/// Form of the GELU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gelu {
    /// Exact: x Phi(x).
    Erf,
    /// Hugging Face's `gelu_new`.
    Tanh,
}

/// Initialisation: N(0, 0.02), with residual projections scaled by 1/sqrt(2 layers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gpt2Init {
    /// Both residual projections scaled.
    #[serde(rename = "nanogpt")]
    NanoGpt,
    /// The paper's code: the attention projection is not scaled down.
    Paper,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
enum Preset {
    #[default]
    #[serde(rename = "nano")]
    Nano,
    #[serde(rename = "124m")]
    M124,
}

/// As written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Gpt2Keys {
    preset: Preset,
    layers: Option<usize>,
    heads: Option<usize>,
    embedding: Option<usize>,
    mlp: Option<usize>,
    context: Option<usize>,
    vocabulary: Option<usize>,
    bias: Option<bool>,
    tied: Option<bool>,
    layer_norm: Option<bool>,
    gelu: Option<Gelu>,
    init: Option<Gpt2Init>,
    weights: Option<Url>,
}

impl From<Gpt2Keys> for Gpt2 {
    fn from(keys: Gpt2Keys) -> Self {
        let [layers, heads, embedding, mlp, context, vocabulary] = match keys.preset {
            Preset::Nano => [6, 6, 384, 1536, 256, 65],
            Preset::M124 => [12, 12, 768, 3072, 1024, 50304],
        };
        Self {
            layers: keys.layers.unwrap_or(layers),
            heads: keys.heads.unwrap_or(heads),
            embedding: keys.embedding.unwrap_or(embedding),
            mlp: keys.mlp.unwrap_or(mlp),
            context: keys.context.unwrap_or(context),
            vocabulary: keys.vocabulary.unwrap_or(vocabulary),
            bias: keys.bias.unwrap_or(false),
            tied: keys.tied.unwrap_or(true),
            layer_norm: keys.layer_norm.unwrap_or(true),
            gelu: keys.gelu.unwrap_or(Gelu::Erf),
            init: keys.init.unwrap_or(Gpt2Init::NanoGpt),
            weights: keys.weights,
        }
    }
}
