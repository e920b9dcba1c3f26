//! The sum over micro-batches and segments, as an [`Operator`] for Lanczos.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::ops::Range;

use burn::module::Module;
use rayon::prelude::*;

use super::pass::{self, Loss, Precision, Start};
use super::prefix::{Prefix, PrefixBudget};
use super::problem::{MicroBatches, Problem, Stages};
use super::recompute::Recompute;
use super::seed::{Adjoints, Seeds, Sums, seed};
use super::sharded::Slice;
use crate::block::{Block, Layout};
use crate::cluster::Comm;
use crate::engine::{Kernels, SecondOrder};
use crate::krylov::{OnSegment, Operator};
use crate::{Error, Result};

/// Which symmetric operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The second derivative of the loss.
    Hessian,
    /// J' H_out J: positive semi-definite for convex losses.
    GaussNewton,
}

/// How micro-batches add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// The mean over all predictions: micro-batches weighted by [`Problem::weight`].
    Mean,
    /// The sum of the micro-batches' means (the paper's public code).
    Sum,
}

/// The (Gauss-Newton) Hessian blocks of a problem, one per slot, applied together in one sweep over the data.
///
/// The sum over micro-batches is accumulated in f64. `T` is the precision of the model and of the vectors.
pub struct BlockOperator<'a, K: Kernels, P: Problem<SecondOrder<K>>, D, T = f32> {
    /// The problem.
    pub problem: &'a P,
    /// The network, without tangents.
    pub model: &'a P::Model,
    /// Its flat order.
    pub layout: &'a Layout,
    /// The data.
    pub data: &'a D,
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
    pub prefix: Option<&'a Prefix<T>>,
    /// Called after each micro-batch with the number done in this sweep; an error ends the sweep.
    pub progress: Option<&'a dyn Fn(usize) -> Result<()>>,
    types: PhantomData<(K, T)>,
}

/// Loss and gradient of the whole batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradient {
    /// The loss.
    pub loss: f64,
    /// Its gradient, in the block's flat order.
    pub values: Vec<f64>,
}

impl<'a, K, P, D, T> BlockOperator<'a, K, P, D, T>
where
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    D: MicroBatches<Batch = P::Batch>,
    T: Precision,
{
    /// The operator of a problem over all of its data, with no slots yet.
    pub fn new(problem: &'a P, model: &'a P::Model, layout: &'a Layout, data: &'a D, comm: &'a Comm) -> Self {
        let (kind, reduction, slots) = (Kind::Hessian, Reduction::Mean, Vec::new());
        let (recompute, prefix, progress, types) = (false, None, None, PhantomData);
        Self { problem, model, layout, data, kind, comm, reduction, slots, recompute, prefix, progress, types }
    }

    /// Factor of a micro-batch of this weight.
    fn share(&self, weight: f64) -> f64 {
        match self.reduction {
            Reduction::Mean => weight / self.data.total_weight(),
            Reduction::Sum => 1.0,
        }
    }

    /// A micro-batch's share as a factor in the sum and a divisor of the sum. Weights are counts: f32 entries times
    /// counts add up exactly in f64 (but for extreme exponents), so that a sum does not depend on how the ranks share
    /// its terms. With shares like 1/24 it would in the last bit, and since f32 entries have few bits, the sum often lies
    /// right between two f32 numbers, where that last bit decides.
    fn factor_and_divisor(&self, weight: f64) -> (f64, f64) {
        match self.reduction {
            Reduction::Mean => (weight, self.data.total_weight()),
            Reduction::Sum => (1.0, 1.0),
        }
    }

    /// Micro-batch `index` and its weight.
    ///
    /// # Errors
    /// [`Error::Config`] for a weight that is none; those of the data.
    fn weighted(&self, index: usize) -> Result<(P::Batch, f64)> {
        let batch = self.data.get(index)?;
        let weight = self.problem.weight(&batch);
        if weight > 0.0 && weight.is_finite() {
            return Ok((batch, weight));
        }
        Err(Error::Config(format!(
            "micro-batch {index}: Problem::weight is {weight}; expected its number of predictions, above 0"
        )))
    }

    /// Factor of micro-batch `index` in the sum.
    pub(super) fn share_of(&self, index: usize) -> Result<f64> {
        Ok(self.share(self.weighted(index)?.1))
    }

    /// The same operator on other parameter values, in another precision.
    pub(super) fn with_model<W: Precision>(&self, model: &'a P::Model) -> BlockOperator<'a, K, P, D, W> {
        let mut other = BlockOperator::new(self.problem, model, self.layout, self.data, self.comm);
        (other.kind, other.reduction, other.slots) = (self.kind, self.reduction, self.slots.clone());
        other.recompute = self.recompute;
        other
    }

    /// One micro-batch of a seeded model whose leaves lie in `blocks`.
    fn pass(
        &self,
        kind: Kind,
        seeded: &P::Model,
        batch: &P::Batch,
        start: Start<K>,
        blocks: &[&Block],
    ) -> (Loss<K>, Adjoints<K>) {
        let (problem, layout) = (self.problem, self.layout);
        pass::in_precision::<T, _>(|| match problem.stages().filter(|_| self.recompute) {
            None => pass::run(problem, seeded, batch, start, kind, layout),
            Some(stages) => {
                let lowest = self.lowest_stage(stages, blocks).unwrap_or(0);
                Recompute { problem, stages, model: seeded, layout, kind, lowest }.run(batch, start)
            }
        })
    }

    /// The lowest stage that has a parameter of these blocks.
    fn lowest_stage(
        &self,
        stages: &dyn Stages<SecondOrder<K>, P::Model, P::Batch>,
        blocks: &[&Block],
    ) -> Option<usize> {
        let parameters = blocks.iter().flat_map(|block| &block.pieces).map(|piece| piece.parameter);
        parameters.map(|at| stages.stage_of(self.model, &self.layout.parameters()[at].name)).min()
    }

    /// The products of all `vectors` on one micro-batch, unweighted.
    pub fn on_micro_batch(&self, index: usize, vectors: &[(usize, &[T])]) -> Result<Vec<Vec<T>>> {
        let (batch, _) = self.weighted(index)?;
        let slots: Vec<_> = vectors.iter().map(|(slot, v)| (self.slots[*slot], *v)).collect();
        let seeded = self.seeded(&slots);
        let blocks: Vec<&Block> = slots.iter().map(|(block, _)| *block).collect();
        let (_, adjoints) = self.pass(self.kind, &seeded, &batch, None, &blocks);
        Ok(slots.iter().enumerate().map(|(at, (block, _))| adjoints.product(self.layout, block, at)).collect())
    }

    /// Loss and gradient of a block over the whole batch.
    pub fn gradient(&self, block: &Block) -> Result<Gradient> {
        let mut sum = Gradient { loss: 0.0, values: vec![0.0; block.num_params(self.layout)] };
        for index in 0..self.data.len() {
            let (batch, weight) = self.weighted(index)?;
            let share = self.share(weight);
            let (loss, values) = self.gradient_on(self.model.clone(), &batch, block);
            sum.loss += share * loss;
            sum.values.iter_mut().zip(values).for_each(|(sum, g)| *sum += share * g.to_f64());
        }
        Ok(sum)
    }

    /// Mean loss and gradient of a block on one micro-batch, for any values of the parameters.
    pub(super) fn gradient_on(&self, model: P::Model, batch: &P::Batch, block: &Block) -> (f64, Vec<T>) {
        let seeds = Seeds::<T> { layout: self.layout, slots: &[], gradient: true, gradient_blocks: &[block] };
        let seeded = seed::<K, T, _>(model, self.problem.names(), &seeds);
        let (loss, adjoints) = self.pass(Kind::Hessian, &seeded, batch, None, &[block]);
        (pass::value(&loss), adjoints.gradient(self.layout, block))
    }

    /// The loss of the whole batch.
    pub fn loss(&self) -> Result<f64> {
        let model = self.seeded(&[]); // constants: no graph is kept
        let mut sum = 0.0;
        for index in 0..self.data.len() {
            let (batch, weight) = self.weighted(index)?;
            sum += self.share(weight) * pass::in_precision::<T, _>(|| pass::loss(self.problem, &model, &batch));
        }
        Ok(sum)
    }

    fn seeded(&self, slots: &[(&Block, &[T])]) -> P::Model {
        let seeds = Seeds { layout: self.layout, slots, gradient: false, gradient_blocks: &[] };
        seed::<K, T, _>(self.model.clone(), self.problem.names(), &seeds)
    }

    /// Begins a sweep: every rank gets the whole vectors and puts them into the model.
    pub fn sweep(&self, vectors: &[(usize, &Slice<T>)]) -> Result<Sweep<'_, 'a, K, P, D, T>> {
        let whole = vectors.iter().map(|(_, slice)| self.whole(slice)).collect::<Result<Vec<_>>>()?;
        let slots: Vec<(&Block, &[T])> =
            vectors.iter().zip(&whole).map(|((slot, _), v)| (self.slots[*slot], v.as_ref())).collect();
        let model = self.seeded(&slots);
        Ok(Sweep { operator: self, model, blocks: vectors.iter().map(|(slot, _)| self.slots[*slot]).collect() })
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
        let stages = self.problem.stages().filter(|_| budget != PrefixBudget::NONE)?;
        let stage = self.lowest_stage(stages, blocks).filter(|&stage| stage > 0)?;
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
        let (len, mut start) = (self.data.len(), 0);
        let mut ranges = Vec::new();
        for index in 1..=len {
            if index == len || self.data.segment(index) != self.data.segment(start) {
                ranges.push(start..index);
                start = index;
            }
        }
        ranges
    }
}

/// One pass over the data, segment by segment.
pub struct Sweep<'o, 'a, K: Kernels, P: Problem<SecondOrder<K>>, D, T> {
    operator: &'o BlockOperator<'a, K, P, D, T>,
    model: P::Model,
    blocks: Vec<&'a Block>,
}

impl<K, P, D, T> Sweep<'_, '_, K, P, D, T>
where
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    D: MicroBatches<Batch = P::Batch>,
    T: Precision,
{
    /// H_s v of one segment, this rank's slice of each slot: the segment's micro-batches go to the ranks in turn, and one
    /// reduce-scatter over each whole vector adds them up.
    pub fn segment(&self, segment: usize) -> Result<Vec<Slice<f64>>> {
        let operator = self.operator;
        let range = operator.segments().swap_remove(segment);
        let mut sums = Sums::<K>::new(operator.layout, &self.blocks);
        for index in range.clone() {
            if (index - range.start) % operator.comm.size() == operator.comm.rank() {
                self.add(index, &mut sums)?;
            }
            if let Some(progress) = operator.progress {
                progress(index + 1)?;
            }
        }
        let (_, divisor) = operator.factor_and_divisor(1.0);
        let mut slices = sums.finish().into_iter().map(|sum| self.scattered(sum)).collect::<Result<Vec<_>>>()?;
        for slice in &mut slices {
            slice.values.par_iter_mut().with_min_len(1 << 16).for_each(|x| *x /= divisor);
        }
        Ok(slices)
    }

    /// Adds a micro-batch's products, and gives its loss.
    fn add(&self, index: usize, sums: &mut Sums<'_, K>) -> Result<Loss<K>> {
        let operator = self.operator;
        let (batch, weight) = operator.weighted(index)?;
        let (factor, _) = operator.factor_and_divisor(weight);
        let start = self.start(index, &batch);
        let (loss, adjoints) = operator.pass(operator.kind, &self.model, &batch, start, &self.blocks);
        sums.add::<T>(&adjoints, factor);
        Ok(loss)
    }

    /// Computes micro-batch `index` as in a segment and forgets it, for its time: returns when the device has finished.
    pub fn rehearse(&self, index: usize) -> Result<()> {
        let loss = self.add(index, &mut Sums::new(self.operator.layout, &self.blocks))?;
        pass::value(&loss); // it is read behind everything that was enqueued
        Ok(())
    }

    /// Where the pass over a micro-batch begins.
    fn start(&self, index: usize, batch: &P::Batch) -> Start<K> {
        let (prefix, stages) = self.operator.prefix.zip(self.operator.problem.stages())?;
        let stage = prefix.stage();
        let device = self.model.devices().into_iter().next()?;
        let entry = || pass::in_precision::<T, _>(|| stages.entry(&self.model, batch, stage));
        Some((stage, prefix.entry(index, &device, entry)))
    }

    fn scattered(&self, sum: Vec<f64>) -> Result<Slice<f64>> {
        let (comm, len) = (self.operator.comm, sum.len());
        if comm.size() == 1 {
            return Ok(Slice { values: sum, len });
        }
        let shard = comm.shard(len);
        let mut values = vec![0.0; shard.slice_len()];
        comm.reduce_scatter_sum(&sum, &mut values)?;
        values.truncate(shard.range().len());
        Ok(Slice { values, len })
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

impl<K, P, D, T> Operator for BlockOperator<'_, K, P, D, T>
where
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    D: MicroBatches<Batch = P::Batch>,
    T: Precision,
{
    type Vector = Slice<T>;

    fn dims(&self) -> Vec<usize> {
        self.slots.iter().map(|block| block.num_params(self.layout)).collect()
    }

    fn apply(&mut self, vectors: &[(usize, &Slice<T>)], on_segment: &mut OnSegment<Slice<T>>) -> Result<Vec<Slice<T>>> {
        let sweep = self.sweep(vectors)?;
        let mut totals: Vec<Slice<f64>> = Vec::new();
        for segment in 0..self.data.num_segments() {
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
