//! The trait of a network.

use std::fmt::Debug;

use burn::module::Module;
use burn::tensor::{Int, Tensor, backend::Backend};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Profile;
use super::drawing::aside;
use crate::Result;
use crate::block::{Layout, Parameter};
use crate::datasets::{Dataset, Samples};
use crate::document::Check;
use crate::engine::{Kernels, SecondOrder};
use crate::hessian::{Problem, Stages};
use crate::models::{Initial, Names, Structure, parameters, stored};
use crate::shown::Url;

/// Inputs and targets of a micro-batch of network `N`.
pub type BatchOf<N, B> = <<<N as Network>::Data as Dataset>::Samples as Samples>::Batch<B>;

/// Where network `N` can be entered above its bottom.
pub type StagesOf<N, K> =
    dyn Stages<SecondOrder<K>, <N as Network>::Module<SecondOrder<K>>, BatchOf<N, SecondOrder<K>>>;

/// A kind of network: its keys are the fields of the type, under `[model.KIND]`.
///
/// It must be deterministic: no dropout, no shuffling, no augmentation. Everything is ordinary burn, for any backend; the
/// constants that a network makes must have the type of its parameters, so that it runs in f64 as well as in f32.
pub trait Network: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Name of the table.
    const KIND: &'static str;
    /// The data that it reads, `[data.KIND]`.
    type Data: Dataset;
    /// The burn module.
    type Module<B: Backend>: Module<B>;

    /// The network with the keys that the configuration leaves out as its weights have them, where something says so beside these
    /// ([`describe`](crate::models::weights::describe)); asked before [`Network::check`]. Default: as it was read.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) with the place of a value that contradicts the weights.
    fn completed(self, _check: &Check<'_>) -> Result<Self> {
        Ok(self)
    }

    /// What the keys must satisfy beyond their types.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) with the place of the value in the file.
    fn check(&self, _check: &Check<'_>) -> Result<()> {
        Ok(())
    }

    /// What the network asks of its data.
    fn shape(&self) -> <Self::Data as Dataset>::Shape;

    /// The module, with any values: [`Network::initial`] says which they get.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for sizes that make no network.
    fn module<B: Backend>(&self, device: &B::Device) -> Result<Self::Module<B>>;

    /// Initial values of a parameter. Default: those that [`Network::module`] gives it, drawn on the processor from `run.seed`.
    fn initial(&self, _parameter: &Parameter) -> Initial {
        Initial::Own
    }

    /// The network's outputs, (predictions, classes): the logits of a classifier, the values of a regression.
    fn outputs<B: Backend>(&self, model: &Self::Module<B>, batch: &BatchOf<Self, B>) -> Tensor<B, 2>;

    /// The *mean* loss over the micro-batch's predictions, shape `[1]`.
    fn loss<B: Backend>(&self, outputs: Tensor<B, 2>, batch: &BatchOf<Self, B>) -> Tensor<B, 1>;

    /// Number of predictions of a micro-batch, or the sum of their weights: its weight in the mean. 0 if none of them counts; the loss must
    /// then be finite nevertheless.
    fn weight<B: Backend>(&self, batch: &BatchOf<Self, B>) -> f64;

    /// For a classifier: the class that each row of the outputs should be largest at, (predictions), so that training says how many
    /// are right. Default: the outputs are something else, or nobody counts.
    fn classes<B: Backend>(&self, _batch: &BatchOf<Self, B>) -> Option<Tensor<B, 1, Int>> {
        None
    }

    /// `loss(outputs(batch))`; override it where both can be had at once for less memory, as
    /// [`linear_cross_entropy`](crate::engine::linear_cross_entropy) does for large vocabularies.
    fn total_loss<K: Kernels>(
        &self,
        model: &Self::Module<SecondOrder<K>>,
        batch: &BatchOf<Self, SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 1> {
        self.loss(self.outputs(model, batch), batch)
    }

    /// Where the network can be entered above its bottom: products of blocks that lie above then start there, and
    /// `hessian.recompute` keeps nothing else. Default: nowhere.
    fn stages<K: Kernels>(&self) -> Option<&StagesOf<Self, K>> {
        None
    }

    /// `false` if the micro-batch itself is part of the definition of the loss (BatchNorm in train mode).
    fn is_separable(&self) -> bool {
        true
    }

    /// `true` if the loss has kinks (ReLU, max pooling): a finite difference is then no test of a product.
    fn has_kinks(&self) -> bool {
        false
    }

    /// How the parameters are called. Default: burn's parameter paths.
    fn names(&self) -> &'static Names {
        &Names::BURN
    }

    /// What is inside the parameters that names and shapes do not say: fused projections, heads, outputs, embeddings. Default: nothing.
    fn structure(&self) -> Structure {
        Structure::UNKNOWN
    }

    /// Names and shapes of the parameters. Default: those of [`Network::module`].
    ///
    /// # Errors
    /// As [`Network::module`].
    fn layout(&self) -> Result<Layout> {
        aside(|| Ok(parameters(&self.module::<burn_flex::Flex>(&Default::default())?, self.names())))
    }

    /// Names and shapes of what a file of its weights holds: the parameters, and BatchNorm's running statistics. Default:
    /// [`Network::layout`] and the statistics that [`Network::module`] has.
    ///
    /// # Errors
    /// As [`Network::module`].
    fn stored(&self) -> Result<Layout> {
        let parameters = self.layout()?;
        aside(|| Ok(stored(&self.module::<burn_flex::Flex>(&Default::default())?, self.names(), &parameters)))
    }

    /// Path or URL of the weights; `None`: initialised from `run.seed`.
    fn weights(&self) -> Option<&Url> {
        None
    }

    /// Products and activations, so that a run can be planned without a pass. Default: unknown.
    fn profile(&self) -> Option<Profile> {
        None
    }
}

/// Every network is a problem of second order, on every backend.
impl<K: Kernels, N: Network> Problem<SecondOrder<K>> for N {
    type Model = N::Module<SecondOrder<K>>;
    type Batch = BatchOf<N, SecondOrder<K>>;

    fn outputs(&self, model: &Self::Model, batch: &Self::Batch) -> Tensor<SecondOrder<K>, 2> {
        Network::outputs(self, model, batch)
    }

    fn loss(&self, outputs: Tensor<SecondOrder<K>, 2>, batch: &Self::Batch) -> Tensor<SecondOrder<K>, 1> {
        Network::loss(self, outputs, batch)
    }

    fn weight(&self, batch: &Self::Batch) -> f64 {
        Network::weight(self, batch)
    }

    fn classes(&self, batch: &Self::Batch) -> Option<Tensor<SecondOrder<K>, 1, Int>> {
        Network::classes(self, batch)
    }

    fn is_separable(&self) -> bool {
        Network::is_separable(self)
    }

    fn has_kinks(&self) -> bool {
        Network::has_kinks(self)
    }

    fn names(&self) -> &Names {
        Network::names(self)
    }

    fn total_loss(&self, model: &Self::Model, batch: &Self::Batch) -> Tensor<SecondOrder<K>, 1> {
        Network::total_loss(self, model, batch)
    }

    fn stages(&self) -> Option<&dyn Stages<SecondOrder<K>, Self::Model, Self::Batch>> {
        Network::stages(self)
    }
}
