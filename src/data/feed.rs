//! The batch's windows as a computation asks for them, micro-batch by micro-batch: where tokens come over a network, the
//! next micro-batch is fetched while this one is computed on.
//!
//! Which one is next is learnt: every sweep asks in the same order. In the first one the guess is the stride so far, the
//! number of ranks. So a rank reads its own windows only.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Batch, MicroBatches, Tokens, Windows};
use crate::Result;

/// Windows that are hashed at a time.
const HASHED: usize = 256;

/// Tokens and windows.
pub struct Feed {
    tokens: Arc<Tokens>,
    windows: Windows,
    order: Mutex<Order>,
    /// To the thread that fetches; `None` for local files.
    ahead: Option<SyncSender<Vec<Range<usize>>>>,
}

#[derive(Default)]
struct Order {
    last: Option<usize>,
    stride: usize,
    successors: HashMap<usize, usize>,
}

impl Order {
    /// Notes that `index` is asked for; which one is next, probably.
    fn next(&mut self, index: usize) -> usize {
        if let Some(last) = self.last.replace(index) {
            self.successors.insert(last, index);
            self.stride = index.saturating_sub(last).max(1);
        }
        self.successors.get(&index).copied().unwrap_or(index + self.stride.max(1))
    }
}

impl Feed {
    /// These windows of these tokens.
    pub fn new(tokens: Tokens, windows: Windows) -> Self {
        let tokens = Arc::new(tokens);
        let ahead = tokens.is_remote().then(|| fetcher(tokens.clone()));
        Self { tokens, windows, order: Mutex::default(), ahead }
    }

    /// Inputs and targets of a micro-batch, every token below `vocabulary`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] with file and position of a token that is not; [`crate::Error::Storage`].
    pub fn batch(&self, cuts: &MicroBatches, index: usize, vocabulary: usize) -> Result<Batch> {
        let windows = cuts.all()[index].windows.clone();
        if let Some(ahead) = &self.ahead {
            self.tokens.prefetch(&self.ranges(windows.clone()))?; // in one request, where it was not guessed before
            let next = self.order.lock().unwrap_or_else(PoisonError::into_inner).next(index);
            if let Some(next) = cuts.all().get(next) {
                // a fetcher that is busy has a guess already; what it misses is fetched when it is asked for
                let _ = ahead.try_send(self.ranges(next.windows.clone()));
            }
        }
        self.windows.batch(&self.tokens, windows, vocabulary)
    }

    fn ranges(&self, windows: Range<usize>) -> Vec<Range<usize>> {
        windows.map(|window| self.windows.range(window)).collect()
    }

    /// The batch's identity, see [`Windows::sha256`]. It reads the whole batch.
    ///
    /// # Errors
    /// As [`Tokens::read`].
    pub fn sha256(&self) -> Result<String> {
        self.windows.sha256(&self.tokens, HASHED)
    }
}

/// A thread that fetches what it is told; it ends with the sender.
fn fetcher(tokens: Arc<Tokens>) -> SyncSender<Vec<Range<usize>>> {
    let (sender, requests) = sync_channel::<Vec<Range<usize>>>(1);
    std::thread::spawn(move || {
        for ranges in requests {
            if let Err(error) = tokens.prefetch(&ranges) {
                tracing::debug!(%error, "fetching ahead"); // it is fetched again, and reported, when it is needed
            }
        }
    });
    sender
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_micro_batch_is_guessed_and_then_known() {
        let mut order = Order::default();
        // rank 1 of 3: micro-batches 1, 4, 7 of one segment and 9, 12 of the next, then all over again
        let sweep = [1, 4, 7, 9, 12];
        let guesses: Vec<usize> = sweep.iter().map(|index| order.next(*index)).collect();
        assert_eq!(guesses, [2, 7, 10, 11, 15]);
        let known: Vec<usize> = sweep.iter().map(|index| order.next(*index)).collect();
        assert_eq!(known, [4, 7, 9, 12, 1]);
    }
}
