//! What a user brings: a model with a loss, and data.

use std::ops::Range;

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};

use crate::Result;
use crate::models::Names;

/// A model with a loss over batches. Written for any `B: Backend`; this program runs it on
/// [`SecondOrder`](crate::engine::SecondOrder).
///
/// Everything must be deterministic: no dropout, no shuffling, no augmentation. Outputs and loss are apart so that
/// Gauss-Newton products work for every loss.
///
/// Products in f64 are f64 throughout: what burn's modules make in its default type, or in f32, is f64 there. Only constants that
/// a module made when it was built (the angles of a `RotaryEncoding`) keep the values that they have.
pub trait Problem<B: Backend> {
    /// The network.
    type Model: Module<B>;
    /// Inputs and targets of one micro-batch.
    type Batch;

    /// The network's outputs, (predictions, classes): the logits of a classifier, the values of a regression.
    fn outputs(&self, model: &Self::Model, batch: &Self::Batch) -> Tensor<B, 2>;

    /// The *mean* loss over the micro-batch's predictions, shape `[1]`.
    fn loss(&self, outputs: Tensor<B, 2>, batch: &Self::Batch) -> Tensor<B, 1>;

    /// Number of predictions (tokens, samples): the micro-batch's weight in the mean. With weights of single predictions it is their
    /// sum; 0 for a micro-batch of which nothing counts, whose loss is then of no importance.
    fn weight(&self, batch: &Self::Batch) -> f64;

    /// For a classifier: the class that each row of the outputs should be largest at, (predictions). `None`: the outputs are
    /// something else, or nobody counts how many are right.
    fn classes(&self, _batch: &Self::Batch) -> Option<Tensor<B, 1, Int>> {
        None
    }

    /// `false` if the micro-batch itself is part of the definition of the loss (BatchNorm in train mode): results then
    /// depend on how the batch is cut.
    fn is_separable(&self) -> bool {
        true
    }

    /// `true` if the loss has kinks: a finite difference is then no test of the product. Those of ReLU, comparisons, maxima and
    /// their like are seen by themselves; this is for others.
    fn has_kinks(&self) -> bool {
        false
    }

    /// How the network's parameters are called. Default: burn's parameter paths.
    fn names(&self) -> &Names {
        &Names::BURN
    }

    /// `loss(outputs(batch))`; override it where both can be had at once for less memory, as
    /// [`linear_cross_entropy`](crate::engine::linear_cross_entropy) does for large vocabularies.
    fn total_loss(&self, model: &Self::Model, batch: &Self::Batch) -> Tensor<B, 1> {
        self.loss(self.outputs(model, batch), batch)
    }

    /// Where the network can be entered above its bottom, if it says so: products of blocks that lie above then start
    /// at activations which are computed once.
    fn stages(&self) -> Option<&dyn Stages<B, Self::Model, Self::Batch>> {
        None
    }
}

/// A network `M` that can be entered at several stages; stage 0 is the bottom, where the batch `X` enters.
pub trait Stages<B: Backend, M, X> {
    /// The highest stage whose entry depends on no parameter from this one up. 0 for embeddings, and for any parameter
    /// that is also used at the bottom (a tied head).
    fn stage_of(&self, model: &M, parameter: &str) -> usize;

    /// The highest stage: what is above its entry (head and loss) is not cut further.
    fn num_stages(&self, model: &M) -> usize;

    /// The activations that enter stage 1, (rows, width).
    fn first(&self, model: &M, batch: &X) -> Tensor<B, 2>;

    /// The activations that enter stage `stages.end`, from those that enter stage `stages.start`, from 1 on.
    fn advance(&self, model: &M, stages: Range<usize>, entry: Tensor<B, 2>, batch: &X) -> Tensor<B, 2>;

    /// The activations that enter a stage from 1 on.
    fn entry(&self, model: &M, batch: &X, stage: usize) -> Tensor<B, 2> {
        self.advance(model, 1..stage, self.first(model, batch), batch)
    }

    /// [`Problem::outputs`] from there.
    fn outputs_from(&self, model: &M, stage: usize, entry: Tensor<B, 2>, batch: &X) -> Tensor<B, 2>;

    /// [`Problem::total_loss`] from there.
    fn total_loss_from(&self, model: &M, stage: usize, entry: Tensor<B, 2>, batch: &X) -> Tensor<B, 1>;
}

/// The batch of a run, cut into segments of micro-batches.
///
/// Segments are fixed runs of micro-batches: the unit of reduction between ranks and of the sampling error.
pub trait MicroBatches {
    /// Inputs and targets of one micro-batch.
    type Batch;
    /// Number of micro-batches.
    fn len(&self) -> usize;
    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Number of segments.
    fn num_segments(&self) -> usize;
    /// The segment that a micro-batch belongs to; does not decrease with `index`.
    fn segment(&self, index: usize) -> usize;
    /// Reads a micro-batch.
    fn get(&self, index: usize) -> Result<Self::Batch>;
    /// Weight of the whole batch: the sum of [`Problem::weight`] over all micro-batches.
    fn total_weight(&self) -> f64;
}

impl<D: MicroBatches> MicroBatches for &D {
    type Batch = D::Batch;

    fn len(&self) -> usize {
        (**self).len()
    }

    fn num_segments(&self) -> usize {
        (**self).num_segments()
    }

    fn segment(&self, index: usize) -> usize {
        (**self).segment(index)
    }

    fn get(&self, index: usize) -> Result<Self::Batch> {
        (**self).get(index)
    }

    fn total_weight(&self) -> f64 {
        (**self).total_weight()
    }
}

/// Micro-batches that lie in memory, each a segment of its own up to eight.
pub struct Listed<T> {
    batches: Vec<T>,
    total_weight: f64,
}

impl<T> Listed<T> {
    /// The batches of a problem. `weight` is [`Problem::weight`].
    pub fn new(batches: Vec<T>, weight: impl Fn(&T) -> f64) -> Self {
        let total_weight = batches.iter().map(weight).sum();
        Self { batches, total_weight }
    }
}

impl<T: Clone> MicroBatches for Listed<T> {
    type Batch = T;

    fn len(&self) -> usize {
        self.batches.len()
    }

    fn num_segments(&self) -> usize {
        self.batches.len().min(8)
    }

    fn segment(&self, index: usize) -> usize {
        index * self.num_segments() / self.batches.len()
    }

    fn get(&self, index: usize) -> Result<T> {
        Ok(self.batches[index].clone())
    }

    fn total_weight(&self) -> f64 {
        self.total_weight
    }
}
