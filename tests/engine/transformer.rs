//! A small pre-norm transformer of plain `burn::nn` modules, as a user would write it, and the way to give its
//! parameters tangents.

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::{gelu, log_softmax};
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Int, Tensor, TensorData, TensorPrimitive};
use burn_backend::Backend;
use burn_backend::tensor::FloatTensor;
use hesspec::engine::{Kernels, SecondOrder, leaf};

use crate::values::{Random, Values, put};

pub const BATCH: usize = 2;
pub const TIME: usize = 16;
pub const WIDTH: usize = 32;
pub const HEADS: usize = 4;
pub const CLASSES: usize = 8;
pub const LAYERS: usize = 4;

#[derive(Module, Debug)]
pub struct Layer<B: Backend> {
    norm_1: LayerNorm<B>,
    qkv: Linear<B>,
    projection: Linear<B>,
    norm_2: LayerNorm<B>,
    fc: Linear<B>,
    c_proj: Linear<B>,
}

#[derive(Module, Debug)]
pub struct Transformer<B: Backend> {
    embedding: Embedding<B>,
    layers: Vec<Layer<B>>,
    norm: LayerNorm<B>,
    head: Linear<B>,
}

impl<B: Backend> Layer<B> {
    fn new(device: &B::Device) -> Self {
        let linear = |from, to| LinearConfig::new(from, to).init(device);
        Self {
            norm_1: LayerNormConfig::new(WIDTH).init(device),
            qkv: linear(WIDTH, 3 * WIDTH),
            projection: linear(WIDTH, WIDTH),
            norm_2: LayerNormConfig::new(WIDTH).init(device),
            fc: linear(WIDTH, 4 * WIDTH),
            c_proj: linear(4 * WIDTH, WIDTH),
        }
    }

    fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let x = x.clone() + self.attention(self.norm_1.forward(x));
        x.clone() + self.c_proj.forward(gelu(self.fc.forward(self.norm_2.forward(x))))
    }

    fn attention(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let heads = |x: Tensor<B, 3>| x.reshape([BATCH, TIME, HEADS, WIDTH / HEADS]).swap_dims(1, 2);
        let [q, k, v] = self.qkv.forward(x).chunk(3, 2).try_into().expect("three chunks");
        let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
        let y = attention(heads(q), heads(k), heads(v), None, None, options);
        self.projection.forward(y.swap_dims(1, 2).reshape([BATCH, TIME, WIDTH]))
    }
}

impl<B: Backend> Transformer<B> {
    pub fn new() -> Self {
        let device = B::Device::default();
        Self {
            embedding: EmbeddingConfig::new(CLASSES, WIDTH).init(&device),
            layers: (0..LAYERS).map(|_| Layer::new(&device)).collect(),
            norm: LayerNormConfig::new(WIDTH).init(&device),
            head: LinearConfig::new(WIDTH, CLASSES).init(&device),
        }
    }

    /// Mean cross-entropy of predicting seeded targets.
    pub fn loss(&self) -> Tensor<B, 1> {
        let mut x = self.embedding.forward(tokens::<B>(1));
        for layer in &self.layers {
            x = layer.forward(x);
        }
        let logits = self.head.forward(self.norm.forward(x));
        let targets = tokens::<B>(2).reshape([BATCH, TIME, 1]);
        log_softmax(logits, 2).gather(2, targets).mean().neg()
    }
}

fn tokens<B: Backend>(seed: u64) -> Tensor<B, 2, Int> {
    let mut random = Random::new(seed);
    let data: Vec<i64> = (0..BATCH * TIME).map(|_| random.below(CLASSES) as i64).collect();
    Tensor::from_data(TensorData::new(data, [BATCH, TIME]), &B::Device::default())
}

fn tensor<B: Backend, const D: usize>(values: &Values) -> Tensor<B, D> {
    let primitive: FloatTensor<B> = put::<B>(values);
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

/// A float parameter as the mapper sees it.
pub struct Seen {
    pub path: String,
    pub shape: Vec<usize>,
}

/// Gives every parameter seeded values, tangents to those that `tangents` names, and makes the others constants.
pub struct Activate<'a, B: Kernels> {
    pub tangents: &'a dyn Fn(&Seen) -> Option<Vec<Option<Values>>>,
    pub tangents_only: bool,
    /// The active parameters after mapping, in order: path and primitive.
    pub leaves: Vec<(String, FloatTensor<SecondOrder<B>>)>,
    path: Vec<String>,
    count: u64,
}

impl<'a, B: Kernels> Activate<'a, B> {
    pub fn new(tangents: &'a dyn Fn(&Seen) -> Option<Vec<Option<Values>>>, tangents_only: bool) -> Self {
        Self { tangents, tangents_only, leaves: Vec::new(), path: Vec::new(), count: 0 }
    }
}

/// Values of the parameter with this number: of the size of a usual initialisation.
pub fn parameter(number: u64, shape: &[usize]) -> Values {
    let values = Random::new(100 + number).values(shape);
    match shape {
        [width] => values.times(0.3).plus(1.0, &Values { shape: vec![*width], data: vec![0.7; *width] }),
        _ => values.times(1.0 / (shape[0] as f64).sqrt()),
    }
}

impl<B: Kernels> ModuleMapper<SecondOrder<B>> for Activate<'_, B> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(
        &mut self,
        param: Param<Tensor<SecondOrder<B>, D>>,
    ) -> Param<Tensor<SecondOrder<B>, D>> {
        let (id, old, mapper) = param.consume();
        let seen = Seen { path: self.path.join("."), shape: old.dims().to_vec() };
        let value = tensor::<SecondOrder<B>, D>(&parameter(self.count, &seen.shape));
        self.count += 1;
        let new = match (self.tangents)(&seen) {
            None => value,
            Some(tangents) => {
                let tangents = tangents.iter().map(|t| t.as_ref().map(tensor::<B, D>)).collect();
                let active = leaf(value, tangents, self.tangents_only);
                self.leaves.push((seen.path, active.clone().into_primitive().tensor()));
                active
            }
        };
        Param::from_mapped_value(id, new, mapper)
    }
}
