//! A network on its data as an object: everything that depends on the network's type ends here.
//!
//! [`Passes`] is what the operator, the worker and the commands see. It is implemented once, for any [`Problem`], so that
//! what stands above a micro-batch's pass is compiled once for a backend and not once for each network.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::rc::Rc;

use burn::module::Module;

use super::operator::Kind;
use super::pass::{self, Loss, Precision, Start};
use super::placed::{values_of, with_values};
use super::prefix::Prefix;
use super::problem::{MicroBatches, Problem};
use super::recompute::Recompute;
use super::seed::{Adjoints, Seeds, cast_parameters, parameter_of_other_type, seed, shifted};
use crate::block::{Block, Layout};
use crate::engine::{Kernels, SecondOrder};
use crate::{Error, Result};

/// A network with its parameters and its batch, on backend `K` in precision `T`.
pub trait Passes<K: Kernels, T: Precision> {
    /// The flat order of the parameters.
    fn layout(&self) -> &Layout;
    /// Number of micro-batches.
    fn num_micro_batches(&self) -> usize;
    /// Number of segments.
    fn num_segments(&self) -> usize;
    /// The segment that a micro-batch belongs to; does not decrease with `index`.
    fn segment(&self, index: usize) -> usize;
    /// Weight of the whole batch: the sum of the micro-batches' weights.
    fn total_weight(&self) -> f64;
    /// Weight of a micro-batch in the mean: its number of predictions.
    ///
    /// # Errors
    /// [`Error::Config`] for a weight that is below 0 or not finite, or if all of them are 0; those of the data.
    fn weight(&self, index: usize) -> Result<f64>;
    /// The network with tangents on its parameters.
    fn seeded<'s>(&'s self, seeds: &Seeds<'_, T>) -> Box<dyn Seeded<K, T> + 's>;
    /// The network with `scale` times a block's vector added to its parameters, ready for the gradient of that block.
    fn shifted<'s>(&'s self, block: &Block, vector: &[T], scale: f64) -> Box<dyn Seeded<K, T> + 's>;
    /// The values of all parameters, in the layout's flat order.
    fn parameters(&self) -> Vec<T>;
    /// The network with other values of all parameters, in the layout's flat order: ready for the gradient of all of them, or as
    /// constants.
    ///
    /// # Errors
    /// None for as many values as there are parameters.
    fn at<'s>(&'s self, parameters: &[T], gradient: bool) -> Result<Box<dyn Seeded<K, T> + 's>>;
    /// This network on this data in f64, where the backend has it and it is more than `T`. BatchNorm's running
    /// statistics, which all clones of a module share, stay as they are: such a network cannot be run in f64.
    fn wide(&self) -> Option<Rc<dyn Passes<K, f64> + '_>>;
    /// The stage that a parameter belongs to ([`Stages::stage_of`](super::Stages::stage_of)); `None` for a network that can
    /// be entered at its bottom only.
    fn stage_of(&self, parameter: &str) -> Option<usize>;
    /// Whether the loss has kinks ([`Problem::has_kinks`]).
    fn has_kinks(&self) -> bool;
    /// The first parameter that is in another type than `T`, and its type.
    fn parameter_of_other_type(&self) -> Option<(String, burn::tensor::DType)>;
}

/// A network whose parameters carry tangents, or require a gradient.
pub trait Seeded<K: Kernels, T: Precision> {
    /// Loss and adjoints of one micro-batch.
    ///
    /// # Errors
    /// Those of [`Passes::weight`].
    fn pass(&self, index: usize, way: &Way<'_, T>) -> Result<Pass<K>>;
    /// Weight and mean loss of one micro-batch, from a forward pass alone.
    ///
    /// # Errors
    /// Those of [`Passes::weight`].
    fn loss(&self, index: usize) -> Result<(f64, f64)>;
    /// Loss and right predictions of one micro-batch, from a forward pass alone.
    ///
    /// # Errors
    /// Those of [`Passes::weight`].
    fn evaluate(&self, index: usize) -> Result<Evaluation>;
}

/// What a forward pass over one micro-batch tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// The micro-batch's weight in the mean.
    pub weight: f64,
    /// Its mean loss.
    pub loss: f64,
    /// For a classifier: how many outputs are largest at the class that is to be found, and how many there are.
    pub right: Option<(usize, usize)>,
}

/// How a pass is made.
pub struct Way<'a, T> {
    /// Hessian or Gauss-Newton.
    pub kind: Kind,
    /// What is kept of the activations below the slots' blocks: the pass starts there.
    pub prefix: Option<&'a Prefix<T>>,
    /// `Some(lowest)`: only what enters the stages is kept, and the rest is computed again on the way back; `lowest` is the
    /// lowest stage that has a parameter with tangents, or whose gradient is wanted.
    pub recompute: Option<usize>,
}

impl<T> Way<'_, T> {
    /// From the bottom, with everything kept.
    pub fn whole(kind: Kind) -> Self {
        Self { kind, prefix: None, recompute: None }
    }
}

/// What a pass over one micro-batch gave.
pub struct Pass<K: Kernels> {
    /// The micro-batch's number of predictions.
    pub weight: f64,
    /// Its mean loss.
    pub loss: Loss<K>,
    /// Adjoints of the parameters.
    pub adjoints: Adjoints<K>,
}

/// [`Passes`] of a problem.
pub struct OnData<'a, K: Kernels, P: Problem<SecondOrder<K>>, D, T> {
    problem: &'a P,
    model: Cow<'a, P::Model>,
    layout: &'a Layout,
    data: D,
    types: PhantomData<(K, T)>,
}

impl<'a, K, P, D, T> OnData<'a, K, P, D, T>
where
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    D: MicroBatches<Batch = P::Batch> + Clone,
    T: Precision,
{
    /// A problem with its model, without tangents, over all of its data, which may be a reference to it.
    pub fn new(problem: &'a P, model: &'a P::Model, layout: &'a Layout, data: D) -> Self {
        Self { problem, model: Cow::Borrowed(model), layout, data, types: PhantomData }
    }

    fn with<'s>(&'s self, model: P::Model) -> Box<dyn Seeded<K, T> + 's> {
        Box::new(WithTangents { on: self, model })
    }

    /// Micro-batch `index` and its weight.
    fn weighted(&self, index: usize) -> Result<(P::Batch, f64)> {
        let batch = self.data.get(index)?;
        let weight = self.problem.weight(&batch);
        if weight >= 0.0 && weight.is_finite() && self.data.total_weight() > 0.0 {
            return Ok((batch, weight));
        }
        Err(Error::Config(format!(
            "micro-batch {index}: Problem::weight is {weight}, {} in all; expected its number of predictions, and above 0 in all",
            self.data.total_weight()
        )))
    }
}

impl<K, P, D, T> Passes<K, T> for OnData<'_, K, P, D, T>
where
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    D: MicroBatches<Batch = P::Batch> + Clone,
    T: Precision,
{
    fn layout(&self) -> &Layout {
        self.layout
    }

    fn num_micro_batches(&self) -> usize {
        self.data.len()
    }

    fn num_segments(&self) -> usize {
        self.data.num_segments()
    }

    fn segment(&self, index: usize) -> usize {
        self.data.segment(index)
    }

    fn total_weight(&self) -> f64 {
        self.data.total_weight()
    }

    fn weight(&self, index: usize) -> Result<f64> {
        Ok(self.weighted(index)?.1)
    }

    fn seeded<'s>(&'s self, seeds: &Seeds<'_, T>) -> Box<dyn Seeded<K, T> + 's> {
        self.with(seed::<K, T, _>(self.model.as_ref().clone(), self.problem.names(), self.layout, seeds))
    }

    fn shifted<'s>(&'s self, block: &Block, vector: &[T], scale: f64) -> Box<dyn Seeded<K, T> + 's> {
        let (model, names) = (self.model.as_ref().clone(), self.problem.names());
        let model = shifted::<K, T, _>(model, names, self.layout, block, vector, scale);
        self.with(seed::<K, T, _>(model, names, self.layout, &Seeds::gradient(&[block])))
    }

    fn parameters(&self) -> Vec<T> {
        values_of::<K, T, _>(self.model.as_ref(), self.problem.names(), self.layout)
    }

    fn at<'s>(&'s self, parameters: &[T], gradient: bool) -> Result<Box<dyn Seeded<K, T> + 's>> {
        let (names, full) = (self.problem.names(), self.layout.full());
        let model = with_values::<K, T, _>(self.model.as_ref().clone(), names, self.layout, parameters)?;
        let blocks = [&full];
        let seeds = if gradient { Seeds::gradient(&blocks) } else { Seeds::tangents(&[]) };
        Ok(self.with(seed::<K, T, _>(model, names, self.layout, &seeds)))
    }

    fn wide(&self) -> Option<Rc<dyn Passes<K, f64> + '_>> {
        if !K::HAS_F64 || T::DTYPE == f64::DTYPE {
            return None;
        }
        let model = cast_parameters::<K, _>(self.model.as_ref().clone(), f64::DTYPE);
        let (problem, layout, data) = (self.problem, self.layout, self.data.clone());
        Some(Rc::new(OnData::<K, P, D, f64> { problem, model: Cow::Owned(model), layout, data, types: PhantomData }))
    }

    fn stage_of(&self, parameter: &str) -> Option<usize> {
        self.problem.stages().map(|stages| stages.stage_of(&self.model, parameter))
    }

    fn has_kinks(&self) -> bool {
        self.problem.has_kinks()
    }

    fn parameter_of_other_type(&self) -> Option<(String, burn::tensor::DType)> {
        parameter_of_other_type::<K, _>(self.model.as_ref(), self.problem.names(), self.layout, T::DTYPE)
    }
}

struct WithTangents<'a, 'd, K: Kernels, P: Problem<SecondOrder<K>>, D, T> {
    on: &'a OnData<'d, K, P, D, T>,
    model: P::Model,
}

impl<K, P, D, T> WithTangents<'_, '_, K, P, D, T>
where
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    D: MicroBatches<Batch = P::Batch> + Clone,
    T: Precision,
{
    /// Where the pass over a micro-batch begins.
    fn start(&self, index: usize, batch: &P::Batch, prefix: Option<&Prefix<T>>) -> Start<K> {
        let (prefix, stages) = prefix.zip(self.on.problem.stages())?;
        let stage = prefix.stage();
        let device = self.model.devices().into_iter().next()?;
        let entry = || pass::in_precision::<T, _>(|| stages.entry(&self.model, batch, stage));
        Some((stage, prefix.entry(index, &device, entry)))
    }
}

impl<K, P, D, T> Seeded<K, T> for WithTangents<'_, '_, K, P, D, T>
where
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    D: MicroBatches<Batch = P::Batch> + Clone,
    T: Precision,
{
    fn pass(&self, index: usize, way: &Way<'_, T>) -> Result<Pass<K>> {
        let (problem, layout) = (self.on.problem, self.on.layout);
        let (batch, weight) = self.on.weighted(index)?;
        let start = self.start(index, &batch, way.prefix);
        let (kind, model) = (way.kind, &self.model);
        let (loss, adjoints) = pass::in_precision::<T, _>(|| match problem.stages().zip(way.recompute) {
            None => pass::run(problem, model, &batch, start, kind, layout),
            Some((stages, lowest)) => Recompute { problem, stages, model, layout, kind, lowest }.run(&batch, start),
        });
        Ok(Pass { weight, loss, adjoints })
    }

    fn loss(&self, index: usize) -> Result<(f64, f64)> {
        let (batch, weight) = self.on.weighted(index)?;
        Ok((weight, pass::in_precision::<T, _>(|| pass::loss(self.on.problem, &self.model, &batch))))
    }

    fn evaluate(&self, index: usize) -> Result<Evaluation> {
        let (batch, weight) = self.on.weighted(index)?;
        let (loss, right) = pass::in_precision::<T, _>(|| pass::evaluate(self.on.problem, &self.model, &batch));
        Ok(Evaluation { weight, loss, right })
    }
}
