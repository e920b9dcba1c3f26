//! One micro-batch in the memory of one stage: activations are computed again, stage by stage, on the way back.
//!
//! The forward pass keeps only what enters each stage, primal and tangents. The reverse pass then goes from the top
//! down: a stage y = f(x, theta) is run again from its entry, now with its graph, and for the adjoint y' that the stage
//! above has left, the backward pass of <f(x, theta), y'> gives the adjoints of x and theta. x, theta and y' carry
//! tangents, and so do the results: the same products, for one forward pass more.

use burn::tensor::{Tensor, TensorPrimitive};
use burn_backend::AutodiffBackend;

use super::operator::Kind;
use super::pass::{Loss, Start, gauss_newton};
use super::problem::{Problem, Stages};
use super::seed::{Adjoints, untracked};
use crate::block::Layout;
use crate::engine::{Dual, Gradients, Kernels, SecondOrder, adjoint, leaf, tangents_of};

type Activations<K> = Tensor<SecondOrder<K>, 2>;

/// A pass that keeps the entries of stages and nothing between them.
pub(super) struct Recompute<'a, K: Kernels, P: Problem<SecondOrder<K>>> {
    pub problem: &'a P,
    pub stages: &'a dyn Stages<SecondOrder<K>, P::Model, P::Batch>,
    /// With leaves.
    pub model: &'a P::Model,
    pub layout: &'a Layout,
    pub kind: Kind,
    /// The lowest stage that has a parameter with tangents, or whose gradient is wanted.
    pub lowest: usize,
}

impl<K: Kernels, P: Problem<SecondOrder<K>>> Recompute<'_, K, P> {
    /// As [`super::pass::run`].
    pub fn run(&self, batch: &P::Batch, start: Start<K>) -> (Loss<K>, Adjoints<K>) {
        let (first, mut entries) = self.entries(batch, start);
        let mut sum = Adjoints::none(self.layout);
        let highest = entries.pop().expect("there is always the first");
        let (loss, mut from_above) = self.top(&mut sum, highest, batch);
        for (stage, entry) in (first..first + entries.len()).zip(entries).rev() {
            let Some(dual) = from_above else { return (loss, sum) };
            let (entry, depends) = self.entry(entry, stage);
            let outputs = self.stages.advance(self.model, stage..stage + 1, entry.clone(), batch);
            from_above = self.collect(&mut sum, &entry, depends, &pulled_back(outputs, dual));
        }
        if let Some(dual) = from_above {
            let grads = pulled_back(self.stages.first(self.model, batch), dual);
            sum.add(Adjoints::read(self.model, self.problem.names(), self.layout, &grads));
        }
        (loss, sum)
    }

    /// What enters the stages, from the first that is needed to the top, computed without leaves so that no graph is kept;
    /// and the number of the first.
    fn entries(&self, batch: &P::Batch, start: Start<K>) -> (usize, Vec<Activations<K>>) {
        let model = untracked(self.model.clone());
        let (first, mut entry) = start.unwrap_or_else(|| {
            let first = self.lowest.max(1);
            (first, self.stages.entry(&model, batch, first))
        });
        let mut entries = vec![entry.clone()];
        for stage in first..self.stages.num_stages(self.model) {
            entry = self.stages.advance(&model, stage..stage + 1, entry, batch);
            entries.push(entry.clone());
        }
        (first, entries)
    }

    /// A stage's entry, as a leaf if it depends on a parameter whose adjoint is wanted.
    fn entry(&self, x: Activations<K>, stage: usize) -> (Activations<K>, bool) {
        let depends = stage > self.lowest;
        let tangents = tangents_of(&x);
        (if depends { leaf(x, tangents, false) } else { x }, depends)
    }

    /// The loss, and everything from the last entry up on the way back.
    fn top(&self, sum: &mut Adjoints<K>, highest: Activations<K>, batch: &P::Batch) -> (Loss<K>, Option<Dual<K>>) {
        let stage = self.stages.num_stages(self.model);
        let (entry, depends) = self.entry(highest, stage);
        let (loss, grads) = match self.kind {
            Kind::Hessian => {
                let loss = self.stages.total_loss_from(self.model, stage, entry.clone(), batch);
                let grads = loss.backward();
                (loss, grads)
            }
            Kind::GaussNewton => {
                let outputs = self.stages.outputs_from(self.model, stage, entry.clone(), batch);
                gauss_newton(self.problem, outputs, batch)
            }
        };
        (loss, self.collect(sum, &entry, depends, &grads))
    }

    /// Adds a stage's adjoints of parameters; the adjoint of its entry.
    fn collect(
        &self,
        sum: &mut Adjoints<K>,
        entry: &Activations<K>,
        depends: bool,
        grads: &Gradients<K>,
    ) -> Option<Dual<K>> {
        sum.add(Adjoints::read(self.model, self.problem.names(), self.layout, grads));
        if depends { adjoint(entry, grads) } else { None }
    }
}

/// The backward pass of <outputs, adjoint>.
fn pulled_back<K: Kernels>(outputs: Activations<K>, adjoint: Dual<K>) -> Gradients<K> {
    let adjoint = Tensor::from_primitive(TensorPrimitive::Float(SecondOrder::<K>::from_inner(adjoint)));
    (outputs * adjoint).sum().backward()
}
