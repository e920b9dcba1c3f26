//! The batch of a run on a device: samples cut into segments of micro-batches.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::ahead::Order;
use super::{Place, Samples, Selection, Unit};
use crate::Result;
use crate::data::MicroBatches as Cuts;
use crate::engine::{Kernels, SecondOrder};
use crate::hessian::MicroBatches;

/// Samples that are hashed at a time.
const HASHED: usize = 256;

/// Selected samples of some data, by micro-batch.
pub struct Batches<S, K: Kernels> {
    samples: S,
    selection: Selection,
    cuts: Cuts,
    unit: Unit,
    place: Place<SecondOrder<K>>,
    order: Mutex<Order>,
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
    /// Reads the whole batch and drops it.
    ///
    /// # Errors
    /// Those of the data: a sample that the network cannot read.
    fn check(&self) -> Result<()>;
}

impl<S: Samples, K: Kernels> Batches<S, K> {
    /// These samples of some data, with tensors at a place.
    pub fn new(samples: S, selection: Selection, cuts: Cuts, unit: Unit, place: Place<SecondOrder<K>>) -> Self {
        Self { samples, selection, cuts, unit, place, order: Mutex::default() }
    }

    fn positions(&self, samples: Range<usize>) -> Vec<usize> {
        let available = self.samples.num_positions().max(1);
        samples.map(|index| self.selection.position(index) % available).collect() // made-up samples may be fewer than asked for
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
        self.num_predictions() as f64
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
        let (mut hasher, num_samples) = (Sha256::new(), self.selection.num_samples());
        for start in (0..num_samples).step_by(HASHED) {
            match self.samples.content(&self.positions(start..num_samples.min(start + HASHED)))? {
                Some(bytes) => hasher.update(&bytes),
                None => return Ok(None),
            }
        }
        Ok(Some(format!("{:x}", hasher.finalize())))
    }

    fn check(&self) -> Result<()> {
        (0..self.cuts.all().len()).try_for_each(|index| self.get(index).map(drop))
    }
}
