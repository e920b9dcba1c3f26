//! Data sets: what a network is run on, sample by sample, as tensors.
//!
//! A [`Dataset`] is a table `[data.KIND]`. Opened, it gives [`Samples`] by their positions: windows of tokens, images, pairs of sentences. This room
//! owns which positions make up a run's batch ([`Selection`]) and how that is cut into micro-batches ([`Batches`]). Each kind
//! has a file of its own.

mod ahead;
mod batches;
mod drawn;
mod images;
mod pairs;
mod place;
mod selection;
mod tokens;

use std::fmt::Debug;

use burn::tensor::backend::Backend;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use batches::{Batches, RunData};
pub use drawn::{Draw, Drawn};
pub use images::{ImageBatch, ImageFiles, ImageFormat, ImageShape, ImageSize};
pub use pairs::{PairBatch, PairFiles, PairShape, Pairs};
pub use place::Place;
pub use selection::{Choice, Selection};
pub use tokens::{Counted, TokenBatch, TokenFiles, TokenShape};

use crate::Result;
use crate::document::Check;

/// A kind of data: its keys are the fields of the type, under `[data.KIND]`.
pub trait Dataset: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Name of the table.
    const KIND: &'static str;
    /// What a network asks of the data: the length of its windows, the size of its images, the number of classes.
    type Shape;
    /// The data, opened.
    type Samples: Samples;

    /// What a sample is called, and how many predictions it has.
    fn unit(_shape: &Self::Shape) -> Unit {
        Unit::SAMPLE
    }

    /// Whether predictions have weights of their own.
    fn is_weighted(&self) -> bool {
        false
    }

    /// What the keys must satisfy beyond their types.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) with the place of the value in the file.
    fn check(&self, _check: &Check<'_>) -> Result<()> {
        Ok(())
    }

    /// Opens the data and holds it against what the network asks for.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) with the name of the file, [`Error::Storage`](crate::Error::Storage).
    fn open(&self, shape: &Self::Shape) -> Result<Self::Samples>;

    /// Made-up samples of the same shape, for plans and timings where the data is not at hand. Default: the data itself.
    ///
    /// # Errors
    /// As [`Dataset::open`].
    fn synthetic(&self, shape: &Self::Shape) -> Result<Self::Samples> {
        self.open(shape)
    }
}

/// Samples by position: a pure function of it, the same on every rank and in every sweep.
pub trait Samples: Send + Sync {
    /// Inputs and targets of some samples.
    type Batch<B: Backend>;

    /// Positions at which a sample can begin: 0 to one less than this. For windows of tokens each token that has a whole
    /// window behind it, for images each image.
    fn num_positions(&self) -> usize;

    /// How much there is, for messages, like `1000 tokens`.
    fn size(&self) -> String {
        format!("{} samples", self.num_positions())
    }

    /// The samples at these positions; [`Place`] makes their tensors.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for data that the network cannot read, [`Error::Storage`](crate::Error::Storage).
    fn batch<B: Backend>(&self, positions: &[usize], place: &Place<B>) -> Result<Self::Batch<B>>;

    /// Will be called once, before the first batch is made, with the samples of the run's whole batch: for what a loss has to know of all
    /// of them, as how many predictions a sample has on average. Default: nothing happens.
    fn select(&mut self, _selection: &Selection) {}

    /// Will be called with the positions that are probably asked for next, before they are: where data comes over a network, it
    /// can be fetched meanwhile. Default: nothing happens.
    fn expect(&self, _positions: &[usize]) {}

    /// Sum of the weights of the predictions of the samples at these positions; `None` where each weighs 1.
    ///
    /// # Errors
    /// As [`Samples::batch`].
    fn weight(&self, _positions: &[usize]) -> Result<Option<f64>> {
        Ok(None)
    }

    /// Bytes that are the same wherever the samples at these positions come from: the batch's identity is the SHA-256 of all
    /// of them. `None`: this data has none to show.
    ///
    /// # Errors
    /// As [`Samples::batch`].
    fn content(&self, _positions: &[usize]) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
}

/// What samples are called, and how many predictions each has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Unit {
    /// A sample: `window`, `image`.
    pub sample: &'static str,
    /// A prediction, and the key of `[batch]` that counts them: `token`, or `sample` where each has one.
    pub prediction: &'static str,
    /// Predictions of a sample.
    pub predictions: usize,
}

impl Unit {
    /// Samples that have one prediction each.
    pub const SAMPLE: Unit = Unit { sample: "sample", prediction: "sample", predictions: 1 };

    /// The key that says how large the batch is.
    pub fn key(&self) -> String {
        format!("batch.{}s", self.prediction)
    }
}
