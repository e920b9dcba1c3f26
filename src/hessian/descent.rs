//! Loss and gradient at any values of the parameters, shared by the ranks: what training needs of a network on its data.
//!
//! A gradient takes the same passes as a Hessian-vector product with no slots: the engine's reverse pass, without tangents.

use std::ops::Range;
use std::rc::Rc;

use rayon::prelude::*;

use super::operator::Kind;
use super::pass::{self, Precision};
use super::passes::{Evaluation, Pass, Passes, Way};
use crate::cluster::Comm;
use crate::engine::Kernels;
use crate::{Error, Result};

/// Numbers that a thread adds to at a time.
const PIECE: usize = 1 << 16;

/// A network on its data, whose micro-batches the ranks share.
pub struct Descent<'a, K: Kernels, T: Precision> {
    /// The network on its data.
    pub passes: Rc<dyn Passes<K, T> + 'a>,
    /// The ranks.
    pub comm: &'a Comm,
    /// Whether a pass keeps only what enters the network's stages and computes the rest again.
    pub recompute: bool,
}

/// Loss and gradient over some micro-batches: means over their predictions, the same bits on every rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Slope {
    /// The loss.
    pub loss: f64,
    /// Its gradient, in the layout's flat order.
    pub gradient: Vec<f64>,
    /// Sum of what the ranks handed in beside it.
    pub votes: f64,
}

impl<K: Kernels, T: Precision> Descent<'_, K, T> {
    /// Loss and gradient over `micro_batches`, which go to the ranks in turn. Sums over micro-batches are f64 and weighted by
    /// counts, so that entries in f32 add up to the same bits however the ranks share them. `vote` is a number of this rank's
    /// that travels with the sums, so that ranks agree on something at no further exchange.
    ///
    /// # Errors
    /// [`Error::Config`] if no prediction of these micro-batches counts; those of the data and of the exchange.
    pub fn slope(&self, parameters: &[T], micro_batches: Range<usize>, vote: f64) -> Result<Slope> {
        let layout = self.passes.layout();
        let (full, len) = (layout.full(), layout.num_params());
        let seeded = self.passes.at(parameters, true)?;
        let way = Way { kind: Kind::Hessian, prefix: None, recompute: self.recompute.then_some(0) };
        let mut sums = vec![0.0; len + 3];
        sums[len + 2] = vote;
        for index in self.own(micro_batches) {
            let Pass { weight, loss, adjoints } = seeded.pass(index, &way)?;
            if weight == 0.0 {
                continue; // what does not count need not be finite
            }
            let gradient: Vec<T> = adjoints.gradient(layout, &full);
            sums[..len].par_chunks_mut(PIECE).zip(gradient.par_chunks(PIECE)).for_each(|(sums, gradient)| {
                sums.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += weight * g.to_f64());
            });
            sums[len] += weight * pass::value(&loss);
            sums[len + 1] += weight;
        }
        if self.comm.size() > 1 {
            self.comm.all_reduce_sum(&mut sums)?;
        }
        let (loss, weight, votes) = (sums[len], sums[len + 1], sums[len + 2]);
        if weight == 0.0 {
            return Err(Error::Config("none of a step's predictions counts, all weights are 0".into()));
        }
        sums.truncate(len);
        sums.par_iter_mut().with_min_len(PIECE).for_each(|x| *x /= weight);
        Ok(Slope { loss: loss / weight, gradient: sums, votes })
    }

    /// Loss of the whole data, and where it consists of classes the share that is found.
    ///
    /// # Errors
    /// Those of the data and of the exchange.
    pub fn evaluate(&self, parameters: &[T]) -> Result<(f64, Option<f64>)> {
        let seeded = self.passes.at(parameters, false)?;
        let mut sums = [0.0; 4]; // weighted losses, weights, predictions that are right, predictions
        for index in self.own(0..self.passes.num_micro_batches()) {
            let Evaluation { weight, loss, right } = seeded.evaluate(index)?;
            if weight > 0.0 {
                sums[0] += weight * loss;
                sums[1] += weight;
            }
            let (right, of) = right.unwrap_or_default();
            sums[2] += right as f64;
            sums[3] += of as f64;
        }
        if self.comm.size() > 1 {
            self.comm.all_reduce_sum(&mut sums)?;
        }
        Ok((sums[0] / sums[1], (sums[3] > 0.0).then(|| sums[2] / sums[3])))
    }

    /// Those micro-batches that are this rank's.
    fn own(&self, micro_batches: Range<usize>) -> impl Iterator<Item = usize> {
        micro_batches.skip(self.comm.rank()).step_by(self.comm.size())
    }
}

#[cfg(test)]
#[path = "descent_tests.rs"]
mod tests;
