//! `[model.bert]`: BERT (Devlin et al. 2018, arXiv 1810.04805) as Hugging Face has it, on pairs of sentences.

mod config;
mod described;
mod module;
mod profile;

use std::ops::Range;

use burn::tensor::{Tensor, backend::Backend};

pub use config::{BertConfig, Losses};
pub use module::{
    Attention, Bert, Embeddings, Encoder, Heads, Intermediate, Layer, Output, Pooler, Predictions, SelfAttention,
    Transform, Trunk,
};

use super::loss::cross_entropy;
use super::profile::Profile;
use super::{Network, Place, Residual, StagesOf};
use crate::Result;
use crate::block::{Layout, Parameter};
use crate::datasets::{PairBatch, PairFiles, PairShape};
use crate::document::Check;
use crate::engine::{Kernels, SecondOrder};
use crate::models::weights::Naming;
use crate::models::{Initial, Names, Structure};
use crate::shown::Url;

/// Hugging Face's names. Files come with the prefix (`BertForPreTraining`) and, of the trunk, without, carry copies of the tied head and
/// numbers of positions, and may have parts that a loss does not ask for.
pub const NAMES: Names = Names {
    last: &[("gamma", "weight"), ("beta", "bias")],
    inner: &[("self_attention", "self"), ("layer_norm", "LayerNorm")],
    optional_prefix: "bert.",
    namings: &[Naming::HUGGING_FACE, Naming::GAMMA_BETA],
    buffers: &[
        "embeddings.position_ids",
        "embeddings.token_type_ids",
        "pooler.dense.weight",
        "pooler.dense.bias",
        "cls.seq_relationship.weight",
        "cls.seq_relationship.bias",
    ],
    copies: &[
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ],
    rows: &[
        ("word_embeddings.weight", "model.bert.vocabulary"),
        ("position_embeddings.weight", "model.bert.positions"),
        ("token_type_embeddings.weight", "model.bert.types"),
    ],
    hidden: &[],
};

/// Matrices are stored as (out, in); `head` channels a head.
fn structure(head: usize) -> Structure {
    Structure {
        headed: &[("self.query", 0), ("self.key", 0), ("self.value", 0), ("attention.output.dense", 1)],
        head,
        outputs: &[("self.query", 0), ("self.key", 0), ("self.value", 0), ("dense", 0), ("seq_relationship", 0)],
        embeddings: &["word_embeddings"],
        ..Structure::UNKNOWN
    }
}

/// The mean cross-entropy of all hidden tokens, and that of the next sentence over the pairs.
///
/// Pairs have different numbers of hidden tokens. A micro-batch weighs as many as it has pairs, and the sum over its tokens is divided
/// by the number that so many pairs have on average in the whole batch: so the micro-batches add up to the batch's loss.
impl Network for BertConfig {
    const KIND: &'static str = "bert";
    type Data = PairFiles;
    type Module<B: Backend> = Bert<B>;

    fn completed(self, check: &Check<'_>) -> Result<Self> {
        described::completed(self, check)
    }

    fn check(&self, check: &Check<'_>) -> Result<()> {
        self.check_keys(check)
    }

    fn shape(&self) -> PairShape {
        let Self { context, vocabulary, types, .. } = *self;
        PairShape { context, vocabulary, types, next: self.predicts_next() }
    }

    fn module<B: Backend>(&self, device: &B::Device) -> Result<Bert<B>> {
        Ok(self.init(device))
    }

    fn initial(&self, Parameter { name, shape, .. }: &Parameter) -> Initial {
        match shape.len() {
            1 if name.ends_with(".bias") => Initial::Constant(0.0),
            1 => Initial::Constant(1.0), // a norm's weight
            _ => Initial::Normal(self.deviation),
        }
    }

    /// Logits of the hidden tokens, and below them those of the next sentences, with zeros up to the vocabulary's width.
    fn outputs<B: Backend>(&self, model: &Bert<B>, batch: &PairBatch<B>) -> Tensor<B, 2> {
        self.outputs_above(model, self.through(model, batch), batch)
    }

    fn loss<B: Backend>(&self, outputs: Tensor<B, 2>, batch: &PairBatch<B>) -> Tensor<B, 1> {
        let ([rows, _], [tokens]) = (outputs.dims(), batch.targets.dims());
        let next = batch.next.as_ref().map(|_| outputs.clone().slice([tokens..rows, 0..2]));
        mean(outputs.narrow(0, 0, tokens), next, batch)
    }

    fn weight<B: Backend>(&self, batch: &PairBatch<B>) -> f64 {
        batch.inputs.dims()[0] as f64
    }

    fn total_loss<K: Kernels>(
        &self,
        model: &Bert<SecondOrder<K>>,
        batch: &PairBatch<SecondOrder<K>>,
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
        Ok(self.names_and_shapes())
    }

    fn weights(&self) -> Option<&Url> {
        self.weights.as_ref()
    }

    fn profile(&self) -> Option<Profile> {
        Some(profile::profile(self))
    }
}

/// The loss of logits of tokens, (predictions, vocabulary), and of next sentences, (pairs, 2).
fn mean<B: Backend>(tokens: Tensor<B, 2>, next: Option<Tensor<B, 2>>, batch: &PairBatch<B>) -> Tensor<B, 1> {
    let ([pairs, _], [predictions]) = (batch.inputs.dims(), batch.targets.dims());
    let share = predictions as f64 / (pairs as f64 * batch.mean_predicted);
    let loss = cross_entropy(tokens, &batch.targets) * share;
    match (next, &batch.next) {
        (Some(next), Some(labels)) => loss + cross_entropy(next, labels),
        _ => loss,
    }
}

/// Logits of the hidden tokens and of the next sentences, from the stream behind all branches.
fn logits<B: Backend>(model: &Bert<B>, x: Tensor<B, 2>, batch: &PairBatch<B>) -> (Tensor<B, 2>, Option<Tensor<B, 2>>) {
    let hidden = x.clone().select(0, batch.predicted.clone());
    (model.token_logits(hidden), model.next_logits(x, batch.inputs.dims()))
}

impl Residual for BertConfig {
    fn num_branches(&self) -> usize {
        2 * self.layers
    }

    fn place_of(&self, parameter: &str) -> Place {
        let above = |name: &str| name.starts_with("bert.pooler.") || name.starts_with("cls.");
        Place::in_layers(parameter, "bert.encoder.layer.", &["intermediate.", "output."], above)
    }

    fn embed<B: Backend>(&self, model: &Bert<B>, batch: &PairBatch<B>) -> Tensor<B, 2> {
        model.embed(batch.inputs.clone(), batch.types.clone())
    }

    fn stream<B: Backend>(
        &self,
        model: &Bert<B>,
        x: Tensor<B, 2>,
        branches: Range<usize>,
        batch: &PairBatch<B>,
    ) -> Tensor<B, 2> {
        model.stream(x, branches, batch.inputs.dims(), batch.padding.as_ref())
    }

    fn outputs_above<B: Backend>(&self, model: &Bert<B>, x: Tensor<B, 2>, batch: &PairBatch<B>) -> Tensor<B, 2> {
        let (tokens, next) = logits(model, x, batch);
        let Some(next) = next else { return tokens };
        let ([_, width], [pairs, classes]) = (tokens.dims(), next.dims());
        let rest = Tensor::zeros([pairs, width - classes], (&next.device(), next.dtype()));
        Tensor::cat(vec![tokens, Tensor::cat(vec![next, rest], 1)], 0)
    }

    fn loss_above<K: Kernels>(
        &self,
        model: &Bert<SecondOrder<K>>,
        x: Tensor<SecondOrder<K>, 2>,
        batch: &PairBatch<SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 1> {
        let (tokens, next) = logits(model, x, batch);
        mean(tokens, next, batch)
    }
}

#[cfg(test)]
mod tests;
