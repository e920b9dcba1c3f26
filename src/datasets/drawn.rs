//! The samples of a training: step after step, each a few of a batch's samples, every epoch in another order.
//!
//! The samples of all steps follow one another; number i of them is sample `i mod n` of epoch `i / n` of a batch of n samples, and an
//! epoch is a seeded bijection of the batch. So a step's samples are a pure function of (seed, step): they depend neither on the
//! ranks nor on where a training was resumed, and every sample is seen once before any is seen again.

use std::cell::Cell;
use std::ops::Range;

use super::{Batches, Samples};
use crate::Result;
use crate::data::Permutation;
use crate::engine::{Kernels, SecondOrder};
use crate::hessian::MicroBatches;

/// How the samples of a training are drawn and cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// Number of steps.
    pub steps: usize,
    /// Samples of a step.
    pub batch: usize,
    /// Samples of a micro-batch, at most; a step's last one may be smaller.
    pub micro_batch: usize,
    /// Seed of the order.
    pub seed: u64,
}

impl Draw {
    /// Micro-batches of a step.
    pub fn per_step(&self) -> usize {
        self.batch.div_ceil(self.micro_batch)
    }

    /// The micro-batches of step `step`, from 0.
    pub fn of_step(&self, step: usize) -> Range<usize> {
        step * self.per_step()..(step + 1) * self.per_step()
    }

    /// The samples of a micro-batch, of a batch that has so many.
    fn samples(&self, index: usize, available: usize) -> impl Iterator<Item = usize> {
        let (step, part) = (index / self.per_step(), index % self.per_step());
        let begin = part * self.micro_batch;
        let all = step * self.batch + begin..step * self.batch + self.batch.min(begin + self.micro_batch);
        let seed = self.seed;
        all.map(move |at| Permutation::of_epoch(available, seed, (at / available) as u64).apply(at % available))
    }
}

/// A batch's samples in the order in which a training draws them.
pub struct Drawn<'a, S, K: Kernels> {
    batches: &'a Batches<S, K>,
    draw: Draw,
    /// The micro-batch that was asked for last.
    last: Cell<usize>,
}

impl<'a, S: Samples, K: Kernels> Drawn<'a, S, K> {
    /// Draws from a batch.
    pub fn new(batches: &'a Batches<S, K>, draw: Draw) -> Self {
        Self { batches, draw, last: Cell::new(0) }
    }

    fn positions(&self, index: usize) -> Vec<usize> {
        self.batches.positions(self.draw.samples(index, self.batches.num_samples()))
    }
}

impl<S, K: Kernels> Clone for Drawn<'_, S, K> {
    fn clone(&self) -> Self {
        Self { last: self.last.clone(), ..*self }
    }
}

/// Segments are steps; the weight of the whole is that of the batch which the samples are drawn from.
impl<S: Samples, K: Kernels> MicroBatches for Drawn<'_, S, K> {
    type Batch = S::Batch<SecondOrder<K>>;

    fn len(&self) -> usize {
        self.draw.steps * self.draw.per_step()
    }

    fn num_segments(&self) -> usize {
        self.draw.steps
    }

    fn segment(&self, index: usize) -> usize {
        index / self.draw.per_step()
    }

    fn get(&self, index: usize) -> Result<Self::Batch> {
        let batch = self.batches.at(&self.positions(index))?;
        let next = index + index.saturating_sub(self.last.replace(index)).max(1);
        if next < self.len() {
            self.batches.expect(&self.positions(next));
        }
        Ok(batch)
    }

    fn total_weight(&self) -> f64 {
        self.batches.total_weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAW: Draw = Draw { steps: 40, batch: 5, micro_batch: 2, seed: 7 };

    fn of_steps(draw: &Draw, steps: Range<usize>, available: usize) -> Vec<usize> {
        steps.flat_map(|step| draw.of_step(step)).flat_map(|index| draw.samples(index, available)).collect()
    }

    #[test]
    fn every_sample_is_drawn_once_an_epoch_in_another_order_each_time() {
        let all = of_steps(&DRAW, 0..40, 13);
        assert_eq!(all.len(), 200);
        let epochs: Vec<&[usize]> = all.chunks_exact(13).collect();
        for epoch in &epochs {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..13), "{epoch:?}");
        }
        assert!(epochs.windows(2).all(|pair| pair[0] != pair[1]), "{epochs:?}");
        assert_ne!(all, of_steps(&Draw { seed: 8, ..DRAW }, 0..40, 13));
    }

    /// Neither the size of a micro-batch nor the number of steps changes what a step draws.
    #[test]
    fn a_step_is_a_function_of_seed_and_number() {
        for micro_batch in [1, 3, 5, 9] {
            let other = Draw { micro_batch, steps: 100, ..DRAW };
            assert_eq!(of_steps(&other, 17..20, 13), of_steps(&DRAW, 17..20, 13), "{micro_batch}");
        }
        assert_eq!(DRAW.per_step(), 3);
        assert_eq!(DRAW.samples(2, 13).count(), 1, "the last of a step");
    }
}
