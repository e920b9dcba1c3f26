//! `[model.gpt2]`: GPT-2 as nanoGPT and Hugging Face have it, on tokens.

mod config;
mod described;
mod module;
mod profile;

use std::ops::Range;

use burn::tensor::{Tensor, backend::Backend};

pub use config::{Gelu, Gpt2Config, Initialisation};
pub use module::{Attention, Gpt2, Head, Layer, Mlp, Transformer};

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

/// Standard deviation of GPT-2's weights.
const STANDARD_DEVIATION: f64 = 0.02;

/// Hugging Face's names, and files of nanoGPT and of the paper. Hugging Face's files come with the prefix
/// (`GPT2LMHeadModel`) and without (`GPT2Model`), carry the causal mask as a buffer, and some a copy of the tied head.
pub const NAMES: Names = Names {
    last: &[("gamma", "weight"), ("beta", "bias")],
    inner: &[],
    optional_prefix: "transformer.",
    namings: &[Naming::HUGGING_FACE, Naming::NANO_GPT, Naming::PAPER],
    buffers: &[".attn.bias", ".attn.masked_bias"],
    copies: &[("lm_head.weight", "transformer.wte.weight")],
    rows: &[("wte.weight", "model.gpt2.vocabulary"), ("wpe.weight", "model.gpt2.positions")],
    hidden: &[],
};

/// Fused attention: q, k and v side by side; `head` channels a head.
pub fn structure(head: usize) -> Structure {
    Structure {
        fused: &[("attn.c_attn", &["q", "k", "v"])],
        headed: &[("attn.c_proj", 0)],
        head,
        outputs: &[("attn.c_attn", 1), ("attn.c_proj", 1), ("mlp.c_fc", 1), ("mlp.c_proj", 1)],
        embeddings: &["wte"],
    }
}

/// Next-token prediction: mean cross-entropy over all predicted tokens, weighted where tokens have weights.
impl Network for Gpt2Config {
    const KIND: &'static str = "gpt2";
    type Data = TokenFiles;
    type Module<B: Backend> = Gpt2<B>;

    fn completed(self, check: &Check<'_>) -> Result<Self> {
        described::completed(self, check)
    }

    fn check(&self, check: &Check<'_>) -> Result<()> {
        self.check_keys(check)
    }

    fn shape(&self) -> TokenShape {
        TokenShape { context: self.context, vocabulary: self.vocabulary }
    }

    fn module<B: Backend>(&self, device: &B::Device) -> Result<Gpt2<B>> {
        self.init(device)
    }

    fn initial(&self, Parameter { name, shape, .. }: &Parameter) -> Initial {
        let scaled = match self.init {
            Initialisation::NanoGpt => name.ends_with(".c_proj.weight"),
            Initialisation::Paper => name.ends_with(".mlp.c_proj.weight"),
        };
        if name.ends_with(".bias") {
            Initial::Constant(0.0)
        } else if shape.len() == 1 {
            Initial::Constant(1.0) // LayerNorm's weight, the only vector that is no bias
        } else if scaled {
            Initial::Normal(STANDARD_DEVIATION / (2.0 * self.layers as f64).sqrt())
        } else {
            Initial::Normal(STANDARD_DEVIATION)
        }
    }

    fn outputs<B: Backend>(&self, model: &Gpt2<B>, batch: &TokenBatch<B>) -> Tensor<B, 2> {
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
        model: &Gpt2<SecondOrder<K>>,
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
        structure(self.embedding / self.heads)
    }

    fn layout(&self) -> Result<Layout> {
        self.validate()?;
        Ok(Gpt2Config::layout(self))
    }

    fn weights(&self) -> Option<&Url> {
        self.weights.as_ref()
    }

    fn profile(&self) -> Option<Profile> {
        Some(profile::profile(self))
    }
}

impl Residual for Gpt2Config {
    fn num_branches(&self) -> usize {
        2 * self.layers
    }

    fn place_of(&self, parameter: &str) -> Place {
        let above = |name: &str| name.starts_with("transformer.ln_f.") || name == "lm_head.weight";
        Place::in_layers(parameter, "transformer.h.", &["mlp.", "ln_2."], above)
    }

    fn embed<B: Backend>(&self, model: &Gpt2<B>, batch: &TokenBatch<B>) -> Tensor<B, 2> {
        model.embed(batch.inputs.clone())
    }

    fn stream<B: Backend>(
        &self,
        model: &Gpt2<B>,
        x: Tensor<B, 2>,
        branches: Range<usize>,
        batch: &TokenBatch<B>,
    ) -> Tensor<B, 2> {
        model.stream(x, branches, batch.inputs.dims())
    }

    fn outputs_above<B: Backend>(&self, model: &Gpt2<B>, x: Tensor<B, 2>, batch: &TokenBatch<B>) -> Tensor<B, 2> {
        model.logits(batch.counted(model.norm(x)))
    }

    /// Head and cross-entropy as one operation: nothing of size (tokens, vocabulary) survives.
    fn loss_above<K: Kernels>(
        &self,
        model: &Gpt2<SecondOrder<K>>,
        x: Tensor<SecondOrder<K>, 2>,
        batch: &TokenBatch<SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 1> {
        linear_cross_entropy(batch.counted(model.norm(x)), model.head_weight(), batch.targets.clone())
    }
}

#[cfg(test)]
mod tests;
