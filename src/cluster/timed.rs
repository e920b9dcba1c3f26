//! A transport that knows how long its calls took, the wait for slower ranks included.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::{Pair, Transport};
use crate::Result;

/// Any transport, timed.
pub(super) struct Timed {
    transport: Box<dyn Transport>,
    spent: Cell<Duration>,
}

impl Timed {
    pub(super) fn new(transport: Box<dyn Transport>) -> Self {
        Self { transport, spent: Cell::default() }
    }

    /// Time spent in calls so far.
    pub(super) fn spent(&self) -> Duration {
        self.spent.get()
    }

    fn timed<T>(&self, call: impl FnOnce(&dyn Transport) -> T) -> T {
        let begin = Instant::now();
        let result = call(self.transport.as_ref());
        self.spent.set(self.spent.get() + begin.elapsed());
        result
    }
}

impl Transport for Timed {
    fn rank(&self) -> usize {
        self.transport.rank()
    }

    fn size(&self) -> usize {
        self.transport.size()
    }

    fn barrier(&self) -> Result<()> {
        self.timed(|transport| transport.barrier())
    }

    fn broadcast(&self, root: usize, bytes: &mut [u8]) -> Result<()> {
        self.timed(|transport| transport.broadcast(root, bytes))
    }

    fn reduce_sum(&self, pair: Pair<'_>) -> Result<()> {
        self.timed(|transport| transport.reduce_sum(pair))
    }

    fn reduce_scatter_sum(&self, pair: Pair<'_>) -> Result<()> {
        self.timed(|transport| transport.reduce_scatter_sum(pair))
    }

    fn all_gather(&self, send: &[u8], receive: &mut [u8]) -> Result<()> {
        self.timed(|transport| transport.all_gather(send, receive))
    }

    fn send(&self, to: usize, bytes: &[u8]) -> Result<()> {
        self.timed(|transport| transport.send(to, bytes))
    }

    fn receive(&self, from: usize, bytes: &mut [u8]) -> Result<()> {
        self.timed(|transport| transport.receive(from, bytes))
    }

    fn abort(&self, code: i32, message: &str) -> ! {
        self.transport.abort(code, message)
    }
}
