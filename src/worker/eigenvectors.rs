//! Eigenvectors of a group's blocks, formed from their bases when the recursions are done, and one pass for the gradient.
//!
//! They are those of each block's first probe. A second probe finds the same ones again, and to tell its copies from equal
//! eigenvalues takes both bases at once, which need not be in the same group; within one basis they are orthonormal.

use std::collections::BTreeMap;

use super::{Group, Partial};
use crate::block::{Block, Layout};
use crate::cluster::Comm;
use crate::engine::Kernels;
use crate::hessian::{Pair, Precision, Slice, rounded};
use crate::krylov::{Real, dot};
use crate::models::VectorObject;
use crate::spectrum::{Ritz, noise_floor, ritz};
use crate::{Error, Result};

/// Eigenvectors that are asked for.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Most of each block.
    pub count: usize,
    /// Called on rank 0 with a block's file of so many vectors ([`VectorObject`]); gives the path that it has from then on.
    pub write: &'a dyn Fn(Pair, usize, Vec<u8>) -> Result<String>,
}

/// What is known of an eigenvector that has converged.
#[derive(Debug, Clone, PartialEq)]
pub struct Eigenvector {
    /// The block, by its place.
    pub block: usize,
    /// Its number among the block's, by magnitude of the eigenvalue.
    pub index: usize,
    /// The Ritz value.
    pub eigenvalue: f64,
    /// Bound of the Ritz value's distance to an eigenvalue.
    pub residual_bound: f64,
    /// Estimate of the sine of the angle to the eigenvector ([`Ritz::angle`](crate::spectrum::Ritz)).
    pub angle: f64,
    /// |cosine| of the angle to the gradient; `None` where that is zero.
    pub gradient_overlap: Option<f64>,
    /// Share of the vector's squared norm in each parameter of the block, by the parameter's place in the layout.
    pub mass: Vec<(usize, f64)>,
    /// The file that it is in.
    pub file: String,
}

impl<K: Kernels, T: Precision> Group<'_, K, T> {
    /// The slots whose eigenvectors are wanted.
    pub(super) fn first_probes(&self) -> Vec<usize> {
        let is_first = |slot: &usize| self.context.eigenvectors.is_some() && self.pairs[*slot].1 == 0;
        (0..self.pairs.len()).filter(is_first).collect()
    }

    /// Forms and writes the eigenvectors of all blocks whose first probe is in the group. Rank 0 gets what is known of them.
    pub(super) fn eigenvectors(&mut self) -> Result<Vec<Eigenvector>> {
        let (slots, mut known) = (self.first_probes(), Vec::new());
        let Some(wanted) = self.context.eigenvectors.filter(|_| !slots.is_empty()) else { return Ok(known) };
        let gradients = self.gradients(&slots)?;
        let mut counts = Vec::new();
        for (&slot, gradient) in slots.iter().zip(&gradients) {
            let found = if self.comm().is_root() { self.ritz(slot, wanted.count)? } else { Vec::new() };
            counts.push(format!("{} of `{}`", found.len(), self.block(slot).name));
            self.of_block(slot, wanted, &found, gradient, &mut known)?;
        }
        let (count, counts) = (wanted.count, counts.join(", "));
        let line = format!("group {}: eigenvectors that have converged, of {count} asked for: {counts}", self.name);
        self.context.observer.log(&line);
        Ok(known)
    }

    /// Gradients of these slots' blocks: a sweep behind the last step, saved and resumed like those before.
    fn gradients(&mut self, slots: &[usize]) -> Result<Vec<Slice<T>>> {
        let blocks: Vec<&Block> = slots.iter().map(|slot| self.block(*slot)).collect();
        let (work, observer) = (self.work, self.context.observer);
        let (num_segments, done_before) = (work.operator.passes.num_segments(), self.step * self.num_micro_batches());
        let progress = |done: usize| {
            observer.advance((done_before + done) as u64);
            Ok(())
        };
        let mut operator = work.operator.again();
        operator.progress = Some(&progress);
        let mut partial = self.resumed.take().unwrap_or_else(|| Partial::of(self.pairs.len()));
        if partial.segments == 0 {
            let asked = self.asked()?; // also what was asked for in the last step, which did not heed it
            self.save_or_stop(asked, &[], &partial)?;
        }
        while partial.segments < num_segments {
            partial.add(operator.gradients_of_segment(partial.segments, &blocks)?);
            let asked = self.asked()?;
            if partial.segments < num_segments {
                self.save_or_stop(asked, slots, &partial)?;
            }
        }
        Ok(partial.totals.iter().map(rounded).collect())
    }

    fn ritz(&self, slot: usize, count: usize) -> Result<Vec<Ritz>> {
        let ((at, probe), t) = (self.pairs[slot], self.slots[slot].long().tridiagonal());
        ritz(&self.block(slot).name, probe, t, count, noise_floor(self.context.etas[at]))
    }

    /// Forms what has converged of a slot, which rank 0 has `found`, and writes it.
    fn of_block(
        &self,
        slot: usize,
        wanted: Wanted<'_>,
        found: &[Ritz],
        gradient: &Slice<T>,
        known: &mut Vec<Eigenvector>,
    ) -> Result<()> {
        let (comm, layout, block) = (self.comm(), self.work.layout(), self.block(slot));
        let coordinates = shared(comm, found.iter().flat_map(|ritz| &ritz.coordinates).copied())?;
        let (long, operator) = (self.slots[slot].long(), &self.work.operator);
        let mut object = VectorObject::new::<T>(layout, block, found.len());
        let (mut dots, mut masses) = (vec![dot(&gradient.values, &gradient.values)], Vec::new());
        for coordinates in coordinates.chunks_exact(long.tridiagonal().steps()) {
            let slice = long.combined(coordinates)?;
            dots.push(dot(&slice.values, &gradient.values));
            let whole = operator.whole(&slice)?;
            if comm.is_root() {
                object.push(&whole);
                masses.push(mass(layout, block, &whole));
            }
        }
        comm.all_reduce_sum(&mut dots)?;
        if found.is_empty() {
            return Ok(());
        }
        let file = (wanted.write)(self.pairs[slot], found.len(), object.into_bytes())?;
        let overlap = |dot: f64| (dots[0] > 0.0).then(|| dot.abs() / dots[0].sqrt());
        let each = found.iter().zip(&dots[1..]).zip(masses).enumerate();
        known.extend(each.map(|(index, ((ritz, dot), mass))| Eigenvector {
            block: self.pairs[slot].0,
            index,
            eigenvalue: ritz.eigenvalue,
            residual_bound: ritz.residual_bound,
            angle: ritz.angle,
            gradient_overlap: overlap(*dot),
            mass,
            file: file.clone(),
        }));
        Ok(())
    }
}

/// Rank 0's numbers, on every rank: no rank goes by an eigen-decomposition of its own.
fn shared(comm: &Comm, numbers: impl Iterator<Item = f64>) -> Result<Vec<f64>> {
    let mut bytes: Vec<u8> = numbers.flat_map(f64::to_le_bytes).collect();
    comm.broadcast_bytes(0, &mut bytes)?;
    match bytes.as_chunks::<8>() {
        (chunks, []) => Ok(chunks.iter().map(|chunk| f64::from_le_bytes(*chunk)).collect()),
        (_, rest) => Err(Error::Other(format!("coordinates of eigenvectors: {} bytes are left over", rest.len()))),
    }
}

/// Where a vector of a block lies: share of its squared norm by parameter.
fn mass<T: Real>(layout: &Layout, block: &Block, flat: &[T]) -> Vec<(usize, f64)> {
    let (mut masses, mut rest) = (BTreeMap::new(), flat);
    for piece in &block.pieces {
        let (entries, after) = rest.split_at(piece.num_params(layout));
        *masses.entry(piece.parameter).or_insert(0.0) += dot(entries, entries);
        rest = after;
    }
    masses.into_iter().collect()
}
