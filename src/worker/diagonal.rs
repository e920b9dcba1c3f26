//! Sums over the diagonal of a slot's block, from its basis when the recursion is done, at no further product.
//!
//! E[d v_i (H v)_i] = H_ii for a random direction v. The first product is in the basis: H v_1 = alpha_1 v_1 + beta_2 v_2, to the
//! rounding of Gram-Schmidt, which is far below the scatter of probes. So it needs nothing of its own in checkpoints.

use super::Group;
use crate::Result;
use crate::engine::Kernels;
use crate::hessian::{Pair, Precision};
use crate::krylov::Basis;
use crate::models::Structure;
use crate::models::cells::{Cell, CellKind, Cells};

/// An estimate of the sum over the diagonal in one cell, from one probe.
#[derive(Debug, Clone, PartialEq)]
pub struct DiagonalSum {
    /// Block and probe.
    pub pair: Pair,
    /// Which entries are summed.
    pub cell: Cell,
    /// The estimate.
    pub value: f64,
}

impl<K: Kernels, T: Precision> Group<'_, K, T> {
    /// The sums of all slots, if they are asked for.
    pub(super) fn diagonal(&self) -> Result<Vec<DiagonalSum>> {
        let mut sums = Vec::new();
        let Some((kinds, structure)) = &self.context.diagonal else { return Ok(sums) };
        for slot in 0..self.slots.len() {
            sums.extend(self.diagonal_of(slot, kinds, structure)?);
        }
        Ok(sums)
    }

    fn diagonal_of(&self, slot: usize, kinds: &[CellKind], structure: &Structure) -> Result<Vec<DiagonalSum>> {
        let (block, comm) = (self.block(slot), self.comm());
        let cells = Cells::of(self.work.layout(), structure, block, kinds)?;
        let (basis, t) = (self.slots[slot].long().basis(), self.slots[slot].long().tridiagonal());
        let v = basis.get(0)?;
        let next = if t.beta[0] > 0.0 { Some(basis.get(1)?) } else { None }; // else v is an eigenvector
        let value = |i: usize| {
            let beside = next.as_ref().map_or(0.0, |next| t.beta[0] * next.values[i].to_f64());
            let x = v.values[i].to_f64();
            v.len as f64 * x * (t.alpha[0] * x + beside)
        };
        let mut sums = cells.sums(comm.shard(v.len).range(), value);
        comm.all_reduce_sum(&mut sums)?;
        let pair = self.pairs[slot];
        Ok(cells.list().iter().zip(sums).map(|(cell, value)| DiagonalSum { pair, cell: cell.clone(), value }).collect())
    }
}
