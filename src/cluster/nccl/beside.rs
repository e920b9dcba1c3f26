//! Vectors over NCCL, everything else over the communicator that was there before: what a run on GPUs uses.
//!
//! Reduce-scatter and all-gather carry nearly all bytes of a step (ARCHITECTURE.md). Scalars, messages, barriers and the
//! end of the job stay with the carrier, whose abort ends all ranks even where NCCL is stuck. Not yet run on a GPU.

use super::super::{Comm, Pair, Transport};
use super::staged::Staged;
use crate::Result;

pub(super) struct Beside {
    pub(super) vectors: Staged,
    pub(super) carrier: Comm,
}

impl Transport for Beside {
    fn rank(&self) -> usize {
        self.carrier.rank()
    }

    fn size(&self) -> usize {
        self.carrier.size()
    }

    fn barrier(&self) -> Result<()> {
        self.carrier.transport().barrier()
    }

    fn broadcast(&self, root: usize, bytes: &mut [u8]) -> Result<()> {
        self.carrier.transport().broadcast(root, bytes)
    }

    fn reduce_sum(&self, pair: Pair<'_>) -> Result<()> {
        self.carrier.transport().reduce_sum(pair)
    }

    fn reduce_scatter_sum(&self, pair: Pair<'_>) -> Result<()> {
        self.vectors.reduce_scatter_sum(pair)
    }

    fn all_gather(&self, send: &[u8], receive: &mut [u8]) -> Result<()> {
        self.vectors.all_gather(send, receive)
    }

    fn send(&self, to: usize, bytes: &[u8]) -> Result<()> {
        self.carrier.transport().send(to, bytes)
    }

    fn receive(&self, from: usize, bytes: &mut [u8]) -> Result<()> {
        self.carrier.transport().receive(from, bytes)
    }

    fn abort(&self, code: i32, message: &str) -> ! {
        self.vectors.give_up();
        self.carrier.transport().abort(code, message)
    }
}
