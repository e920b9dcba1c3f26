//! The network, written once, as in nanoGPT's `model.py`.
//!
//! Field names are chosen so that burn's parameter paths are Hugging Face's names, and field order is network
//! order. The stream of activations is kept two-dimensional, (batch * time, channel): every `Linear` is then one
//! matrix product. (With a three-dimensional input burn's reverse rule forms one weight gradient per batch entry.)
//! Attention goes through `burn::tensor::module::attention` and GELU through `burn::tensor::activation`, the
//! places where a backend can bring a kernel of its own.
//!
//! No dropout: a Hessian belongs to a deterministic loss.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::nn::{Embedding, LayerNorm, Linear};
use burn::tensor::activation::{gelu, gelu_approximate};
use burn::tensor::module::{attention, embedding, linear};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Int, Tensor, backend::Backend};

use super::Gelu;

/// GPT-2 with its language-model head.
#[derive(Module, Debug)]
pub struct Gpt2<B: Backend> {
    /// Everything below the head.
    pub transformer: Transformer<B>,
    /// The output head; `None` where it is tied to `transformer.wte`.
    pub lm_head: Option<Head<B>>,
}

/// Embeddings, layers, last LayerNorm.
#[derive(Module, Debug)]
pub struct Transformer<B: Backend> {
    /// Token embedding, (vocabulary, embedding).
    pub wte: Embedding<B>,
    /// Position embedding, (positions, embedding).
    pub wpe: Embedding<B>,
    /// The layers, from the input up.
    pub h: Vec<Layer<B>>,
    /// LayerNorm before the head.
    pub ln_f: Option<LayerNorm<B>>,
}

/// One transformer layer (pre-norm).
#[derive(Module, Debug)]
pub struct Layer<B: Backend> {
    /// LayerNorm before attention.
    pub ln_1: Option<LayerNorm<B>>,
    /// Causal self-attention.
    pub attn: Attention<B>,
    /// LayerNorm before the MLP.
    pub ln_2: Option<LayerNorm<B>>,
    /// The MLP.
    pub mlp: Mlp<B>,
}

/// Causal self-attention.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    /// Queries, keys and values in one product: (embedding, 3 * embedding), columns q | k | v.
    pub c_attn: Linear<B>,
    /// Output projection, (embedding, embedding); rows in the order of the heads.
    pub c_proj: Linear<B>,
    pub(super) heads: usize,
}

/// The two-layer MLP.
#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    /// (embedding, mlp).
    pub c_fc: Linear<B>,
    /// (mlp, embedding).
    pub c_proj: Linear<B>,
    #[module(skip)]
    pub(super) gelu: Gelu,
}

/// An output head of its own, stored as Hugging Face does: (vocabulary, embedding), like `wte`.
#[derive(Module, Debug)]
pub struct Head<B: Backend> {
    /// (vocabulary, embedding).
    pub weight: Param<Tensor<B, 2>>,
}

impl<B: Backend> Gpt2<B> {
    /// Logits of the next token at every position.
    ///
    /// # Panics
    /// If a window is longer than the context.
    pub fn forward(&self, tokens: Tensor<B, 2, Int>) -> Tensor<B, 3> {
        let [batch, time] = tokens.dims();
        let logits = self.logits(self.hidden(tokens).flatten::<2>(0, 1));
        let [_, vocabulary] = logits.dims();
        logits.reshape([batch, time, vocabulary])
    }

    /// Logits from the activations below the head: (rows, embedding) to (rows, vocabulary).
    pub fn logits(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        linear(hidden, self.head_weight().transpose(), None)
    }

    /// Activations below the head: `tokens` (batch, time) to (batch, time, embedding). Same panic as `forward`.
    pub fn hidden(&self, tokens: Tensor<B, 2, Int>) -> Tensor<B, 3> {
        let [batch, time] = tokens.dims();
        let x = self.embed(tokens); // (batch * time, embedding)
        let x = self.norm(self.stream(x, 0..self.num_branches(), [batch, time]));
        let [_, embedding] = x.dims();
        x.reshape([batch, time, embedding])
    }

    /// Branches on the residual stream: attention and MLP of every layer, from the input up.
    pub fn num_branches(&self) -> usize {
        2 * self.transformer.h.len()
    }

    /// The residual stream behind some of the branches, from what it is before them: (batch * time, embedding) to the same.
    /// `windows` = (batch, time).
    pub fn stream(&self, x: Tensor<B, 2>, branches: Range<usize>, windows: [usize; 2]) -> Tensor<B, 2> {
        branches.fold(x, |x, branch| {
            let layer = &self.transformer.h[branch / 2];
            if branch.is_multiple_of(2) { layer.attend(x, windows) } else { layer.transform(x) }
        })
    }

    /// The head's weight, (vocabulary, embedding), as stored: logits = hidden · weightᵀ. Tied: `wte`.
    pub fn head_weight(&self) -> Tensor<B, 2> {
        match &self.lm_head {
            Some(head) => head.weight.val(),
            None => self.transformer.wte.weight.val(),
        }
    }

    /// The residual stream at the entry of layer 0: `tokens` (batch, time) to (batch * time, embedding).
    pub fn embed(&self, tokens: Tensor<B, 2, Int>) -> Tensor<B, 2> {
        let [_, time] = tokens.dims();
        let positions = self.transformer.wpe.weight.val(); // (positions, embedding)
        let [context, _] = positions.dims();
        assert!(time <= context, "a window of {time} tokens is longer than the model's context of {context}");
        let positions = positions.narrow(0, 0, time).unsqueeze::<3>(); // (1, time, embedding)
        let x = embedding(self.transformer.wte.weight.val(), tokens); // (batch, time, embedding)
        residual(x, positions).flatten(0, 1)
    }

    /// The LayerNorm between the last layer and the head.
    pub fn norm(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        normed(&self.transformer.ln_f, x)
    }
}

impl<B: Backend> Layer<B> {
    /// The attention branch on the residual stream: (batch * time, embedding) to the same; `windows` = (batch, time).
    fn attend(&self, x: Tensor<B, 2>, windows: [usize; 2]) -> Tensor<B, 2> {
        let update = self.attn.forward(normed(&self.ln_1, x.clone()), windows);
        residual(x, update)
    }

    /// The MLP branch.
    fn transform(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let update = self.mlp.forward(normed(&self.ln_2, x.clone()));
        residual(x, update)
    }
}

impl<B: Backend> Attention<B> {
    /// `windows` = (batch, time); (batch * time, embedding) to the same.
    fn forward(&self, x: Tensor<B, 2>, [batch, time]: [usize; 2]) -> Tensor<B, 2> {
        let [rows, embedding] = x.dims();
        let head = embedding / self.heads; // channels of one head
        let qkv = self.c_attn.forward(x); // (batch * time, 3 * embedding)
        let part = |index: usize| {
            qkv.clone()
                .slice([0..rows, index * embedding..(index + 1) * embedding])
                .reshape([batch, time, self.heads, head])
                .swap_dims(1, 2) // (batch, heads, time, head)
        };
        // softmax(q kᵀ / sqrt(head)) v, keys up to the query's own position
        let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
        let y = attention(part(0), part(1), part(2), None, None, options); // (batch, heads, time, head)
        self.c_proj.forward(y.swap_dims(1, 2).reshape([rows, embedding]))
    }
}

impl<B: Backend> Mlp<B> {
    fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let x = self.c_fc.forward(x); // (batch * time, mlp)
        let x = match self.gelu {
            Gelu::Erf => gelu(x),
            Gelu::Tanh => gelu_approximate(x),
        };
        self.c_proj.forward(x)
    }
}

/// The one place where a branch joins the residual stream.
fn residual<B: Backend, const D: usize>(stream: Tensor<B, D>, update: Tensor<B, D>) -> Tensor<B, D> {
    stream + update
}

fn normed<B: Backend>(norm: &Option<LayerNorm<B>>, x: Tensor<B, 2>) -> Tensor<B, 2> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}
