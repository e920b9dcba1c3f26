//! Dialogues to a file of pairs for BERT, as [`read_pairs`](crate::data::read_pairs) reads them.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use rayon::prelude::*;
use serde::Serialize;

use super::dialogs::Dialogs;
use super::hugging_face::ForPairs;
use super::pairs::{PairPreparation, PreparedPairs};
use super::write::replace;
use crate::data::random::{below, stream};
use crate::{Error, Result};

/// Fewest tokens of a pair: those around two sentences, and some of each.
const LEAST_CONTEXT: usize = 8;

/// A line of the file.
#[derive(Serialize)]
struct Line {
    input_ids: Vec<u32>,
    token_type_ids: Vec<u32>,
    next_sentence_label: u32,
}

/// [`prepare_pairs`](super::prepare_pairs)
pub(super) fn write(request: &PairPreparation) -> Result<PreparedPairs> {
    if request.context < LEAST_CONTEXT {
        return Err(Error::Config(format!("--context {}: expected {LEAST_CONTEXT} or more", request.context)));
    }
    let tokenizer = ForPairs::open(&request.tokenizer, request.context)?;
    let dialogs = Dialogs::read(&request.lines, &request.conversations)?;
    let line = |number: usize| {
        let (first, second, next_sentence_label) = dialogs.pair(number, request.seed);
        let (input_ids, token_type_ids) = tokenizer.encode(first, second)?;
        Ok(Line { input_ids, token_type_ids, next_sentence_label })
    };
    let lines = (0..dialogs.following.len()).into_par_iter().map(line).collect::<Result<Vec<_>>>()?;
    replace(&request.output, &packed(&lines, request)?)?;
    Ok(PreparedPairs {
        pairs: lines.len(),
        tokens: lines.iter().map(|line| line.input_ids.len()).sum(),
        vocabulary: tokenizer.vocabulary_size,
        mask: tokenizer.mask,
        never: tokenizer.special,
    })
}

impl Dialogs {
    /// The texts of a pair, and 1 where the second one does not follow.
    fn pair(&self, number: usize, seed: u64) -> (&str, &str, u32) {
        let (first, next) = self.following[number];
        let mut random = stream("hesspec pairs of dialogues", seed, number);
        let others = self.texts.len() - 1;
        let follows = below(&mut random, 2) == 0 || others == 0;
        let second = if follows { next } else { (next + 1 + below(&mut random, others)) % self.texts.len() };
        (&self.texts[first], &self.texts[second], u32::from(!follows))
    }
}

/// The bytes of the file.
fn packed(lines: &[Line], request: &PairPreparation) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, line).map_err(|error| Error::Other(format!("a pair as JSON: {error}")))?;
        text.push(b'\n');
    }
    if request.output.extension().is_none_or(|ending| ending != "gz") {
        return Ok(text);
    }
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    let packed = packer.write_all(&text).and_then(|()| packer.finish());
    packed.map_err(|error| Error::Other(format!("pairs cannot be packed: {error}")))
}

#[cfg(test)]
mod tests {
    use super::super::hugging_face::tests::WORD_PIECE;
    use super::*;
    use crate::data::read_pairs;
    use crate::shown::Url;

    /// Ten lines of one conversation.
    fn request(folder: &std::path::Path, seed: u64, output: &str) -> PairPreparation {
        let url = |name: &str, text: &str| {
            std::fs::write(folder.join(name), text).unwrap();
            Url::from(folder.join(name).display().to_string().as_str())
        };
        let text = |at: usize| ["They do.", "They does not!", "Not!", "."][at % 4];
        let lines: String =
            (0..10).map(|at| format!("L{at} +++$+++ u +++$+++ m +++$+++ A +++$+++ {}\n", text(at))).collect();
        let ids: Vec<String> = (0..10).map(|at| format!("'L{at}'")).collect();
        PairPreparation {
            lines: url("lines.txt", &lines),
            conversations: url("talk.txt", &format!("u +++$+++ v +++$+++ m +++$+++ [{}]\n", ids.join(", "))),
            tokenizer: url("tokenizer.json", WORD_PIECE),
            context: 8,
            seed,
            output: folder.join(output),
        }
    }

    #[test]
    fn half_of_the_pairs_follow_and_the_file_is_one_that_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let made = write(&request(folder.path(), 1, "a.jsonl.gz")).unwrap();
        assert_eq!(
            (made.pairs, made.mask, made.never.as_slice(), made.vocabulary),
            (9, Some(4), &[0, 1, 2, 3][..], 11)
        );
        let read = |output: &str| {
            let mut pairs = Vec::new();
            let name = Url::from(folder.path().join(output).display().to_string().as_str());
            read_pairs(&name, |_, pair| {
                pairs.push(pair);
                Ok(())
            })
            .unwrap();
            pairs
        };
        let pairs = read("a.jsonl.gz");
        assert_eq!(made.tokens, pairs.iter().map(|pair| pair.tokens.len()).sum::<usize>());
        assert!(pairs.iter().all(|pair| pair.tokens.len() <= 8 && pair.tokens[0] == 2));
        let labels = |pairs: &[crate::data::Pair]| pairs.iter().map(|pair| pair.next.unwrap()).collect::<Vec<u32>>();
        let others = labels(&pairs).iter().sum::<u32>();
        assert!((1..9).contains(&others), "{others}");
        let follows = pairs.iter().position(|pair| pair.next == Some(0)).unwrap();
        let second = [[5, 6, 7, 8].as_slice(), &[8, 9], &[10], &[5, 6, 10]][follows % 4][0];
        let at = pairs[follows].types.iter().position(|of| *of == 1).unwrap();
        assert_eq!(pairs[follows].tokens[at], second);
        write(&request(folder.path(), 1, "b.jsonl")).unwrap();
        assert_eq!(read("b.jsonl"), pairs);
        write(&request(folder.path(), 2, "c.jsonl")).unwrap();
        assert_ne!(labels(&read("c.jsonl")), labels(&pairs));
        let error = write(&PairPreparation { context: 7, ..request(folder.path(), 1, "d.jsonl") }).unwrap_err();
        assert!(error.to_string().contains("--context 7: expected 8 or more"), "{error}");
    }
}
