//! `[model.decoder]`: a preset, every key that overrides it, and the network of these sizes.

use burn::module::Initializer;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::module::{Attention, Decoder, Layer, Mlp, Projection, RmsNorm, Trunk};
use crate::block::Layout;
use crate::document::Check;
use crate::error::Result;
use crate::shown::Url;

/// Far beyond any network there is; products of sizes stay far from overflow.
const MOST_LAYERS: usize = 1000;
const MOST_WIDTH: usize = 10_000_000;
/// Tokens per window where nothing says how many: as many as GPT-2's, and far below what today's decoders can take.
pub(super) const CONTEXT: usize = 1024;

/// `[model.decoder]`: sizes and variants of a decoder of the Llama family.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Keys")]
pub struct DecoderConfig {
    /// Number of transformer layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Heads of keys and values; they divide `heads`. Default: `heads`.
    pub kv_heads: usize,
    /// Channels of one head. Default: `embedding` / `heads`.
    pub head: usize,
    /// Width of the residual stream.
    pub embedding: usize,
    /// Width of the MLP's hidden layer.
    pub mlp: usize,
    /// Tokens per window.
    pub context: usize,
    /// Number of distinct tokens.
    pub vocabulary: usize,
    /// The head is the embedding.
    pub tied: bool,
    /// Where the layers' norms stand.
    pub norm: NormPlace,
    /// Added to the mean square in every norm.
    pub norm_epsilon: f64,
    /// Whether queries and keys have norms.
    pub qk_norm: QkNorm,
    /// Which projections of attention have biases.
    pub attention_bias: AttentionBias,
    /// Biases in the MLP.
    pub mlp_bias: bool,
    /// The activation of the MLP's gate.
    pub activation: Activation,
    /// Rope positions.
    pub rope: Rope,
    /// Standard deviation of the initial weights; norms begin as 1, biases as 0.
    pub deviation: f64,
    /// Path or URL of a folder of Hugging Face's, of safetensors or of a PyTorch checkpoint; absent: initialised from `run.seed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Url>,
}

/// Where the norms of a layer stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlace {
    /// Before attention and before the MLP: Llama, Qwen, Mistral.
    Before,
    /// Behind attention and behind the MLP: OLMo 2.
    After,
}

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// No norm: Llama, Qwen 2.5.
    None,
    /// Each head by itself: Qwen 3.
    Head,
    /// All heads together: OLMo 2.
    All,
}

/// Biases of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionBias {
    /// No projection: Llama 3, Qwen 3, OLMo 2.
    None,
    /// Queries, keys and values: Qwen 2.5.
    Qkv,
    /// These and the output: Llama with `attention_bias`.
    All,
}

/// The activation of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x sigmoid(x): SwiGLU.
    Silu,
    /// x Phi(x), exact: GeGLU.
    Gelu,
    /// The tanh approximation of it.
    GeluTanh,
}

/// Rope positions: position t turns pair i of the n pairs of a head by t * theta^(-i / n), scaled by [`RopeScaling`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rope {
    /// The base of the wavelengths.
    pub theta: f64,
    /// Share of a head's channels that turn; the others stay.
    pub share: f64,
    /// Longer wavelengths for longer windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<RopeScaling>,
}

impl Default for Rope {
    fn default() -> Self {
        Self { theta: 10_000.0, share: 1.0, scaling: None }
    }
}

/// Llama 3.1's scaling: frequencies whose wavelength is longer than `original / low` are divided by `factor`, those with
/// one shorter than `original / high` stay, those between are interpolated (`rope_type = "llama3"` of Hugging Face).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RopeScaling {
    /// What long wavelengths are stretched by.
    pub factor: f64,
    /// `low_freq_factor`
    pub low: f64,
    /// `high_freq_factor`
    pub high: f64,
    /// `original_max_position_embeddings`
    pub original: f64,
}

impl Rope {
    /// Pairs of a head's channels that turn.
    pub fn pairs(&self, head: usize) -> usize {
        (head as f64 * self.share) as usize / 2
    }

    /// Angle by which one position turns each pair.
    pub fn frequencies(&self, head: usize) -> Vec<f64> {
        let n = self.pairs(head);
        (0..n).map(|i| self.scaled(self.theta.powf(-(i as f64) / n as f64))).collect()
    }

    fn scaled(&self, frequency: f64) -> f64 {
        let Some(RopeScaling { factor, low, high, original }) = self.scaling else { return frequency };
        let turns = original * frequency / std::f64::consts::TAU; // within the original window
        let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        frequency * (kept + (1.0 - kept) / factor)
    }

    /// Cosines and sines for the positions of `x`, (batch, heads, time, head): two tables (time, pairs) of the same type.
    pub(super) fn tables<B: Backend>(&self, x: &Tensor<B, 4>, head: usize) -> (Tensor<B, 2>, Tensor<B, 2>) {
        let (time, frequencies) = (x.dims()[2], self.frequencies(head));
        let table = |value: fn(f64) -> f64| {
            let of_position = |t: usize| frequencies.iter().map(move |frequency| value(t as f64 * frequency));
            let values: Vec<f64> = (0..time).flat_map(of_position).collect();
            let data = TensorData::new(values, [time, frequencies.len()]);
            Tensor::from_data(data, (&x.device(), x.dtype()))
        };
        (table(f64::cos), table(f64::sin))
    }
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
enum Preset {
    #[default]
    #[serde(rename = "nano")]
    Nano,
    #[serde(rename = "smollm2-135m")]
    SmolLm2,
    #[serde(rename = "llama-3.2-1b")]
    Llama32,
    #[serde(rename = "llama-3-8b")]
    Llama3,
    #[serde(rename = "qwen2.5-0.5b")]
    Qwen25,
    #[serde(rename = "qwen3-0.6b")]
    Qwen3,
    #[serde(rename = "olmo2-1b")]
    Olmo2,
}

/// As written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    preset: Preset,
    layers: Option<usize>,
    heads: Option<usize>,
    kv_heads: Option<usize>,
    head: Option<usize>,
    embedding: Option<usize>,
    mlp: Option<usize>,
    context: Option<usize>,
    vocabulary: Option<usize>,
    tied: Option<bool>,
    norm: Option<NormPlace>,
    norm_epsilon: Option<f64>,
    qk_norm: Option<QkNorm>,
    attention_bias: Option<AttentionBias>,
    mlp_bias: Option<bool>,
    activation: Option<Activation>,
    rope: Option<Rope>,
    deviation: Option<f64>,
    weights: Option<Url>,
}

impl From<Keys> for DecoderConfig {
    fn from(keys: Keys) -> Self {
        let preset = Self::preset(keys.preset);
        let (heads, embedding) = (keys.heads.unwrap_or(preset.heads), keys.embedding.unwrap_or(preset.embedding));
        let is_preset = keys.heads.is_none() && keys.embedding.is_none();
        Self {
            layers: keys.layers.unwrap_or(preset.layers),
            heads,
            kv_heads: keys.kv_heads.unwrap_or(if keys.heads.is_none() { preset.kv_heads } else { heads }),
            head: keys.head.unwrap_or(if is_preset { preset.head } else { embedding / heads.max(1) }),
            embedding,
            mlp: keys.mlp.unwrap_or(preset.mlp),
            context: keys.context.unwrap_or(preset.context),
            vocabulary: keys.vocabulary.unwrap_or(preset.vocabulary),
            tied: keys.tied.unwrap_or(preset.tied),
            norm: keys.norm.unwrap_or(preset.norm),
            norm_epsilon: keys.norm_epsilon.unwrap_or(preset.norm_epsilon),
            qk_norm: keys.qk_norm.unwrap_or(preset.qk_norm),
            attention_bias: keys.attention_bias.unwrap_or(preset.attention_bias),
            mlp_bias: keys.mlp_bias.unwrap_or(preset.mlp_bias),
            activation: keys.activation.unwrap_or(preset.activation),
            rope: keys.rope.unwrap_or(preset.rope),
            deviation: keys.deviation.unwrap_or(preset.deviation),
            weights: keys.weights,
        }
    }
}

impl DecoderConfig {
    fn preset(preset: Preset) -> Self {
        let theta = |theta: f64| Rope { theta, ..Rope::default() };
        match preset {
            Preset::Nano => Self::nano(),
            Preset::SmolLm2 => Self {
                layers: 30,
                heads: 9,
                kv_heads: 3,
                embedding: 576,
                mlp: 1536,
                vocabulary: 49_152,
                rope: theta(100_000.0),
                ..Self::large()
            },
            Preset::Llama32 => Self {
                layers: 16,
                embedding: 2048,
                mlp: 8192,
                vocabulary: 128_256,
                rope: Rope {
                    scaling: Some(RopeScaling { factor: 32.0, low: 1.0, high: 4.0, original: 8192.0 }),
                    ..theta(500_000.0)
                },
                ..Self::large()
            },
            Preset::Llama3 => Self {
                layers: 32,
                head: 128,
                embedding: 4096,
                mlp: 14_336,
                vocabulary: 128_256,
                tied: false,
                rope: theta(500_000.0),
                ..Self::large()
            },
            Preset::Qwen25 => Self {
                layers: 24,
                heads: 14,
                kv_heads: 2,
                embedding: 896,
                mlp: 4864,
                vocabulary: 151_936,
                norm_epsilon: 1e-6,
                attention_bias: AttentionBias::Qkv,
                rope: theta(1_000_000.0),
                ..Self::large()
            },
            Preset::Qwen3 => Self {
                layers: 28,
                heads: 16,
                head: 128,
                embedding: 1024,
                mlp: 3072,
                vocabulary: 151_936,
                norm_epsilon: 1e-6,
                qk_norm: QkNorm::Head,
                rope: theta(1_000_000.0),
                ..Self::large()
            },
            Preset::Olmo2 => Self {
                layers: 16,
                heads: 16,
                kv_heads: 16,
                head: 128,
                embedding: 2048,
                mlp: 8192,
                vocabulary: 100_352,
                tied: false,
                norm: NormPlace::After,
                norm_epsilon: 1e-6,
                qk_norm: QkNorm::All,
                rope: theta(500_000.0),
                ..Self::large()
            },
        }
    }

    /// A small Llama of the size of nanoGPT's character-level model.
    pub fn nano() -> Self {
        Self {
            layers: 6,
            heads: 6,
            kv_heads: 2,
            head: 64,
            embedding: 384,
            mlp: 1024,
            context: 256,
            vocabulary: 65,
            tied: true,
            norm: NormPlace::Before,
            norm_epsilon: 1e-5,
            qk_norm: QkNorm::None,
            attention_bias: AttentionBias::None,
            mlp_bias: false,
            activation: Activation::Silu,
            rope: Rope::default(),
            deviation: 0.02,
            weights: None,
        }
    }

    /// What the large presets share.
    fn large() -> Self {
        Self { heads: 32, kv_heads: 8, context: CONTEXT, ..Self::nano() }
    }

    /// What the keys must satisfy beyond their types.
    pub(super) fn check_keys(&self, check: &Check<'_>) -> Result<()> {
        check.size("layers", self.layers, MOST_LAYERS)?;
        let widths = [
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("embedding", self.embedding),
            ("head", self.head),
            ("mlp", self.mlp),
            ("context", self.context),
            ("vocabulary", self.vocabulary),
        ];
        widths.into_iter().try_for_each(|(key, value)| check.size(key, value, MOST_WIDTH))?;
        let is_whole = self.embedding.is_multiple_of(self.heads) || self.head != self.embedding / self.heads;
        let share =
            format!("the heads must divide model.decoder.embedding = {}, or give model.decoder.head", self.embedding);
        check.that(is_whole || check.is_given("head"), "heads", self.heads, share)?;
        let divide = format!("expected a number that divides model.decoder.heads = {}", self.heads);
        check.that(self.heads.is_multiple_of(self.kv_heads), "kv_heads", self.kv_heads, divide)?;
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let numbers =
            [("norm_epsilon", self.norm_epsilon), ("deviation", self.deviation), ("rope.theta", self.rope.theta)];
        for (key, value) in numbers {
            check.that(positive(value), key, value, "expected a number above 0")?;
        }
        let share = self.rope.share;
        let is_share = positive(share) && share <= 1.0 && self.rope.pairs(self.head) > 0;
        let some = format!("expected a share above 0 and at most 1 that leaves a pair of the {} channels", self.head);
        check.that(is_share, "rope.share", share, some)?;
        if let Some(RopeScaling { factor, low, high, original }) = self.rope.scaling {
            for (key, value) in [("factor", factor), ("low", low), ("original", original)] {
                check.that(positive(value), &format!("rope.scaling.{key}"), value, "expected a number above 0")?;
            }
            let above = format!("expected a number above low = {low}");
            check.that(high.is_finite() && high > low, "rope.scaling.high", high, above)?;
        }
        check.weights("weights", self.weights.as_ref())
    }

    /// The network with zero weights (burn makes them when first read, so nothing is allocated yet).
    pub(super) fn module<B: Backend>(&self, device: &B::Device) -> Decoder<B> {
        let make = Make::<B> { device, epsilon: self.norm_epsilon };
        Decoder {
            model: Trunk {
                embed_tokens: make.projection(self.vocabulary, self.embedding, false),
                layers: (0..self.layers).map(|_| self.layer(&make)).collect(),
                norm: make.norm(self.embedding),
            },
            lm_head: (!self.tied).then(|| make.projection(self.vocabulary, self.embedding, false)),
        }
    }

    fn layer<B: Backend>(&self, make: &Make<'_, B>) -> Layer<B> {
        let norm = |place: NormPlace| (self.norm == place).then(|| make.norm(self.embedding));
        Layer {
            input_layernorm: norm(NormPlace::Before),
            self_attn: self.attention(make),
            post_attention_layernorm: make.norm(self.embedding),
            mlp: Mlp {
                gate_proj: make.projection(self.mlp, self.embedding, self.mlp_bias),
                up_proj: make.projection(self.mlp, self.embedding, self.mlp_bias),
                down_proj: make.projection(self.embedding, self.mlp, self.mlp_bias),
                activation: self.activation,
            },
            post_feedforward_layernorm: norm(NormPlace::After),
        }
    }

    fn attention<B: Backend>(&self, make: &Make<'_, B>) -> Attention<B> {
        let (queries, keys) = (self.heads * self.head, self.kv_heads * self.head);
        let qkv_bias = self.attention_bias != AttentionBias::None;
        let norm = |width: usize| match self.qk_norm {
            QkNorm::None => None,
            QkNorm::Head => Some(make.norm(self.head)),
            QkNorm::All => Some(make.norm(width)),
        };
        Attention {
            q_proj: make.projection(queries, self.embedding, qkv_bias),
            k_proj: make.projection(keys, self.embedding, qkv_bias),
            v_proj: make.projection(keys, self.embedding, qkv_bias),
            o_proj: make.projection(self.embedding, queries, self.attention_bias == AttentionBias::All),
            q_norm: norm(queries),
            k_norm: norm(keys),
            head: self.head,
            rope: self.rope,
        }
    }

    /// Names and shapes of the parameters, as [`parameters`](crate::models::parameters) finds them, without making any.
    pub(super) fn layout(&self) -> Layout {
        let mut found = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocabulary, self.embedding])];
        for layer in 0..self.layers {
            found.extend(self.layer_layout(&format!("model.layers.{layer}")));
        }
        found.push(("model.norm.weight".into(), vec![self.embedding]));
        if !self.tied {
            found.push(("lm_head.weight".into(), vec![self.vocabulary, self.embedding]));
        }
        Layout::new(found)
    }

    fn layer_layout(&self, layer: &str) -> Vec<(String, Vec<usize>)> {
        let (width, queries, keys) = (self.embedding, self.heads * self.head, self.kv_heads * self.head);
        let matrix = |module: &str, shape: [usize; 2], bias: bool| {
            let bias = bias.then(|| (format!("{layer}.{module}.bias"), vec![shape[0]]));
            [Some((format!("{layer}.{module}.weight"), shape.to_vec())), bias].into_iter().flatten().collect()
        };
        let norm = |module: &str, is_there: bool, width: usize| {
            Vec::from_iter(is_there.then(|| (format!("{layer}.{module}.weight"), vec![width])))
        };
        let qkv_bias = self.attention_bias != AttentionBias::None;
        let qk_norm = |all: usize| if self.qk_norm == QkNorm::All { all } else { self.head };
        let has_qk_norm = self.qk_norm != QkNorm::None;
        let modules: [Vec<_>; 12] = [
            norm("input_layernorm", self.norm == NormPlace::Before, width),
            matrix("self_attn.q_proj", [queries, width], qkv_bias),
            matrix("self_attn.k_proj", [keys, width], qkv_bias),
            matrix("self_attn.v_proj", [keys, width], qkv_bias),
            matrix("self_attn.o_proj", [width, queries], self.attention_bias == AttentionBias::All),
            norm("self_attn.q_norm", has_qk_norm, qk_norm(queries)),
            norm("self_attn.k_norm", has_qk_norm, qk_norm(keys)),
            norm("post_attention_layernorm", true, width),
            matrix("mlp.gate_proj", [self.mlp, width], self.mlp_bias),
            matrix("mlp.up_proj", [self.mlp, width], self.mlp_bias),
            matrix("mlp.down_proj", [width, self.mlp], self.mlp_bias),
            norm("post_feedforward_layernorm", self.norm == NormPlace::After, width),
        ];
        modules.into_iter().flatten().collect()
    }
}

/// Makes the parts of a network.
struct Make<'a, B: Backend> {
    device: &'a B::Device,
    epsilon: f64,
}

impl<B: Backend> Make<'_, B> {
    fn projection(&self, output: usize, input: usize, bias: bool) -> Projection<B> {
        Projection {
            weight: Initializer::Zeros.init([output, input], self.device),
            bias: bias.then(|| Initializer::Zeros.init([output], self.device)),
        }
    }

    fn norm(&self, width: usize) -> RmsNorm<B> {
        RmsNorm { weight: Initializer::Ones.init([width], self.device), epsilon: self.epsilon }
    }
}
