//! `[model.vit]`: the vision transformer (Dosovitskiy et al. 2020, arXiv 2010.11929), on images.
//!
//! Names and values are timm's: its checkpoints are read as they are. No dropout and no drop path: a Hessian belongs to a
//! deterministic loss. The stream of activations is kept two-dimensional, (images * tokens, channel), so that every `Linear` is one
//! matrix product.

use std::ops::Range;

use burn::module::{Initializer, Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::tensor::activation::gelu;
use burn::tensor::module::{attention, linear};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Int, Tensor, backend::Backend};
use serde::{Deserialize, Serialize};

use super::convolution::{Convolution, Linear, MOST_LAYERS, MOST_WIDTH, images};
use super::loss::cross_entropy;
use super::profile::{Product, Profile, Recomputed};
use super::{Network, Place, Residual, StagesOf};
use crate::Result;
use crate::block::{Layout, Parameter};
use crate::datasets::{ImageBatch, ImageFiles, ImageShape, ImageSize};
use crate::document::Check;
use crate::engine::Kernels;
use crate::models::{Initial, Names, Structure};
use crate::shown::Url;

/// timm's names.
const NAMES: Names = Names {
    last: &[("gamma", "weight"), ("beta", "bias")],
    rows: &[("head.weight", "model.vit.classes")],
    ..Names::BURN
};

/// timm's epsilon of LayerNorm.
const EPSILON: f64 = 1e-6;
/// Standard deviation of timm's weights. It cuts the normal distribution at 2, a hundred of these.
const STANDARD_DEVIATION: f64 = 0.02;
/// Standard deviation of timm's class token.
const OF_CLASS_TOKEN: f64 = 1e-6;
/// Far beyond any image that a network takes whole.
const MOST_SIDE: usize = 100_000;

/// `[model.vit]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Keys")]
pub struct VitConfig {
    /// Height and width of the images. Default: [224, 224].
    pub image: [usize; 2],
    /// Side of the square patches; it divides height and width. Default: 16.
    pub patch: usize,
    /// Channels of the images. Default: 3.
    pub channels: usize,
    /// Width of the residual stream.
    pub embedding: usize,
    /// Number of transformer layers.
    pub layers: usize,
    /// Attention heads; they divide `embedding`.
    pub heads: usize,
    /// Width of the MLP's hidden layer. Default: 4 `embedding`.
    pub mlp: usize,
    /// Number of classes. Default: 10.
    pub classes: usize,
    /// Path or URL of safetensors or a PyTorch checkpoint, with timm's names; absent: initialised from `run.seed` as timm does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Url>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Preset {
    Tiny,
    Small,
    #[default]
    Base,
}

/// As written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    preset: Preset,
    image: Option<[usize; 2]>,
    patch: Option<usize>,
    channels: Option<usize>,
    embedding: Option<usize>,
    layers: Option<usize>,
    heads: Option<usize>,
    mlp: Option<usize>,
    classes: Option<usize>,
    weights: Option<Url>,
}

impl From<Keys> for VitConfig {
    fn from(keys: Keys) -> Self {
        let (embedding, heads) = match keys.preset {
            Preset::Tiny => (192, 3),
            Preset::Small => (384, 6),
            Preset::Base => (768, 12),
        };
        let embedding = keys.embedding.unwrap_or(embedding);
        Self {
            image: keys.image.unwrap_or([224, 224]),
            patch: keys.patch.unwrap_or(16),
            channels: keys.channels.unwrap_or(3),
            embedding,
            layers: keys.layers.unwrap_or(12),
            heads: keys.heads.unwrap_or(heads),
            mlp: keys.mlp.unwrap_or(embedding.saturating_mul(4)),
            classes: keys.classes.unwrap_or(10),
            weights: keys.weights,
        }
    }
}

impl Default for VitConfig {
    /// ViT-B/16.
    fn default() -> Self {
        Keys::default().into()
    }
}

/// A vision transformer with its classifier.
#[derive(Module, Debug)]
pub struct Vit<B: Backend> {
    /// What every image begins with, (1, 1, embedding): the token that the classifier reads.
    pub cls_token: Param<Tensor<B, 3>>,
    /// (1, tokens, embedding).
    pub pos_embed: Param<Tensor<B, 3>>,
    /// Patches to tokens.
    pub patch_embed: PatchEmbedding<B>,
    /// The layers, from the input up.
    pub blocks: Vec<Layer<B>>,
    /// LayerNorm before the classifier.
    pub norm: LayerNorm<B>,
    /// The classifier, (classes, embedding).
    pub head: Linear<B>,
}

/// A convolution whose stride is its kernel's side, computed as one matrix product over all patches.
#[derive(Module, Debug)]
pub struct PatchEmbedding<B: Backend> {
    /// (embedding, channels, patch, patch).
    pub proj: Convolution<B>,
}

/// One transformer layer (pre-norm).
#[derive(Module, Debug)]
pub struct Layer<B: Backend> {
    /// LayerNorm before attention.
    pub norm1: LayerNorm<B>,
    /// Self-attention between all tokens of an image.
    pub attn: Attention<B>,
    /// LayerNorm before the MLP.
    pub norm2: LayerNorm<B>,
    /// The MLP.
    pub mlp: Mlp<B>,
}

/// Self-attention.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    /// Queries, keys and values in one product: (3 * embedding, embedding), rows q | k | v.
    pub qkv: Linear<B>,
    /// Output projection, (embedding, embedding); columns in the order of the heads.
    pub proj: Linear<B>,
    heads: usize,
}

/// The two-layer MLP, with the exact GELU.
#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    /// (mlp, embedding).
    pub fc1: Linear<B>,
    /// (embedding, mlp).
    pub fc2: Linear<B>,
}

impl<B: Backend> Vit<B> {
    /// The residual stream at the entry of layer 0: (images, channels, height, width) to (images * tokens, embedding).
    fn embed(&self, x: Tensor<B, 4>) -> Tensor<B, 2> {
        let images = x.dims()[0];
        let patches = self.patch_embed.forward(x); // (images, patches, embedding)
        let [_, _, width] = patches.dims();
        let token = self.cls_token.val().expand([images, 1, width]);
        (Tensor::cat(vec![token, patches], 1) + self.pos_embed.val()).flatten(0, 1)
    }

    /// The residual stream behind some of the branches: attention and MLP of every layer, from the input up.
    fn stream(&self, x: Tensor<B, 2>, branches: Range<usize>) -> Tensor<B, 2> {
        let [_, tokens, _] = self.pos_embed.dims();
        branches.fold(x, |x, branch| {
            let layer = &self.blocks[branch / 2];
            x.clone()
                + if branch.is_multiple_of(2) {
                    layer.attn.forward(layer.norm1.forward(x), tokens)
                } else {
                    layer.mlp.forward(layer.norm2.forward(x))
                }
        })
    }

    /// Logits, (images, classes), from the residual stream behind all branches: of the class tokens alone.
    fn logits(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let ([rows, width], [_, tokens, _]) = (x.dims(), self.pos_embed.dims());
        let first = x.reshape([rows / tokens, tokens, width]).narrow(1, 0, 1).flatten(0, 1);
        self.head.forward(self.norm.forward(first))
    }
}

impl<B: Backend> PatchEmbedding<B> {
    /// (images, channels, height, width) to (images, patches, embedding), patches row by row.
    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 3> {
        let ([images, channels, height, width], [embedding, _, side, _]) = (x.dims(), self.proj.weight.dims());
        let (down, across) = (height / side, width / side);
        let numbers = channels * side * side; // of a patch
        let patches = x.reshape([images, channels, down, side, across, side]).permute([0, 2, 4, 1, 3, 5]);
        let weight = self.proj.weight.val().reshape([embedding, numbers]);
        let rows = patches.reshape([images * down * across, numbers]);
        let bias = self.proj.bias.as_ref().map(Param::val);
        linear(rows, weight.transpose(), bias).reshape([images, down * across, embedding])
    }
}

impl<B: Backend> Attention<B> {
    /// (images * tokens, embedding) to the same.
    fn forward(&self, x: Tensor<B, 2>, tokens: usize) -> Tensor<B, 2> {
        let [rows, embedding] = x.dims();
        let qkv = self.qkv.forward(x); // (images * tokens, 3 * embedding)
        let part = |index: usize| {
            let part = qkv.clone().slice([0..rows, index * embedding..(index + 1) * embedding]);
            part.reshape([rows / tokens, tokens, self.heads, embedding / self.heads]).swap_dims(1, 2)
        };
        let y = attention(part(0), part(1), part(2), None, None, AttentionModuleOptions::default());
        self.proj.forward(y.swap_dims(1, 2).reshape([rows, embedding]))
    }
}

impl<B: Backend> Mlp<B> {
    fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        self.fc2.forward(gelu(self.fc1.forward(x)))
    }
}

impl VitConfig {
    /// Patches of an image, and the class token.
    fn tokens(&self) -> usize {
        1 + (self.image[0] / self.patch) * (self.image[1] / self.patch)
    }

    fn layer<B: Backend>(&self, device: &B::Device) -> Layer<B> {
        let linear = |outputs, inputs| Linear::new(inputs, outputs, device);
        Layer {
            norm1: self.norm(device),
            attn: Attention {
                qkv: linear(3 * self.embedding, self.embedding),
                proj: linear(self.embedding, self.embedding),
                heads: self.heads,
            },
            norm2: self.norm(device),
            mlp: Mlp { fc1: linear(self.mlp, self.embedding), fc2: linear(self.embedding, self.mlp) },
        }
    }

    fn norm<B: Backend>(&self, device: &B::Device) -> LayerNorm<B> {
        LayerNormConfig::new(self.embedding).with_epsilon(EPSILON).init(device)
    }
}

/// Classification: mean cross-entropy over the images.
impl Network for VitConfig {
    const KIND: &'static str = "vit";
    type Data = ImageFiles;
    type Module<B: Backend> = Vit<B>;

    fn check(&self, check: &Check<'_>) -> Result<()> {
        check.size("patch", self.patch, MOST_SIDE)?;
        let fits = |side: &usize| (1..=MOST_SIDE).contains(side) && side.is_multiple_of(self.patch);
        let expected = format!("expected height and width, multiples of model.vit.patch = {}", self.patch);
        check.that(self.image.iter().all(fits), "image", format!("{:?}", self.image), expected)?;
        check.size("layers", self.layers, MOST_LAYERS)?;
        let widths = [
            ("channels", self.channels),
            ("embedding", self.embedding),
            ("heads", self.heads),
            ("mlp", self.mlp),
            ("classes", self.classes),
        ];
        widths.into_iter().try_for_each(|(key, value)| check.size(key, value, MOST_WIDTH))?;
        let divide = format!("the heads must divide model.vit.embedding = {}", self.embedding);
        check.that(self.embedding.is_multiple_of(self.heads), "heads", self.heads, divide)?;
        check.weights("weights", self.weights.as_ref())
    }

    fn shape(&self) -> ImageShape {
        let [height, width] = self.image;
        ImageShape { size: ImageSize::Exactly([self.channels, height, width]), classes: self.classes }
    }

    fn module<B: Backend>(&self, device: &B::Device) -> Result<Vit<B>> {
        Ok(Vit {
            cls_token: Initializer::Zeros.init([1, 1, self.embedding], device),
            pos_embed: Initializer::Zeros.init([1, self.tokens(), self.embedding], device),
            patch_embed: PatchEmbedding {
                proj: Convolution::new(self.channels, self.embedding, self.patch, true, device),
            },
            blocks: (0..self.layers).map(|_| self.layer(device)).collect(),
            norm: self.norm(device),
            head: Linear::new(self.embedding, self.classes, device),
        })
    }

    /// As timm: the patches' convolution is PyTorch's, uniform between -1/sqrt(fan in) and 1/sqrt(fan in).
    fn initial(&self, Parameter { name, shape, .. }: &Parameter) -> Initial {
        if name.starts_with("patch_embed.") {
            let fan_in = self.channels * self.patch * self.patch;
            return Initial::Uniform(1.0 / (fan_in as f64).sqrt());
        }
        match shape.len() {
            1 if name.ends_with(".weight") => Initial::Constant(1.0), // LayerNorm's
            1 => Initial::Constant(0.0),
            _ if name == "cls_token" => Initial::Normal(OF_CLASS_TOKEN),
            _ => Initial::Normal(STANDARD_DEVIATION),
        }
    }

    fn outputs<B: Backend>(&self, model: &Vit<B>, batch: &ImageBatch<B>) -> Tensor<B, 2> {
        self.outputs_above(model, self.through(model, batch), batch)
    }

    fn loss<B: Backend>(&self, outputs: Tensor<B, 2>, batch: &ImageBatch<B>) -> Tensor<B, 1> {
        cross_entropy(outputs, &batch.labels)
    }

    fn weight<B: Backend>(&self, batch: &ImageBatch<B>) -> f64 {
        batch.labels.dims()[0] as f64
    }

    fn classes<B: Backend>(&self, batch: &ImageBatch<B>) -> Option<Tensor<B, 1, Int>> {
        Some(batch.labels.clone())
    }

    fn stages<K: Kernels>(&self) -> Option<&StagesOf<Self, K>> {
        Some(self)
    }

    fn names(&self) -> &'static Names {
        &NAMES
    }

    /// Matrices are stored as (out, in).
    fn structure(&self) -> Structure {
        Structure {
            fused: &[("attn.qkv", &["q", "k", "v"])],
            headed: &[("attn.proj", 1)],
            head: self.embedding / self.heads,
            outputs: &[("", 0)],
            ..Structure::UNKNOWN
        }
    }

    fn layout(&self) -> Result<Layout> {
        let width = self.embedding;
        let mut found = vec![
            ("cls_token".to_owned(), vec![1, 1, width]),
            ("pos_embed".to_owned(), vec![1, self.tokens(), width]),
            ("patch_embed.proj.weight".to_owned(), vec![width, self.channels, self.patch, self.patch]),
            ("patch_embed.proj.bias".to_owned(), vec![width]),
        ];
        let mut module = |name: String, weight: Vec<usize>| {
            let bias = vec![weight[0]];
            found.extend([(format!("{name}.weight"), weight), (format!("{name}.bias"), bias)]);
        };
        for layer in 0..self.layers {
            let modules = [
                ("norm1", vec![width]),
                ("attn.qkv", vec![3 * width, width]),
                ("attn.proj", vec![width, width]),
                ("norm2", vec![width]),
                ("mlp.fc1", vec![self.mlp, width]),
                ("mlp.fc2", vec![width, self.mlp]),
            ];
            modules.into_iter().for_each(|(name, weight)| module(format!("blocks.{layer}.{name}"), weight));
        }
        module("norm".into(), vec![width]);
        module("head".into(), vec![self.classes, width]);
        Ok(Layout::new(found))
    }

    fn weights(&self) -> Option<&Url> {
        self.weights.as_ref()
    }

    fn profile(&self) -> Option<Profile> {
        Some(profile(self))
    }
}

/// Products and activations of an image, in network order.
fn profile(sizes: &VitConfig) -> Profile {
    let (width, mlp, tokens) = (sizes.embedding as f64, sizes.mlp as f64, sizes.tokens() as f64);
    let product = |name: &str, multiply_adds, branch| Product { parameter: Some(name.into()), multiply_adds, branch };
    let of_image = (sizes.channels * sizes.image[0] * sizes.image[1]) as f64;
    let mut products = vec![product("patch_embed.proj.weight", of_image * width, 0)];
    for layer in 0..sizes.layers {
        let name = |part: &str| format!("blocks.{layer}.{part}.weight");
        let attention = products.len();
        products.push(product(&name("attn.qkv"), 3.0 * tokens * width * width, attention));
        products.push(Product { parameter: None, multiply_adds: 2.0 * width * tokens * tokens, branch: attention });
        products.push(product(&name("attn.proj"), tokens * width * width, attention));
        let transform = products.len();
        products.push(product(&name("mlp.fc1"), tokens * width * mlp, transform));
        products.push(product(&name("mlp.fc2"), tokens * width * mlp, transform));
    }
    products.push(product("head.weight", width * sizes.classes as f64, products.len()));
    // per token and layer: what enters both branches and their norms; q, k, v and attention's output; the MLP's two hidden rows
    let per_layer = 8.0 * width + 2.0 * mlp;
    let branch = width + (3.0 * mlp).max(8.0 * width) + width;
    Profile {
        products,
        bottom: vec!["cls_token".into(), "pos_embed".into()],
        kept: tokens * (sizes.layers as f64 * per_layer + 2.0 * width),
        recomputed: Some(Recomputed {
            kept: 2.0 * sizes.layers as f64 * tokens * width,
            at_once: tokens * (branch + 4.0 * width),
        }),
        scores: sizes.heads as f64 * tokens * tokens,
        entry: tokens * width,
        outputs: sizes.classes as f64,
    }
}

impl Residual for VitConfig {
    fn num_branches(&self) -> usize {
        2 * self.layers
    }

    fn place_of(&self, parameter: &str) -> Place {
        let above = |name: &str| name.starts_with("norm.") || name.starts_with("head.");
        Place::in_layers(parameter, "blocks.", &["mlp.", "norm2."], above)
    }

    fn embed<B: Backend>(&self, model: &Vit<B>, batch: &ImageBatch<B>) -> Tensor<B, 2> {
        model.embed(images(batch, &model.patch_embed.proj))
    }

    fn stream<B: Backend>(
        &self,
        model: &Vit<B>,
        x: Tensor<B, 2>,
        branches: Range<usize>,
        _: &ImageBatch<B>,
    ) -> Tensor<B, 2> {
        model.stream(x, branches)
    }

    fn outputs_above<B: Backend>(&self, model: &Vit<B>, x: Tensor<B, 2>, _: &ImageBatch<B>) -> Tensor<B, 2> {
        model.logits(x)
    }
}

#[cfg(test)]
#[path = "vit_tests.rs"]
mod tests;
