//! Pairs of sentences as JSON lines, gzipped or not: what a tokenizer of Hugging Face's gives for a pair, with the fields `input_ids` and
//! `token_type_ids`, and `next_sentence_label`, `labels` and `attention_mask` where there are some.

use std::io::{BufRead, BufReader, Read};

use serde::Deserialize;

use super::unpacked::unpacked;
use crate::shown::{Url, quoted};
use crate::{Error, Result};

/// The longest line: a small compressed file can stand for any number of bytes.
const MOST_LINE: usize = 16 << 20;
/// What stands before UTF-8 in some files.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// What `labels` has for tokens that are not predicted, as PyTorch's cross-entropy has it.
const NOT_PREDICTED: i64 = -100;

/// A pair, or a text by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pair {
    /// Ids of all tokens, those around the sentences among them.
    pub tokens: Vec<u32>,
    /// Which sentence each token belongs to.
    pub types: Vec<u32>,
    /// Where the file says which tokens are predicted: (place, token that is right), in order.
    pub predicted: Option<Vec<(usize, u32)>>,
    /// 0 where the second sentence follows the first one, 1 where it is any other.
    pub next: Option<u32>,
}

/// A line, as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    input_ids: Vec<i64>,
    token_type_ids: Option<Vec<i64>>,
    labels: Option<Vec<i64>>,
    next_sentence_label: Option<i64>,
    attention_mask: Option<Vec<i64>>,
}

/// Reads a file of pairs by path or URL; `each` gets the place `file:line` and the pair. Empty lines are passed over.
///
/// # Errors
/// [`Error::Config`] with file and line; those of `each`; [`Error::Storage`].
pub fn read_pairs(name: &Url, mut each: impl FnMut(&str, Pair) -> Result<()>) -> Result<()> {
    let mut reader = BufReader::new(unpacked(name)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let place = format!("{name}:{number}");
        let at = |problem: String| Error::Config(format!("{place}: {problem}"));
        let read = reader.by_ref().take(MOST_LINE as u64 + 1).read_until(b'\n', &mut line);
        if read.map_err(|error| at(format!("cannot be read ({error})")))? == 0 {
            break;
        }
        if line.len() > MOST_LINE {
            return Err(at(format!("the line has more than {} MiB; expected a pair a line", MOST_LINE >> 20)));
        }
        let bytes = if number == 1 { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line) } else { &line };
        if !bytes.trim_ascii().is_empty() {
            each(&place, parsed(bytes).map_err(at)?)?;
        }
    }
    Ok(())
}

/// A line's pair, or what is wrong with it.
fn parsed(line: &[u8]) -> std::result::Result<Pair, String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| {
        let what = quoted(&error.to_string().replace(" at line 1 column ", " at column "));
        format!("{what}\nHINT: expected JSON like {{\"input_ids\": [...], \"token_type_ids\": [...], \"next_sentence_label\": 0}}")
    })?;
    let Line { input_ids, token_type_ids, labels, next_sentence_label, attention_mask } = line;
    let lists = [("token_type_ids", &token_type_ids), ("labels", &labels), ("attention_mask", &attention_mask)];
    for (field, list) in lists {
        if let Some(list) = list.as_ref().filter(|list| list.len() != input_ids.len()) {
            let (found, expected) = (list.len(), input_ids.len());
            return Err(format!("{field} has {found} numbers and input_ids {expected}; expected as many"));
        }
    }
    let length = attention_mask.map_or(Ok(input_ids.len()), |mask| length(&mask))?;
    if length == 0 {
        return Err("there are no tokens; expected one at least".into());
    }
    let predicted = labels.map(|labels| predicted(&labels, length)).transpose()?;
    let next = match next_sentence_label {
        None => None,
        Some(label @ (0 | 1)) => Some(label as u32),
        Some(label) => return Err(format!("next_sentence_label = {label}: expected 0 (it follows) or 1 (any other)")),
    };
    Ok(Pair {
        tokens: ids("input_ids", &input_ids[..length])?,
        types: match token_type_ids {
            Some(types) => ids("token_type_ids", &types[..length])?,
            None => vec![0; length],
        },
        predicted,
        next,
    })
}

/// The number of tokens that are no padding, which stands at the end.
fn length(mask: &[i64]) -> std::result::Result<usize, String> {
    let length = mask.iter().take_while(|seen| **seen == 1).count();
    match mask[length..].iter().position(|seen| *seen != 0) {
        None => Ok(length),
        Some(at) => Err(format!(
            "attention_mask has {} behind a 0; expected ones, and then zeros for the padding, if there is some",
            mask[length + at]
        )),
    }
}

/// The places that are predicted.
fn predicted(labels: &[i64], length: usize) -> std::result::Result<Vec<(usize, u32)>, String> {
    let mut found = Vec::new();
    for (at, label) in labels.iter().enumerate().filter(|(_, label)| **label != NOT_PREDICTED) {
        let token = u32::try_from(*label);
        let token = token.map_err(|_| format!("labels has {label}; expected a token, or {NOT_PREDICTED} for none"))?;
        if at >= length {
            return Err(format!("labels has a token at {at}, which attention_mask says is padding"));
        }
        found.push((at, token));
    }
    if found.is_empty() {
        return Err(format!("labels has no token to predict, {NOT_PREDICTED} alone; expected one at least"));
    }
    Ok(found)
}

fn ids(field: &str, numbers: &[i64]) -> std::result::Result<Vec<u32>, String> {
    let id = |number: &i64| u32::try_from(*number).map_err(|_| format!("{field} has {number}; expected 0 or more"));
    numbers.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str, part: &str) {
        let problem = parsed(line.as_bytes()).unwrap_err();
        assert!(problem.contains(part), "{line}: {problem}");
    }

    #[test]
    fn a_line_is_what_a_tokenizer_gives() {
        let line = r#"{"input_ids": [5, 3, 6, 0], "token_type_ids": [0, 0, 1, 0], "attention_mask": [1, 1, 1, 0],
            "labels": [-100, 8, -100, -100], "next_sentence_label": 1}"#;
        let expected =
            Pair { tokens: vec![5, 3, 6], types: vec![0, 0, 1], predicted: Some(vec![(1, 8)]), next: Some(1) };
        assert_eq!(parsed(line.as_bytes()).unwrap(), expected);
        let plain = Pair { tokens: vec![5, 3], types: vec![0, 0], ..Pair::default() };
        assert_eq!(parsed(br#"{"input_ids": [5, 3]}"#).unwrap(), plain);
    }

    #[test]
    fn what_is_no_pair_is_refused_for_what_it_is() {
        refused("[1, 2", "HINT: expected JSON like");
        refused(r#"{"input_ids": [1], "idx": 3}"#, "unknown field `idx`");
        refused(r#"{"token_type_ids": [0]}"#, "missing field `input_ids`");
        refused(r#"{"input_ids": [1, 2], "token_type_ids": [0]}"#, "token_type_ids has 1 numbers and input_ids 2");
        refused(r#"{"input_ids": [1, 2], "labels": [0, 1, 2]}"#, "labels has 3 numbers and input_ids 2");
        refused(r#"{"input_ids": [1, -2]}"#, "input_ids has -2");
        refused(r#"{"input_ids": [1], "token_type_ids": [4294967296]}"#, "token_type_ids has 4294967296");
        refused(r#"{"input_ids": []}"#, "no tokens");
        refused(r#"{"input_ids": [1, 2], "attention_mask": [0, 0]}"#, "no tokens");
        refused(r#"{"input_ids": [1, 2], "attention_mask": [0, 1]}"#, "attention_mask has 1 behind a 0");
        refused(r#"{"input_ids": [1, 2], "attention_mask": [1, 2]}"#, "attention_mask has 2 behind");
        refused(r#"{"input_ids": [1, 2], "labels": [-100, -100]}"#, "no token to predict");
        refused(r#"{"input_ids": [1, 2], "labels": [-1, -100]}"#, "labels has -1");
        refused(r#"{"input_ids": [1, 2], "labels": [3, 4], "attention_mask": [1, 0]}"#, "labels has a token at 1");
        refused(r#"{"input_ids": [1], "next_sentence_label": 2}"#, "next_sentence_label = 2");
    }

    #[test]
    fn errors_name_the_line_and_empty_ones_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.jsonl");
        std::fs::write(&path, "\u{feff}{\"input_ids\": [1]}\n\n{\"input_ids\": [2]}\n{\"input_ids\": 3}").unwrap();
        let mut seen = Vec::new();
        let name = Url::from(path.display().to_string().as_str());
        let error = read_pairs(&name, |_, pair| {
            seen.push(pair.tokens);
            Ok(())
        });
        let text = error.unwrap_err().to_string();
        assert!(text.contains("pairs.jsonl:4: invalid type: integer `3`, expected a sequence at column"), "{text}");
        assert_eq!(seen, [[1], [2]]);
    }
}
