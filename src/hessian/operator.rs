//! The sum over micro-batches and segments, as an [`Operator`] for Lanczos.

use std::borrow::Cow;
use std::ops::Range;
use std::rc::Rc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::pass::{self, Loss, Precision};
use super::passes::{OnData, Pass, Passes, Seeded, Way};
use super::prefix::{Prefix, PrefixBudget};
use super::problem::{MicroBatches, Problem};
use super::seed::{Seeds, Sums};
use super::sharded::Slice;
use crate::block::{Block, Layout};
use crate::cluster::Comm;
use crate::engine::{Kernels, SecondOrder};
use crate::krylov::{OnSegment, Operator};
use crate::{Error, Result};

/// Which symmetric operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The second derivative of the loss.
    Hessian,
    /// J' H_out J: positive semi-definite for convex losses.
    GaussNewton,
}

/// How micro-batches add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// The mean over all predictions: micro-batches weighted by [`Problem::weight`].
    Mean,
    /// The sum of the micro-batches' means (the paper's public code).
    Sum,
}

/// The (Gauss-Newton) Hessian blocks of a network, one per slot, applied together in one sweep over the data.
///
/// The sum over micro-batches is accumulated in f64. `T` is the precision of the model and of the vectors.
pub struct BlockOperator<'a, K: Kernels, T: Precision> {
    /// The network on its data.
    pub passes: Rc<dyn Passes<K, T> + 'a>,
    /// The operator.
    pub kind: Kind,
    /// The ranks that share the micro-batches.
    pub comm: &'a Comm,
    /// How micro-batches add up.
    pub reduction: Reduction,
    /// The block of each slot.
    pub slots: Vec<&'a Block>,
    /// Whether a pass keeps only what enters the network's stages ([`Problem::stages`]) and computes the rest again.
    pub recompute: bool,
    /// What is kept of the activations below the slots' blocks.
    pub prefix: Option<Rc<Prefix<T>>>,
    /// Called after each micro-batch with the number done in this sweep; an error ends the sweep.
    pub progress: Option<&'a dyn Fn(usize) -> Result<()>>,
}

/// Loss and gradient of the whole batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradient {
    /// The loss.
    pub loss: f64,
    /// Its gradient, in the block's flat order.
    pub values: Vec<f64>,
}

impl<'a, K: Kernels, T: Precision> BlockOperator<'a, K, T> {
    /// The operator of a problem over all of its data, with no slots yet.
    pub fn new<P, D>(problem: &'a P, model: &'a P::Model, layout: &'a Layout, data: &'a D, comm: &'a Comm) -> Self
    where
        P: Problem<SecondOrder<K>>,
        D: MicroBatches<Batch = P::Batch>,
    {
        Self::of(Rc::new(OnData::new(problem, model, layout, data)), comm)
    }

    /// The Hessian, with no slots yet.
    pub fn of(passes: Rc<dyn Passes<K, T> + 'a>, comm: &'a Comm) -> Self {
        let (kind, reduction, slots) = (Kind::Hessian, Reduction::Mean, Vec::new());
        Self { passes, kind, comm, reduction, slots, recompute: false, prefix: None, progress: None }
    }

    /// This operator once more, with no slots: passes, ranks and the ways of adding up are shared.
    pub fn again(&self) -> BlockOperator<'a, K, T> {
        let (passes, recompute) = (self.passes.clone(), self.recompute);
        let Self { kind, comm, reduction, .. } = *self;
        Self { passes, kind, comm, reduction, slots: Vec::new(), recompute, prefix: None, progress: None }
    }

    /// Factor of a micro-batch of this weight.
    fn share(&self, weight: f64) -> f64 {
        match self.reduction {
            Reduction::Mean => weight / self.passes.total_weight(),
            Reduction::Sum => counts(weight),
        }
    }

    /// A micro-batch's share as a factor in the sum and a divisor of the sum. Weights are counts: f32 entries times
    /// counts add up exactly in f64 (but for extreme exponents), so that a sum does not depend on how the ranks share
    /// its terms. With shares like 1/24 it would in the last bit, and since f32 entries have few bits, the sum often lies
    /// right between two f32 numbers, where that last bit decides.
    pub(super) fn factor_and_divisor(&self, weight: f64) -> (f64, f64) {
        match self.reduction {
            Reduction::Mean => (weight, self.passes.total_weight()),
            Reduction::Sum => (counts(weight), 1.0),
        }
    }

    /// Factor of micro-batch `index` in the sum.
    pub(super) fn share_of(&self, index: usize) -> Result<f64> {
        Ok(self.share(self.passes.weight(index)?))
    }

    /// The operator of the same network in another precision, `passes` being its [`Passes::wide`].
    pub(super) fn on<'o, W: Precision>(&'o self, passes: &Rc<dyn Passes<K, W> + 'o>) -> BlockOperator<'o, K, W> {
        let mut other = BlockOperator::of(passes.clone(), self.comm);
        (other.kind, other.reduction, other.slots) = (self.kind, self.reduction, self.slots.clone());
        other.recompute = self.recompute;
        other
    }

    /// How a pass with leaves in `blocks` is made.
    pub(super) fn way(&self, kind: Kind, blocks: &[&Block]) -> Way<'_, T> {
        let lowest = || self.lowest_stage(blocks).unwrap_or(0);
        Way { kind, prefix: None, recompute: self.recompute.then(lowest) }
    }

    /// The lowest stage that has a parameter of these blocks, if the network has stages.
    fn lowest_stage(&self, blocks: &[&Block]) -> Option<usize> {
        let parameters = blocks.iter().flat_map(|block| &block.pieces).map(|piece| piece.parameter);
        let stage_of = |at: usize| self.passes.stage_of(&self.passes.layout().parameters()[at].name);
        parameters.filter_map(stage_of).min()
    }

    /// The products of all `vectors` on one micro-batch, unweighted.
    pub fn on_micro_batch(&self, index: usize, vectors: &[(usize, &[T])]) -> Result<Vec<Vec<T>>> {
        let slots: Vec<_> = vectors.iter().map(|(slot, v)| (self.slots[*slot], *v)).collect();
        let blocks: Vec<&Block> = slots.iter().map(|(block, _)| *block).collect();
        let seeded = self.passes.seeded(&Seeds::tangents(&slots));
        let adjoints = seeded.pass(index, &self.way(self.kind, &blocks))?.adjoints;
        let layout = self.passes.layout();
        Ok(slots.iter().enumerate().map(|(at, (block, _))| adjoints.product(layout, block, at)).collect())
    }

    /// Loss and gradient of a block over the whole batch.
    pub fn gradient(&self, block: &Block) -> Result<Gradient> {
        let mut sum = Gradient { loss: 0.0, values: vec![0.0; block.num_params(self.passes.layout())] };
        for index in 0..self.passes.num_micro_batches() {
            let seeded = self.passes.seeded(&Seeds::gradient(&[block]));
            let (weight, loss, values) = self.gradient_on(&*seeded, index, block)?;
            let share = self.share(weight);
            if share == 0.0 {
                continue;
            }
            sum.loss += share * loss;
            sum.values.iter_mut().zip(values).for_each(|(sum, g)| *sum += share * g.to_f64());
        }
        Ok(sum)
    }

    /// Weight, mean loss and gradient of a block on one micro-batch, for any values of the parameters.
    pub(super) fn gradient_on(
        &self,
        seeded: &dyn Seeded<K, T>,
        index: usize,
        block: &Block,
    ) -> Result<(f64, f64, Vec<T>)> {
        let Pass { weight, loss, adjoints } = seeded.pass(index, &self.way(Kind::Hessian, &[block]))?;
        Ok((weight, pass::value(&loss), adjoints.gradient(self.passes.layout(), block)))
    }

    /// The loss of the whole batch.
    pub fn loss(&self) -> Result<f64> {
        let seeded = self.passes.seeded(&Seeds::tangents(&[])); // constants: no graph is kept
        let mut sum = 0.0;
        for index in 0..self.passes.num_micro_batches() {
            let (weight, loss) = seeded.loss(index)?;
            sum += if weight == 0.0 { 0.0 } else { self.share(weight) * loss };
        }
        Ok(sum)
    }

    /// Begins a sweep: every rank gets the whole vectors and puts them into the model.
    pub fn sweep(&self, vectors: &[(usize, &Slice<T>)]) -> Result<Sweep<'_, 'a, K, T>> {
        let whole = vectors.iter().map(|(_, slice)| self.whole(slice)).collect::<Result<Vec<_>>>()?;
        let slots: Vec<(&Block, &[T])> =
            vectors.iter().zip(&whole).map(|((slot, _), v)| (self.slots[*slot], v.as_ref())).collect();
        let seeded = self.passes.seeded(&Seeds::tangents(&slots));
        let blocks: Vec<&'a Block> = vectors.iter().map(|(slot, _)| self.slots[*slot]).collect();
        let way = Way { prefix: self.prefix.as_deref(), ..self.way(self.kind, &blocks) };
        Ok(Sweep { operator: self, seeded, way, blocks })
    }

    /// All entries of a sharded vector, on every rank.
    pub fn whole<'s>(&self, slice: &'s Slice<T>) -> Result<Cow<'s, [T]>> {
        if self.comm.size() == 1 {
            return Ok(Cow::Borrowed(&slice.values));
        }
        let mut whole = vec![T::default(); slice.len];
        let mut padded = slice.values.clone();
        padded.resize(self.comm.shard(slice.len).slice_len(), T::default());
        self.comm.all_gather(&padded, &mut whole)?;
        Ok(Cow::Owned(whole))
    }

    /// The prefix of these blocks, if the network can be entered above its bottom and the loss is a sum over rows.
    pub fn prefix_of(&self, blocks: &[&Block], budget: PrefixBudget) -> Option<Prefix<T>> {
        if budget == PrefixBudget::NONE {
            return None;
        }
        let stage = self.lowest_stage(blocks).filter(|&stage| stage > 0)?;
        Some(Prefix::new(stage, budget))
    }

    /// This rank's slice of a vector.
    pub fn slice(&self, whole: &[T]) -> Slice<T> {
        Slice { values: whole[self.comm.shard(whole.len()).range()].to_vec(), len: whole.len() }
    }

    /// H v for whole vectors, each the same on every rank.
    pub fn products(&mut self, vectors: &[Vec<T>]) -> Result<Vec<Vec<T>>> {
        let slices: Vec<Slice<T>> = vectors.iter().map(|v| self.slice(v)).collect();
        let pairs: Vec<(usize, &Slice<T>)> = slices.iter().enumerate().collect();
        let products = self.apply(&pairs, &mut |_, _, _| Ok(()))?;
        let alone = self.comm.size() == 1;
        let whole = |slice: Slice<T>| if alone { Ok(slice.values) } else { self.whole(&slice).map(Cow::into_owned) };
        products.into_iter().map(whole).collect()
    }

    /// The micro-batches of each segment.
    fn segments(&self) -> Vec<Range<usize>> {
        let (len, mut start) = (self.passes.num_micro_batches(), 0);
        let mut ranges = Vec::new();
        for index in 1..=len {
            if index == len || self.passes.segment(index) != self.passes.segment(start) {
                ranges.push(start..index);
                start = index;
            }
        }
        ranges
    }

    /// Goes through those of a segment's micro-batches that are this rank's: they go to the ranks in turn.
    pub(super) fn in_turn(&self, segment: usize, mut each: impl FnMut(usize) -> Result<()>) -> Result<()> {
        let range = self.segments().swap_remove(segment);
        for index in range.clone() {
            if (index - range.start) % self.comm.size() == self.comm.rank() {
                each(index)?;
            }
            if let Some(progress) = self.progress {
                progress(index + 1)?;
            }
        }
        Ok(())
    }

    /// This rank's slices of the sums over all ranks, and over what micro-batches were weighted with.
    pub(super) fn reduced(&self, sums: Vec<Vec<f64>>) -> Result<Vec<Slice<f64>>> {
        let (_, divisor) = self.factor_and_divisor(1.0);
        let mut slices = sums.into_iter().map(|sum| self.scattered(sum)).collect::<Result<Vec<_>>>()?;
        for slice in &mut slices {
            slice.values.par_iter_mut().with_min_len(1 << 16).for_each(|x| *x /= divisor);
        }
        Ok(slices)
    }

    fn scattered(&self, sum: Vec<f64>) -> Result<Slice<f64>> {
        let (comm, len) = (self.comm, sum.len());
        if comm.size() == 1 {
            return Ok(Slice { values: sum, len });
        }
        let shard = comm.shard(len);
        let mut values = vec![0.0; shard.slice_len()];
        comm.reduce_scatter_sum(&sum, &mut values)?;
        values.truncate(shard.range().len());
        Ok(Slice { values, len })
    }
}

/// One pass over the data, segment by segment.
pub struct Sweep<'o, 'a, K: Kernels, T: Precision> {
    operator: &'o BlockOperator<'a, K, T>,
    seeded: Box<dyn Seeded<K, T> + 'o>,
    way: Way<'o, T>,
    blocks: Vec<&'a Block>,
}

impl<K: Kernels, T: Precision> Sweep<'_, '_, K, T> {
    /// H_s v of one segment, this rank's slice of each slot: the segment's micro-batches go to the ranks in turn, and one
    /// reduce-scatter over each whole vector adds them up.
    pub fn segment(&self, segment: usize) -> Result<Vec<Slice<f64>>> {
        let mut sums = Sums::<K>::new(self.operator.passes.layout(), &self.blocks);
        self.operator.in_turn(segment, |index| self.add(index, &mut sums).map(drop))?;
        self.operator.reduced(sums.finish())
    }

    /// Adds a micro-batch's products, and gives its loss.
    fn add(&self, index: usize, sums: &mut Sums<'_, K>) -> Result<Loss<K>> {
        let Pass { weight, loss, adjoints } = self.seeded.pass(index, &self.way)?;
        let (factor, _) = self.operator.factor_and_divisor(weight);
        if factor != 0.0 {
            sums.add::<T>(&adjoints, factor); // what does not count need not be finite
        }
        Ok(loss)
    }

    /// Computes micro-batch `index` as in a segment and forgets it, for its time: returns when the device has finished.
    pub fn rehearse(&self, index: usize) -> Result<()> {
        let loss = self.add(index, &mut Sums::new(self.operator.passes.layout(), &self.blocks))?;
        pass::value(&loss); // it is read behind everything that was enqueued
        Ok(())
    }

    /// The products from the sums over segments.
    ///
    /// # Errors
    /// [`Error::Numerics`] for an entry that is not finite.
    pub fn finish(&self, totals: &[Slice<f64>]) -> Result<Vec<Slice<T>>> {
        for (block, total) in self.blocks.iter().zip(totals) {
            if let Some(at) = total.values.iter().position(|x| !x.is_finite()) {
                let index = self.operator.comm.shard(total.len).range().start + at;
                return Err(Error::Numerics(format!(
                    "block `{}`: entry {index} of a Hessian-vector product is {}; look for NaN or infinite values in \
                     weights and data, or for an overflow of the loss (`hesspec check` locates it)",
                    block.name, total.values[at]
                )));
            }
        }
        Ok(totals.iter().map(rounded).collect())
    }
}

/// `total += partial`.
pub fn add_slice(total: &mut Slice<f64>, partial: &Slice<f64>) {
    let pairs = total.values.par_iter_mut().zip(partial.values.par_iter()).with_min_len(1 << 16);
    pairs.for_each(|(total, x)| *total += x);
}

/// In the precision of vectors.
pub fn rounded<T: Precision>(sum: &Slice<f64>) -> Slice<T> {
    let values = sum.values.par_iter().with_min_len(1 << 16).map(|x| T::from_f64(*x)).collect();
    Slice { values, len: sum.len }
}

impl<K: Kernels, T: Precision> Operator for BlockOperator<'_, K, T> {
    type Vector = Slice<T>;

    fn dims(&self) -> Vec<usize> {
        self.slots.iter().map(|block| block.num_params(self.passes.layout())).collect()
    }

    fn apply(&mut self, vectors: &[(usize, &Slice<T>)], on_segment: &mut OnSegment<Slice<T>>) -> Result<Vec<Slice<T>>> {
        let sweep = self.sweep(vectors)?;
        let mut totals: Vec<Slice<f64>> = Vec::new();
        for segment in 0..self.passes.num_segments() {
            let partials = sweep.segment(segment)?;
            for (at, partial) in partials.iter().enumerate() {
                on_segment(segment, vectors[at].0, &rounded(partial))?;
            }
            if totals.is_empty() {
                totals = partials;
            } else {
                totals.iter_mut().zip(&partials).for_each(|(total, partial)| add_slice(total, partial));
            }
        }
        sweep.finish(&totals)
    }
}

/// 1 for a micro-batch that has a prediction which counts, else 0: its mean loss is then none.
fn counts(weight: f64) -> f64 {
    f64::from(u8::from(weight > 0.0))
}
