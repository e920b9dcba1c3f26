//! The network, written once, as in Hugging Face's `modeling_bert.py`.
//!
//! Parameters are called as there (`self` and `LayerNorm`, which no field can be called, by [`NAMES`](super::NAMES)), and matrices are
//! stored as there, (out, in). The stream of activations is kept two-dimensional, (pairs * time, channel), so that every `Linear` is
//! one matrix product. Attention goes through `burn::tensor::module::attention` and GELU through `burn::tensor::activation`, the
//! places where a backend can bring a kernel of its own.
//!
//! No dropout: a Hessian belongs to a deterministic loss.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::nn::{Embedding, LayerNorm};
use burn::tensor::activation::{gelu, gelu_approximate};
use burn::tensor::module::{attention, embedding, linear};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Int, Tensor, backend::Backend};

use crate::networks::convolution::Linear;
use crate::networks::gpt2::Gelu;

/// BERT with the heads that it is trained with.
#[derive(Module, Debug)]
pub struct Bert<B: Backend> {
    /// Everything below the heads.
    pub bert: Trunk<B>,
    /// The heads.
    pub cls: Heads<B>,
}

/// Embeddings, layers, and what the next sentence is predicted from.
#[derive(Module, Debug)]
pub struct Trunk<B: Backend> {
    /// The embeddings of tokens, positions and types.
    pub embeddings: Embeddings<B>,
    /// The layers.
    pub encoder: Encoder<B>,
    /// `None` without the prediction of the next sentence.
    pub pooler: Option<Pooler<B>>,
}

/// Tokens, positions and types to one stream.
#[derive(Module, Debug)]
pub struct Embeddings<B: Backend> {
    /// (vocabulary, embedding); also the head that predicts tokens.
    pub word_embeddings: Embedding<B>,
    /// (positions, embedding).
    pub position_embeddings: Embedding<B>,
    /// (types, embedding).
    pub token_type_embeddings: Embedding<B>,
    /// The norm of the sum of the three.
    pub layer_norm: LayerNorm<B>,
}

/// The layers.
#[derive(Module, Debug)]
pub struct Encoder<B: Backend> {
    /// From the input up.
    pub layer: Vec<Layer<B>>,
}

/// One layer (post-norm): twice x = LayerNorm(x + f(x)).
#[derive(Module, Debug)]
pub struct Layer<B: Backend> {
    /// Self-attention, and its norm.
    pub attention: Attention<B>,
    /// The MLP's first half.
    pub intermediate: Intermediate<B>,
    /// The MLP's second half, and its norm.
    pub output: Output<B>,
}

/// Self-attention, and what follows it.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    /// Queries, keys and values.
    pub self_attention: SelfAttention<B>,
    /// Output projection; columns in the order of the heads.
    pub output: Output<B>,
}

/// Self-attention between all tokens of a pair.
#[derive(Module, Debug)]
pub struct SelfAttention<B: Backend> {
    /// (embedding, embedding); rows in the order of the heads, here and below.
    pub query: Linear<B>,
    /// (embedding, embedding).
    pub key: Linear<B>,
    /// (embedding, embedding).
    pub value: Linear<B>,
    pub(super) heads: usize,
}

/// The end of a branch: back to the width of the stream, onto it, and the norm of both.
#[derive(Module, Debug)]
pub struct Output<B: Backend> {
    /// (embedding, embedding) or (embedding, mlp).
    pub dense: Linear<B>,
    /// The norm of the stream and the branch together.
    pub layer_norm: LayerNorm<B>,
}

/// The MLP's hidden layer.
#[derive(Module, Debug)]
pub struct Intermediate<B: Backend> {
    /// (mlp, embedding).
    pub dense: Linear<B>,
    #[module(skip)]
    pub(super) gelu: Gelu,
}

/// What the next sentence is predicted from: the first token.
#[derive(Module, Debug)]
pub struct Pooler<B: Backend> {
    /// (embedding, embedding).
    pub dense: Linear<B>,
}

/// The heads.
#[derive(Module, Debug)]
pub struct Heads<B: Backend> {
    /// The head that predicts hidden tokens.
    pub predictions: Predictions<B>,
    /// The head that predicts the next sentence, (2, embedding); `None` without it.
    pub seq_relationship: Option<Linear<B>>,
}

/// The head that predicts tokens, with the embedding of the tokens as its matrix.
#[derive(Module, Debug)]
pub struct Predictions<B: Backend> {
    /// Before the matrix.
    pub transform: Transform<B>,
    /// (vocabulary).
    pub bias: Param<Tensor<B, 1>>,
}

/// One layer between stream and matrix.
#[derive(Module, Debug)]
pub struct Transform<B: Backend> {
    /// (embedding, embedding).
    pub dense: Linear<B>,
    /// Behind the activation.
    pub layer_norm: LayerNorm<B>,
    #[module(skip)]
    pub(super) gelu: Gelu,
}

impl<B: Backend> Bert<B> {
    /// The stream at the entry of layer 0: `tokens` and `types`, (pairs, time), to (pairs * time, embedding).
    pub fn embed(&self, tokens: Tensor<B, 2, Int>, types: Tensor<B, 2, Int>) -> Tensor<B, 2> {
        let ([_, time], tables) = (tokens.dims(), &self.bert.embeddings);
        let words = embedding(tables.word_embeddings.weight.val(), tokens); // (pairs, time, embedding)
        let types = embedding(tables.token_type_embeddings.weight.val(), types);
        let positions = tables.position_embeddings.weight.val().narrow(0, 0, time).unsqueeze::<3>();
        tables.layer_norm.forward((words + types + positions).flatten(0, 1))
    }

    /// The stream behind some of the branches: attention and MLP of every layer, from the input up. `pairs` = (pairs, time),
    /// and `padding` is true for the tokens that nothing attends to.
    pub fn stream(
        &self,
        x: Tensor<B, 2>,
        branches: Range<usize>,
        pairs: [usize; 2],
        padding: Option<&Tensor<B, 2, Bool>>,
    ) -> Tensor<B, 2> {
        branches.fold(x, |x, branch| {
            let Layer { attention, intermediate, output } = &self.bert.encoder.layer[branch / 2];
            if branch.is_multiple_of(2) {
                attention.forward(x, pairs, padding)
            } else {
                output.forward(intermediate.forward(x.clone()), x)
            }
        })
    }

    /// Logits of tokens: (rows, embedding) to (rows, vocabulary).
    pub fn token_logits(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let Predictions { transform, bias } = &self.cls.predictions;
        let words = self.bert.embeddings.word_embeddings.weight.val();
        linear(transform.forward(x), words.transpose(), Some(bias.val()))
    }

    /// Logits of the next sentence, (pairs, 2), from the stream; `None` where it is not predicted.
    pub fn next_logits(&self, x: Tensor<B, 2>, [pairs, time]: [usize; 2]) -> Option<Tensor<B, 2>> {
        let (pooler, head) = (self.bert.pooler.as_ref()?, self.cls.seq_relationship.as_ref()?);
        let [_, width] = x.dims();
        let first = x.reshape([pairs, time, width]).narrow(1, 0, 1).flatten(0, 1);
        Some(head.forward(pooler.dense.forward(first).tanh()))
    }
}

impl<B: Backend> Attention<B> {
    fn forward(&self, x: Tensor<B, 2>, pairs: [usize; 2], padding: Option<&Tensor<B, 2, Bool>>) -> Tensor<B, 2> {
        self.output.forward(self.self_attention.forward(x.clone(), pairs, padding), x)
    }
}

impl<B: Backend> SelfAttention<B> {
    /// (pairs * time, embedding) to the same.
    fn forward(
        &self,
        x: Tensor<B, 2>,
        [pairs, time]: [usize; 2],
        padding: Option<&Tensor<B, 2, Bool>>,
    ) -> Tensor<B, 2> {
        let [rows, width] = x.dims();
        let heads = |of: &Linear<B>| {
            let y = of.forward(x.clone()).reshape([pairs, time, self.heads, width / self.heads]);
            y.swap_dims(1, 2) // (pairs, heads, time, head)
        };
        let hidden = padding.map(|keys| {
            let keys = keys.clone().reshape([pairs, 1, 1, time]);
            keys.expand([pairs, self.heads, time, time])
        });
        // softmax(q kᵀ / sqrt(head)) v over the keys that are no padding
        let options = AttentionModuleOptions::default();
        let y = attention(heads(&self.query), heads(&self.key), heads(&self.value), hidden, None, options);
        y.swap_dims(1, 2).reshape([rows, width])
    }
}

impl<B: Backend> Output<B> {
    /// LayerNorm(stream + dense(branch)).
    fn forward(&self, branch: Tensor<B, 2>, stream: Tensor<B, 2>) -> Tensor<B, 2> {
        self.layer_norm.forward(stream + self.dense.forward(branch))
    }
}

impl<B: Backend> Intermediate<B> {
    fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        activated(self.gelu, self.dense.forward(x))
    }
}

impl<B: Backend> Transform<B> {
    fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        self.layer_norm.forward(activated(self.gelu, self.dense.forward(x)))
    }
}

fn activated<B: Backend>(form: Gelu, x: Tensor<B, 2>) -> Tensor<B, 2> {
    match form {
        Gelu::Erf => gelu(x),
        Gelu::Tanh => gelu_approximate(x),
    }
}
