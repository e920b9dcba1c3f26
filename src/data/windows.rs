//! Windows of tokens, and the batch made of them.
//!
//! Window w of all windows begins at token `start + w * stride` and predicts `context` tokens: inputs are the tokens
//! b .. b + context, targets those one further, b + 1 .. b + context + 1. The batch's window i is w = i (sequential) or
//! w = permutation(i) over *all* windows of the data: a random sample, and a prefix of every larger one.

use std::ops::Range;

use sha2::{Digest, Sha256};

use super::{Permutation, Tokens};
use crate::config::{self, Order};
use crate::{Error, Result};

/// Which windows make up the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    context: usize,
    start: usize,
    stride: usize,
    num_windows: usize,
    permutation: Option<Permutation>,
}

/// Inputs and targets of some windows, row-major (window, position).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Tokens the model sees; `num_windows * context`.
    pub inputs: Vec<i32>,
    /// Tokens it has to predict, the inputs shifted by one; as many.
    pub targets: Vec<i32>,
    /// Number of windows.
    pub num_windows: usize,
    /// Tokens per window.
    pub context: usize,
}

/// Number of windows that `[batch]` asks for; `None` where it asks for all and the data must be seen first.
pub fn num_windows(batch: &config::Batch, context: usize) -> Option<usize> {
    batch.tokens.map(|tokens| tokens / context)
}

impl Windows {
    /// The batch's windows in data of `num_tokens`.
    ///
    /// # Errors
    /// [`Error::Config`] where the data has fewer windows than asked for, or none.
    pub fn new(batch: &config::Batch, context: usize, num_tokens: usize) -> Result<Self> {
        Self::asked_by("batch.tokens", batch, context, num_tokens)
    }

    /// The same where another key than `batch.tokens` says how many there are, for messages.
    ///
    /// # Errors
    /// As [`Windows::new`].
    pub fn asked_by(key: &str, batch: &config::Batch, context: usize, num_tokens: usize) -> Result<Self> {
        // The last target is one token beyond the last input.
        let needed = batch.start.saturating_add(context).saturating_add(1);
        let available = if num_tokens < needed { 0 } else { (num_tokens - needed) / batch.stride + 1 };
        let num_windows = num_windows(batch, context).unwrap_or(available);
        if available == 0 || num_windows > available {
            return Err(too_few(key, batch, context, num_tokens, [num_windows.max(1), available]));
        }
        let permutation = (batch.order == Order::Permuted).then(|| Permutation::new(available, batch.seed));
        Ok(Self { context, start: batch.start, stride: batch.stride, num_windows, permutation })
    }

    /// Number of windows of the batch.
    pub fn num_windows(&self) -> usize {
        self.num_windows
    }

    /// Number of predicted tokens of the batch.
    pub fn num_predictions(&self) -> usize {
        self.num_windows * self.context
    }

    /// The tokens of window `index` of the batch, the last target included: `context + 1` of them.
    pub fn range(&self, index: usize) -> Range<usize> {
        let window = self.permutation.map_or(index, |permutation| permutation.apply(index));
        let begin = self.start + window * self.stride;
        begin..begin + self.context + 1
    }

    /// Inputs and targets of these windows of the batch, every token below `vocabulary`.
    ///
    /// # Errors
    /// [`Error::Config`] with file and position of a token that is not.
    pub fn batch(&self, tokens: &Tokens, windows: Range<usize>, vocabulary: usize) -> Result<Batch> {
        let num_windows = windows.len();
        let mut inputs = Vec::with_capacity(num_windows * self.context);
        let mut targets = Vec::with_capacity(num_windows * self.context);
        for index in windows {
            let window = tokens.read_below(self.range(index), vocabulary)?;
            inputs.extend(window[..self.context].iter().map(|token| i32::from(*token)));
            targets.extend(window[1..].iter().map(|token| i32::from(*token)));
        }
        Ok(Batch { inputs, targets, num_windows, context: self.context })
    }

    /// SHA-256 over the windows' tokens in the batch's order, `context + 1` little-endian uint16 each: the identity of the
    /// batch, whatever file, shard or micro-batch it comes in. `at_once` windows are fetched together.
    ///
    /// # Errors
    /// As [`Tokens::read`].
    pub fn sha256(&self, tokens: &Tokens, at_once: usize) -> Result<String> {
        let mut hasher = Sha256::new();
        for start in (0..self.num_windows).step_by(at_once) {
            let some: Vec<Range<usize>> =
                (start..self.num_windows.min(start + at_once)).map(|index| self.range(index)).collect();
            tokens.prefetch(&some)?;
            for range in some {
                let bytes: Vec<u8> = tokens.read(range)?.iter().flat_map(|token| token.to_le_bytes()).collect();
                hasher.update(&bytes);
            }
        }
        Ok(format!("{:x}", hasher.finalize()))
    }
}

fn too_few(
    key: &str,
    batch: &config::Batch,
    context: usize,
    num_tokens: usize,
    [asked, available]: [usize; 2],
) -> Error {
    let most = available * context;
    let hint = if available == 0 {
        format!("a window needs {} tokens from batch.start on", context + 1)
    } else {
        format!("set {key} to {most} or less, lower batch.start or batch.stride, or prepare more data")
    };
    Error::Config(format!(
        "{key} = {}: {asked} windows of {context} tokens, {} apart, from token {}, are asked for; the data's {num_tokens} \
         tokens hold {available}\nHINT: {hint}",
        asked * context,
        batch.stride,
        batch.start
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: usize = 4;

    fn settings(tokens: Option<usize>, start: usize, stride: usize, order: Order) -> config::Batch {
        config::Batch { tokens, start, stride, order, seed: 3, micro_batch: None, segments: None }
    }

    /// A file of the tokens 0, 1, 2, ...
    fn counting(num_tokens: u16) -> (tempfile::TempDir, Tokens) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.bin");
        std::fs::write(&path, (0..num_tokens).flat_map(u16::to_le_bytes).collect::<Vec<u8>>()).unwrap();
        let tokens = Tokens::open(path.to_str().unwrap(), 0).unwrap();
        (folder, tokens)
    }

    #[test]
    fn targets_are_the_tokens_shifted_by_one() {
        let (_folder, tokens) = counting(20);
        let windows = Windows::new(&settings(Some(8), 2, 4, Order::Sequential), CONTEXT, 20).unwrap();
        let batch = windows.batch(&tokens, 0..2, 20).unwrap();
        assert_eq!(batch.inputs, [2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(batch.targets, [3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!((batch.num_windows, batch.context, windows.num_predictions()), (2, 4, 8));
        assert_eq!(windows.batch(&tokens, 1..2, 20).unwrap().inputs, [6, 7, 8, 9]);
        assert!(windows.batch(&tokens, 0..2, 10).unwrap_err().to_string().contains("token 10 at position 10"));
    }

    #[test]
    fn all_windows_that_fit_are_taken_and_not_one_more() {
        let count = |num_tokens, start, stride| {
            Windows::new(&settings(None, start, stride, Order::Sequential), CONTEXT, num_tokens)
                .map(|w| w.num_windows())
        };
        assert_eq!(count(5, 0, 4).unwrap(), 1);
        assert_eq!(count(8, 0, 4).unwrap(), 1, "the second window's last target is missing");
        assert_eq!(count(9, 0, 4).unwrap(), 2);
        assert_eq!(count(9, 0, 1).unwrap(), 5);
        assert_eq!(count(9, 1, 4).unwrap(), 1);
        assert_eq!(count(4, 0, 4).unwrap_err().exit_code(), 2);
        assert!(count(9, 5, 4).unwrap_err().to_string().contains("needs 5 tokens from batch.start on"));
        assert!(count(9, usize::MAX, 4).is_err());
        let error = Windows::new(&settings(Some(12), 0, 4, Order::Sequential), CONTEXT, 12).unwrap_err().to_string();
        assert!(error.contains("batch.tokens = 12") && error.contains("set batch.tokens to 8 or less"), "{error}");
    }

    #[test]
    fn a_permuted_batch_is_a_prefix_of_every_larger_one() {
        let ranges = |tokens| {
            let windows = Windows::new(&settings(tokens, 1, 2, Order::Permuted), CONTEXT, 100).unwrap();
            (0..windows.num_windows()).map(|index| windows.range(index)).collect::<Vec<_>>()
        };
        let all = ranges(None);
        assert_eq!(ranges(Some(40)), all[..10]);
        let mut begins: Vec<usize> = all.iter().map(|range| range.start).collect();
        assert_ne!(begins[..10], (0..10).map(|window| 1 + 2 * window).collect::<Vec<_>>());
        begins.sort_unstable();
        assert!(begins.into_iter().eq((0..48).map(|window| 1 + 2 * window)));
    }

    #[test]
    fn the_hash_is_that_of_the_content() {
        let (_folder, tokens) = counting(20);
        let hash = |tokens_asked, order| {
            Windows::new(&settings(Some(tokens_asked), 0, 4, order), CONTEXT, 20).unwrap().sha256(&tokens, 2).unwrap()
        };
        let bytes: Vec<u8> = [0u16, 1, 2, 3, 4, 4, 5, 6, 7, 8].iter().flat_map(|token| token.to_le_bytes()).collect();
        assert_eq!(hash(8, Order::Sequential), format!("{:x}", Sha256::digest(&bytes)));
        assert_ne!(hash(8, Order::Sequential), hash(4, Order::Sequential));
        assert_ne!(hash(16, Order::Sequential), hash(16, Order::Permuted));
    }
}
