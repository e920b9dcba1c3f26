//! Eigenvectors of a group's blocks, formed from their bases when the recursions are done, and one pass for the gradient.
//!
//! They are those of each block's first probe. A second probe finds the same ones again, and to tell its copies from equal
//! eigenvalues takes both bases at once, which need not be in the same group; within one basis they are orthonormal.

use std::collections::BTreeMap;

use super::{Group, Partial};
use crate::block::{Block, Layout};
use crate::cluster::Comm;
use crate::engine::Kernels;
use crate::hessian::{Precision, Slice, rounded};
use crate::krylov::{Real, dot};
use crate::output::{EigenvectorMassRow, EigenvectorRow, VectorObject};
use crate::plan::Pair;
use crate::spectrum::{Ritz, noise_floor, ritz};
use crate::{Error, Result};

/// Eigenvectors that are asked for.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Most of each block.
    pub count: usize,
    /// Called on rank 0 with a block's file of so many vectors; gives the path that it has from then on.
    pub write: &'a dyn Fn(Pair, usize, Vec<u8>) -> Result<String>,
}

/// What is known of a group's eigenvectors.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    /// Each with its value and errors.
    pub vectors: Vec<EigenvectorRow>,
    /// Where each lies.
    pub mass: Vec<EigenvectorMassRow>,
}

impl<K: Kernels, T: Precision> Group<'_, K, T> {
    /// The slots whose eigenvectors are wanted.
    pub(super) fn first_probes(&self) -> Vec<usize> {
        let is_first = |slot: &usize| self.context.eigenvectors.is_some() && self.pairs[*slot].1 == 0;
        (0..self.pairs.len()).filter(is_first).collect()
    }

    /// Forms and writes the eigenvectors of all blocks whose first probe is in the group. Rank 0 gets what is known of them.
    pub(super) fn eigenvectors(&mut self) -> Result<Known> {
        let (slots, mut known) = (self.first_probes(), Known::default());
        let Some(wanted) = self.context.eigenvectors.filter(|_| !slots.is_empty()) else { return Ok(known) };
        let gradients = self.gradients(&slots)?;
        let mut counts = Vec::new();
        for (&slot, gradient) in slots.iter().zip(&gradients) {
            let found = if self.context.comm.is_root() { self.ritz(slot, wanted.count)? } else { Vec::new() };
            counts.push(format!("{} of `{}`", found.len(), self.block(slot).name));
            self.of_block(slot, wanted, &found, gradient, &mut known)?;
        }
        let (count, counts) = (wanted.count, counts.join(", "));
        let line = format!("group {}: eigenvectors that have converged, of {count} asked for: {counts}", self.name);
        (self.context.log)(&line);
        Ok(known)
    }

    /// Gradients of these slots' blocks: a sweep behind the last step, saved and resumed like those before.
    fn gradients(&mut self, slots: &[usize]) -> Result<Vec<Slice<T>>> {
        let (job, blocks) = (self.job, slots.iter().map(|slot| self.block(*slot)).collect::<Vec<&Block>>());
        let (data, advance) = (job.data(), self.context.advance);
        let done_before = self.step * data.num_micro_batches();
        let progress = |done: usize| {
            advance((done_before + done) as u64);
            Ok(())
        };
        let mut operator = job.operator(self.context.comm);
        operator.progress = Some(&progress);
        let mut partial = self.resumed.take().unwrap_or_else(|| Partial::of(self.pairs.len()));
        if partial.segments == 0 {
            let asked = self.asked()?; // also what was asked for in the last step, which did not heed it
            self.save_or_stop(asked, &[], &partial)?;
        }
        while partial.segments < data.num_segments() {
            partial.add(operator.gradients_of_segment(partial.segments, &blocks)?);
            let asked = self.asked()?;
            if partial.segments < data.num_segments() {
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
        known: &mut Known,
    ) -> Result<()> {
        let (comm, layout, block) = (self.context.comm, &self.job.layout, self.block(slot));
        let coordinates = shared(comm, found.iter().flat_map(|ritz| &ritz.coordinates).copied())?;
        let (long, operator) = (self.slots[slot].long(), self.job.operator(comm));
        let mut object = VectorObject::new::<T>(layout, block, found.len());
        let mut dots = vec![dot(&gradient.values, &gradient.values)];
        for (index, coordinates) in coordinates.chunks_exact(long.tridiagonal().steps()).enumerate() {
            let slice = long.combined(coordinates)?;
            dots.push(dot(&slice.values, &gradient.values));
            let whole = operator.whole(&slice)?;
            if comm.is_root() {
                object.push(&whole);
                known.mass.extend(mass(layout, block, index, &whole));
            }
        }
        comm.all_reduce_sum(&mut dots)?;
        if found.is_empty() {
            return Ok(());
        }
        let file = (wanted.write)(self.pairs[slot], found.len(), object.into_bytes())?;
        let overlap = |dot: f64| (dots[0] > 0.0).then(|| dot.abs() / dots[0].sqrt());
        let row = |(index, (ritz, dot)): (usize, (&Ritz, &f64))| EigenvectorRow {
            block: block.name.clone(),
            index: index as i32,
            eigenvalue: ritz.eigenvalue,
            residual_bound: ritz.residual_bound,
            angle: ritz.angle,
            gradient_overlap: overlap(*dot),
            file: file.clone(),
        };
        known.vectors.extend(found.iter().zip(&dots[1..]).enumerate().map(row));
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

/// Where a vector of a block lies.
fn mass<T: Real>(layout: &Layout, block: &Block, index: usize, flat: &[T]) -> Vec<EigenvectorMassRow> {
    let (mut masses, mut rest) = (BTreeMap::new(), flat);
    for piece in &block.pieces {
        let (entries, after) = rest.split_at(piece.num_params(layout));
        *masses.entry(piece.parameter).or_insert(0.0) += dot(entries, entries);
        rest = after;
    }
    let row = |(parameter, mass): (usize, f64)| EigenvectorMassRow {
        block: block.name.clone(),
        index: index as i32,
        parameter: layout.parameters()[parameter].name.clone(),
        mass,
    };
    masses.into_iter().map(row).collect()
}
