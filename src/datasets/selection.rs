//! Which samples make up a batch.
//!
//! Sample w of all samples begins at position `start + w * stride`. The batch's sample i is w = i (sequential) or
//! w = permutation(i) over *all* samples of the data: a random sample, and a prefix of every larger one.

use super::Unit;
use crate::data::{Order, Permutation};
use crate::{Error, Result};

/// What `[batch]` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The key that says how many samples, for messages.
    pub key: String,
    /// Number of samples; `None`: all that the data has.
    pub num_samples: Option<usize>,
    /// Position of the first sample.
    pub start: usize,
    /// Distance between the positions of two samples.
    pub stride: usize,
    /// Which samples come first.
    pub order: Order,
    /// Seed of a permuted order.
    pub seed: u64,
}

/// The samples of a batch, by their positions in the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    start: usize,
    stride: usize,
    num_samples: usize,
    permutation: Option<Permutation>,
}

impl Selection {
    /// The samples of a choice from data with so many positions; `size` says how much that is, for messages.
    ///
    /// # Errors
    /// [`Error::Config`] where the data has fewer samples than asked for, or none.
    pub fn new(choice: &Choice, num_positions: usize, unit: Unit, size: &str) -> Result<Self> {
        let Choice { start, stride, order, seed, .. } = *choice;
        let available = if num_positions > start { (num_positions - 1 - start) / stride + 1 } else { 0 };
        let num_samples = choice.num_samples.unwrap_or(available);
        if available == 0 || num_samples > available {
            return Err(too_few(choice, unit, size, [num_samples.max(1), available]));
        }
        let permutation = (order == Order::Permuted).then(|| Permutation::new(available, seed));
        Ok(Self { start, stride, num_samples, permutation })
    }

    /// The first `num_samples` positions, over again from 0 where there are fewer.
    pub fn first(num_samples: usize) -> Self {
        Self { start: 0, stride: 1, num_samples, permutation: None }
    }

    /// Number of samples.
    pub fn num_samples(&self) -> usize {
        self.num_samples
    }

    /// Position of sample `index` of the batch.
    pub fn position(&self, index: usize) -> usize {
        self.start + self.permutation.map_or(index, |permutation| permutation.apply(index)) * self.stride
    }
}

fn too_few(choice: &Choice, unit: Unit, size: &str, [asked, available]: [usize; 2]) -> Error {
    let Unit { sample, prediction, predictions } = unit;
    let Choice { key, start, stride, .. } = choice;
    let most = available * predictions;
    let hint = if available == 0 && predictions > 1 {
        format!("a {sample} needs {} {prediction}s from batch.start on", predictions + 1)
    } else if available == 0 {
        format!("there is no {sample} from batch.start on")
    } else {
        format!("set {key} to {most} or less, lower batch.start or batch.stride, or prepare more data")
    };
    let each = if predictions > 1 { format!(" of {predictions} {prediction}s") } else { String::new() };
    Error::Config(format!(
        "{key} = {}: {asked} {sample}s{each}, {stride} apart, from {prediction} {start}, are asked for; the data's {size} \
         hold {available}\nHINT: {hint}",
        asked * predictions,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Unit = Unit { sample: "window", prediction: "token", predictions: 4 };

    fn choice(num_samples: Option<usize>, start: usize, stride: usize, order: Order) -> Choice {
        Choice { key: WINDOW.key(), num_samples, start, stride, order, seed: 3 }
    }

    /// Selects from so many tokens, of which each window needs one more than it has.
    fn selected(num_tokens: usize, choice: &Choice) -> Result<Selection> {
        Selection::new(choice, num_tokens.saturating_sub(4), WINDOW, &format!("{num_tokens} tokens"))
    }

    #[test]
    fn all_windows_that_fit_are_taken_and_not_one_more() {
        let count = |num_tokens, start, stride| {
            selected(num_tokens, &choice(None, start, stride, Order::Sequential)).map(|s| s.num_samples())
        };
        assert_eq!(count(5, 0, 4).unwrap(), 1);
        assert_eq!(count(8, 0, 4).unwrap(), 1, "the second window's last target is missing");
        assert_eq!(count(9, 0, 4).unwrap(), 2);
        assert_eq!(count(9, 0, 1).unwrap(), 5);
        assert_eq!(count(9, 1, 4).unwrap(), 1);
        assert_eq!(count(4, 0, 4).unwrap_err().exit_code(), 2);
        assert!(count(9, 5, 4).unwrap_err().to_string().contains("needs 5 tokens from batch.start on"));
        assert!(count(9, usize::MAX, 4).is_err());
        let error = selected(12, &choice(Some(3), 0, 4, Order::Sequential)).unwrap_err().to_string();
        assert!(error.contains("batch.tokens = 12") && error.contains("set batch.tokens to 8 or less"), "{error}");
    }

    #[test]
    fn a_permuted_batch_is_a_prefix_of_every_larger_one() {
        let positions = |num_samples| {
            let selection = selected(100, &choice(num_samples, 1, 2, Order::Permuted)).unwrap();
            (0..selection.num_samples()).map(|index| selection.position(index)).collect::<Vec<_>>()
        };
        let all = positions(None);
        assert_eq!(positions(Some(10)), all[..10]);
        let mut begins = all.clone();
        assert_ne!(begins[..10], (0..10).map(|window| 1 + 2 * window).collect::<Vec<_>>());
        begins.sort_unstable();
        assert!(begins.into_iter().eq((0..48).map(|window| 1 + 2 * window)));
    }

    #[test]
    fn images_are_counted_by_themselves() {
        let asked = Choice { key: Unit::SAMPLE.key(), ..choice(Some(7), 2, 1, Order::Sequential) };
        let error = Selection::new(&asked, 5, Unit::SAMPLE, "5 samples").unwrap_err().to_string();
        assert!(
            error.contains("batch.samples = 7: 7 samples, 1 apart, from sample 2") && error.contains("hold 3"),
            "{error}"
        );
    }
}
