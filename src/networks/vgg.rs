//! `[model.vgg]`: VGG-11, 13, 16 and 19 (Simonyan and Zisserman 2014, arXiv 1409.1556), with and without batch normalisation, on images.
//!
//! Names and values are torchvision's: its checkpoints are read as they are. There is no dropout, which would make the loss a random one.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::module::{adaptive_avg_pool2d, max_pool2d};
use burn::tensor::{Int, Tensor, backend::Backend};
use serde::{Deserialize, Deserializer, Serialize};

use super::convolution::{
    self, BatchNorm, Convolution, Linear, MOST_LAYERS, MOST_WIDTH, Statistics, TORCHVISION, Work, check_list,
    check_sizes, image_size, initial,
};
use super::loss::cross_entropy;
use super::profile::Profile;
use super::{BatchOf, Network, StagesOf};
use crate::Result;
use crate::block::Parameter;
use crate::datasets::{ImageBatch, ImageFiles, ImageShape};
use crate::document::Check;
use crate::engine::{Kernels, SecondOrder};
use crate::hessian::Stages;
use crate::models::{Initial, Names, Structure};
use crate::shown::Url;

const NAMES: Names = Names {
    rows: &[("classifier.6.weight", "model.vgg.classes"), ("classifier.0.weight", "model.vgg.hidden")],
    hidden: &["Convolution", "BatchNorm"],
    ..TORCHVISION
};
/// With one layer of logits.
const WITHOUT_HIDDEN: Names = Names { rows: &[("classifier.0.weight", "model.vgg.classes")], ..NAMES };

/// Standard deviation of torchvision's linear layers.
const LINEAR_DEVIATION: f64 = 0.01;
/// Numbers that a pass keeps for each that a convolution puts out (VGG-16 on 16 and 48 images of 32 x 32).
const KEPT: f64 = 5.0;
/// Each halves height and width.
const MOST_STAGES: usize = 16;
/// Means along a side; torchvision has 7.
const MOST_POOL: usize = 1000;

/// `[model.vgg]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Keys")]
pub struct VggConfig {
    /// 3 x 3 convolutions of each stage; a 2 x 2 maximum behind each stage halves height and width. Default: the preset's, VGG-16's
    /// [2, 2, 3, 3, 3].
    pub convolutions: Vec<usize>,
    /// Channels of each stage. Default: 64, 128, 256, 512, 512, as many as there are stages.
    pub widths: Vec<usize>,
    /// Batch normalisation behind every convolution. Default: none.
    pub batch_norm: Normalisation,
    /// Width of the classifier's two hidden layers; 0: one layer of logits and nothing else. Default: 4096.
    pub hidden: usize,
    /// The classifier sees `pool` x `pool` means of each plane. Default: 7.
    pub pool: usize,
    /// Channels of the images. Default: 3.
    pub channels: usize,
    /// Height and width of the images. Absent: any that the stages leave something of. Where it is given, plans need no passes,
    /// products of late blocks start at activations that are kept, and `hessian.recompute` can be had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<[usize; 2]>,
    /// Number of classes. Default: 10.
    pub classes: usize,
    /// Path or URL of safetensors or a PyTorch checkpoint, with torchvision's names; absent: initialised from `run.seed` as torchvision
    /// does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Url>,
}

/// Batch normalisation, and which mean and variance it normalises with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// There is none.
    #[default]
    None,
    /// [`Statistics::Eval`]
    Eval,
    /// [`Statistics::Train`]: `batch.micro_batch` is then part of the loss.
    Train,
}

/// Convolutions of the stages.
type Preset = [usize; 5];

const VGG_16: Preset = [2, 2, 3, 3, 3];
const PRESETS: [(usize, Preset); 4] =
    [(11, [1, 1, 2, 2, 2]), (13, [2, 2, 2, 2, 2]), (16, VGG_16), (19, [2, 2, 4, 4, 4])];

fn preset<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Preset>, D::Error> {
    convolution::preset(deserializer, &PRESETS).map(Some)
}

/// As written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    #[serde(deserialize_with = "preset")]
    preset: Option<Preset>,
    convolutions: Option<Vec<usize>>,
    widths: Option<Vec<usize>>,
    batch_norm: Normalisation,
    hidden: Option<usize>,
    pool: Option<usize>,
    channels: Option<usize>,
    image: Option<[usize; 2]>,
    classes: Option<usize>,
    weights: Option<Url>,
}

impl From<Keys> for VggConfig {
    fn from(keys: Keys) -> Self {
        let convolutions = keys.convolutions.unwrap_or(keys.preset.unwrap_or(VGG_16).to_vec());
        let widths =
            keys.widths.unwrap_or_else(|| [64, 128, 256, 512, 512].into_iter().take(convolutions.len()).collect());
        Self {
            batch_norm: keys.batch_norm,
            hidden: keys.hidden.unwrap_or(4096),
            pool: keys.pool.unwrap_or(7),
            channels: keys.channels.unwrap_or(3),
            image: keys.image,
            classes: keys.classes.unwrap_or(10),
            weights: keys.weights,
            convolutions,
            widths,
        }
    }
}

impl Default for VggConfig {
    /// VGG-16 without batch normalisation.
    fn default() -> Self {
        Keys::default().into()
    }
}

/// torchvision's module tree. Positions without a module are those of what has no parameters: ReLU, maximum, dropout.
#[derive(Module, Debug)]
pub struct Vgg<B: Backend> {
    /// As [`VggConfig`]'s steps say.
    pub features: Vec<Option<Feature<B>>>,
    /// Linear layers.
    pub classifier: Vec<Option<Linear<B>>>,
}

/// A layer with parameters; a network has a few dozen.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // boxes are no modules
pub enum Feature<B: Backend> {
    /// 3 x 3, with a bias.
    Convolution(Convolution<B>),
    /// Behind a convolution.
    BatchNorm(BatchNorm<B>),
}

/// One element of torchvision's `features`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A convolution from so many channels to so many.
    Convolution(usize, usize),
    /// Batch normalisation of so many channels.
    BatchNorm(usize),
    Relu,
    /// 2 x 2, stride 2.
    Maximum,
}

impl VggConfig {
    /// torchvision's `features`.
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut inputs = self.channels;
        for (count, width) in self.convolutions.iter().zip(&self.widths) {
            for _ in 0..*count {
                steps.push(Step::Convolution(inputs, *width));
                steps.extend((self.batch_norm != Normalisation::None).then_some(Step::BatchNorm(*width)));
                steps.push(Step::Relu);
                inputs = *width;
            }
            steps.push(Step::Maximum);
        }
        steps
    }

    /// Widths from the features to the logits.
    fn classifier(&self) -> Vec<usize> {
        let inputs = self.widths.last().copied().unwrap_or(0) * self.pool * self.pool;
        match self.hidden {
            0 => vec![inputs, self.classes],
            hidden => vec![inputs, hidden, hidden, self.classes],
        }
    }

    /// The steps that are convolutions; behind them, as the entry of the classifier, the number of steps.
    fn starts(&self) -> Vec<usize> {
        let steps = self.steps();
        let is_convolution = |at: &usize| matches!(steps[*at], Step::Convolution(..));
        (0..steps.len()).filter(is_convolution).chain([steps.len()]).collect()
    }

    /// Channels, height and width of what enters a step, for images of this height and width.
    fn entry(&self, step: usize, [height, width]: [usize; 2]) -> [usize; 3] {
        let enter = |[channels, height, width]: [usize; 3], step: &Step| match step {
            Step::Convolution(_, outputs) => [*outputs, height, width],
            Step::Maximum => [channels, height / 2, width / 2],
            Step::BatchNorm(_) | Step::Relu => [channels, height, width],
        };
        self.steps()[..step].iter().fold([self.channels, height, width], enter)
    }

    /// A stage's entry as planes.
    fn planes<B: Backend>(&self, stage: usize, entry: Tensor<B, 2>, batch: &ImageBatch<B>) -> Tensor<B, 4> {
        let [images, _, height, width] = batch.images.dims();
        let [channels, height, width] = self.entry(self.starts()[stage], [height, width]);
        entry.reshape([images, channels, height, width])
    }

    /// The smallest height and width of which the last maximum leaves something.
    fn least(&self) -> usize {
        1 << self.convolutions.len().min(MOST_STAGES)
    }
}

impl<B: Backend> Vgg<B> {
    /// What enters step `steps.end` of the features, from what enters step `steps.start`.
    fn through(&self, config: &VggConfig, x: Tensor<B, 4>, steps: Range<usize>) -> Tensor<B, 4> {
        let statistics = if config.batch_norm == Normalisation::Train { Statistics::Train } else { Statistics::Eval };
        let all = config.steps();
        let features = all[steps.clone()].iter().zip(&self.features[steps]);
        features.fold(x, |x, (step, feature)| match (step, feature) {
            (_, Some(Feature::Convolution(convolution))) => convolution.forward(x, 1),
            (_, Some(Feature::BatchNorm(norm))) => norm.forward(x, statistics),
            (Step::Maximum, None) => max_pool2d(x, [2; 2], [2; 2], [0; 2], [1; 2], false),
            (_, None) => relu(x),
        })
    }

    /// Logits, (images, classes), of features, (images, width, height, width).
    fn head(&self, config: &VggConfig, x: Tensor<B, 4>) -> Tensor<B, 2> {
        let x = adaptive_avg_pool2d(x, [config.pool; 2]).flatten::<2>(1, 3); // (images, width pool pool)
        let last = self.classifier.len() - 1;
        self.classifier.iter().enumerate().fold(x, |x, (at, layer)| match layer {
            Some(layer) if at == last => layer.forward(x),
            Some(layer) => relu(layer.forward(x)),
            None => x,
        })
    }

    /// Images in the type of the parameters.
    fn images(&self, batch: &ImageBatch<B>) -> Tensor<B, 4> {
        let dtype = self.classifier.iter().flatten().next().map(|layer| layer.weight.val().dtype());
        dtype.map_or_else(|| batch.images.clone(), |dtype| batch.images.clone().cast(dtype))
    }
}

/// Classification: mean cross-entropy over the images.
impl Network for VggConfig {
    const KIND: &'static str = "vgg";
    type Data = ImageFiles;
    type Module<B: Backend> = Vgg<B>;

    fn check(&self, check: &Check<'_>) -> Result<()> {
        let Self { convolutions, widths, .. } = self;
        check_list(check, "convolutions", convolutions, MOST_LAYERS)?;
        let stages = format!("expected one to {MOST_STAGES} stages");
        check.that(convolutions.len() <= MOST_STAGES, "convolutions", format!("{convolutions:?}"), stages)?;
        check_list(check, "widths", widths, MOST_WIDTH)?;
        let as_many = format!("expected as many as there are model.vgg.convolutions: {}", convolutions.len());
        check.that(widths.len() == convolutions.len(), "widths", format!("{widths:?}"), as_many)?;
        check.that(self.hidden <= MOST_WIDTH, "hidden", self.hidden, format!("expected {MOST_WIDTH} or less"))?;
        check.size("pool", self.pool, MOST_POOL)?;
        check_sizes(check, self.channels, self.image, self.least(), self.classes)?;
        check.weights("weights", self.weights.as_ref())
    }

    fn shape(&self) -> ImageShape {
        let typical = if self.hidden > 0 { 224 } else { 32 };
        ImageShape { size: image_size(self.channels, self.image, self.least(), typical), classes: self.classes }
    }

    fn module<B: Backend>(&self, device: &B::Device) -> Result<Vgg<B>> {
        let feature = |step| match step {
            Step::Convolution(inputs, outputs) => {
                Some(Feature::Convolution(Convolution::new(inputs, outputs, 3, true, device)))
            }
            Step::BatchNorm(width) => Some(Feature::BatchNorm(BatchNorm::new(width, device))),
            Step::Relu | Step::Maximum => None,
        };
        let layers = self.classifier();
        let mut classifier = Vec::new();
        for (at, sizes) in layers.windows(2).enumerate() {
            if at > 0 {
                classifier.extend([None, None]); // ReLU and dropout
            }
            classifier.push(Some(Linear::new(sizes[0], sizes[1], device)));
        }
        Ok(Vgg { features: self.steps().into_iter().map(feature).collect(), classifier })
    }

    /// As torchvision: linear layers N(0, 0.01²), biases 0.
    fn initial(&self, parameter: &Parameter) -> Initial {
        if parameter.shape.len() == 2 { Initial::Normal(LINEAR_DEVIATION) } else { initial(parameter) }
    }

    fn outputs<B: Backend>(&self, model: &Vgg<B>, batch: &ImageBatch<B>) -> Tensor<B, 2> {
        model.head(self, model.through(self, model.images(batch), 0..model.features.len()))
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
        self.batch_norm != Normalisation::Train
    }

    fn stages<K: Kernels>(&self) -> Option<&StagesOf<Self, K>> {
        self.image.map(|_| self as &StagesOf<Self, K>)
    }

    fn has_kinks(&self) -> bool {
        true
    }

    fn names(&self) -> &'static Names {
        if self.hidden > 0 { &NAMES } else { &WITHOUT_HIDDEN }
    }

    fn structure(&self) -> Structure {
        Structure { outputs: &[("", 0)], ..Structure::UNKNOWN }
    }

    fn weights(&self) -> Option<&Url> {
        self.weights.as_ref()
    }

    fn profile(&self) -> Option<Profile> {
        let (image, mut work, mut starts) = (self.image?, Work::default(), self.starts());
        let highest = self.entry(starts.pop()?, image);
        for step in starts {
            let (entry, output) = (self.entry(step, image), self.entry(step + 1, image));
            work.branch(entry);
            work.convolution(&format!("features.{step}"), 9 * entry[0], output);
        }
        work.branch(highest);
        for (at, sizes) in self.classifier().windows(2).enumerate() {
            work.linear(&format!("classifier.{}", 3 * at), sizes[0], sizes[1]);
        }
        Some(work.profile(KEPT, self.classes))
    }
}

/// Stage s is the entry of convolution s, counted from 0 at the bottom; the highest is that of the classifier.
impl<K: Kernels> Stages<SecondOrder<K>, Vgg<SecondOrder<K>>, BatchOf<Self, SecondOrder<K>>> for VggConfig {
    fn stage_of(&self, _: &Vgg<SecondOrder<K>>, parameter: &str) -> usize {
        let starts = self.starts();
        match parameter.strip_prefix("features.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok()) {
            Some(step) => starts.partition_point(|start| *start <= step) - 1,
            None => starts.len() - 1,
        }
    }

    fn num_stages(&self, _: &Vgg<SecondOrder<K>>) -> usize {
        self.starts().len() - 1
    }

    fn first(&self, model: &Vgg<SecondOrder<K>>, batch: &ImageBatch<SecondOrder<K>>) -> Tensor<SecondOrder<K>, 2> {
        model.through(self, model.images(batch), 0..self.starts()[1]).flatten(1, 3)
    }

    fn advance(
        &self,
        model: &Vgg<SecondOrder<K>>,
        stages: Range<usize>,
        entry: Tensor<SecondOrder<K>, 2>,
        batch: &ImageBatch<SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 2> {
        let starts = self.starts();
        let x = self.planes(stages.start, entry, batch);
        model.through(self, x, starts[stages.start]..starts[stages.end]).flatten(1, 3)
    }

    fn outputs_from(
        &self,
        model: &Vgg<SecondOrder<K>>,
        stage: usize,
        entry: Tensor<SecondOrder<K>, 2>,
        batch: &ImageBatch<SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 2> {
        let x = self.planes(stage, entry, batch);
        model.head(self, model.through(self, x, self.starts()[stage]..model.features.len()))
    }

    fn total_loss_from(
        &self,
        model: &Vgg<SecondOrder<K>>,
        stage: usize,
        entry: Tensor<SecondOrder<K>, 2>,
        batch: &ImageBatch<SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 1> {
        let outputs = self.outputs_from(model, stage, entry, batch);
        Network::loss(self, outputs, batch)
    }
}
