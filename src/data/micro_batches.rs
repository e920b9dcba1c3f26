//! The batch cut into segments, and these into micro-batches: a pure function of four numbers.
//!
//! Segments carry the sampling error and are the unit of reduction between ranks, so that their boundaries must not
//! depend on the world, nor, where the loss allows, on the size of the micro-batch.

use std::ops::Range;

use crate::{Error, Result};

/// Segments where the configuration names no number.
const DEFAULT_SEGMENTS: usize = 8;

/// What is kept whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Segment s of S has the samples from floor(s W / S) to floor((s + 1) W / S), whatever the size of a micro-batch;
    /// a segment's last micro-batch may be smaller. For a loss that is a mean over tokens.
    Samples,
    /// Micro-batches are cut first, from window 0, only the last may be smaller; segments are runs of whole micro-batches.
    /// Where a micro-batch defines the loss: `reduction = "sum"`, or BatchNorm in train mode.
    MicroBatches,
}

/// Windows that are differentiated in one pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicroBatch {
    /// Position among all micro-batches.
    pub index: usize,
    /// The segment it belongs to.
    pub segment: usize,
    /// Its samples, by their position in the batch.
    pub samples: Range<usize>,
}

/// All micro-batches of a batch, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicroBatches {
    list: Vec<MicroBatch>,
    num_segments: usize,
}

impl MicroBatches {
    /// Cuts `num_samples` into micro-batches of at most `micro_batch` samples.
    /// `segments`: as configured; `None` is 8, or as many as there is something to put in.
    ///
    /// # Errors
    /// [`Error::Config`] where a segment would be empty.
    pub fn new(num_samples: usize, micro_batch: usize, segments: Option<usize>, cut: Cut) -> Result<Self> {
        if num_samples == 0 || micro_batch == 0 {
            return Err(Error::Config(format!(
                "a batch of {num_samples} samples in micro-batches of {micro_batch}: both must be 1 or more"
            )));
        }
        let (units, unit, what) = match cut {
            Cut::Samples => (num_samples, 1, "samples"),
            Cut::MicroBatches => (num_samples.div_ceil(micro_batch), micro_batch, "micro-batches"),
        };
        let num_segments = segments.unwrap_or(DEFAULT_SEGMENTS.min(units));
        if num_segments == 0 || num_segments > units {
            return Err(Error::Config(format!(
                "batch.segments = {num_segments}: the batch has {units} {what}; expected 1 to {units}"
            )));
        }
        let mut list = Vec::new();
        for segment in 0..num_segments {
            let mut start = unit * share(segment, num_segments, units);
            let end = (unit * share(segment + 1, num_segments, units)).min(num_samples);
            while start < end {
                let next = (start + micro_batch).min(end);
                list.push(MicroBatch { index: list.len(), segment, samples: start..next });
                start = next;
            }
        }
        Ok(Self { list, num_segments })
    }

    /// Number of segments; each has at least one micro-batch.
    pub fn num_segments(&self) -> usize {
        self.num_segments
    }

    /// Share of each segment's samples in the batch.
    pub fn shares(&self) -> Vec<f64> {
        let samples = |batches: &[MicroBatch]| batches.iter().map(|batch| batch.samples.len()).sum::<usize>() as f64;
        let all = samples(&self.list);
        (0..self.num_segments).map(|segment| samples(self.of_segment(segment)) / all).collect()
    }

    /// All micro-batches.
    pub fn all(&self) -> &[MicroBatch] {
        &self.list
    }

    /// The micro-batches of one segment.
    pub fn of_segment(&self, segment: usize) -> &[MicroBatch] {
        let start = self.list.partition_point(|micro_batch| micro_batch.segment < segment);
        let end = self.list.partition_point(|micro_batch| micro_batch.segment <= segment);
        &self.list[start..end]
    }
}

/// floor(part * units / parts), without overflow.
fn share(part: usize, parts: usize, units: usize) -> usize {
    (part as u128 * units as u128 / parts as u128) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boundaries(num_samples: usize, micro_batch: usize, segments: usize, cut: Cut) -> Vec<Range<usize>> {
        let batches = MicroBatches::new(num_samples, micro_batch, Some(segments), cut).unwrap();
        let ends = |list: &[MicroBatch]| list[0].samples.start..list[list.len() - 1].samples.end;
        (0..segments).map(|segment| ends(batches.of_segment(segment))).collect()
    }

    #[test]
    fn every_window_is_in_exactly_one_micro_batch_and_no_segment_is_empty() {
        for cut in [Cut::Samples, Cut::MicroBatches] {
            for num_samples in 1..40 {
                for micro_batch in 1..10 {
                    let batches = MicroBatches::new(num_samples, micro_batch, None, cut).unwrap();
                    let samples: Vec<usize> = batches.all().iter().flat_map(|batch| batch.samples.clone()).collect();
                    assert!(samples.iter().copied().eq(0..num_samples));
                    assert!(batches.all().iter().all(|batch| (1..=micro_batch).contains(&batch.samples.len())));
                    assert!(batches.all().iter().enumerate().all(|(index, batch)| batch.index == index));
                    assert!((0..batches.num_segments()).all(|segment| !batches.of_segment(segment).is_empty()));
                }
            }
        }
    }

    #[test]
    fn segments_do_not_depend_on_the_micro_batch() {
        for num_samples in [8, 13, 640] {
            let expected = boundaries(num_samples, 1, 8, Cut::Samples);
            for micro_batch in [2, 3, 7, 8, 1000] {
                assert_eq!(boundaries(num_samples, micro_batch, 8, Cut::Samples), expected);
            }
        }
        // Where it divides, keeping micro-batches whole changes nothing.
        assert_eq!(boundaries(640, 8, 8, Cut::MicroBatches), boundaries(640, 8, 8, Cut::Samples));
    }

    #[test]
    fn whole_micro_batches_stay_whole() {
        let batches = MicroBatches::new(21, 4, Some(4), Cut::MicroBatches).unwrap();
        let sizes: Vec<usize> = batches.all().iter().map(|batch| batch.samples.len()).collect();
        assert_eq!(sizes, [4, 4, 4, 4, 4, 1]);
        let segments: Vec<usize> = batches.all().iter().map(|batch| batch.segment).collect();
        assert_eq!(segments, [0, 1, 1, 2, 3, 3]);
    }

    #[test]
    fn more_segments_than_there_is_to_cut_is_an_error() {
        let error = MicroBatches::new(4, 1, Some(5), Cut::Samples).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("expected 1 to 4"));
        assert!(
            MicroBatches::new(4, 2, Some(3), Cut::MicroBatches).unwrap_err().to_string().contains("2 micro-batches")
        );
        assert_eq!(MicroBatches::new(4, 1, None, Cut::Samples).unwrap().num_segments(), 4);
        assert!(MicroBatches::new(0, 1, None, Cut::Samples).is_err());
        assert!(MicroBatches::new(4, 0, None, Cut::Samples).is_err());
    }
}
