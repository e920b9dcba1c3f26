//! GPT-2, written once, as in nanoGPT's `model.py`.
//!
//! Field names are chosen so that burn's parameter paths are Hugging Face's names, and field order is network
//! order. The stream of activations is kept two-dimensional, (batch * time, channel): every `Linear` is then one
//! matrix product. (With a three-dimensional input burn's reverse rule forms one weight gradient per batch entry.)
//! Attention goes through `burn::tensor::module::attention` and GELU through `burn::tensor::activation`, the
//! places where a backend can bring a kernel of its own.
//!
//! No dropout: a Hessian belongs to a deterministic loss.

use std::ops::Range;

use burn::module::{Initializer, Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::{gelu, gelu_approximate};
use burn::tensor::module::{attention, embedding, linear};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Int, Tensor, backend::Backend};

use crate::block::Layout;
use crate::error::{Error, Result};

/// LayerNorm's epsilon in GPT-2 (Hugging Face `layer_norm_epsilon`, nanoGPT).
const LAYER_NORM_EPSILON: f64 = 1e-5;

/// The activation of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// x Phi(x), exact: nanoGPT and the paper.
    Erf,
    /// The tanh approximation: Hugging Face's `gelu_new`, OpenAI's GPT-2.
    Tanh,
}

/// Sizes and variants of a GPT-2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpt2Config {
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads; divides `embedding`.
    pub heads: usize,
    /// Width of the residual stream.
    pub embedding: usize,
    /// Width of the MLP's hidden layer.
    pub mlp: usize,
    /// Longest window, in tokens.
    pub context: usize,
    /// Number of token ids.
    pub vocabulary: usize,
    /// Biases in every Linear and LayerNorm.
    pub bias: bool,
    /// The output head is the token embedding.
    pub tied: bool,
    /// `false`: no LayerNorm anywhere (the models of the paper's Appendix C.2).
    pub layer_norm: bool,
    /// Which GELU.
    pub gelu: Gelu,
}

impl Gpt2Config {
    /// nanoGPT's character-level Shakespeare model, 10.7 M parameters.
    pub fn nano() -> Self {
        Self {
            layers: 6,
            heads: 6,
            embedding: 384,
            mlp: 1536,
            context: 256,
            vocabulary: 65,
            bias: false,
            tied: true,
            layer_norm: true,
            gelu: Gelu::Erf,
        }
    }

    /// GPT-2 small as the paper trains it: no biases, vocabulary padded to a multiple of 64; 124,373,760 parameters.
    pub fn gpt2_124m() -> Self {
        Self { layers: 12, heads: 12, embedding: 768, mlp: 3072, context: 1024, vocabulary: 50304, ..Self::nano() }
    }

    /// A preset by its TOML name. Errors with the known names.
    pub fn preset(name: &str) -> Result<Self> {
        match name {
            "nano" => Ok(Self::nano()),
            "124m" => Ok(Self::gpt2_124m()),
            other => Err(Error::Config(format!(
                "model.gpt2.preset = \"{other}\": no such preset; choose \"nano\" or \"124m\", or leave it out and give the sizes"
            ))),
        }
    }

    /// Refuses sizes that make no network.
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
    /// [`initialise`](super::initialise) or [`weights::load`](super::weights::load) fills them.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Result<Gpt2<B>> {
        self.validate()?;
        let transformer = Transformer {
            wte: self.table(self.vocabulary, device),
            wpe: self.table(self.context, device),
            h: (0..self.layers).map(|_| self.layer(device)).collect(),
            ln_f: self.norm(device),
        };
        let lm_head =
            (!self.tied).then(|| Head { weight: Initializer::Zeros.init([self.vocabulary, self.embedding], device) });
        Ok(Gpt2 { transformer, lm_head })
    }

    /// Names and shapes of the parameters, as [`parameters`](super::parameters) finds them, without making any.
    pub fn layout(&self) -> Layout {
        let width = self.embedding;
        let mut found = vec![
            ("transformer.wte.weight".to_owned(), vec![self.vocabulary, width]),
            ("transformer.wpe.weight".to_owned(), vec![self.context, width]),
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
    /// Position embedding, (context, embedding).
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
    heads: usize,
}

/// The two-layer MLP.
#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    /// (embedding, mlp).
    pub c_fc: Linear<B>,
    /// (mlp, embedding).
    pub c_proj: Linear<B>,
    #[module(skip)]
    gelu: Gelu,
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
        let positions = self.transformer.wpe.weight.val(); // (context, embedding)
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

#[cfg(test)]
#[path = "gpt2_tests.rs"]
mod tests;
