//! `[data.pairs]`: pairs of sentences, some of whose tokens are hidden and to be predicted, and which may have to be told from two
//! sentences that do not belong together.

use burn::tensor::backend::Backend;
use burn::tensor::{Bool, Int, Tensor};
use serde::{Deserialize, Serialize};

use super::{Dataset, Place, Samples, Selection, Unit};
use crate::data::{Masking, Pair, read_pairs};
use crate::document::Check;
use crate::shown::Url;
use crate::storage::expand;
use crate::{Error, Result};

/// `[data.pairs]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairFiles {
    /// JSON lines, gzipped or not, by path or URL, or a glob for several files, which are read one after the other, sorted by name. A line
    /// is a pair, as a tokenizer of Hugging Face's gives it: `input_ids` with [CLS] and [SEP], `token_type_ids`,
    /// and `next_sentence_label` for networks that predict it.
    pub path: Url,
    /// Which tokens are predicted. Absent: the lines say it in `labels`, -100 for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Masking>,
}

/// What a network asks of pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairShape {
    /// The most tokens of a pair.
    pub context: usize,
    /// Number of distinct tokens: all are below it.
    pub vocabulary: usize,
    /// Number of types of tokens, the sentences of a pair: all are below it.
    pub types: usize,
    /// Whether pairs are told from sentences that do not belong together.
    pub next: bool,
}

/// Some pairs, as long as the longest of them.
#[derive(Debug, Clone)]
pub struct PairBatch<B: Backend> {
    /// (pairs, time); 0 behind the end of a pair.
    pub inputs: Tensor<B, 2, Int>,
    /// The type of each token, (pairs, time).
    pub types: Tensor<B, 2, Int>,
    /// (pairs, time), true behind the end of a pair; `None` where all are equally long.
    pub padding: Option<Tensor<B, 2, Bool>>,
    /// Which tokens are predicted, (predictions): 0 is the first token of the first pair, `time` that of the second one.
    pub predicted: Tensor<B, 1, Int>,
    /// The tokens that are right, (predictions).
    pub targets: Tensor<B, 1, Int>,
    /// 0 where the second sentence follows the first one, (pairs); `None` where the network does not ask.
    pub next: Option<Tensor<B, 1, Int>>,
    /// Predicted tokens of a pair, on average over the whole batch of the run.
    pub mean_predicted: f64,
}

impl Dataset for PairFiles {
    const KIND: &'static str = "pairs";
    type Shape = PairShape;
    type Samples = Pairs;

    fn unit(_: &PairShape) -> Unit {
        Unit { sample: "pair", ..Unit::SAMPLE }
    }

    fn check(&self, check: &Check<'_>) -> Result<()> {
        check.place("path", &self.path, self.path.refused_as_input())?;
        let Some(Masking { share, .. }) = self.mask else { return Ok(()) };
        check.that(share > 0.0 && share <= 1.0, "mask.share", share, "expected a share above 0, and 1 or less")
    }

    fn open(&self, shape: &PairShape) -> Result<Pairs> {
        self.check_mask(shape)?;
        let mut pairs = Pairs::new(*shape);
        for name in expand(&self.path)? {
            read_pairs(&name, |place, pair| {
                let at = |problem: String| Error::Config(format!("{place}: {problem}"));
                check_pair(&pair, shape).map_err(at)?;
                pairs.push(self.masked(pair, pairs.len(), shape).map_err(at)?);
                Ok(())
            })?;
        }
        Ok(pairs)
    }

    /// Made-up pairs as long as the network takes them; the second half of each is its second sentence.
    fn synthetic(&self, shape: &PairShape) -> Result<Pairs> {
        let PairShape { context, vocabulary, types, .. } = *shape;
        let token = |at: usize| (((at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) % vocabulary as u64) as u32;
        let count = self.mask.as_ref().map_or(SYNTHETIC_SHARE, |mask| mask.share) * context as f64;
        let count = (count.round() as usize).clamp(1, context);
        let mut pairs = Pairs::new(*shape);
        for pair in 0..SYNTHETIC {
            pairs.push(Pair {
                tokens: (0..context).map(|at| token(pair * context + at)).collect(),
                types: (0..context).map(|at| u32::from(types > 1 && 2 * at >= context)).collect(),
                predicted: Some((0..count).map(|at| (at * context / count, token(at))).collect()),
                next: Some((pair % 2) as u32),
            });
        }
        Ok(pairs)
    }
}

/// Made-up pairs, over again where more are asked for.
const SYNTHETIC: usize = 64;
/// Share of predicted tokens where only the files would say it.
const SYNTHETIC_SHARE: f64 = 0.15;

impl PairFiles {
    /// The ids of `mask` are tokens of the network.
    fn check_mask(&self, shape: &PairShape) -> Result<()> {
        let Some(mask) = &self.mask else { return Ok(()) };
        let beyond = |id: &u32| *id as usize >= shape.vocabulary;
        let vocabulary = shape.vocabulary;
        let ids = [("token", std::slice::from_ref(&mask.token)), ("never", mask.never.as_slice())];
        match ids.iter().find_map(|(key, ids)| Some((key, ids.iter().copied().find(beyond)?))) {
            None => Ok(()),
            Some((key, id)) => Err(Error::Config(format!(
                "data.pairs.mask.{key} has the token {id}; the network has {vocabulary}, from 0 on"
            ))),
        }
    }

    /// A pair as the network sees it, with the tokens that it predicts.
    fn masked(&self, mut pair: Pair, position: usize, shape: &PairShape) -> std::result::Result<Pair, String> {
        let labels = "`labels`, which say what is predicted";
        match (&self.mask, &pair.predicted) {
            (None, Some(_)) => Ok(pair),
            (None, None) => Err(format!("there are no {labels}\nHINT: set data.pairs.mask, so that tokens are hidden")),
            (Some(_), Some(_)) => Err(format!("there are {labels}, and data.pairs.mask; leave one of them out")),
            (Some(mask), None) => {
                let predicted = mask.apply(position, &mut pair.tokens, shape.vocabulary);
                let all = "no token can be hidden: all are in data.pairs.mask.never; expected one at least";
                if predicted.is_empty() { Err(all.into()) } else { Ok(Pair { predicted: Some(predicted), ..pair }) }
            }
        }
    }
}

/// Whether the network can read a pair.
fn check_pair(pair: &Pair, shape: &PairShape) -> std::result::Result<(), String> {
    let PairShape { context, vocabulary, types, next } = *shape;
    if pair.tokens.len() > context {
        return Err(format!("{} tokens; the network's context is {context}: cut the sentences", pair.tokens.len()));
    }
    let targets = pair.predicted.iter().flatten().map(|(_, token)| token);
    if let Some(token) = pair.tokens.iter().chain(targets).find(|token| **token as usize >= vocabulary) {
        return Err(format!("token {token}; the network's vocabulary has {vocabulary}, from 0 on"));
    }
    if let Some(found) = pair.types.iter().find(|found| **found as usize >= types) {
        return Err(format!("token_type_ids has {found}; the network has {types} types, from 0 on"));
    }
    if next && pair.next.is_none() {
        return Err(
            "there is no `next_sentence_label`, which the network's loss needs: add it, or use loss = \"mlm\"".into()
        );
    }
    Ok(())
}

/// Pairs in memory.
pub struct Pairs {
    shape: PairShape,
    /// Tokens and types of all pairs, one after the other.
    tokens: Vec<(u32, u32)>,
    /// Where each pair's tokens end.
    ends: Vec<usize>,
    /// (place in the pair, token that is right) of all pairs, one after the other.
    predicted: Vec<(u32, u32)>,
    /// Where each pair's predictions end.
    predicted_ends: Vec<usize>,
    /// By pair; 0 where the network does not ask.
    next: Vec<u8>,
    mean_predicted: f64,
}

impl Pairs {
    fn new(shape: PairShape) -> Self {
        Self {
            shape,
            tokens: Vec::new(),
            ends: Vec::new(),
            predicted: Vec::new(),
            predicted_ends: Vec::new(),
            next: Vec::new(),
            mean_predicted: 1.0,
        }
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn push(&mut self, pair: Pair) {
        let Pair { tokens, types, predicted, next } = pair;
        self.tokens.extend(tokens.into_iter().zip(types));
        self.ends.push(self.tokens.len());
        self.predicted.extend(predicted.into_iter().flatten().map(|(at, token)| (at as u32, token)));
        self.predicted_ends.push(self.predicted.len());
        self.next.push(next.unwrap_or(0) as u8);
    }

    /// Tokens and types of a pair.
    fn tokens(&self, position: usize) -> &[(u32, u32)] {
        part(&self.tokens, &self.ends, position)
    }

    /// Places and tokens that a pair predicts.
    fn predicted(&self, position: usize) -> &[(u32, u32)] {
        part(&self.predicted, &self.predicted_ends, position)
    }
}

fn part<'a, T>(all: &'a [T], ends: &[usize], position: usize) -> &'a [T] {
    let start = position.checked_sub(1).map_or(0, |before| ends[before]);
    &all[start..ends[position]]
}

impl Samples for Pairs {
    type Batch<B: Backend> = PairBatch<B>;

    fn num_positions(&self) -> usize {
        self.len()
    }

    fn size(&self) -> String {
        format!("{} pairs", self.len())
    }

    fn select(&mut self, selection: &Selection) {
        let count = selection.num_samples();
        let predicted = |index| self.predicted(selection.position(index) % self.len()).len(); // made-up pairs may be fewer
        self.mean_predicted = (0..count).map(predicted).sum::<usize>() as f64 / count as f64;
    }

    fn batch<B: Backend>(&self, positions: &[usize], place: &Place<B>) -> Result<PairBatch<B>> {
        let lengths = positions.iter().map(|at| self.tokens(*at).len());
        let (shortest, time) = (lengths.clone().min().unwrap_or(0), lengths.max().unwrap_or(0));
        let shape = [positions.len(), time];
        let [mut inputs, mut types] = [0; 2].map(|_| Vec::with_capacity(positions.len() * time));
        let [mut predicted, mut targets] = [0; 2].map(|_| Vec::new());
        let mut padding = Vec::with_capacity(positions.len() * time);
        for (pair, position) in positions.iter().enumerate() {
            let tokens = self.tokens(*position);
            let padded = |part: fn(&(u32, u32)) -> u32| {
                let behind = std::iter::repeat_n(0, time - tokens.len());
                tokens.iter().map(move |token| part(token) as i32).chain(behind)
            };
            inputs.extend(padded(|(token, _)| *token));
            types.extend(padded(|(_, of)| *of));
            padding.extend((0..time).map(|at| at >= tokens.len()));
            for (at, token) in self.predicted(*position) {
                predicted.push((pair * time) as i32 + *at as i32);
                targets.push(*token as i32);
            }
        }
        let count = [predicted.len()];
        let next = || positions.iter().map(|at| i32::from(self.next[*at])).collect();
        Ok(PairBatch {
            inputs: place.integers(inputs, shape),
            types: place.integers(types, shape),
            padding: (shortest < time).then(|| place.flags(padding, shape)),
            predicted: place.integers(predicted, count),
            targets: place.integers(targets, count),
            next: self.shape.next.then(|| place.integers(next(), [positions.len()])),
            mean_predicted: self.mean_predicted,
        })
    }

    /// A pair is the number of its tokens, that of its predictions, the tokens and predictions as the network sees them, and the label
    /// of the next sentence if the network asks; all as little-endian uint32.
    fn content(&self, positions: &[usize]) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        for position in positions {
            let (tokens, predicted) = (self.tokens(*position), self.predicted(*position));
            let numbers = tokens.iter().chain(predicted).flat_map(|(a, b)| [*a, *b]);
            let next = self.shape.next.then_some(u32::from(self.next[*position]));
            let lengths = [tokens.len() as u32, predicted.len() as u32];
            bytes.extend(lengths.into_iter().chain(numbers).chain(next).flat_map(u32::to_le_bytes));
        }
        Ok(Some(bytes))
    }
}

#[cfg(test)]
#[path = "pairs_tests.rs"]
mod tests;
