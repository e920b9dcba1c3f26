//! Which micro-batch is asked for next. It is learnt: every sweep asks in the same order. In the first one the guess is the
//! stride so far, the number of ranks. So a rank fetches its own samples only.

use std::collections::HashMap;

/// The order in which micro-batches are asked for.
#[derive(Default)]
pub(super) struct Order {
    last: Option<usize>,
    stride: usize,
    successors: HashMap<usize, usize>,
}

impl Order {
    /// Notes that `index` is asked for; which one is next, probably.
    pub(super) fn next(&mut self, index: usize) -> usize {
        if let Some(last) = self.last.replace(index) {
            self.successors.insert(last, index);
            self.stride = index.saturating_sub(last).max(1);
        }
        self.successors.get(&index).copied().unwrap_or(index + self.stride.max(1))
    }
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
