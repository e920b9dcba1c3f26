//! `[model.bert]`: a preset, every key that overrides it, and the network of these sizes.

use burn::module::Initializer;
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig};
use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use super::module::{
    Attention, Bert, Embeddings, Encoder, Heads, Intermediate, Layer, Output, Pooler, Predictions, SelfAttention,
    Transform, Trunk,
};
use crate::Result;
use crate::block::Layout;
use crate::document::Check;
use crate::networks::convolution::{Linear, MOST_LAYERS};
use crate::networks::gpt2::Gelu;
use crate::shown::Url;

/// Far beyond any network there is.
const MOST_WIDTH: usize = 10_000_000;

/// `[model.bert]`: sizes and variants of a BERT, as Hugging Face's `modeling_bert.py` has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Keys")]
pub struct BertConfig {
    /// Number of transformer layers.
    pub layers: usize,
    /// Attention heads; they divide `embedding`.
    pub heads: usize,
    /// Width of the stream.
    pub embedding: usize,
    /// Width of the MLP's hidden layer.
    pub mlp: usize,
    /// The most tokens of a pair. Default: 512, or `positions` where these are fewer.
    pub context: usize,
    /// Number of position embeddings: no less than `context`, which it is by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positions: Option<usize>,
    /// Number of distinct tokens.
    pub vocabulary: usize,
    /// Number of types of tokens: the sentences of a pair. Default: 2.
    pub types: usize,
    /// The activation of the MLP, and of the layer before the prediction of tokens. Default: erf.
    pub gelu: Gelu,
    /// What is predicted. Default: mlm.
    pub loss: Losses,
    /// Epsilon of LayerNorm. Default: 1e-12.
    pub norm_epsilon: f64,
    /// Standard deviation of the initial weights; biases begin as 0, norms as 1. Default: 0.02.
    pub deviation: f64,
    /// Path or URL of safetensors, a PyTorch checkpoint, or a folder of Hugging Face's; absent: initialised from `run.seed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Url>,
}

/// What is predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Losses {
    /// Hidden tokens.
    #[serde(rename = "mlm")]
    Tokens,
    /// Hidden tokens, and whether the second sentence follows the first one.
    #[serde(rename = "mlm+nsp")]
    TokensAndNext,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
enum Preset {
    #[default]
    #[serde(rename = "base")]
    Base,
    #[serde(rename = "40m")]
    M40,
    #[serde(rename = "tiny")]
    Tiny,
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
    types: Option<usize>,
    gelu: Option<Gelu>,
    loss: Option<Losses>,
    norm_epsilon: Option<f64>,
    deviation: Option<f64>,
    weights: Option<Url>,
}

impl From<Keys> for BertConfig {
    fn from(keys: Keys) -> Self {
        let (layers, heads, embedding) = match keys.preset {
            Preset::Base => (12, 12, 768),
            Preset::M40 => (2, 12, 768),
            Preset::Tiny => (2, 2, 128),
        };
        let embedding = keys.embedding.unwrap_or(embedding);
        Self {
            layers: keys.layers.unwrap_or(layers),
            heads: keys.heads.unwrap_or(heads),
            embedding,
            mlp: keys.mlp.unwrap_or(embedding.saturating_mul(4)),
            context: keys.context.unwrap_or(512.min(keys.positions.unwrap_or(512))),
            positions: keys.positions,
            vocabulary: keys.vocabulary.unwrap_or(30522),
            types: keys.types.unwrap_or(2),
            gelu: keys.gelu.unwrap_or(Gelu::Erf),
            loss: keys.loss.unwrap_or(Losses::Tokens),
            norm_epsilon: keys.norm_epsilon.unwrap_or(1e-12),
            deviation: keys.deviation.unwrap_or(0.02),
            weights: keys.weights,
        }
    }
}

impl Default for BertConfig {
    /// BERT base, uncased.
    fn default() -> Self {
        Keys::default().into()
    }
}

impl BertConfig {
    /// What the keys must satisfy beyond their types.
    pub(super) fn check_keys(&self, check: &Check<'_>) -> Result<()> {
        check.size("layers", self.layers, MOST_LAYERS)?;
        let widths = [
            ("heads", self.heads),
            ("embedding", self.embedding),
            ("mlp", self.mlp),
            ("context", self.context),
            ("vocabulary", self.vocabulary),
            ("types", self.types),
            ("positions", self.num_positions()),
        ];
        widths.into_iter().try_for_each(|(key, value)| check.size(key, value, MOST_WIDTH))?;
        let short = format!("expected at least model.bert.context = {}", self.context);
        check.that(self.num_positions() >= self.context, "positions", self.num_positions(), short)?;
        let divide = format!("the heads must divide model.bert.embedding = {}", self.embedding);
        check.that(self.embedding.is_multiple_of(self.heads), "heads", self.heads, divide)?;
        let tokens = "expected 2 or more";
        check.that(self.vocabulary >= 2, "vocabulary", self.vocabulary, tokens)?;
        for (key, value) in [("norm_epsilon", self.norm_epsilon), ("deviation", self.deviation)] {
            check.that(value > 0.0 && value.is_finite(), key, value, "expected a number above 0")?;
        }
        check.weights("weights", self.weights.as_ref())
    }

    /// Rows of the position embedding.
    pub fn num_positions(&self) -> usize {
        self.positions.unwrap_or(self.context)
    }

    /// Whether the next sentence is predicted.
    pub fn predicts_next(&self) -> bool {
        self.loss == Losses::TokensAndNext
    }

    /// The network with zero weights.
    pub(super) fn init<B: Backend>(&self, device: &B::Device) -> Bert<B> {
        let next = |outputs| self.predicts_next().then(|| self.linear(outputs, self.embedding, device));
        let table = |rows| self.table(rows, device);
        Bert {
            bert: Trunk {
                embeddings: Embeddings {
                    word_embeddings: table(self.vocabulary),
                    position_embeddings: table(self.num_positions()),
                    token_type_embeddings: table(self.types),
                    layer_norm: self.norm(device),
                },
                encoder: Encoder { layer: (0..self.layers).map(|_| self.layer(device)).collect() },
                pooler: next(self.embedding).map(|dense| Pooler { dense }),
            },
            cls: Heads {
                predictions: Predictions {
                    transform: Transform {
                        dense: self.linear(self.embedding, self.embedding, device),
                        layer_norm: self.norm(device),
                        gelu: self.gelu,
                    },
                    bias: Initializer::Zeros.init([self.vocabulary], device),
                },
                seq_relationship: next(2),
            },
        }
    }

    fn layer<B: Backend>(&self, device: &B::Device) -> Layer<B> {
        let linear = |outputs, inputs| self.linear(outputs, inputs, device);
        let width = self.embedding;
        let output = |inputs| Output { dense: linear(width, inputs), layer_norm: self.norm(device) };
        Layer {
            attention: Attention {
                self_attention: SelfAttention {
                    query: linear(width, width),
                    key: linear(width, width),
                    value: linear(width, width),
                    heads: self.heads,
                },
                output: output(width),
            },
            intermediate: Intermediate { dense: linear(self.mlp, width), gelu: self.gelu },
            output: output(self.mlp),
        }
    }

    fn table<B: Backend>(&self, rows: usize, device: &B::Device) -> Embedding<B> {
        EmbeddingConfig::new(rows, self.embedding).with_initializer(Initializer::Zeros).init(device)
    }

    fn linear<B: Backend>(&self, outputs: usize, inputs: usize, device: &B::Device) -> Linear<B> {
        Linear::new(inputs, outputs, device)
    }

    fn norm<B: Backend>(&self, device: &B::Device) -> LayerNorm<B> {
        LayerNormConfig::new(self.embedding).with_epsilon(self.norm_epsilon).init(device)
    }

    /// Names and shapes of the parameters, without making any.
    pub(super) fn names_and_shapes(&self) -> Layout {
        let width = self.embedding;
        let mut found = Vec::new();
        let tables = [("word", self.vocabulary), ("position", self.num_positions()), ("token_type", self.types)];
        for (name, rows) in tables {
            found.push((format!("bert.embeddings.{name}_embeddings.weight"), vec![rows, width]));
        }
        let mut module = |name: String, weight: Vec<usize>| {
            let bias = vec![weight[0]];
            found.extend([(format!("{name}.weight"), weight), (format!("{name}.bias"), bias)]);
        };
        module("bert.embeddings.LayerNorm".into(), vec![width]);
        for layer in 0..self.layers {
            let modules = [
                ("attention.self.query", vec![width, width]),
                ("attention.self.key", vec![width, width]),
                ("attention.self.value", vec![width, width]),
                ("attention.output.dense", vec![width, width]),
                ("attention.output.LayerNorm", vec![width]),
                ("intermediate.dense", vec![self.mlp, width]),
                ("output.dense", vec![width, self.mlp]),
                ("output.LayerNorm", vec![width]),
            ];
            modules.into_iter().for_each(|(name, weight)| module(format!("bert.encoder.layer.{layer}.{name}"), weight));
        }
        if self.predicts_next() {
            module("bert.pooler.dense".into(), vec![width, width]);
        }
        module("cls.predictions.transform.dense".into(), vec![width, width]);
        module("cls.predictions.transform.LayerNorm".into(), vec![width]);
        found.push(("cls.predictions.bias".into(), vec![self.vocabulary]));
        if self.predicts_next() {
            found.push(("cls.seq_relationship.weight".into(), vec![2, width]));
            found.push(("cls.seq_relationship.bias".into(), vec![2]));
        }
        Layout::new(found)
    }
}
