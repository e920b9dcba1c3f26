//! What convolutional networks share: their layers under PyTorch's names, the keys that they have in common, and torchvision's
//! initial values.

use std::fmt;

use burn::module::{Initializer, Module, Param, ParamId};
use burn::tensor::activation::relu;
use burn::tensor::module::{conv2d, linear};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Tensor, backend::Backend};
use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::profile::{Product, Profile, Recomputed};
use crate::Result;
use crate::block::Parameter;
use crate::datasets::{ImageBatch, ImageSize};
use crate::document::Check;
use crate::models::{Initial, Names};

/// torchvision's names. `num_batches_tracked` counts training steps, which matters to nothing here.
pub(super) const TORCHVISION: Names = Names { buffers: &["num_batches_tracked"], ..Names::BURN };

/// What PyTorch's BatchNorm adds to variances.
const EPSILON: f64 = 1e-5;

/// Far beyond any network there is; products of sizes stay far from overflow.
pub(super) const MOST_WIDTH: usize = 1_000_000;
/// Far beyond any image that a network takes whole.
const MOST_SIDE: usize = 100_000;
/// Far beyond any number of layers.
pub(super) const MOST_LAYERS: usize = 1000;

/// A convolution, PyTorch's `Conv2d`.
#[derive(Module, Debug)]
pub struct Convolution<B: Backend> {
    /// (out, in, height, width).
    pub weight: Param<Tensor<B, 4>>,
    /// (out).
    pub bias: Option<Param<Tensor<B, 1>>>,
}

impl<B: Backend> Convolution<B> {
    /// With a square kernel of `side`; all zeros.
    pub fn new(inputs: usize, outputs: usize, side: usize, bias: bool, device: &B::Device) -> Self {
        Self {
            weight: Initializer::Zeros.init([outputs, inputs, side, side], device),
            bias: bias.then(|| Initializer::Zeros.init([outputs], device)),
        }
    }

    /// (images, in, height, width) to (images, out, ...). Padding is half the kernel: stride 1 keeps height and width, stride 2 gives
    /// half of them, rounded up.
    pub fn forward(&self, x: Tensor<B, 4>, stride: usize) -> Tensor<B, 4> {
        let [_, _, height, width] = self.weight.dims();
        let options = ConvOptions::new([stride; 2], [height / 2, width / 2], [1; 2], 1);
        conv2d(x, self.weight.val(), self.bias.as_ref().map(Param::val), options)
    }
}

/// Weight and bias as PyTorch's `Linear` has them.
#[derive(Module, Debug)]
pub struct Linear<B: Backend> {
    /// (out, in).
    pub weight: Param<Tensor<B, 2>>,
    /// (out).
    pub bias: Param<Tensor<B, 1>>,
}

impl<B: Backend> Linear<B> {
    /// All zeros.
    pub fn new(inputs: usize, outputs: usize, device: &B::Device) -> Self {
        Self {
            weight: Initializer::Zeros.init([outputs, inputs], device),
            bias: Initializer::Zeros.init([outputs], device),
        }
    }

    /// (images, in) to (images, out).
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        linear(x, self.weight.val().transpose(), Some(self.bias.val()))
    }
}

/// Which mean and variance BatchNorm normalises with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistics {
    /// The running ones, out of a file of weights; mean 0 and variance 1 at initialisation. They are constants: the loss is a
    /// mean over images that do not know of each other.
    #[default]
    Eval,
    /// Those of the micro-batch, through which derivatives go: the loss in training, which micro-batches are a part of.
    Train,
}

/// Batch normalisation (Ioffe and Szegedy 2015, arXiv 1502.03167), PyTorch's `BatchNorm2d`.
///
/// burn's own asks its backend whether it is trained, and one that differentiates always says that it is; its running statistics
/// also change with every pass.
#[derive(Module, Debug)]
pub struct BatchNorm<B: Backend> {
    /// (channels).
    pub weight: Param<Tensor<B, 1>>,
    /// (channels).
    pub bias: Param<Tensor<B, 1>>,
    /// (channels); loaded, and a constant.
    pub running_mean: Param<Tensor<B, 1>>,
    /// (channels); loaded, and a constant.
    pub running_var: Param<Tensor<B, 1>>,
}

impl<B: Backend> BatchNorm<B> {
    /// The identity in eval mode but for epsilon.
    pub fn new(channels: usize, device: &B::Device) -> Self {
        Self {
            weight: Initializer::Ones.init([channels], device),
            bias: Initializer::Zeros.init([channels], device),
            running_mean: Param::initialized(ParamId::new(), Tensor::zeros([channels], device)),
            running_var: Param::initialized(ParamId::new(), Tensor::ones([channels], device)),
        }
    }

    /// (images, channels, height, width) to the same: (x - mean) / sqrt(var + epsilon) * weight + bias by channel; the variance is
    /// the biased one.
    pub fn forward(&self, x: Tensor<B, 4>, statistics: Statistics) -> Tensor<B, 4> {
        let channels = x.dims()[1];
        let by_channel = |values: Tensor<B, 1>| values.reshape([1, channels, 1, 1]);
        let running = |values: &Param<Tensor<B, 1>>| by_channel(values.val().cast(x.dtype()));
        let (weight, bias) = (by_channel(self.weight.val()), by_channel(self.bias.val()));
        match statistics {
            Statistics::Eval => {
                let scale = weight / (running(&self.running_var) + EPSILON).sqrt();
                let shift = bias - running(&self.running_mean) * scale.clone();
                x * scale + shift
            }
            Statistics::Train => {
                let centred = x.clone() - mean(x);
                let variance = mean(centred.clone() * centred.clone());
                centred * (weight / (variance + EPSILON).sqrt()) + bias
            }
        }
    }
}

/// Means over images, height and width: (1, channels, 1, 1).
fn mean<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 4> {
    x.mean_dim(3).mean_dim(2).mean_dim(0)
}

/// relu(norm(x)), or relu(x) where there is no norm.
pub(super) fn normed_relu<B: Backend>(
    x: Tensor<B, 4>,
    norm: Option<&BatchNorm<B>>,
    statistics: Statistics,
) -> Tensor<B, 4> {
    relu(match norm {
        Some(norm) => norm.forward(x, statistics),
        None => x,
    })
}

/// A preset, which is called by a number of layers: `"18"` or `18`.
pub(super) fn preset<'de, D: Deserializer<'de>, T: Copy>(
    deserializer: D,
    presets: &'static [(usize, T)],
) -> std::result::Result<T, D::Error> {
    struct Read<T: 'static>(&'static [(usize, T)]);
    impl<T: Copy> Visitor<'_> for Read<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let names: Vec<String> = self.0.iter().map(|(layers, _)| format!("\"{layers}\"")).collect();
            write!(f, "one of {}", names.join(", "))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<T, E> {
            let found = self.0.iter().find(|(layers, _)| layers.to_string() == text);
            found.map(|(_, preset)| *preset).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> std::result::Result<T, E> {
            self.visit_str(&number.to_string())
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> std::result::Result<T, E> {
            self.visit_str(&number.to_string())
        }
    }
    deserializer.deserialize_any(Read(presets))
}

/// Images in the type of the parameters.
pub(super) fn images<B: Backend>(batch: &ImageBatch<B>, like: &Convolution<B>) -> Tensor<B, 4> {
    batch.images.clone().cast(like.weight.val().dtype())
}

/// torchvision's initial values of what convolutions and BatchNorms have: N(0, 2 / (out height width)) for kernels (He et al. 2015,
/// arXiv 1502.01852, by the fan out), weights 1, biases 0.
pub(super) fn initial(Parameter { name, shape, .. }: &Parameter) -> Initial {
    match shape[..] {
        [outputs, _, height, width] => Initial::Normal((2.0 / (outputs * height * width) as f64).sqrt()),
        _ if name.ends_with(".weight") => Initial::Constant(1.0),
        _ => Initial::Constant(0.0),
    }
}

/// The images that a network takes: of one size where `image` says so, else of any that is not too small.
pub(super) fn image_size(channels: usize, image: Option<[usize; 2]>, least: usize, typical: usize) -> ImageSize {
    match image {
        Some([height, width]) => ImageSize::Exactly([channels, height, width]),
        None => ImageSize::Channels { channels, least, typical: [typical.max(least); 2] },
    }
}

/// Refuses sizes of images and numbers of classes that make no network.
pub(super) fn check_sizes(
    check: &Check<'_>,
    channels: usize,
    image: Option<[usize; 2]>,
    least: usize,
    classes: usize,
) -> Result<()> {
    check.size("channels", channels, MOST_WIDTH)?;
    check.size("classes", classes, MOST_WIDTH)?;
    let fits = image.is_none_or(|image| image.iter().all(|side| (least..=MOST_SIDE).contains(side)));
    let expected = format!("expected height and width of the images, from {least} to {MOST_SIDE}");
    check.that(fits, "image", format!("{image:?}"), expected)
}

/// Refuses lists of widths or of numbers of layers that make no network.
pub(super) fn check_list(check: &Check<'_>, key: &str, list: &[usize], most: usize) -> Result<()> {
    let fits = !list.is_empty() && list.iter().all(|number| (1..=most).contains(number));
    check.that(fits, key, format!("{list:?}"), format!("expected a list of numbers from 1 to {most}"))
}

/// What a convolutional network computes and keeps for an image, collected from the bottom up.
#[derive(Debug, Default)]
pub(super) struct Work {
    products: Vec<Product>,
    branches: Vec<Branch>,
}

/// What can be entered by itself.
#[derive(Debug)]
struct Branch {
    /// Position of its first product.
    first: usize,
    /// Numbers that enter it.
    entry: f64,
    /// Numbers that its convolutions put out.
    outputs: f64,
}

impl Work {
    /// Begins a branch, to which the products that follow belong: (channels, height, width) of what enters it.
    pub fn branch(&mut self, entry: [usize; 3]) {
        self.branches.push(Branch { first: self.products.len(), entry: numbers(entry), outputs: 0.0 });
    }

    /// A convolution to (channels, height, width) whose kernel takes so many numbers for each of its outputs.
    pub fn convolution(&mut self, module: &str, inputs: usize, output: [usize; 3]) {
        self.product(module, inputs as f64 * numbers(output));
        if let Some(branch) = self.branches.last_mut() {
            branch.outputs += numbers(output);
        }
    }

    /// A linear layer.
    pub fn linear(&mut self, module: &str, inputs: usize, outputs: usize) {
        self.product(module, inputs as f64 * outputs as f64);
    }

    fn product(&mut self, module: &str, multiply_adds: f64) {
        let branch = self.branches.last().map_or(0, |branch| branch.first);
        self.products.push(Product { parameter: Some(format!("{module}.weight")), multiply_adds, branch });
    }

    /// The profile; so many numbers are `kept` for each that a convolution puts out, for each component.
    pub fn profile(self, kept: f64, classes: usize) -> Profile {
        let Self { products, branches } = self;
        let at_once = branches.iter().map(|branch| kept * branch.outputs + 2.0 * branch.entry).fold(0.0, f64::max);
        let above = || branches.iter().skip(1).map(|branch| branch.entry);
        let outputs = branches.iter().map(|branch| branch.outputs).sum::<f64>();
        Profile {
            products,
            bottom: Vec::new(),
            kept: kept * outputs,
            recomputed: Some(Recomputed { kept: above().sum(), at_once }),
            scores: 0.0,
            entry: above().fold(0.0, f64::max),
            outputs: classes as f64,
        }
    }
}

/// channels x height x width.
fn numbers(size: [usize; 3]) -> f64 {
    size.iter().map(|size| *size as f64).product()
}
