//! Attention in tiles of query rows: nothing of size (time, time) is kept.

use burn_backend::Shape;
use burn_backend::ops::{AttentionModuleOptions, FloatTensorOps};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::attention_tiles::{Problem, Tile};
use super::dual_slices::{active_slots, tensor, to_be_filled};
use super::element::Element;
use super::matrix::{MatrixMut, SharedOutput, Threads, Write, product};
use crate::engine::kernels::{Dual, Mask};

/// `O = P v`, with tangents `P' v + P v'`.
pub(super) fn attention<T: Element>(
    query: &Dual<Flex>,
    key: &Dual<Flex>,
    value: &Dual<Flex>,
    mask: Option<&FlexTensor>,
    options: &AttentionModuleOptions,
) -> Option<Dual<Flex>> {
    let problem = Problem::<T>::new([query, key, value], mask, options)?;
    let [batch, heads, queries, _] = problem.query.shape();
    let shape = [batch, heads, queries, problem.value.shape()[3]];
    let mut output = HeadsBuffer::new(shape, &active_slots(&[query, key, value]), false);
    let slots = output.slots();
    {
        let output = output.shared();
        let places = problem.places();
        let tiles: Vec<_> = places.iter().flat_map(|&at| problem.tiles(at)).collect();
        tiles.par_iter().for_each(|tile| forward_tile(&problem, tile, &slots, &output));
    }
    Some(output.finish())
}

fn forward_tile<T: Element>(
    problem: &Problem<'_, T>,
    tile: &Tile<'_, '_, T>,
    slots: &[usize],
    output: &SharedHeads<'_, T>,
) {
    let (mut p, mut moved) = (to_be_filled(tile.len()), to_be_filled(tile.len()));
    let value = tile.of_keys(&problem.value);
    tile.probabilities(&mut p);
    // SAFETY (here and below): every tile writes rows of its own.
    let mut out = unsafe { output.primal(tile.at) };
    product(&mut out.rows(tile.rows.clone()), Write::Replace, T::ONE, tile.scores(&p), value, Threads::This);
    for (index, &slot) in slots.iter().enumerate() {
        let mut out = unsafe { output.tangent(index, tile.at) };
        let (mut out, mut write) = (out.rows(tile.rows.clone()), Write::Replace);
        if tile.moved_probabilities(slot, &p, &mut moved) {
            product(&mut out, write.then_add(), T::ONE, tile.scores(&moved), value, Threads::This);
        }
        if let Some(moved_value) = tile.moved_of_keys(&problem.value, slot) {
            product(&mut out, write.then_add(), T::ONE, tile.scores(&p), moved_value, Threads::This);
        }
    }
}

/// A dual of shape (batch, heads, time, head) under construction. Its memory is (batch, time, heads, head), so that the
/// model's way back to (batch, time, width) is a view.
pub(super) struct HeadsBuffer<T> {
    shape: [usize; 4],
    active: Mask,
    primal: Vec<T>,
    /// Tangents of the active slots.
    tangents: Vec<Vec<T>>,
}

impl<T: Element> HeadsBuffer<T> {
    /// Zeros if tasks add to it; else every number must be written.
    pub(super) fn new(shape: [usize; 4], active: &Mask, zeros: bool) -> Self {
        let len = shape.iter().product();
        let buffer = || if zeros { vec![T::ZERO; len] } else { to_be_filled(len) };
        let tangents = active.iter().filter(|&&on| on).map(|_| buffer()).collect();
        Self { shape, active: active.clone(), primal: buffer(), tangents }
    }

    /// The active slots.
    pub(super) fn slots(&self) -> Vec<usize> {
        (0..self.active.len()).filter(|&s| self.active[s]).collect()
    }

    /// For tasks that write to places of their own.
    pub(super) fn shared(&mut self) -> SharedHeads<'_, T> {
        let tangents = self.tangents.iter_mut().map(|t| SharedOutput::new(t)).collect();
        SharedHeads { shape: self.shape, primal: SharedOutput::new(&mut self.primal), tangents }
    }

    /// The dual.
    pub(super) fn finish(self) -> Dual<Flex> {
        let [batch, heads, time, head] = self.shape;
        let swapped =
            |numbers| Flex::float_swap_dims(tensor::<T>(numbers, Shape::from(vec![batch, time, heads, head])), 1, 2);
        let mut tangents = self.tangents.into_iter();
        let tangents = self.active.iter().map(|&on| if on { tangents.next().map(swapped) } else { None }).collect();
        Dual::new(swapped(self.primal), tangents)
    }
}

/// A [`HeadsBuffer`] that tasks write to.
pub(super) struct SharedHeads<'a, T> {
    shape: [usize; 4],
    primal: SharedOutput<'a, T>,
    tangents: Vec<SharedOutput<'a, T>>,
}

impl<T: Element> SharedHeads<'_, T> {
    /// (time, head) of one (batch, head).
    ///
    /// # Safety
    /// No two tasks may write to the same rows of the same place.
    pub(super) unsafe fn primal(&self, at: [usize; 2]) -> MatrixMut<'_, T> {
        unsafe { self.place(&self.primal, at) }
    }

    /// Rows of the tangent of the `index`-th active slot.
    ///
    /// # Safety
    /// No two tasks may write to the same rows of the same place.
    pub(super) unsafe fn tangent(&self, index: usize, at: [usize; 2]) -> MatrixMut<'_, T> {
        unsafe { self.place(&self.tangents[index], at) }
    }

    unsafe fn place<'s>(&self, numbers: &'s SharedOutput<'_, T>, [batch, head]: [usize; 2]) -> MatrixMut<'s, T> {
        let [_, heads, time, width] = self.shape;
        let offset = (batch * time * heads + head) * width;
        unsafe { numbers.matrix(offset, [time, width], [(heads * width) as isize, 1]) }
    }
}
