//! Bytes of a document to tokens, in pieces of any size.

use std::collections::{BTreeSet, HashMap};

use tiktoken_rs::r50k_base_singleton;

use super::super::meta::END_OF_TEXT;
use crate::{Error, Result};

/// Number of GPT-2's tokens, end-of-text included.
pub(super) const GPT2_VOCABULARY: usize = 50257;

/// GPT-2 text is collected to at least this many bytes before it is encoded.
const GPT2_CHUNK: usize = 1 << 20;

/// One tokeniser with what it keeps between pieces.
pub(super) enum Encoder {
    Char(Characters, Utf8),
    Byte,
    Gpt2 { pending: String, utf8: Utf8, chunk: usize },
}

impl Encoder {
    pub fn gpt2() -> Self {
        Self::Gpt2 { pending: String::new(), utf8: Utf8::default(), chunk: GPT2_CHUNK }
    }

    /// The token between a document that ended in `last` and the next one.
    pub fn separator(&self, last: Option<u16>) -> Option<u16> {
        match self {
            Self::Char(characters, _) => {
                characters.token('\n').filter(|newline| last.is_some() && last != Some(*newline))
            }
            Self::Byte => Some(u16::from(b'\n')).filter(|newline| last.is_some() && last != Some(*newline)),
            Self::Gpt2 { .. } => Some(END_OF_TEXT),
        }
    }

    /// Begins a document; `name` is for errors.
    pub fn start(&mut self, name: &str) {
        match self {
            Self::Char(_, utf8) | Self::Gpt2 { utf8, .. } => utf8.start(name),
            Self::Byte => {}
        }
    }

    /// The tokens that are certain after this piece.
    pub fn encode(&mut self, bytes: &[u8]) -> Result<Vec<u16>> {
        match self {
            Self::Byte => Ok(bytes.iter().map(|byte| u16::from(*byte)).collect()),
            Self::Char(characters, utf8) => characters.encode(&utf8.push(bytes)?),
            Self::Gpt2 { pending, utf8, chunk } => {
                pending.push_str(&utf8.push(bytes)?);
                let cut = if pending.len() < *chunk { None } else { safe_cut(pending) };
                Ok(cut.map_or(Vec::new(), |cut| {
                    let rest = pending.split_off(cut);
                    gpt2_tokens(&std::mem::replace(pending, rest))
                }))
            }
        }
    }

    /// Ends the document: the rest of its tokens.
    pub fn finish(&mut self) -> Result<Vec<u16>> {
        match self {
            Self::Byte => Ok(Vec::new()),
            Self::Char(_, utf8) => utf8.finish().map(|()| Vec::new()),
            Self::Gpt2 { pending, utf8, .. } => {
                utf8.finish()?;
                Ok(gpt2_tokens(&std::mem::take(pending)))
            }
        }
    }
}

/// All ranks of r50k_base are below 50257, so they fit.
fn gpt2_tokens(text: &str) -> Vec<u16> {
    r50k_base_singleton().encode_ordinary(text).into_iter().map(|rank| rank as u16).collect()
}

/// The last place before a white character that follows a non-white one. No token of GPT-2's pattern spans it: white space stands
/// only at the front of a piece, and the pattern looks ahead only within white space. So both sides can be encoded apart.
fn safe_cut(text: &str) -> Option<usize> {
    let mut characters = text.char_indices().rev().peekable();
    while let Some((index, character)) = characters.next() {
        let follows_word = characters.peek().is_some_and(|(_, before)| !before.is_whitespace());
        if character.is_whitespace() && follows_word {
            return Some(index);
        }
    }
    None
}

/// The character tokeniser's table.
pub(super) struct Characters {
    tokens: HashMap<char, u16>,
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
        Ok(Self { tokens: characters.into_iter().zip(0..=u16::MAX).collect(), names })
    }

    pub fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    fn token(&self, character: char) -> Option<u16> {
        self.tokens.get(&character).copied()
    }

    fn encode(&self, text: &str) -> Result<Vec<u16>> {
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

/// UTF-8 in pieces that may end within a character.
#[derive(Default)]
pub(super) struct Utf8 {
    name: String,
    /// The beginning of a character whose rest is in the next piece.
    carry: Vec<u8>,
    /// Bytes of the document that were decoded.
    decoded: usize,
}

impl Utf8 {
    pub fn start(&mut self, name: &str) {
        *self = Self { name: name.into(), ..Self::default() };
    }

    /// The whole characters up to here.
    pub fn push(&mut self, bytes: &[u8]) -> Result<String> {
        self.carry.extend_from_slice(bytes);
        let valid = match std::str::from_utf8(&self.carry) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(error) => return Err(self.invalid(error.valid_up_to())),
        };
        let rest = self.carry.split_off(valid);
        let text = std::mem::replace(&mut self.carry, rest);
        self.decoded += valid;
        String::from_utf8(text).map_err(|error| self.invalid(error.utf8_error().valid_up_to()))
    }

    /// Nothing may be left over at the end of a document.
    pub fn finish(&self) -> Result<()> {
        if self.carry.is_empty() { Ok(()) } else { Err(self.invalid(0)) }
    }

    fn invalid(&self, offset: usize) -> Error {
        Error::Config(format!(
            "{}: not UTF-8 at byte {}\nHINT: convert it (iconv -t UTF-8), or use --tokenizer byte, which takes any file",
            self.name,
            self.decoded + offset
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpt2_in_pieces_equals_gpt2_at_once() {
        let text = "It's  the\n\n  end,   isn't it?  1234 x'll — ünïcödé\u{a0} \u{3000}日本 \t tab\r\n  z ".repeat(7);
        let whole = gpt2_tokens(&text);
        for chunk in [1, 5, 17, 100] {
            for piece in [1, 3, 50] {
                let mut encoder = Encoder::Gpt2 { pending: String::new(), utf8: Utf8::default(), chunk };
                let mut tokens: Vec<u16> =
                    text.as_bytes().chunks(piece).flat_map(|bytes| encoder.encode(bytes).unwrap()).collect();
                tokens.extend(encoder.finish().unwrap());
                assert_eq!(tokens, whole, "chunk {chunk}, piece {piece}");
            }
        }
    }

    #[test]
    fn known_tokens_of_gpt2() {
        // From OpenAI's encoder: "Hello world" is [15496, 995].
        assert_eq!(gpt2_tokens("Hello world"), [15496, 995]);
    }

    #[test]
    fn utf8_may_be_cut_anywhere_but_must_be_utf8() {
        let mut utf8 = Utf8::default();
        utf8.start("x.txt");
        let text: String = "aé日😀".bytes().map(|byte| utf8.push(&[byte]).unwrap()).collect();
        assert_eq!(text, "aé日😀");
        utf8.finish().unwrap();
        assert!(utf8.push(b"ab\xff").unwrap_err().to_string().contains("x.txt: not UTF-8 at byte 12"));
        utf8.start("y.txt");
        utf8.push("é".as_bytes().split_last().unwrap().1).unwrap();
        assert!(utf8.finish().unwrap_err().to_string().contains("y.txt: not UTF-8 at byte 0"));
    }
}
