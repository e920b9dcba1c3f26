//! `[model.decoder]`: today's decoders as Hugging Face has them (Llama 3, Qwen 2.5 and 3, OLMo 2, Mistral, SmolLM), on tokens.

mod config;
mod described;
mod module;
mod profile;

use std::ops::Range;

use burn::tensor::{Tensor, backend::Backend};

pub use config::{Activation, AttentionBias, DecoderConfig, NormPlace, QkNorm, Rope, RopeScaling};
pub use module::{Attention, Decoder, Layer, Mlp, Projection, RmsNorm, Trunk};

use super::loss::cross_entropy;
use super::profile::Profile;
use super::{Network, Place, Residual, StagesOf};
use crate::Result;
use crate::block::{Layout, Parameter};
use crate::datasets::{TokenBatch, TokenFiles, TokenShape};
use crate::document::Check;
use crate::engine::{Kernels, SecondOrder, linear_cross_entropy};
use crate::models::weights::Naming;
use crate::models::{Initial, Names, Structure};
use crate::shown::Url;

/// Hugging Face's names. Files come with the prefix (`LlamaForCausalLM`) and without (`LlamaModel`), some with the frequencies of
/// the rotary positions as a buffer, and some with a copy of the tied head.
pub const NAMES: Names = Names {
    last: &[],
    hidden: &[],
    inner: &[],
    optional_prefix: "model.",
    namings: &[Naming::HUGGING_FACE],
    buffers: &[".rotary_emb.inv_freq"],
    copies: &[("lm_head.weight", "model.embed_tokens.weight")],
    rows: &[("embed_tokens.weight", "model.decoder.vocabulary")],
};

/// Matrices are stored as (out, in); `head` channels a head, which may be fewer for keys and values than for queries.
pub fn structure(head: usize) -> Structure {
    Structure {
        headed: &[("self_attn.q_proj", 0), ("self_attn.k_proj", 0), ("self_attn.v_proj", 0), ("self_attn.o_proj", 1)],
        head,
        outputs: &[
            ("self_attn.q_proj", 0),
            ("self_attn.k_proj", 0),
            ("self_attn.v_proj", 0),
            ("self_attn.o_proj", 0),
            ("mlp.gate_proj", 0),
            ("mlp.up_proj", 0),
            ("mlp.down_proj", 0),
        ],
        embeddings: &["embed_tokens"],
        ..Structure::UNKNOWN
    }
}

/// Next-token prediction: mean cross-entropy over all predicted tokens, weighted where tokens have weights.
impl Network for DecoderConfig {
    const KIND: &'static str = "decoder";
    type Data = TokenFiles;
    type Module<B: Backend> = Decoder<B>;

    fn completed(self, check: &Check<'_>) -> Result<Self> {
        described::completed(self, check)
    }

    fn check(&self, check: &Check<'_>) -> Result<()> {
        self.check_keys(check)
    }

    fn shape(&self) -> TokenShape {
        TokenShape { context: self.context, vocabulary: self.vocabulary }
    }

    fn module<B: Backend>(&self, device: &B::Device) -> Result<Decoder<B>> {
        Ok(DecoderConfig::module(self, device))
    }

    fn initial(&self, Parameter { name, shape, .. }: &Parameter) -> Initial {
        match shape.len() {
            1 if name.ends_with(".bias") => Initial::Constant(0.0),
            1 => Initial::Constant(1.0), // a norm's weight
            _ => Initial::Normal(self.deviation),
        }
    }

    fn outputs<B: Backend>(&self, model: &Decoder<B>, batch: &TokenBatch<B>) -> Tensor<B, 2> {
        self.outputs_above(model, self.through(model, batch), batch)
    }

    fn loss<B: Backend>(&self, outputs: Tensor<B, 2>, batch: &TokenBatch<B>) -> Tensor<B, 1> {
        cross_entropy(outputs, &batch.targets)
    }

    fn weight<B: Backend>(&self, batch: &TokenBatch<B>) -> f64 {
        batch.weight()
    }

    fn total_loss<K: Kernels>(
        &self,
        model: &Decoder<SecondOrder<K>>,
        batch: &TokenBatch<SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 1> {
        self.loss_above(model, self.through(model, batch), batch)
    }

    fn stages<K: Kernels>(&self) -> Option<&StagesOf<Self, K>> {
        Some(self)
    }

    fn names(&self) -> &'static Names {
        &NAMES
    }

    fn structure(&self) -> Structure {
        structure(self.head)
    }

    fn layout(&self) -> Result<Layout> {
        Ok(DecoderConfig::layout(self))
    }

    fn weights(&self) -> Option<&Url> {
        self.weights.as_ref()
    }

    fn profile(&self) -> Option<Profile> {
        Some(profile::profile(self))
    }
}

impl Residual for DecoderConfig {
    fn num_branches(&self) -> usize {
        2 * self.layers
    }

    fn place_of(&self, parameter: &str) -> Place {
        let norm_of_mlp = match self.norm {
            NormPlace::Before => "post_attention_layernorm.",
            NormPlace::After => "post_feedforward_layernorm.",
        };
        let above = |name: &str| name == "model.norm.weight" || name == "lm_head.weight";
        Place::in_layers(parameter, "model.layers.", &["mlp.", norm_of_mlp], above)
    }

    fn embed<B: Backend>(&self, model: &Decoder<B>, batch: &TokenBatch<B>) -> Tensor<B, 2> {
        model.embed(batch.inputs.clone())
    }

    fn stream<B: Backend>(
        &self,
        model: &Decoder<B>,
        x: Tensor<B, 2>,
        branches: Range<usize>,
        batch: &TokenBatch<B>,
    ) -> Tensor<B, 2> {
        model.stream(x, branches, batch.inputs.dims())
    }

    fn outputs_above<B: Backend>(&self, model: &Decoder<B>, x: Tensor<B, 2>, batch: &TokenBatch<B>) -> Tensor<B, 2> {
        model.logits(batch.counted(model.norm(x)))
    }

    /// Head and cross-entropy as one operation: nothing of size (tokens, vocabulary) survives.
    fn loss_above<K: Kernels>(
        &self,
        model: &Decoder<SecondOrder<K>>,
        x: Tensor<SecondOrder<K>, 2>,
        batch: &TokenBatch<SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 1> {
        linear_cross_entropy(batch.counted(model.norm(x)), model.head_weight(), batch.targets.clone())
    }
}

#[cfg(test)]
mod tests;
