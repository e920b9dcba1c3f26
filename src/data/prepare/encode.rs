//! Pieces of text to tokens.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use tiktoken_rs::r50k_base_singleton;

use super::super::meta::END_OF_TEXT;
use super::cut::Cut;
#[cfg(feature = "tokenizers")]
use super::hugging_face::HuggingFace;
use crate::{Error, Result};

/// Number of GPT-2's tokens, end-of-text included.
pub(super) const GPT2_VOCABULARY: usize = 50257;

/// One tokeniser; it keeps nothing between pieces.
pub(super) enum Encoder {
    Char(Characters),
    Byte,
    Gpt2,
    #[cfg(feature = "tokenizers")]
    HuggingFace(Box<HuggingFace>),
}

impl Encoder {
    /// Where its documents may be cut.
    pub fn cut(&self) -> Cut {
        match self {
            Self::Char(_) => Cut::Characters,
            Self::Byte => Cut::Bytes,
            Self::Gpt2 => Cut::Words,
            #[cfg(feature = "tokenizers")]
            Self::HuggingFace(_) => Cut::Never,
        }
    }

    /// What stands between documents, for meta.json.
    pub fn separator_name(&self) -> String {
        match self {
            Self::Char(_) | Self::Byte => "newline".into(),
            Self::Gpt2 => "<|endoftext|>".into(),
            #[cfg(feature = "tokenizers")]
            Self::HuggingFace(tokenizer) => tokenizer.separator.0.clone(),
        }
    }

    /// Tokens are below this.
    pub fn vocabulary_size(&self) -> usize {
        match self {
            Self::Char(characters) => characters.names.len(),
            Self::Byte => 256,
            Self::Gpt2 => GPT2_VOCABULARY,
            #[cfg(feature = "tokenizers")]
            Self::HuggingFace(tokenizer) => tokenizer.vocabulary_size,
        }
    }

    /// The token between a document that ended in `last` and the next one.
    pub fn separator(&self, last: Option<u32>) -> Option<u32> {
        match self {
            Self::Char(characters) => characters.token('\n').filter(|newline| last.is_some() && last != Some(*newline)),
            Self::Byte => Some(u32::from(b'\n')).filter(|newline| last.is_some() && last != Some(*newline)),
            Self::Gpt2 => Some(END_OF_TEXT),
            #[cfg(feature = "tokenizers")]
            Self::HuggingFace(tokenizer) => Some(tokenizer.separator.1),
        }
    }

    /// The tokens of a piece.
    pub fn encode(&self, piece: &[u8]) -> Result<Vec<u32>> {
        let text = || std::str::from_utf8(piece).map_err(|error| Error::Other(format!("a piece of text: {error}")));
        match self {
            Self::Byte => Ok(piece.iter().map(|byte| u32::from(*byte)).collect()),
            Self::Char(characters) => characters.encode(text()?),
            Self::Gpt2 => Ok(gpt2_tokens(text()?)),
            #[cfg(feature = "tokenizers")]
            Self::HuggingFace(tokenizer) => tokenizer.encode(text()?),
        }
    }
}

/// White characters in a row that tiktoken's pattern takes at a time: its regular expression gives up on very long runs.
const WHITE: usize = 1024;

/// All ranks of r50k_base are below 50257, so they fit.
///
/// A run of more than [`WHITE`] white characters is encoded by so many at a time. That changes nothing where they are alike, for
/// tokens of one white character have powers of two of it.
fn gpt2_tokens(text: &str) -> Vec<u32> {
    let mut tokens = Vec::new();
    let mut encode = |text: &str| {
        tokens.extend(r50k_base_singleton().encode_ordinary(text));
    };
    let mut rest = text;
    while let Some(run) = long_white_run(rest) {
        let (before, after) = rest.split_at(run.start);
        encode(before);
        let (run, after) = after.split_at(run.len());
        // the last one belongs to the word behind it
        let last = if after.is_empty() { run.len() } else { run.char_indices().next_back().map_or(0, |(at, _)| at) };
        let cuts = run[..last].char_indices().map(|(at, _)| at).step_by(WHITE).chain([last]).collect::<Vec<_>>();
        cuts.windows(2).for_each(|cut| encode(&run[cut[0]..cut[1]]));
        rest = &rest[before.len() + last..];
    }
    encode(rest);
    tokens
}

/// The first run of more than [`WHITE`] white characters, in bytes.
fn long_white_run(text: &str) -> Option<Range<usize>> {
    let (mut start, mut count) = (0, 0);
    for (at, character) in text.char_indices() {
        if character.is_whitespace() {
            start = if count == 0 { at } else { start };
            count += 1;
        } else if count > WHITE + 1 {
            return Some(start..at);
        } else {
            count = 0;
        }
    }
    (count > WHITE + 1).then_some(start..text.len())
}

/// The character tokeniser's table.
pub(super) struct Characters {
    tokens: HashMap<char, u32>,
    names: Vec<String>,
}

impl Characters {
    /// Tokens 0, 1, 2, ... in the order of the set.
    pub fn new(characters: BTreeSet<char>) -> Result<Self> {
        let num_characters = characters.len();
        if num_characters > 1 << 16 {
            return Err(Error::Config(format!(
                "the text has {num_characters} distinct characters, and tokens are 16 bits wide; use --tokenizer byte or gpt2"
            )));
        }
        let names = characters.iter().map(char::to_string).collect();
        Ok(Self { tokens: characters.into_iter().zip(0..).collect(), names })
    }

    pub fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    fn token(&self, character: char) -> Option<u32> {
        self.tokens.get(&character).copied()
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let token = |character| {
            self.token(character).ok_or_else(|| {
                Error::Config(format!(
                    "the character {character:?} was not there when the text was read first; does something still write to it?"
                ))
            })
        };
        text.chars().map(token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::cut::{Cutter, Piece};
    use super::super::source::Sink;
    use super::*;

    /// Token for token what tiktoken gives for the whole text at once.
    #[test]
    fn gpt2_in_pieces_equals_gpt2_at_once() {
        let text =
            "It's  the\n\n  end,   isn't it?  1234 x'll — ünïcödé\u{a0} \u{3000}日本 \t tab\r\n  z <|endoftext|> "
                .repeat(7);
        let whole = gpt2_tokens(&text);
        for limit in [1, 5, 17, 100] {
            let mut tokens = Vec::new();
            let mut cutter = Cutter::new(Cut::Words, limit, 0, |piece: Piece| {
                tokens.extend(Encoder::Gpt2.encode(&piece.text)?);
                Ok(())
            });
            cutter.start("x").unwrap();
            cutter.text(text.as_bytes()).unwrap();
            cutter.end().unwrap();
            assert_eq!(tokens, whole, "limit {limit}");
        }
    }

    /// Long runs give the tokens that short ones would, put together.
    #[test]
    fn a_million_white_characters_are_encoded() {
        let text = |white: usize| format!("a{}b{}", " ".repeat(white), "\n".repeat(white));
        for white in [WHITE, WHITE + 1, WHITE + 2, 3 * WHITE + 7] {
            let whole: Vec<u32> = r50k_base_singleton().encode_ordinary(&text(white));
            assert_eq!(gpt2_tokens(&text(white)), whole, "{white}");
        }
        assert!(gpt2_tokens(&text(1_000_000)).len() > 1000);
    }

    #[test]
    fn known_tokens_of_gpt2() {
        // From OpenAI's encoder: "Hello world" is [15496, 995].
        assert_eq!(gpt2_tokens("Hello world"), [15496, 995]);
        // Text cannot forge the end of a document.
        assert!(!gpt2_tokens("<|endoftext|>").contains(&END_OF_TEXT));
    }
}
