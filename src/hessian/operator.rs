//! The sum over micro-batches and segments, as an [`Operator`] for Lanczos.

use std::marker::PhantomData;

use rayon::prelude::*;

use super::pass::{self, Precision};
use super::problem::{MicroBatches, Problem};
use super::seed::{Seeds, seed};
use crate::block::{Block, Layout};
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
/// The sum over micro-batches is accumulated in f64 on the host. `T` is the precision of the model and of the vectors.
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
    /// How micro-batches add up.
    pub reduction: Reduction,
    /// The block of each slot.
    pub slots: Vec<&'a Block>,
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
    pub fn new(problem: &'a P, model: &'a P::Model, layout: &'a Layout, data: &'a D) -> Self {
        let (kind, reduction) = (Kind::Hessian, Reduction::Mean);
        Self { problem, model, layout, data, kind, reduction, slots: Vec::new(), progress: None, types: PhantomData }
    }

    /// Factor of a micro-batch of this weight.
    fn share(&self, weight: f64) -> f64 {
        match self.reduction {
            Reduction::Mean => weight / self.data.total_weight(),
            Reduction::Sum => 1.0,
        }
    }

    /// Factor of micro-batch `index` in the sum.
    pub(super) fn share_of(&self, index: usize) -> Result<f64> {
        Ok(self.share(self.problem.weight(&self.data.get(index)?)))
    }

    /// The same operator on other parameter values, in another precision.
    pub(super) fn with_model<W: Precision>(&self, model: &'a P::Model) -> BlockOperator<'a, K, P, D, W> {
        let mut other = BlockOperator::new(self.problem, model, self.layout, self.data);
        (other.kind, other.reduction, other.slots) = (self.kind, self.reduction, self.slots.clone());
        other
    }

    /// The products of all `vectors` on one micro-batch, unweighted.
    pub fn on_micro_batch(&self, index: usize, vectors: &[(usize, &[T])]) -> Result<Vec<Vec<T>>> {
        let batch = self.data.get(index)?;
        let slots: Vec<_> = vectors.iter().map(|(slot, v)| (self.slots[*slot], *v)).collect();
        let seeded = self.seeded(&slots);
        let (_, adjoints) = pass::run(self.problem, &seeded, &batch, self.kind, self.layout);
        Ok(slots.iter().enumerate().map(|(at, (block, _))| adjoints.product(self.layout, block, at)).collect())
    }

    /// Loss and gradient of a block over the whole batch.
    pub fn gradient(&self, block: &Block) -> Result<Gradient> {
        let mut sum = Gradient { loss: 0.0, values: vec![0.0; block.num_params(self.layout)] };
        for index in 0..self.data.len() {
            let batch = self.data.get(index)?;
            let share = self.share(self.problem.weight(&batch));
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
        let (loss, adjoints) = pass::run(self.problem, &seeded, batch, Kind::Hessian, self.layout);
        (loss, adjoints.gradient(self.layout, block))
    }

    /// The loss of the whole batch.
    pub fn loss(&self) -> Result<f64> {
        let mut sum = 0.0;
        for index in 0..self.data.len() {
            let batch = self.data.get(index)?;
            sum += self.share(self.problem.weight(&batch)) * pass::loss(self.problem, self.model, &batch);
        }
        Ok(sum)
    }

    fn seeded(&self, slots: &[(&Block, &[T])]) -> P::Model {
        let seeds = Seeds { layout: self.layout, slots, gradient: false, gradient_blocks: &[] };
        seed::<K, T, _>(self.model.clone(), self.problem.names(), &seeds)
    }

    /// H v of all slots, calling `on_segment(segment, position, H_s v)` as the segments end.
    fn sweep(
        &self,
        vectors: &[(usize, &[T])],
        mut on_segment: impl FnMut(usize, usize, &Vec<T>) -> Result<()>,
    ) -> Result<Vec<Vec<T>>> {
        let slots: Vec<_> = vectors.iter().map(|(slot, v)| (self.slots[*slot], *v)).collect();
        let blocks: Vec<&Block> = slots.iter().map(|(block, _)| *block).collect();
        let seeded = self.seeded(&slots);
        let mut totals: Vec<Vec<f64>> = slots.iter().map(|(_, v)| vec![0.0; v.len()]).collect();
        let mut partials = totals.clone();
        for index in 0..self.data.len() {
            let batch = self.data.get(index)?;
            let share = self.share(self.problem.weight(&batch));
            let (_, adjoints) = pass::run(self.problem, &seeded, &batch, self.kind, self.layout);
            adjoints.accumulate::<T>(self.layout, &blocks, share, &mut partials);
            if let Some(progress) = self.progress {
                progress(index + 1)?;
            }
            let segment = self.data.segment(index);
            if index + 1 == self.data.len() || self.data.segment(index + 1) != segment {
                for (at, (total, partial)) in totals.iter_mut().zip(&mut partials).enumerate() {
                    on_segment(segment, at, &rounded(partial))?;
                    let pairs = total.par_iter_mut().zip(partial.par_iter_mut()).with_min_len(1 << 16);
                    pairs.for_each(|(total, x)| *total += std::mem::take(x));
                }
            }
        }
        Ok(totals.iter().map(|total| rounded(total)).collect())
    }
}

fn rounded<T: Precision>(sum: &[f64]) -> Vec<T> {
    sum.par_iter().with_min_len(1 << 16).map(|x| T::from_f64(*x)).collect()
}

impl<K, P, D, T> Operator for BlockOperator<'_, K, P, D, T>
where
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    D: MicroBatches<Batch = P::Batch>,
    T: Precision,
{
    type Vector = Vec<T>;

    fn dims(&self) -> Vec<usize> {
        self.slots.iter().map(|block| block.num_params(self.layout)).collect()
    }

    fn apply(&mut self, vectors: &[(usize, &Vec<T>)], on_segment: &mut OnSegment<Vec<T>>) -> Result<Vec<Vec<T>>> {
        let slices: Vec<(usize, &[T])> = vectors.iter().map(|(slot, v)| (*slot, v.as_slice())).collect();
        let products = self.sweep(&slices, |segment, at, partial| on_segment(segment, vectors[at].0, partial))?;
        for ((slot, _), product) in vectors.iter().zip(&products) {
            if let Some(index) = product.iter().position(|x| !x.to_f64().is_finite()) {
                let name = &self.slots[*slot].name;
                return Err(Error::Numerics(format!(
                    "block `{name}`: entry {index} of a Hessian-vector product is {}; look for NaN or infinite values in \
                     weights and data, or for an overflow of the loss (`hesspec check` locates it)",
                    product[index].to_f64()
                )));
            }
        }
        Ok(products)
    }
}
