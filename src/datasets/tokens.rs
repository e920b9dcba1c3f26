//! `[data.tokens]`: windows of tokens. A window at position b predicts as many tokens as the network's context: inputs are the
//! tokens b .. b + context, targets those one further, b + 1 .. b + context + 1.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};

use super::{Dataset, Place, Samples, Unit};
use crate::data::{TokenType, Tokens};
use crate::document::{Bytes, Check};
use crate::shown::Url;
use crate::{Error, Result};

/// `[data.tokens]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenFiles {
    /// File, or glob over several shards; a path or a URL. nanoGPT's raw uint16, llm.c's shards or NumPy's .npy, told apart by their
    /// content.
    pub path: Url,
    /// Memory of each rank for tokens from a URL, like "1GB". Default: 256 MiB. What does not fit is read again in every
    /// sweep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Bytes>,
    /// `uint16` or `uint32`: the files are nothing but such numbers, whatever they look like. Default: told by their content, which
    /// cannot tell raw uint32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<TokenType>,
    /// File or glob with the weight of every token as a prediction, one uint8 a token: 0 does not count, 1 counts once, up to 255.
    /// Raw or NumPy's .npy. Default: every token counts once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Url>,
}

/// What a language model asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenShape {
    /// Tokens of a window.
    pub context: usize,
    /// Number of distinct tokens: all are below it.
    pub vocabulary: usize,
}

/// Inputs and targets of some windows.
#[derive(Debug, Clone)]
pub struct TokenBatch<B: Backend> {
    /// (windows, context).
    pub inputs: Tensor<B, 2, Int>,
    /// The tokens to predict, (windows * context); where tokens have weights, those that count, each as often as it weighs.
    pub targets: Tensor<B, 1, Int>,
    /// Where tokens have weights: which predictions the targets belong to.
    pub counted: Option<Counted<B>>,
}

/// The predictions that count.
#[derive(Debug, Clone)]
pub struct Counted<B: Backend> {
    /// Their numbers, as the targets are: 0 for the first token of the first window. One without weight, if there are no others.
    pub rows: Tensor<B, 1, Int>,
    /// Sum of their weights.
    pub weight: f64,
}

impl<B: Backend> TokenBatch<B> {
    /// The rows that count, of all predictions' rows (windows * context, width): each as often as its token weighs, so that a mean over
    /// them is the weighted mean.
    pub fn counted<const D: usize>(&self, rows: Tensor<B, D>) -> Tensor<B, D> {
        match &self.counted {
            None => rows,
            Some(counted) => rows.select(0, counted.rows.clone()),
        }
    }

    /// Sum of the weights of all predictions.
    pub fn weight(&self) -> f64 {
        self.counted.as_ref().map_or(self.targets.dims()[0] as f64, |counted| counted.weight)
    }
}

impl Dataset for TokenFiles {
    const KIND: &'static str = "tokens";
    type Shape = TokenShape;
    type Samples = Windows;

    fn unit(shape: &TokenShape) -> Unit {
        Unit { sample: "window", prediction: "token", predictions: shape.context }
    }

    fn check(&self, check: &Check<'_>) -> Result<()> {
        check.place("path", &self.path, self.path.refused_as_input())?;
        let Some(weights) = &self.weights else { return Ok(()) };
        check.place("weights", weights, weights.refused_as_input())
    }

    fn is_weighted(&self) -> bool {
        self.weights.is_some()
    }

    fn open(&self, shape: &TokenShape) -> Result<Windows> {
        let cache = self.cache.as_ref().map_or(256 << 20, Bytes::get);
        let tokens = Arc::new(Tokens::open(&self.path, cache, self.dtype)?);
        let weights = self.weights.as_ref().map(|url| weights_of(url, cache, &tokens)).transpose()?;
        let ahead = tokens.is_remote().then(|| fetcher(tokens.clone()));
        Ok(Windows { source: Source::Files { tokens, weights, ahead }, shape: *shape })
    }

    fn synthetic(&self, shape: &TokenShape) -> Result<Windows> {
        Ok(Windows { source: Source::Synthetic, shape: *shape })
    }
}

/// Opens the weights of all tokens.
fn weights_of(url: &Url, cache: u64, tokens: &Tokens) -> Result<Arc<Tokens>> {
    let weights = Tokens::open(url, cache, Some(TokenType::Uint8))?;
    if weights.len() == tokens.len() {
        return Ok(Arc::new(weights));
    }
    Err(Error::Config(format!(
        "{url}: has {} weights for {} tokens; expected one uint8 for each token of data.tokens.path",
        weights.len(),
        tokens.len()
    )))
}

/// Where tokens come from.
enum Source {
    Files {
        tokens: Arc<Tokens>,
        /// One number for each token.
        weights: Option<Arc<Tokens>>,
        /// To the thread that fetches; `None` for local files.
        ahead: Option<SyncSender<Vec<Range<usize>>>>,
    },
    /// Pseudo-random tokens, for plans and timings without data.
    Synthetic,
}

/// Windows by the position of their first token.
pub struct Windows {
    source: Source,
    shape: TokenShape,
}

impl Windows {
    /// The tokens of windows, the last target included: `context + 1` of each.
    fn ranges(&self, positions: &[usize]) -> Vec<Range<usize>> {
        positions.iter().map(|begin| *begin..begin + self.shape.context + 1).collect()
    }

    /// The weights of a window's predictions, where tokens have some.
    fn weights(&self, position: usize) -> Result<Option<Vec<u32>>> {
        let Source::Files { weights: Some(weights), .. } = &self.source else { return Ok(None) };
        weights.read(position + 1..position + self.shape.context + 1).map(Some)
    }

    fn window(&self, position: usize) -> Result<Vec<i32>> {
        let TokenShape { context, vocabulary } = self.shape;
        match &self.source {
            Source::Files { tokens, .. } => {
                let window = tokens.read_below(position..position + context + 1, vocabulary)?;
                Ok(window.into_iter().map(|token| token as i32).collect()) // below the vocabulary, which fits
            }
            Source::Synthetic => {
                // windows lie side by side, whatever their number
                let token =
                    |at: usize| ((at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as i32 % vocabulary as i32;
                Ok((position * context..=(position + 1) * context).map(token).collect())
            }
        }
    }
}

impl Samples for Windows {
    type Batch<B: Backend> = TokenBatch<B>;

    fn num_positions(&self) -> usize {
        match &self.source {
            Source::Files { tokens, .. } => tokens.len().saturating_sub(self.shape.context),
            Source::Synthetic => usize::MAX,
        }
    }

    fn size(&self) -> String {
        match &self.source {
            Source::Files { tokens, .. } => format!("{} tokens", tokens.len()),
            Source::Synthetic => "made-up tokens".into(),
        }
    }

    fn batch<B: Backend>(&self, positions: &[usize], place: &Place<B>) -> Result<TokenBatch<B>> {
        if let Source::Files { tokens, ahead: Some(_), .. } = &self.source {
            tokens.prefetch(&self.ranges(positions))?; // in one request, where it was not guessed before
        }
        let (context, count) = (self.shape.context, positions.len() * self.shape.context);
        let (mut inputs, mut targets) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut rows = Vec::new();
        for (number, position) in positions.iter().enumerate() {
            let window = self.window(*position)?;
            inputs.extend_from_slice(&window[..context]);
            targets.extend_from_slice(&window[1..]);
            let weights = self.weights(*position)?.unwrap_or_default().into_iter().enumerate();
            rows.extend(weights.flat_map(|(at, weight)| vec![(number * context + at) as i32; weight as usize]));
        }
        let inputs = place.integers(inputs, [positions.len(), context]);
        if !matches!(&self.source, Source::Files { weights: Some(_), .. }) {
            return Ok(TokenBatch { inputs, targets: place.integers(targets, [count]), counted: None });
        }
        let weight = rows.len() as f64;
        if rows.is_empty() {
            rows.push(0); // weighs nothing; a tensor has a row
        }
        let targets = rows.iter().map(|row| targets[*row as usize]).collect::<Vec<_>>();
        let len = [rows.len()];
        let counted = Some(Counted { rows: place.integers(rows, len), weight });
        Ok(TokenBatch { inputs, targets: place.integers(targets, len), counted })
    }

    fn weight(&self, positions: &[usize]) -> Result<Option<f64>> {
        let mut sum = None;
        for position in positions {
            let Some(weights) = self.weights(*position)? else { return Ok(None) };
            sum = Some(sum.unwrap_or(0.0) + f64::from(weights.iter().sum::<u32>()));
        }
        Ok(sum)
    }

    fn expect(&self, positions: &[usize]) {
        if let Source::Files { ahead: Some(ahead), .. } = &self.source {
            // a fetcher that is busy has a guess already; what it misses is fetched when it is asked for
            let _ = ahead.try_send(self.ranges(positions));
        }
    }

    /// `context + 1` tokens of each window, as little-endian uint16, or uint32 where files have these, then the weights of all.
    fn content(&self, positions: &[usize]) -> Result<Option<Vec<u8>>> {
        let Source::Files { tokens, .. } = &self.source else { return Ok(None) };
        let ranges = self.ranges(positions);
        tokens.prefetch(&ranges)?;
        let width = tokens.width();
        let mut bytes = Vec::with_capacity(width * positions.len() * (self.shape.context + 1));
        for range in ranges {
            bytes.extend(tokens.read(range)?.iter().flat_map(|token| token.to_le_bytes().into_iter().take(width)));
        }
        for position in positions {
            bytes.extend(self.weights(*position)?.into_iter().flatten().map(|weight| weight as u8));
        }
        Ok(Some(bytes))
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
    use crate::data::{Cut, MicroBatches as Cuts, Order};
    use crate::datasets::{Batches, Choice, RunData, Selection};
    use burn::tensor::DType;
    use sha2::{Digest, Sha256};

    type Plain = burn_flex::Flex;

    /// A file of the tokens 0, 1, 2, ...
    fn counting(num_tokens: u16, context: usize, vocabulary: usize) -> (tempfile::TempDir, Windows) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.bin");
        std::fs::write(&path, (0..num_tokens).flat_map(u16::to_le_bytes).collect::<Vec<u8>>()).unwrap();
        let files = TokenFiles { path: path.to_str().unwrap().into(), cache: None, dtype: None, weights: None };
        let windows = files.open(&TokenShape { context, vocabulary }).unwrap();
        (folder, windows)
    }

    fn place() -> Place<Plain> {
        Place::new(Default::default(), DType::F32)
    }

    fn integers<const D: usize>(tensor: Tensor<Plain, D, Int>) -> Vec<i64> {
        tensor.into_data().iter::<i64>().collect()
    }

    #[test]
    fn targets_are_the_tokens_shifted_by_one() {
        let (_folder, windows) = counting(20, 4, 20);
        let batch = windows.batch::<Plain>(&[2, 6], &place()).unwrap();
        assert_eq!(batch.inputs.dims(), [2, 4]);
        assert_eq!(integers(batch.inputs), [2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(integers(batch.targets), [3, 4, 5, 6, 7, 8, 9, 10]);
        let (_folder, windows) = counting(20, 4, 10);
        let error = windows.batch::<Plain>(&[2, 6], &place()).unwrap_err().to_string();
        assert!(error.contains("token 10 at position 10"), "{error}");
    }

    #[test]
    fn the_hash_is_that_of_the_content() {
        let hash = |num_samples, order| {
            let (_folder, windows) = counting(20, 4, 20);
            let unit = TokenFiles::unit(&windows.shape);
            let choice =
                Choice { key: unit.key(), num_samples: Some(num_samples), start: 0, stride: 4, order, seed: 3 };
            let selection = Selection::new(&choice, windows.num_positions(), unit, &windows.size()).unwrap();
            let cuts = Cuts::new(num_samples, 1, None, Cut::Samples).unwrap();
            let place = Place::new(Default::default(), DType::F32);
            Batches::<_, Plain>::new(windows, selection, cuts, unit, place).unwrap().sha256().unwrap().unwrap()
        };
        let bytes: Vec<u8> = [0u16, 1, 2, 3, 4, 4, 5, 6, 7, 8].iter().flat_map(|token| token.to_le_bytes()).collect();
        assert_eq!(hash(2, Order::Sequential), format!("{:x}", Sha256::digest(&bytes)));
        assert_ne!(hash(2, Order::Sequential), hash(1, Order::Sequential));
        assert_ne!(hash(4, Order::Sequential), hash(4, Order::Permuted));
    }
}
