//! The world of one rank: copies.

use super::{Comm, Pair, Transport, host_name};
use crate::Result;

/// A communicator of one rank.
pub fn comm() -> Comm {
    Comm::new(Box::new(Solo))
}

struct Solo;

impl Transport for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn barrier(&self) -> Result<()> {
        Ok(())
    }

    fn broadcast(&self, _root: usize, _bytes: &mut [u8]) -> Result<()> {
        Ok(())
    }

    fn reduce_sum(&self, pair: Pair<'_>) -> Result<()> {
        match pair {
            Pair::F32(send, receive) => receive.copy_from_slice(send),
            Pair::F64(send, receive) => receive.copy_from_slice(send),
        }
        Ok(())
    }

    fn reduce_scatter_sum(&self, pair: Pair<'_>) -> Result<()> {
        self.reduce_sum(pair)
    }

    fn all_gather(&self, send: &[u8], receive: &mut [u8]) -> Result<()> {
        receive.copy_from_slice(send);
        Ok(())
    }

    fn send(&self, _to: usize, _bytes: &[u8]) -> Result<()> {
        unreachable!("a single rank has no other to send to")
    }

    fn receive(&self, _from: usize, _bytes: &mut [u8]) -> Result<()> {
        unreachable!("a single rank has no other to receive from")
    }

    fn abort(&self, code: i32, message: &str) -> ! {
        eprintln!("hesspec on {}: {message}", host_name());
        std::process::exit(code)
    }
}
