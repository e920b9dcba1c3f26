//! One micro-batch in the memory of one stage: activations are computed again, stage by stage, on the way back.
//!
//! The forward pass keeps only what enters each stage, primal and tangents. The reverse pass then goes from the top
//! down: a stage y = f(x, theta) is run again from its entry, now with its graph, and for the adjoint y' that the stage
//! above has left, the backward pass of <f(x, theta), y'> gives the adjoints of x and theta. x, theta and y' carry
//! tangents, and so do the results: the same products, for one forward pass more.

use burn::tensor::{Tensor, TensorPrimitive};
use burn_backend::AutodiffBackend;

use super::operator::Kind;
use super::pass::{Start, gauss_newton, value};
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
    pub fn run(&self, batch: &P::Batch, start: Start<K>) -> (f64, Adjoints<K>) {
        let (first, entry) = start.unwrap_or_else(|| {
            let first = self.lowest.max(1);
            (first, self.stages.entry(&self.plain(), batch, first))
        });
        let mut entries = self.entries(batch, first, entry);
        let top = self.stages.num_stages(self.model);
        let mut sum = Adjoints::none(self.layout);
        let Some(highest) = entries.pop() else { return (f64::NAN, sum) }; // there is always the first
        let (highest, depends) = self.entry(highest, top);
        let (loss, grads) = self.above(top, highest.clone(), batch);
        let mut from_above = self.collect(&mut sum, &highest, depends, &grads);
        for (stage, entry) in (first..top).zip(entries).rev() {
            let Some(dual) = from_above else { return (loss, sum) };
            let (entry, depends) = self.entry(entry.clone(), stage);
            let outputs = self.stages.advance(self.model, stage..stage + 1, entry.clone(), batch);
            let grads = pulled_back(outputs, dual);
            from_above = self.collect(&mut sum, &entry, depends, &grads);
        }
        if let Some(dual) = from_above {
            let grads = pulled_back(self.stages.first(self.model, batch), dual);
            sum.add(Adjoints::read(self.model, self.problem.names(), self.layout, &grads));
        }
        (loss, sum)
    }

    /// The network with tangents and without leaves: nothing that is computed with it keeps a graph.
    fn plain(&self) -> P::Model {
        untracked(self.model.clone())
    }

    /// What enters the stages from `first` to the top.
    fn entries(&self, batch: &P::Batch, first: usize, entry: Activations<K>) -> Vec<Activations<K>> {
        let (model, mut entries) = (self.plain(), vec![entry]);
        for stage in first..self.stages.num_stages(self.model) {
            let entry = entries[entries.len() - 1].clone();
            entries.push(self.stages.advance(&model, stage..stage + 1, entry, batch));
        }
        entries
    }

    /// A stage's entry, as a leaf if it depends on a parameter whose adjoint is wanted.
    fn entry(&self, x: Activations<K>, stage: usize) -> (Activations<K>, bool) {
        let depends = stage > self.lowest;
        let tangents = tangents_of(&x);
        (if depends { leaf(x, tangents, false) } else { x }, depends)
    }

    /// Loss and backward pass of everything from the last entry up.
    fn above(&self, top: usize, entry: Activations<K>, batch: &P::Batch) -> (f64, Gradients<K>) {
        match self.kind {
            Kind::Hessian => {
                let loss = self.stages.total_loss_from(self.model, top, entry, batch);
                (value(&loss), loss.backward())
            }
            Kind::GaussNewton => {
                let outputs = self.stages.outputs_from(self.model, top, entry, batch);
                gauss_newton(self.problem, outputs, batch)
            }
        }
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
