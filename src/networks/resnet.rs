//! `[model.resnet]`: residual networks of basic blocks (He et al. 2015, arXiv 1512.03385), ResNet-18 and ResNet-34, on images.
//!
//! Names and values are torchvision's: its checkpoints are read as they are.

use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::module::max_pool2d;
use burn::tensor::{Tensor, backend::Backend};
use serde::{Deserialize, Serialize};

use super::convolution::{
    BatchNorm, Convolution, Linear, MOST_LAYERS, MOST_WIDTH, Statistics, TORCHVISION, check_list, check_sizes,
    image_size, images, initial, normed_relu,
};
use super::loss::cross_entropy;
use super::{BatchOf, Network};
use crate::Result;
use crate::block::Parameter;
use crate::datasets::{ImageBatch, ImageFiles, ImageShape};
use crate::document::Check;
use crate::models::{Initial, Names, Structure};
use crate::shown::Url;

const NAMES: Names = Names { rows: &[("fc.weight", "model.resnet.classes")], ..TORCHVISION };

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
    /// Height and width of the images. Absent: any.
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

#[derive(Debug, Clone, Copy, Default, Deserialize)]
enum Preset {
    #[default]
    #[serde(rename = "18")]
    ResNet18,
    #[serde(rename = "34")]
    ResNet34,
}

/// As written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    preset: Preset,
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
        let blocks = keys.blocks.unwrap_or(match keys.preset {
            Preset::ResNet18 => vec![2, 2, 2, 2],
            Preset::ResNet34 => vec![3, 4, 6, 3],
        });
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
        let projected = inputs != outputs || stride != 1;
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
    /// Logits, (images, classes), of images, (images, channels, height, width).
    fn forward(&self, config: &ResNetConfig, x: Tensor<B, 4>) -> Tensor<B, 2> {
        let statistics = config.batch_norm;
        let x = normed_relu(self.conv1.forward(x, config.stem.stride()), Some(&self.bn1), statistics);
        let x = match config.stem {
            Stem::Imagenet => max_pool2d(x, [3; 2], [2; 2], [1; 2], [1; 2], false),
            Stem::Cifar => x,
        };
        let stages = [&self.layer1, &self.layer2, &self.layer3, &self.layer4];
        let x = stages.into_iter().enumerate().fold(x, |x, (stage, blocks)| {
            blocks.iter().enumerate().fold(x, |x, (at, block)| block.forward(x, stride(stage, at), statistics))
        });
        self.fc.forward(x.flatten::<3>(2, 3).mean_dim(2).squeeze_dim(2)) // the mean of each plane: (images, width)
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
        model.forward(self, images(batch, &model.conv1))
    }

    fn loss<B: Backend>(&self, outputs: Tensor<B, 2>, batch: &ImageBatch<B>) -> Tensor<B, 1> {
        cross_entropy(outputs, &batch.labels)
    }

    fn weight<B: Backend>(&self, batch: &BatchOf<Self, B>) -> f64 {
        batch.labels.dims()[0] as f64
    }

    fn is_separable(&self) -> bool {
        self.batch_norm == Statistics::Eval
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
}
