//! Sums over the diagonal of a slot's block, from its basis when the recursion is done, at no further product.
//!
//! E[d v_i (H v)_i] = H_ii for a random direction v. The first product is in the basis: H v_1 = alpha_1 v_1 + beta_2 v_2, to the
//! rounding of Gram-Schmidt, which is far below the scatter of probes. So it needs nothing of its own in checkpoints.

use super::Group;
use crate::Result;
use crate::engine::Kernels;
use crate::hessian::Precision;
use crate::krylov::Basis;
use crate::models::cells::{Cell, CellKind, Cells};
use crate::output::DiagonalProbeRow;

impl<K: Kernels, T: Precision> Group<'_, K, T> {
    /// The rows of table `diagonal_probes`, if they are asked for.
    pub(super) fn diagonal(&self) -> Result<Vec<DiagonalProbeRow>> {
        let mut rows = Vec::new();
        let Some(asked) = &self.job.config.diagonal else { return Ok(rows) };
        for slot in 0..self.slots.len() {
            rows.extend(self.diagonal_of(slot, &asked.by)?);
        }
        Ok(rows)
    }

    fn diagonal_of(&self, slot: usize, kinds: &[CellKind]) -> Result<Vec<DiagonalProbeRow>> {
        let (block, layout, comm) = (self.block(slot), &self.job.layout, self.context.comm);
        let cells = Cells::of(layout, &self.job.config.network.structure(), block, kinds)?;
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
        let row = |(cell, value): (&Cell, f64)| DiagonalProbeRow {
            block: block.name.clone(),
            probe: self.pairs[slot].1 as i32,
            part: cell.part.clone(),
            kind: cell.kind.name().into(),
            index: cell.index as i32,
            num_entries: cell.num_entries as i64,
            value,
        };
        Ok(cells.list().iter().zip(sums).map(row).collect())
    }
}
