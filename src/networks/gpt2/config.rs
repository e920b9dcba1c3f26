//! `[model.gpt2]`: a preset, every key that overrides it, and the network of these sizes.

use burn::module::Initializer;
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use super::module::{Attention, Gpt2, Head, Layer, Mlp, Transformer};
use crate::block::Layout;
use crate::document::Check;
use crate::error::{Error, Result};
use crate::shown::Url;

/// LayerNorm's epsilon in GPT-2 (Hugging Face `layer_norm_epsilon`, nanoGPT).
pub(super) const LAYER_NORM_EPSILON: f64 = 1e-5;
/// Far beyond any network there is; products of sizes stay far from overflow.
const MOST_LAYERS: usize = 1000;
const MOST_WIDTH: usize = 10_000_000;

/// `[model.gpt2]`: sizes and variants of a GPT-2, as nanoGPT's model.py has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Keys")]
pub struct Gpt2Config {
    /// Number of transformer layers.
    pub layers: usize,
    /// Attention heads; they divide `embedding`.
    pub heads: usize,
    /// Width of the residual stream.
    pub embedding: usize,
    /// Width of the MLP's hidden layer.
    pub mlp: usize,
    /// Tokens per window.
    pub context: usize,
    /// Number of position embeddings: no less than `context`, which it is by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positions: Option<usize>,
    /// Number of distinct tokens.
    pub vocabulary: usize,
    /// Biases in linear layers and LayerNorms. Default: false.
    pub bias: bool,
    /// `lm_head` is `wte`. Default: true.
    pub tied: bool,
    /// `false`: no LayerNorm anywhere (the models of the paper's Appendix C.2). Default: true.
    pub layer_norm: bool,
    /// The activation of the MLP. Default: erf.
    pub gelu: Gelu,
    /// Default: nanogpt.
    pub init: Initialisation,
    /// Path or URL of safetensors, a PyTorch checkpoint, or a folder of Hugging Face's; absent: initialised from `run.seed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Url>,
}

/// Form of the GELU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gelu {
    /// x Phi(x), exact: nanoGPT and the paper.
    Erf,
    /// The tanh approximation: Hugging Face's `gelu_new`, OpenAI's GPT-2.
    Tanh,
}

/// Initialisation: N(0, 0.02²); biases 0, LayerNorm 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initialisation {
    /// Both residual projections scaled by 1/sqrt(2 layers).
    #[serde(rename = "nanogpt")]
    NanoGpt,
    /// As the paper's code: the attention projection is *not* scaled, the MLP's is.
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
struct Keys {
    preset: Preset,
    layers: Option<usize>,
    heads: Option<usize>,
    embedding: Option<usize>,
    mlp: Option<usize>,
    context: Option<usize>,
    positions: Option<usize>,
    vocabulary: Option<usize>,
    bias: Option<bool>,
    tied: Option<bool>,
    layer_norm: Option<bool>,
    gelu: Option<Gelu>,
    init: Option<Initialisation>,
    weights: Option<Url>,
}

impl From<Keys> for Gpt2Config {
    fn from(keys: Keys) -> Self {
        let preset = match keys.preset {
            Preset::Nano => Self::nano(),
            Preset::M124 => Self::gpt2_124m(),
        };
        Self {
            layers: keys.layers.unwrap_or(preset.layers),
            heads: keys.heads.unwrap_or(preset.heads),
            embedding: keys.embedding.unwrap_or(preset.embedding),
            mlp: keys.mlp.unwrap_or(preset.mlp),
            context: keys.context.unwrap_or(preset.context),
            positions: keys.positions,
            vocabulary: keys.vocabulary.unwrap_or(preset.vocabulary),
            bias: keys.bias.unwrap_or(preset.bias),
            tied: keys.tied.unwrap_or(preset.tied),
            layer_norm: keys.layer_norm.unwrap_or(preset.layer_norm),
            gelu: keys.gelu.unwrap_or(preset.gelu),
            init: keys.init.unwrap_or(preset.init),
            weights: keys.weights,
        }
    }
}

impl Gpt2Config {
    /// What the keys must satisfy beyond their types.
    pub(super) fn check_keys(&self, check: &Check<'_>) -> Result<()> {
        check.size("layers", self.layers, MOST_LAYERS)?;
        let widths = [
            ("heads", self.heads),
            ("embedding", self.embedding),
            ("mlp", self.mlp),
            ("context", self.context),
            ("vocabulary", self.vocabulary),
        ];
        widths.into_iter().try_for_each(|(key, value)| check.size(key, value, MOST_WIDTH))?;
        let short = format!("expected at least model.gpt2.context = {}", self.context);
        check.that(self.num_positions() >= self.context, "positions", self.num_positions(), short)?;
        check.size("positions", self.num_positions(), MOST_WIDTH)?;
        let divide = format!("the heads must divide model.gpt2.embedding = {}", self.embedding);
        check.that(self.embedding.is_multiple_of(self.heads), "heads", self.heads, divide)?;
        check.weights("weights", self.weights.as_ref())
    }

    /// Rows of the position embedding.
    pub fn num_positions(&self) -> usize {
        self.positions.unwrap_or(self.context)
    }

    /// nanoGPT's character-level Shakespeare model, 10.7 M parameters.
    pub fn nano() -> Self {
        Self {
            layers: 6,
            heads: 6,
            embedding: 384,
            mlp: 1536,
            context: 256,
            positions: None,
            vocabulary: 65,
            bias: false,
            tied: true,
            layer_norm: true,
            gelu: Gelu::Erf,
            init: Initialisation::NanoGpt,
            weights: None,
        }
    }

    /// GPT-2 small as the paper trains it: no biases, vocabulary padded to a multiple of 64; 124,373,760 parameters.
    pub fn gpt2_124m() -> Self {
        Self { layers: 12, heads: 12, embedding: 768, mlp: 3072, context: 1024, vocabulary: 50304, ..Self::nano() }
    }

    /// Refuses sizes that make no network.
    ///
    /// # Errors
    /// [`Error::Config`]
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("layers", self.layers),
            ("heads", self.heads),
            ("embedding", self.embedding),
            ("mlp", self.mlp),
            ("context", self.context),
            ("vocabulary", self.vocabulary),
        ];
        if let Some((key, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(Error::Config(format!("model.gpt2.{key} = 0: at least 1 is needed")));
        }
        if !self.embedding.is_multiple_of(self.heads) {
            return Err(Error::Config(format!(
                "model.gpt2.embedding = {} is no multiple of model.gpt2.heads = {}: each head takes an equal share of the channels",
                self.embedding, self.heads
            )));
        }
        Ok(())
    }

    /// The network with zero weights (burn makes them when first read, so nothing is allocated yet);
    /// [`initialise`](crate::models::initialise) or [`weights::load`](crate::models::weights::load) fills them.
    ///
    /// # Errors
    /// [`Error::Config`] for sizes that make no network.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Result<Gpt2<B>> {
        self.validate()?;
        let transformer = Transformer {
            wte: self.table(self.vocabulary, device),
            wpe: self.table(self.num_positions(), device),
            h: (0..self.layers).map(|_| self.layer(device)).collect(),
            ln_f: self.norm(device),
        };
        let lm_head =
            (!self.tied).then(|| Head { weight: Initializer::Zeros.init([self.vocabulary, self.embedding], device) });
        Ok(Gpt2 { transformer, lm_head })
    }

    /// Names and shapes of the parameters, as [`parameters`](crate::models::parameters) finds them, without making any.
    pub fn layout(&self) -> Layout {
        let width = self.embedding;
        let mut found = vec![
            ("transformer.wte.weight".to_owned(), vec![self.vocabulary, width]),
            ("transformer.wpe.weight".to_owned(), vec![self.num_positions(), width]),
        ];
        let mut module = |name: String, weight: Vec<usize>| {
            let bias = vec![weight[weight.len() - 1]];
            found.push((format!("transformer.{name}.weight"), weight));
            if self.bias {
                found.push((format!("transformer.{name}.bias"), bias));
            }
        };
        for layer in 0..self.layers {
            let modules = [
                ("ln_1", vec![width]),
                ("attn.c_attn", vec![width, 3 * width]),
                ("attn.c_proj", vec![width, width]),
                ("ln_2", vec![width]),
                ("mlp.c_fc", vec![width, self.mlp]),
                ("mlp.c_proj", vec![self.mlp, width]),
            ];
            for (name, weight) in modules.into_iter().filter(|(name, _)| self.layer_norm || !name.starts_with("ln_")) {
                module(format!("h.{layer}.{name}"), weight);
            }
        }
        if self.layer_norm {
            module("ln_f".into(), vec![width]);
        }
        if !self.tied {
            found.push(("lm_head.weight".into(), vec![self.vocabulary, width]));
        }
        Layout::new(found)
    }

    fn layer<B: Backend>(&self, device: &B::Device) -> Layer<B> {
        Layer {
            ln_1: self.norm(device),
            attn: Attention {
                c_attn: self.linear(self.embedding, 3 * self.embedding, device),
                c_proj: self.linear(self.embedding, self.embedding, device),
                heads: self.heads,
            },
            ln_2: self.norm(device),
            mlp: Mlp {
                c_fc: self.linear(self.embedding, self.mlp, device),
                c_proj: self.linear(self.mlp, self.embedding, device),
                gelu: self.gelu,
            },
        }
    }

    fn table<B: Backend>(&self, rows: usize, device: &B::Device) -> Embedding<B> {
        EmbeddingConfig::new(rows, self.embedding).with_initializer(Initializer::Zeros).init(device)
    }

    fn linear<B: Backend>(&self, input: usize, output: usize, device: &B::Device) -> Linear<B> {
        LinearConfig::new(input, output).with_bias(self.bias).with_initializer(Initializer::Zeros).init(device)
    }

    fn norm<B: Backend>(&self, device: &B::Device) -> Option<LayerNorm<B>> {
        let config = LayerNormConfig::new(self.embedding).with_epsilon(LAYER_NORM_EPSILON).with_bias(self.bias);
        self.layer_norm.then(|| config.init(device))
    }
}
