//! The network, written once, as in Hugging Face's `modeling_llama.py`.
//!
//! Field names are chosen so that burn's parameter paths are Hugging Face's names, and matrices are stored as there, (out, in).
//! The stream of activations is kept two-dimensional, (batch * time, channel), so that every projection is one matrix product.
//! Attention goes through `burn::tensor::module::attention`, the place where a backend can bring a kernel of its own.
//!
//! No dropout: a Hessian belongs to a deterministic loss.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::activation::{gelu, gelu_approximate, silu};
use burn::tensor::module::{attention, embedding, linear};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Int, Tensor, backend::Backend};

use super::config::{Activation, Rope};

/// A decoder with its language-model head.
#[derive(Module, Debug)]
pub struct Decoder<B: Backend> {
    /// Everything below the head.
    pub model: Trunk<B>,
    /// The output head, (vocabulary, embedding); `None` where it is tied to `model.embed_tokens`.
    pub lm_head: Option<Projection<B>>,
}

/// Embedding, layers, last norm.
#[derive(Module, Debug)]
pub struct Trunk<B: Backend> {
    /// Token embedding, (vocabulary, embedding).
    pub embed_tokens: Projection<B>,
    /// The layers, from the input up.
    pub layers: Vec<Layer<B>>,
    /// RMSNorm before the head.
    pub norm: RmsNorm<B>,
}

/// One layer. Norms stand before its branches (Llama, Qwen) or behind them (OLMo 2).
#[derive(Module, Debug)]
pub struct Layer<B: Backend> {
    /// RMSNorm before attention; `None` where norms stand behind the branches.
    pub input_layernorm: Option<RmsNorm<B>>,
    /// Causal self-attention.
    pub self_attn: Attention<B>,
    /// RMSNorm before the MLP, or behind attention.
    pub post_attention_layernorm: RmsNorm<B>,
    /// The MLP.
    pub mlp: Mlp<B>,
    /// RMSNorm behind the MLP; `None` where norms stand before the branches.
    pub post_feedforward_layernorm: Option<RmsNorm<B>>,
}

/// Causal self-attention with rotary positions; several heads may share one key and value (grouped queries, arXiv 2305.13245).
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    /// Queries, (heads * head, embedding).
    pub q_proj: Projection<B>,
    /// Keys, (kv_heads * head, embedding).
    pub k_proj: Projection<B>,
    /// Values, (kv_heads * head, embedding).
    pub v_proj: Projection<B>,
    /// Output, (embedding, heads * head); its columns are in the order of the heads.
    pub o_proj: Projection<B>,
    /// Norm of the queries, of each head (Qwen 3) or of all together (OLMo 2).
    pub q_norm: Option<RmsNorm<B>>,
    /// Norm of the keys, like that of the queries.
    pub k_norm: Option<RmsNorm<B>>,
    pub(super) head: usize,
    #[module(skip)]
    pub(super) rope: Rope,
}

/// The gated MLP: down(activation(gate x) * up x), SwiGLU of arXiv 2002.05202.
#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    /// (mlp, embedding).
    pub gate_proj: Projection<B>,
    /// (mlp, embedding).
    pub up_proj: Projection<B>,
    /// (embedding, mlp).
    pub down_proj: Projection<B>,
    #[module(skip)]
    pub(super) activation: Activation,
}

/// A matrix as PyTorch stores it, (out, in), and its bias.
#[derive(Module, Debug)]
pub struct Projection<B: Backend> {
    /// (out, in).
    pub weight: Param<Tensor<B, 2>>,
    /// (out).
    pub bias: Option<Param<Tensor<B, 1>>>,
}

/// x / sqrt(mean(x²) + epsilon) * weight along the last axis (arXiv 1910.07467).
#[derive(Module, Debug)]
pub struct RmsNorm<B: Backend> {
    /// One factor a channel.
    pub weight: Param<Tensor<B, 1>>,
    pub(super) epsilon: f64,
}

impl<B: Backend> Decoder<B> {
    /// Logits from the activations below the head: (rows, embedding) to (rows, vocabulary).
    pub fn logits(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        linear(hidden, self.head_weight().transpose(), None)
    }

    /// Activations below the head: `tokens` (batch, time) to (batch * time, embedding).
    pub fn hidden(&self, tokens: Tensor<B, 2, Int>) -> Tensor<B, 2> {
        let windows = tokens.dims();
        self.norm(self.stream(self.embed(tokens), 0..self.num_branches(), windows))
    }

    /// Branches on the residual stream: attention and MLP of every layer, from the input up.
    pub fn num_branches(&self) -> usize {
        2 * self.model.layers.len()
    }

    /// The residual stream behind some of the branches, from what it is before them: (batch * time, embedding) to the same.
    /// `windows` = (batch, time).
    pub fn stream(&self, x: Tensor<B, 2>, branches: Range<usize>, windows: [usize; 2]) -> Tensor<B, 2> {
        branches.fold(x, |x, branch| {
            let layer = &self.model.layers[branch / 2];
            if branch.is_multiple_of(2) { layer.attend(x, windows) } else { layer.transform(x) }
        })
    }

    /// The head's weight, (vocabulary, embedding): logits = hidden · weightᵀ. Tied: `embed_tokens`.
    pub fn head_weight(&self) -> Tensor<B, 2> {
        self.lm_head.as_ref().unwrap_or(&self.model.embed_tokens).weight.val()
    }

    /// The residual stream at the entry of layer 0: `tokens` (batch, time) to (batch * time, embedding).
    pub fn embed(&self, tokens: Tensor<B, 2, Int>) -> Tensor<B, 2> {
        embedding(self.model.embed_tokens.weight.val(), tokens).flatten(0, 1)
    }

    /// The norm between the last layer and the head.
    pub fn norm(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        self.model.norm.forward(x)
    }
}

impl<B: Backend> Layer<B> {
    /// The attention branch on the residual stream; `windows` = (batch, time).
    fn attend(&self, x: Tensor<B, 2>, windows: [usize; 2]) -> Tensor<B, 2> {
        let attend = |x| self.self_attn.forward(x, windows);
        x.clone()
            + match &self.input_layernorm {
                Some(before) => attend(before.forward(x)),
                None => self.post_attention_layernorm.forward(attend(x)),
            }
    }

    /// The MLP branch.
    fn transform(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        x.clone()
            + match &self.post_feedforward_layernorm {
                None => self.mlp.forward(self.post_attention_layernorm.forward(x)),
                Some(after) => after.forward(self.mlp.forward(x)),
            }
    }
}

impl<B: Backend> Attention<B> {
    /// `windows` = (batch, time); (batch * time, embedding) to the same.
    fn forward(&self, x: Tensor<B, 2>, [batch, time]: [usize; 2]) -> Tensor<B, 2> {
        let heads = |x: Tensor<B, 2>| {
            let [_, width] = x.dims();
            x.reshape([batch, time, width / self.head, self.head]).swap_dims(1, 2) // (batch, heads, time, head)
        };
        let query = normed(&self.q_norm, self.q_proj.forward(x.clone()), self.head);
        let key = normed(&self.k_norm, self.k_proj.forward(x.clone()), self.head);
        let (query, key, value) = (heads(query), heads(key), heads(self.v_proj.forward(x)));
        let tables = self.rope.tables(&query, self.head);
        let (query, key) = (rotated(query, &tables), rotated(key, &tables));
        let [_, num_heads, _, _] = query.dims();
        let (key, value) = (shared(key, num_heads), shared(value, num_heads));
        // softmax(q kᵀ / sqrt(head)) v, keys up to the query's own position
        let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
        let y = attention(query, key, value, None, None, options);
        self.o_proj.forward(y.swap_dims(1, 2).reshape([batch * time, num_heads * self.head]))
    }
}

/// Queries or keys, (rows, heads * head), behind their norm: over all of a row, or over each head, as wide as its weight is.
fn normed<B: Backend>(norm: &Option<RmsNorm<B>>, x: Tensor<B, 2>, head: usize) -> Tensor<B, 2> {
    let Some(norm) = norm else { return x };
    let [rows, width] = x.dims();
    if norm.weight.dims() == [width] {
        return norm.forward(x);
    }
    norm.forward(x.reshape([rows * width / head, head])).reshape([rows, width])
}

/// Keys or values, (batch, kv_heads, time, head), for as many heads as there are queries: neighbouring heads share one.
fn shared<B: Backend>(x: Tensor<B, 4>, heads: usize) -> Tensor<B, 4> {
    let [batch, kv_heads, time, head] = x.dims();
    if kv_heads == heads {
        return x;
    }
    let x = x.reshape([batch, kv_heads, 1, time * head]).expand([batch, kv_heads, heads / kv_heads, time * head]);
    x.reshape([batch, heads, time, head])
}

/// Rope positions (arXiv 2104.09864): the pairs (x_i, x_(i + n)) of the first 2n channels of every head turned by an angle
/// that grows with the position. `x` is (batch, heads, time, head); `tables` are cosines and sines, (time, n).
fn rotated<B: Backend>(x: Tensor<B, 4>, (cosine, sine): &(Tensor<B, 2>, Tensor<B, 2>)) -> Tensor<B, 4> {
    let (head, [_, n]) = (x.dims()[3], cosine.dims());
    let part = |from: usize, len: usize| x.clone().narrow(3, from, len);
    let (first, second) = (part(0, n), part(n, n));
    let (cosine, sine) = (cosine.clone().unsqueeze::<4>(), sine.clone().unsqueeze::<4>());
    let turned = [first.clone() * cosine.clone() - second.clone() * sine.clone(), second * cosine + first * sine];
    let rest = (2 * n < head).then(|| part(2 * n, head - 2 * n));
    Tensor::cat(turned.into_iter().chain(rest).collect(), 3)
}

impl<B: Backend> Mlp<B> {
    fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let gate = self.gate_proj.forward(x.clone());
        let gate = match self.activation {
            Activation::Silu => silu(gate),
            Activation::Gelu => gelu(gate),
            Activation::GeluTanh => gelu_approximate(gate),
        };
        self.down_proj.forward(gate * self.up_proj.forward(x))
    }
}

impl<B: Backend> Projection<B> {
    fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        linear(x, self.weight.val().transpose(), self.bias.as_ref().map(Param::val))
    }
}

impl<B: Backend> RmsNorm<B> {
    fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let mean = (x.clone() * x.clone()).mean_dim(1); // (rows, 1)
        x * (mean + self.epsilon).sqrt().recip() * self.weight.val().unsqueeze::<2>()
    }
}
