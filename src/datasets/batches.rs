//! The batch of a run on a device: samples cut into segments of micro-batches.

use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::ahead::Order;
use super::{Place, Samples, Selection, Unit};
use crate::data::MicroBatches as Cuts;
use crate::engine::{Kernels, SecondOrder};
use crate::hessian::MicroBatches;
use crate::{Error, Result};

/// Samples that are looked at at a time.
const HASHED: usize = 256;

/// Selected samples of some data, by micro-batch.
pub struct Batches<S, K: Kernels> {
    samples: S,
    selection: Selection,
    cuts: Cuts,
    unit: Unit,
    place: Place<SecondOrder<K>>,
    order: Mutex<Order>,
    /// Sum of all predictions' weights.
    total_weight: f64,
}

/// What a run asks of its batch, whatever it consists of.
pub trait RunData {
    /// Number of micro-batches.
    fn num_micro_batches(&self) -> usize;
    /// Number of segments.
    fn num_segments(&self) -> usize;
    /// The segment that a micro-batch belongs to; does not decrease with `index`.
    fn segment(&self, index: usize) -> usize;
    /// Number of predictions: tokens, images.
    fn num_predictions(&self) -> usize;
    /// Share of the batch in the segments from `segment` on.
    fn share_from(&self, segment: usize) -> f64;
    /// SHA-256 of the batch's content, whatever file or micro-batch it comes in; `None` where the data shows none. It reads
    /// the whole batch.
    ///
    /// # Errors
    /// Those of the data.
    fn sha256(&self) -> Result<Option<String>>;
    /// SHA-256 of the content of up to `most` samples, spread evenly over the batch from its first to its last: enough to see that the
    /// data was replaced, for little reading; a smaller batch is seen whole. `None` where the data shows no content.
    ///
    /// # Errors
    /// Those of the data.
    fn sampled_sha256(&self, most: usize) -> Result<Option<String>>;
    /// Reads the whole batch and drops it.
    ///
    /// # Errors
    /// Those of the data: a sample that the network cannot read.
    fn check(&self) -> Result<()>;
}

impl<S: Samples, K: Kernels> Batches<S, K> {
    /// These samples of some data, with tensors at a place. Where predictions have weights, all of these are read.
    ///
    /// # Errors
    /// Those of the data; [`Error::Config`] if no prediction counts.
    pub fn new(
        mut samples: S,
        selection: Selection,
        cuts: Cuts,
        unit: Unit,
        place: Place<SecondOrder<K>>,
    ) -> Result<Self> {
        samples.select(&selection);
        let total_weight = (selection.num_samples() * unit.predictions) as f64;
        let mut batches = Self { samples, selection, cuts, unit, place, order: Mutex::default(), total_weight };
        let weights = batches.parts().map(|positions| batches.samples.weight(&positions));
        let weighed: Option<f64> = weights.collect::<Result<Vec<_>>>()?.into_iter().sum();
        let Some(weighed) = weighed else { return Ok(batches) };
        if weighed <= 0.0 {
            let Unit { prediction, .. } = batches.unit;
            return Err(Error::Config(format!(
                "the weights of all {total_weight} {prediction}s of the batch are 0; expected one above"
            )));
        }
        batches.total_weight = weighed;
        Ok(batches)
    }

    /// Positions of all samples, so many at a time.
    fn parts(&self) -> impl Iterator<Item = Vec<usize>> {
        let num_samples = self.selection.num_samples();
        let starts = (0..num_samples).step_by(HASHED);
        starts.map(move |start| self.positions(start..num_samples.min(start + HASHED)))
    }

    /// Number of samples.
    pub(super) fn num_samples(&self) -> usize {
        self.selection.num_samples()
    }

    /// The tensors of the samples at these positions of the data.
    pub(super) fn at(&self, positions: &[usize]) -> Result<S::Batch<SecondOrder<K>>> {
        self.samples.batch(positions, &self.place)
    }

    /// Samples that are probably asked for next.
    pub(super) fn expect(&self, positions: &[usize]) {
        self.samples.expect(positions);
    }

    /// Positions of the batch's samples with these numbers.
    pub(super) fn positions(&self, samples: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let available = self.samples.num_positions().max(1);
        let position = |index| self.selection.position(index) % available; // made-up samples may be fewer than asked for
        samples.into_iter().map(position).collect()
    }

    /// SHA-256 of the content of some samples, so many at a time.
    fn hash(&self, parts: impl IntoIterator<Item = Vec<usize>>) -> Result<Option<String>> {
        let mut hasher = Sha256::new();
        for positions in parts {
            match self.samples.content(&positions)? {
                Some(bytes) => hasher.update(&bytes),
                None => return Ok(None),
            }
        }
        Ok(Some(format!("{:x}", hasher.finalize())))
    }
}

impl<S: Samples, K: Kernels> MicroBatches for Batches<S, K> {
    type Batch = S::Batch<SecondOrder<K>>;

    fn len(&self) -> usize {
        self.cuts.all().len()
    }

    fn num_segments(&self) -> usize {
        self.cuts.num_segments()
    }

    fn segment(&self, index: usize) -> usize {
        self.cuts.all()[index].segment
    }

    fn get(&self, index: usize) -> Result<Self::Batch> {
        let batch = self.samples.batch(&self.positions(self.cuts.all()[index].samples.clone()), &self.place)?;
        let next = self.order.lock().unwrap_or_else(PoisonError::into_inner).next(index);
        if let Some(next) = self.cuts.all().get(next) {
            self.samples.expect(&self.positions(next.samples.clone()));
        }
        Ok(batch)
    }

    fn total_weight(&self) -> f64 {
        self.total_weight
    }
}

impl<S: Samples, K: Kernels> RunData for Batches<S, K> {
    fn num_micro_batches(&self) -> usize {
        self.cuts.all().len()
    }

    fn num_segments(&self) -> usize {
        self.cuts.num_segments()
    }

    fn segment(&self, index: usize) -> usize {
        self.cuts.all()[index].segment
    }

    fn num_predictions(&self) -> usize {
        self.selection.num_samples() * self.unit.predictions
    }

    fn share_from(&self, segment: usize) -> f64 {
        let samples = |from: usize| -> usize {
            self.cuts.all().iter().filter(|cut| cut.segment >= from).map(|cut| cut.samples.len()).sum()
        };
        samples(segment) as f64 / samples(0).max(1) as f64
    }

    fn sha256(&self) -> Result<Option<String>> {
        self.hash(self.parts())
    }

    fn sampled_sha256(&self, most: usize) -> Result<Option<String>> {
        let num_samples = self.selection.num_samples();
        let last = most.min(num_samples).saturating_sub(1);
        let spread = (0..=last).map(|at| at * (num_samples - 1) / last.max(1));
        let spread: Vec<usize> = spread.collect();
        self.hash(spread.chunks(HASHED).map(|part| self.positions(part.iter().copied())))
    }

    fn check(&self) -> Result<()> {
        (0..self.cuts.all().len()).try_for_each(|index| self.get(index).map(drop))
    }
}
