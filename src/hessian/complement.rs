//! Where the short recursions of a slot begin: in the complement of the eigenvectors that its long one has found.

use super::pass::Precision;
use super::settings::Settings;
use super::sharded::Slice;
use crate::Result;
use crate::block::{Block, Layout};
use crate::cluster::Comm;
use crate::krylov::{Complement, Locked, Tridiagonal};
use crate::probe::probe;
use crate::spectrum::{converged_eigenvectors, noise_floor};

/// The complement of one (block, probe) pair.
pub(super) struct BlockComplement<'a> {
    comm: &'a Comm,
    settings: &'a Settings,
    /// Names the start vectors: they are pure functions of (seed, block, probe, number, index).
    name: String,
    dim: usize,
    noise_floor: f64,
}

impl<'a> BlockComplement<'a> {
    /// `eta`: the error of a product.
    pub(super) fn new(
        block: &Block,
        layout: &Layout,
        number: u32,
        eta: f64,
        settings: &'a Settings,
        comm: &'a Comm,
    ) -> Self {
        let name = format!("{}, complement of probe {number}", block.name);
        Self { comm, settings, name, dim: block.num_params(layout), noise_floor: noise_floor(eta) }
    }
}

impl<T: Precision> Complement<Slice<T>> for BlockComplement<'_> {
    fn start(&self, index: usize) -> Slice<T> {
        let (kind, seed, range) = (self.settings.probe, self.settings.seed, self.comm.shard(self.dim).range());
        let entries = probe(kind, seed, &self.name, index as u32, range);
        Slice { values: entries.into_iter().map(T::from_f64).collect(), len: self.dim }
    }

    fn locked(&self, t: &Tridiagonal) -> Result<Locked> {
        converged_eigenvectors(t, self.dim, self.noise_floor)
    }
}
