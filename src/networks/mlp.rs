//! `[model.mlp]`: a multilayer perceptron on images, as in the paper's Table 3 (Section 2.4 of Zhang et al. 2024, arXiv
//! 2402.16788): 784-300-128-64-10 with ReLU, every layer's output times c.

use std::ops::Range;

use burn::module::{Initializer, Module, Param};
use burn::tensor::activation::{gelu, relu, tanh};
use burn::tensor::module::linear;
use burn::tensor::{Int, Tensor, backend::Backend};
use serde::{Deserialize, Serialize};

use super::loss::cross_entropy;
use super::profile::{Product, Profile, Recomputed};
use super::{BatchOf, Network, StagesOf};
use crate::Result;
use crate::block::{Layout, Parameter};
use crate::datasets::{ImageBatch, ImageFiles, ImageShape, ImageSize};
use crate::document::Check;
use crate::engine::{Kernels, SecondOrder};
use crate::hessian::Stages;
use crate::models::{Initial, Names, Structure};
use crate::shown::Url;

/// Far beyond any perceptron; products of sizes stay far from overflow.
const MOST_WIDTH: usize = 10_000_000;
const MOST_LAYERS: usize = 1000;

/// torchvision's way: `layers.0.weight`, (out, in).
const NAMES: Names = Names::BURN;

/// `[model.mlp]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MlpConfig {
    /// Width of the input, of the hidden layers, and of the output: the number of classes. Default: 784, 300, 128, 64, 10.
    pub sizes: Vec<usize>,
    /// c: every layer's output is multiplied by it. Default: 1.
    pub scale: f64,
    /// Between the layers. Default: relu.
    pub activation: Activation,
    /// Biases. Default: true.
    pub bias: bool,
    /// Path or URL of safetensors or a PyTorch checkpoint; absent: initialised from `run.seed` as PyTorch's `Linear`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Url>,
}

/// What stands between two layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// max(x, 0)
    Relu,
    /// x Phi(x), exact
    Gelu,
    /// tanh x
    Tanh,
}

impl Default for MlpConfig {
    fn default() -> Self {
        let sizes = vec![784, 300, 128, 64, 10];
        Self { sizes, scale: 1.0, activation: Activation::Relu, bias: true, weights: None }
    }
}

impl MlpConfig {
    fn num_layers(&self) -> usize {
        self.sizes.len() - 1
    }
}

/// The layers, from the input up.
#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    /// Each (out, in).
    pub layers: Vec<Layer<B>>,
}

/// Weight and bias as PyTorch's `Linear` has them.
#[derive(Module, Debug)]
pub struct Layer<B: Backend> {
    /// (out, in).
    pub weight: Param<Tensor<B, 2>>,
    /// (out).
    pub bias: Option<Param<Tensor<B, 1>>>,
}

impl<B: Backend> Mlp<B> {
    /// Activations that enter layer `layers.end`, from those that enter layer `layers.start`; behind the last one logits.
    fn through(&self, config: &MlpConfig, x: Tensor<B, 2>, layers: Range<usize>) -> Tensor<B, 2> {
        layers.fold(x, |x, at| {
            let Layer { weight, bias } = &self.layers[at];
            let x = linear(x, weight.val().transpose(), bias.as_ref().map(Param::val)); // (images, out)
            let x = if config.scale == 1.0 { x } else { x.mul_scalar(config.scale) };
            let is_last = at + 1 == self.layers.len();
            match config.activation {
                _ if is_last => x,
                Activation::Relu => relu(x),
                Activation::Gelu => gelu(x),
                Activation::Tanh => tanh(x),
            }
        })
    }

    /// Images as rows, in the type of the parameters.
    fn rows(&self, batch: &ImageBatch<B>) -> Tensor<B, 2> {
        batch.images.clone().flatten::<2>(1, 3).cast(self.layers[0].weight.val().dtype())
    }
}

/// Classification: mean cross-entropy over the images.
impl Network for MlpConfig {
    const KIND: &'static str = "mlp";
    type Data = ImageFiles;
    type Module<B: Backend> = Mlp<B>;

    fn structure(&self) -> Structure {
        Structure { outputs: &[("", 0)], ..Structure::UNKNOWN }
    }

    fn check(&self, check: &Check<'_>) -> Result<()> {
        let sizes = format!("{:?}", self.sizes);
        let expected = "expected the widths of input and output at least, like [784, 300, 10]";
        check.that((2..=MOST_LAYERS).contains(&self.sizes.len()), "sizes", &sizes, expected)?;
        let is_width = |size: &usize| (1..=MOST_WIDTH).contains(size);
        check.that(
            self.sizes.iter().all(is_width),
            "sizes",
            &sizes,
            format!("expected widths from 1 to {MOST_WIDTH}"),
        )?;
        let problem = "expected a number above 0";
        check.that(self.scale.is_finite() && self.scale > 0.0, "scale", self.scale, problem)?;
        check.weights("weights", self.weights.as_ref())
    }

    fn shape(&self) -> ImageShape {
        ImageShape { size: ImageSize::Values(self.sizes[0]), classes: self.sizes[self.num_layers()] }
    }

    fn module<B: Backend>(&self, device: &B::Device) -> Result<Mlp<B>> {
        let layer = |sizes: &[usize]| Layer {
            weight: Initializer::Zeros.init([sizes[1], sizes[0]], device),
            bias: self.bias.then(|| Initializer::Zeros.init([sizes[1]], device)),
        };
        Ok(Mlp { layers: self.sizes.windows(2).map(layer).collect() })
    }

    /// As PyTorch's `Linear`: uniform between -1/sqrt(fan in) and 1/sqrt(fan in), weights and biases.
    fn initial(&self, parameter: &Parameter) -> Initial {
        let layer = parameter.name.split('.').nth(1).and_then(|number| number.parse::<usize>().ok()).unwrap_or(0);
        Initial::Uniform(1.0 / (self.sizes[layer] as f64).sqrt())
    }

    fn outputs<B: Backend>(&self, model: &Mlp<B>, batch: &ImageBatch<B>) -> Tensor<B, 2> {
        model.through(self, model.rows(batch), 0..self.num_layers())
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

    fn has_kinks(&self) -> bool {
        self.activation == Activation::Relu
    }

    fn names(&self) -> &'static Names {
        &NAMES
    }

    fn layout(&self) -> Result<Layout> {
        let layer = |(at, sizes): (usize, &[usize])| {
            let weight = (format!("layers.{at}.weight"), vec![sizes[1], sizes[0]]);
            let bias = self.bias.then(|| (format!("layers.{at}.bias"), vec![sizes[1]]));
            [Some(weight), bias].into_iter().flatten().collect::<Vec<_>>()
        };
        Ok(Layout::new(self.sizes.windows(2).enumerate().flat_map(layer)))
    }

    fn weights(&self) -> Option<&Url> {
        self.weights.as_ref()
    }

    fn profile(&self) -> Option<Profile> {
        let product = |(at, sizes): (usize, &[usize])| Product {
            parameter: Some(format!("layers.{at}.weight")),
            multiply_adds: (sizes[0] * sizes[1]) as f64,
            branch: at,
        };
        let entries = self.sizes[..self.num_layers()].iter().sum::<usize>() as f64;
        let widest = self.sizes.iter().copied().max().unwrap_or(0) as f64;
        Some(Profile {
            products: self.sizes.windows(2).enumerate().map(product).collect(),
            bottom: Vec::new(),
            // what enters a layer, and its output before and after the scale
            kept: entries + 3.0 * self.sizes[1..].iter().sum::<usize>() as f64,
            recomputed: Some(Recomputed { kept: entries, at_once: 4.0 * widest }),
            scores: 0.0,
            entry: self.sizes[1..self.num_layers()].iter().copied().max().unwrap_or(0) as f64,
            outputs: self.sizes.last().copied().unwrap_or(0) as f64,
        })
    }
}

/// Stage s is the entry of layer s.
impl<K: Kernels> Stages<SecondOrder<K>, Mlp<SecondOrder<K>>, BatchOf<Self, SecondOrder<K>>> for MlpConfig {
    fn stage_of(&self, _: &Mlp<SecondOrder<K>>, parameter: &str) -> usize {
        parameter.split('.').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    fn num_stages(&self, model: &Mlp<SecondOrder<K>>) -> usize {
        model.layers.len() - 1
    }

    fn first(&self, model: &Mlp<SecondOrder<K>>, batch: &ImageBatch<SecondOrder<K>>) -> Tensor<SecondOrder<K>, 2> {
        model.through(self, model.rows(batch), 0..1)
    }

    fn advance(
        &self,
        model: &Mlp<SecondOrder<K>>,
        stages: Range<usize>,
        entry: Tensor<SecondOrder<K>, 2>,
        _: &ImageBatch<SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 2> {
        model.through(self, entry, stages)
    }

    fn outputs_from(
        &self,
        model: &Mlp<SecondOrder<K>>,
        stage: usize,
        entry: Tensor<SecondOrder<K>, 2>,
        _: &ImageBatch<SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 2> {
        model.through(self, entry, stage..self.num_layers())
    }

    fn total_loss_from(
        &self,
        model: &Mlp<SecondOrder<K>>,
        stage: usize,
        entry: Tensor<SecondOrder<K>, 2>,
        batch: &ImageBatch<SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 1> {
        let outputs = self.outputs_from(model, stage, entry, batch);
        Network::loss(self, outputs, batch)
    }
}
