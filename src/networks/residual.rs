//! Networks whose stages are the branches of a residual stream: what transformers have in common.

use std::ops::Range;

use burn::tensor::{Tensor, backend::Backend};

use super::{BatchOf, Network};
use crate::engine::{Kernels, SecondOrder};
use crate::hessian::Stages;

/// Where a parameter takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Below the branches, or there as well.
    Bottom,
    /// In this branch, counted from the input up.
    Branch(usize),
    /// Above the branches only.
    Top,
}

impl Place {
    /// In a transformer whose layers are numbered below `layers`, like `transformer.h.`, and have two branches each: attention, then the
    /// MLP, to which parts belong whose names begin with one of `of_mlp`. `above` says which parameters outside are above all layers.
    pub fn in_layers(name: &str, layers: &str, of_mlp: &[&str], above: impl Fn(&str) -> bool) -> Self {
        let Some(inside) = name.strip_prefix(layers) else {
            return if above(name) { Self::Top } else { Self::Bottom };
        };
        let numbered = inside.split_once('.').and_then(|(layer, part)| Some((layer.parse::<usize>().ok()?, part)));
        numbered.map_or(Self::Bottom, |(layer, part)| {
            Self::Branch(2 * layer + usize::from(of_mlp.iter().any(|start| part.starts_with(start))))
        })
    }
}

/// A network of branches on a residual stream, (rows, width): each adds to the stream what it makes of it, and may norm the sum.
///
/// Such a network has [`Stages`]: stage 1 + b is the stream before branch b, the highest one that behind all branches. It says so by
/// `Some(self)` in [`Network::stages`].
pub trait Residual: Network {
    /// Number of branches.
    fn num_branches(&self) -> usize;

    /// Where a parameter takes part.
    fn place_of(&self, parameter: &str) -> Place;

    /// The stream before the first branch.
    fn embed<B: Backend>(&self, model: &Self::Module<B>, batch: &BatchOf<Self, B>) -> Tensor<B, 2>;

    /// The stream behind some of the branches, from what it is before them.
    fn stream<B: Backend>(
        &self,
        model: &Self::Module<B>,
        x: Tensor<B, 2>,
        branches: Range<usize>,
        batch: &BatchOf<Self, B>,
    ) -> Tensor<B, 2>;

    /// [`Network::outputs`] from the stream behind all branches.
    fn outputs_above<B: Backend>(
        &self,
        model: &Self::Module<B>,
        x: Tensor<B, 2>,
        batch: &BatchOf<Self, B>,
    ) -> Tensor<B, 2>;

    /// [`Network::total_loss`] from the stream behind all branches; override it together with that.
    fn loss_above<K: Kernels>(
        &self,
        model: &Self::Module<SecondOrder<K>>,
        x: Tensor<SecondOrder<K>, 2>,
        batch: &BatchOf<Self, SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 1> {
        Network::loss(self, self.outputs_above(model, x, batch), batch)
    }

    /// The stream behind all branches.
    fn through<B: Backend>(&self, model: &Self::Module<B>, batch: &BatchOf<Self, B>) -> Tensor<B, 2> {
        self.stream(model, self.embed(model, batch), 0..self.num_branches(), batch)
    }
}

impl<K: Kernels, N: Residual> Stages<SecondOrder<K>, N::Module<SecondOrder<K>>, BatchOf<N, SecondOrder<K>>> for N {
    fn stage_of(&self, _: &N::Module<SecondOrder<K>>, parameter: &str) -> usize {
        match self.place_of(parameter) {
            Place::Bottom => 0,
            Place::Branch(branch) => 1 + branch,
            Place::Top => 1 + self.num_branches(),
        }
    }

    fn num_stages(&self, _: &N::Module<SecondOrder<K>>) -> usize {
        1 + self.num_branches()
    }

    fn first(
        &self,
        model: &N::Module<SecondOrder<K>>,
        batch: &BatchOf<N, SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 2> {
        self.embed(model, batch)
    }

    fn advance(
        &self,
        model: &N::Module<SecondOrder<K>>,
        stages: Range<usize>,
        entry: Tensor<SecondOrder<K>, 2>,
        batch: &BatchOf<N, SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 2> {
        self.stream(model, entry, stages.start - 1..stages.end - 1, batch)
    }

    fn outputs_from(
        &self,
        model: &N::Module<SecondOrder<K>>,
        stage: usize,
        entry: Tensor<SecondOrder<K>, 2>,
        batch: &BatchOf<N, SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 2> {
        self.outputs_above(model, self.stream(model, entry, stage - 1..self.num_branches(), batch), batch)
    }

    fn total_loss_from(
        &self,
        model: &N::Module<SecondOrder<K>>,
        stage: usize,
        entry: Tensor<SecondOrder<K>, 2>,
        batch: &BatchOf<N, SecondOrder<K>>,
    ) -> Tensor<SecondOrder<K>, 1> {
        self.loss_above(model, self.stream(model, entry, stage - 1..self.num_branches(), batch), batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_go_by_layer_and_part() {
        let place = |name: &str| Place::in_layers(name, "h.", &["mlp.", "ln_2."], |name| name == "head");
        assert_eq!(
            [place("wte"), place("head"), place("h.x.mlp.w"), place("h.1")],
            [Place::Bottom, Place::Top, Place::Bottom, Place::Bottom]
        );
        assert_eq!([place("h.0.attn.w"), place("h.3.ln_2.w"), place("h.3.ln_1.w")], [0, 7, 6].map(Place::Branch));
    }
}
