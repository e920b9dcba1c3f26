//! `[model.resnet]`: residual networks of basic blocks (He et al. 2015, arXiv 1512.03385), ResNet-18 and ResNet-34, on images.
//!
//! Names and values are torchvision's: its checkpoints are read as they are.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::module::max_pool2d;
use burn::tensor::{Int, Tensor, backend::Backend};
use serde::{Deserialize, Deserializer, Serialize};

use super::convolution::{
    self, BatchNorm, Convolution, Linear, MOST_LAYERS, MOST_WIDTH, Statistics, TORCHVISION, Work, check_list,
    check_sizes, image_size, images, initial, normed_relu,
};
use super::loss::cross_entropy;
use super::profile::Profile;
use super::{BatchOf, Network, StagesOf};
use crate::block::Parameter;
use crate::datasets::{ImageBatch, ImageFiles, ImageShape};
use crate::document::Check;
use crate::engine::{Kernels, SecondOrder};
use crate::hessian::Stages;
use crate::models::{Initial, Names, Structure};
use crate::shown::Url;
use crate::{Error, Result};

const NAMES: Names = Names { rows: &[("fc.weight", "model.resnet.classes")], ..TORCHVISION };

/// Numbers that a pass keeps for each that a convolution puts out (ResNet-18 on 16 and 48 images of 32 x 32, both modes).
const KEPT: f64 = 3.6;
/// torchvision has four, each under a name of its own.
const MOST_STAGES: usize = 4;

/// `[model.resnet]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Keys")]
pub struct ResNetConfig {
    /// Residual blocks of each stage, one to four stages. Default: the preset's, [2, 2, 2, 2] or [3, 4, 6, 3].
    pub blocks: Vec<usize>,
    /// Channels of each stage. Every stage but the first halves height and width. Default: 64, 128, 256, 512, as many as there are
    /// stages.
    pub widths: Vec<usize>,
    /// What stands below the stages. Default: imagenet.
    pub stem: Stem,
    /// Channels of the stem. Default: those of the first stage.
    pub stem_width: usize,
    /// Channels of the images. Default: 3.
    pub channels: usize,
    /// Height and width of the images. Absent: any. Where it is given, plans need no passes, products of late blocks start at
    /// activations that are kept, and `hessian.recompute` can be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<[usize; 2]>,
    /// Number of classes. Default: 10.
    pub classes: usize,
    /// Which mean and variance BatchNorm normalises with. Default: eval, so that the loss is a function of the parameters and of each
    /// image alone. `train` is the loss that training sees; `batch.micro_batch` is then the size of its batches. A network at
    /// initialisation has no running statistics yet, and only `train` normalises there.
    pub batch_norm: Statistics,
    /// Path or URL of safetensors or a PyTorch checkpoint, with torchvision's names; absent: initialised from `run.seed` as torchvision
    /// does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Url>,
}

/// What stands below the stages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// A 7 x 7 convolution with stride 2 and a 3 x 3 maximum with stride 2: a quarter of height and width.
    #[default]
    Imagenet,
    /// A 3 x 3 convolution, for images of about 32 x 32.
    Cifar,
}

/// Residual blocks of the stages.
type Preset = [usize; 4];

const RESNET_18: Preset = [2, 2, 2, 2];
const PRESETS: [(usize, Preset); 2] = [(18, RESNET_18), (34, [3, 4, 6, 3])];

fn preset<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Preset>, D::Error> {
    convolution::preset(deserializer, &PRESETS).map(Some)
}

/// As written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    #[serde(deserialize_with = "preset")]
    preset: Option<Preset>,
    blocks: Option<Vec<usize>>,
    widths: Option<Vec<usize>>,
    stem: Stem,
    stem_width: Option<usize>,
    channels: Option<usize>,
    image: Option<[usize; 2]>,
    classes: Option<usize>,
    batch_norm: Statistics,
    weights: Option<Url>,
}

impl From<Keys> for ResNetConfig {
    fn from(keys: Keys) -> Self {
        let blocks = keys.blocks.unwrap_or(keys.preset.unwrap_or(RESNET_18).to_vec());
        let widths = keys.widths.unwrap_or_else(|| [64, 128, 256, 512].into_iter().take(blocks.len()).collect());
        Self {
            stem: keys.stem,
            stem_width: keys.stem_width.unwrap_or(widths.first().copied().unwrap_or(0)),
            channels: keys.channels.unwrap_or(3),
            image: keys.image,
            classes: keys.classes.unwrap_or(10),
            batch_norm: keys.batch_norm,
            weights: keys.weights,
            blocks,
            widths,
        }
    }
}

impl Default for ResNetConfig {
    /// ResNet-18.
    fn default() -> Self {
        Keys::default().into()
    }
}

/// torchvision's module tree.
#[derive(Module, Debug)]
pub struct ResNet<B: Backend> {
    /// The stem's.
    pub conv1: Convolution<B>,
    /// The stem's.
    pub bn1: BatchNorm<B>,
    /// The first stage.
    pub layer1: Vec<BasicBlock<B>>,
    /// The second one; empty where there is none, as the others.
    pub layer2: Vec<BasicBlock<B>>,
    /// The third one.
    pub layer3: Vec<BasicBlock<B>>,
    /// The fourth one.
    pub layer4: Vec<BasicBlock<B>>,
    /// The head.
    pub fc: Linear<B>,
}

/// Two convolutions beside the identity, or beside what brings that to another width and size.
#[derive(Module, Debug)]
pub struct BasicBlock<B: Backend> {
    /// 3 x 3, with the block's stride.
    pub conv1: Convolution<B>,
    /// Behind it.
    pub bn1: BatchNorm<B>,
    /// 3 x 3.
    pub conv2: Convolution<B>,
    /// Behind it.
    pub bn2: BatchNorm<B>,
    /// A 1 x 1 convolution with the block's stride, and its BatchNorm, where width or size change.
    pub downsample: Option<(Convolution<B>, BatchNorm<B>)>,
}

impl<B: Backend> BasicBlock<B> {
    fn new(inputs: usize, outputs: usize, stride: usize, device: &B::Device) -> Self {
        let projected = is_projected(inputs, outputs, stride);
        Self {
            conv1: Convolution::new(inputs, outputs, 3, false, device),
            bn1: BatchNorm::new(outputs, device),
            conv2: Convolution::new(outputs, outputs, 3, false, device),
            bn2: BatchNorm::new(outputs, device),
            downsample: projected
                .then(|| (Convolution::new(inputs, outputs, 1, false, device), BatchNorm::new(outputs, device))),
        }
    }

    /// (images, in, height, width) to (images, out, height / stride, width / stride), rounded up.
    fn forward(&self, x: Tensor<B, 4>, stride: usize, statistics: Statistics) -> Tensor<B, 4> {
        let y = normed_relu(self.conv1.forward(x.clone(), stride), Some(&self.bn1), statistics);
        let y = self.bn2.forward(self.conv2.forward(y, 1), statistics);
        let x = match &self.downsample {
            Some((convolution, norm)) => norm.forward(convolution.forward(x, stride), statistics),
            None => x,
        };
        relu(x + y)
    }
}

impl<B: Backend> ResNet<B> {
    /// The residual blocks from the bottom up, with their strides.
    fn blocks(&self) -> Vec<(&BasicBlock<B>, usize)> {
        let stages = [&self.layer1, &self.layer2, &self.layer3, &self.layer4].into_iter().enumerate();
        stages
            .flat_map(|(stage, blocks)| blocks.iter().enumerate().map(move |(at, block)| (block, stride(stage, at))))
            .collect()
    }

    /// What enters the first residual block, from images, (images, channels, height, width).
    fn stem(&self, config: &ResNetConfig, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let x = normed_relu(self.conv1.forward(x, config.stem.stride()), Some(&self.bn1), config.batch_norm);
        match config.stem {
            Stem::Imagenet => max_pool2d(x, [3; 2], [2; 2], [1; 2], [1; 2], false),
            Stem::Cifar => x,
        }
    }

    /// What leaves residual block `blocks.end - 1`, from what enters block `blocks.start`, counted from the bottom.
    fn through(&self, config: &ResNetConfig, x: Tensor<B, 4>, blocks: Range<usize>) -> Tensor<B, 4> {
        self.blocks()[blocks].iter().fold(x, |x, (block, stride)| block.forward(x, *stride, config.batch_norm))
    }

    /// Logits, (images, classes): the head on the mean of each plane.
    fn head(&self, x: Tensor<B, 4>) -> Tensor<B, 2> {
        self.fc.forward(x.flatten::<3>(2, 3).mean_dim(2).squeeze_dim(2))
    }
}

impl Stem {
    fn stride(self) -> usize {
        match self {
            Self::Imagenet => 2,
            Self::Cifar => 1,
        }
    }

    fn side(self) -> usize {
        match self {
            Self::Imagenet => 7,
            Self::Cifar => 3,
        }
    }

    /// Height and width of the images that it was made for.
    fn typical(self) -> usize {
        match self {
            Self::Imagenet => 224,
            Self::Cifar => 32,
        }
    }
}

impl ResNetConfig {
    fn num_blocks(&self) -> usize {
        self.blocks.iter().sum()
    }

    /// Channels, height and width of what enters each residual block and, last, the head, for images of this height and width.
    fn entries(&self, image: [usize; 2]) -> Vec<[usize; 3]> {
        let below = self.stem.stride() * if self.stem == Stem::Imagenet { 2 } else { 1 };
        let mut entry = [self.stem_width, image[0].div_ceil(below), image[1].div_ceil(below)];
        let mut entries = vec![entry];
        for (stage, (count, width)) in self.blocks.iter().zip(&self.widths).enumerate() {
            for block in 0..*count {
                let [_, height, columns] = entry;
                entry = [*width, height.div_ceil(stride(stage, block)), columns.div_ceil(stride(stage, block))];
                entries.push(entry);
            }
        }
        entries
    }

    /// A stage's entry as planes.
    fn planes<B: Backend>(&self, stage: usize, entry: Tensor<B, 2>, batch: &ImageBatch<B>) -> Tensor<B, 4> {
        let [images, _, height, width] = batch.images.dims();
        let [channels, height, width] = self.entries([height, width])[stage - 1];
        entry.reshape([images, channels, height, width])
    }
}

/// Whether a block's identity has to be brought to another width or size.
fn is_projected(inputs: usize, outputs: usize, stride: usize) -> bool {
    inputs != outputs || stride != 1
}

/// Of the convolutions at a stage's beginning: every stage but the first halves height and width with its first block.
fn stride(stage: usize, block: usize) -> usize {
    if stage > 0 && block == 0 { 2 } else { 1 }
}

/// Classification: mean cross-entropy over the images.
impl Network for ResNetConfig {
    const KIND: &'static str = "resnet";
    type Data = ImageFiles;
    type Module<B: Backend> = ResNet<B>;

    fn check(&self, check: &Check<'_>) -> Result<()> {
        let Self { blocks, widths, .. } = self;
        check_list(check, "blocks", blocks, MOST_LAYERS)?;
        let stages = format!("expected one to {MOST_STAGES} stages");
        check.that(blocks.len() <= MOST_STAGES, "blocks", format!("{blocks:?}"), stages)?;
        check_list(check, "widths", widths, MOST_WIDTH)?;
        let as_many = format!("expected as many as there are model.resnet.blocks: {}", blocks.len());
        check.that(widths.len() == blocks.len(), "widths", format!("{widths:?}"), as_many)?;
        check.size("stem_width", self.stem_width, MOST_WIDTH)?;
        check_sizes(check, self.channels, self.image, 1, self.classes)?;
        check.weights("weights", self.weights.as_ref())
    }

    fn shape(&self) -> ImageShape {
        ImageShape { size: image_size(self.channels, self.image, 1, self.stem.typical()), classes: self.classes }
    }

    fn module<B: Backend>(&self, device: &B::Device) -> Result<ResNet<B>> {
        let Self { blocks, widths, .. } = self;
        if blocks.len() != widths.len() || blocks.len() > MOST_STAGES {
            let problem = format!("model.resnet: blocks = {blocks:?} and widths = {widths:?}");
            return Err(Error::Config(format!("{problem}: expected as many, for {MOST_STAGES} stages or less")));
        }
        let mut width = self.stem_width;
        let mut stage = |at: usize| {
            let count = self.blocks.get(at).copied().unwrap_or(0);
            let blocks = (0..count).map(|block| {
                let inputs = std::mem::replace(&mut width, self.widths[at]);
                BasicBlock::new(inputs, self.widths[at], stride(at, block), device)
            });
            blocks.collect()
        };
        Ok(ResNet {
            conv1: Convolution::new(self.channels, self.stem_width, self.stem.side(), false, device),
            bn1: BatchNorm::new(self.stem_width, device),
            layer1: stage(0),
            layer2: stage(1),
            layer3: stage(2),
            layer4: stage(3),
            fc: Linear::new(width, self.classes, device),
        })
    }

    /// As torchvision: the head's weight and bias uniform between -1/sqrt(fan in) and 1/sqrt(fan in), as PyTorch's `Linear`.
    fn initial(&self, parameter: &Parameter) -> Initial {
        let fan_in = self.widths.last().copied().unwrap_or(1) as f64;
        if parameter.name.starts_with("fc.") { Initial::Uniform(1.0 / fan_in.sqrt()) } else { initial(parameter) }
    }

    fn outputs<B: Backend>(&self, model: &ResNet<B>, batch: &ImageBatch<B>) -> Tensor<B, 2> {
        let x = model.stem(self, images(batch, &model.conv1));
        model.head(model.through(self, x, 0..self.num_blocks()))
    }

    fn loss<B: Backend>(&self, outputs: Tensor<B, 2>, batch: &ImageBatch<B>) -> Tensor<B, 1> {
        cross_entropy(outputs, &batch.labels)
    }

    fn weight<B: Backend>(&self, batch: &BatchOf<Self, B>) -> f64 {
        batch.labels.dims()[0] as f64
    }

    fn classes<B: Backend>(&self, batch: &BatchOf<Self, B>) -> Option<Tensor<B, 1, Int>> {
        Some(batch.labels.clone())
    }

    fn is_separable(&self) -> bool {
        self.batch_norm == Statistics::Eval
    }

    fn stages<K: Kernels>(&self) -> Option<&StagesOf<Self, K>> {
        self.image.map(|_| self as &StagesOf<Self, K>)
    }

    fn has_kinks(&self) -> bool {
        true
    }

    fn names(&self) -> &'static Names {
        &NAMES
    }

    fn structure(&self) -> Structure {
        Structure { outputs: &[("", 0)], ..Structure::UNKNOWN }
    }

    fn weights(&self) -> Option<&Url> {
        self.weights.as_ref()
    }

    fn profile(&self) -> Option<Profile> {
        let image = self.image?;
        let (mut work, entries, halves) = (Work::default(), self.entries(image), self.stem.stride());
        work.branch([self.channels, image[0], image[1]]);
        let planes = [self.stem_width, image[0].div_ceil(halves), image[1].div_ceil(halves)];
        work.convolution("conv1", self.channels * self.stem.side().pow(2), planes);
        let blocks = self.blocks.iter().enumerate();
        let blocks = blocks.flat_map(|(stage, count)| (0..*count).map(move |block| (stage, block)));
        for ((stage, block), sizes) in blocks.zip(entries.windows(2)) {
            let (inputs, output) = (sizes[0][0], sizes[1]);
            let module = format!("layer{}.{block}", stage + 1);
            work.branch(sizes[0]);
            work.convolution(&format!("{module}.conv1"), 9 * inputs, output);
            work.convolution(&format!("{module}.conv2"), 9 * output[0], output);
            if is_projected(inputs, output[0], stride(stage, block)) {
                work.convolution(&format!("{module}.downsample.0"), inputs, output);
            }
        }
        let highest = entries[self.num_blocks()];
        work.branch(highest);
        work.linear("fc", highest[0], self.classes);
        Some(work.profile(KEPT, self.classes))
    }
}

/// Stage s is the entry of residual block s, counted from 1 at the bottom; the highest is that of the head.
impl<K: Kernels> Stages<SecondOrder<K>, ResNet<SecondOrder<K>>, BatchOf<Self, SecondOrder<K>>> for ResNetConfig {
    fn stage_of(&self, _: &ResNet<SecondOrder<K>>, parameter: &str) -> usize {
        let mut path = parameter.split('.');
        let first = path.next().unwrap_or_default();
        let stage = first.strip_prefix("layer").and_then(|number| number.parse::<usize>().ok());
        match (stage, path.next().and_then(|number| number.parse::<usize>().ok())) {
            (Some(stage), Some(block)) => self.blocks[..stage - 1].iter().sum::<usize>() + block + 1,
            _ if first == "fc" => self.num_blocks() + 1,
            _ => 0,
        }
    }

    fn num_stages(&self, _: &ResNet<SecondOrder<K>>) -> usize {
        self.num_blocks() + 1
    }

    fn first(&self, model: &ResNet<SecondOrder<K>>, batch: &ImageBatch<SecondOrder<K>>) -> Tensor<SecondOrder<K>, 2> {
        model.stem(self, images(batch, &model.conv1)).flatten(1, 3)
    }

    fn advance(
        &self,
        model: &ResNet<SecondOrder<K>>,
        stages: Range<usize>,
        entry: Tensor<SecondOrder<K>, 2>,
        batch: &ImageBatch<SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 2> {
        let x = self.planes(stages.start, entry, batch);
        model.through(self, x, stages.start - 1..stages.end - 1).flatten(1, 3)
    }

    fn outputs_from(
        &self,
        model: &ResNet<SecondOrder<K>>,
        stage: usize,
        entry: Tensor<SecondOrder<K>, 2>,
        batch: &ImageBatch<SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 2> {
        let x = self.planes(stage, entry, batch);
        model.head(model.through(self, x, stage - 1..self.num_blocks()))
    }

    fn total_loss_from(
        &self,
        model: &ResNet<SecondOrder<K>>,
        stage: usize,
        entry: Tensor<SecondOrder<K>, 2>,
        batch: &ImageBatch<SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 1> {
        let outputs = self.outputs_from(model, stage, entry, batch);
        Network::loss(self, outputs, batch)
    }
}
