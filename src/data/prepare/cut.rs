//! Documents cut into pieces that can be encoded apart, each with its place: the unit of parallel work and of resuming.
//!
//! Where the cuts lie depends on the text alone, never on how it was read, so that a preparation that goes on elsewhere
//! gives the same tokens.

use serde::{Deserialize, Serialize};

use super::skipped::Skipped;
use super::source::Sink;
use super::utf8::Utf8;
use crate::{Error, Result};

/// A piece is at most so long, where the text lets itself be cut.
pub(super) const PIECE_BYTES: usize = 1 << 16;

/// Text without a place for a cut is held in memory up to here.
pub(super) const MOST_BYTES: usize = 16 << 20;

/// A document that cannot be cut is held in memory up to here.
const MOST_WHOLE: usize = 256 << 20;

/// Where a piece comes from; ordered as the pieces are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub(super) struct Place {
    /// Number of the source.
    pub source: usize,
    /// Number of the piece in its source.
    pub piece: u64,
}

/// A part of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub place: Place,
    /// Whether a document begins here.
    pub starts: bool,
    pub text: Vec<u8>,
}

/// Where a document may be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Anywhere.
    Bytes,
    /// Between characters.
    Characters,
    /// Where no token of GPT-2 can span the cut.
    Words,
    /// Nowhere: a document is encoded as a whole.
    Never,
}

impl Cut {
    /// The last place in `text[..limit]` where it may be cut.
    fn last(self, text: &[u8], limit: usize) -> Option<usize> {
        match self {
            Self::Bytes => return Some(limit),
            Self::Never => return None,
            Self::Characters | Self::Words => {}
        }
        // the text is valid UTF-8, but `limit` may lie within a character
        let valid = match std::str::from_utf8(&text[..limit]) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&text[..error.valid_up_to()]).unwrap_or_default(),
        };
        if self == Self::Characters { Some(valid.len()) } else { before_white_space(valid) }
    }
}

/// The last place before a white character that follows a non-white one. No token of GPT-2's pattern spans it: white space
/// stands only at the front of a piece, and the pattern looks ahead only within white space. So both sides can be encoded apart.
fn before_white_space(text: &str) -> Option<usize> {
    let mut characters = text.char_indices().rev().peekable();
    while let Some((index, character)) = characters.next() {
        let follows_word = characters.peek().is_some_and(|(_, before)| !before.is_whitespace());
        if character.is_whitespace() && follows_word {
            return Some(index);
        }
    }
    None
}

/// Cuts documents and hands the pieces on.
pub(super) struct Cutter<'a, E> {
    how: Cut,
    limit: usize,
    emit: E,
    /// Where lines and rows without a text are written down; `None`: the first one ends everything.
    skipped: Option<&'a Skipped>,
    next: Place,
    starts: bool,
    pending: Vec<u8>,
    /// The first so many limits of `pending` hold no place for a cut.
    searched: usize,
    utf8: Utf8,
}

impl<'a, E: FnMut(Piece) -> Result<()>> Cutter<'a, E> {
    /// Pieces of the source `source` go to `emit`.
    pub fn new(how: Cut, limit: usize, source: usize, emit: E) -> Self {
        let (next, pending) = (Place { source, piece: 0 }, Vec::new());
        Self { how, limit, emit, skipped: None, next, starts: false, pending, searched: 0, utf8: Utf8::default() }
    }

    /// Passes over lines and rows without a text, and writes them down.
    pub fn skipping(self, skipped: Option<&'a Skipped>) -> Self {
        Self { skipped, ..self }
    }

    fn hand_on(&mut self, len: usize) -> Result<()> {
        let rest = self.pending.split_off(len);
        let text = std::mem::replace(&mut self.pending, rest);
        let piece = Piece { place: self.next, starts: std::mem::take(&mut self.starts), text };
        self.next.piece += 1;
        self.searched = 0;
        (self.emit)(piece)
    }
}

impl<E: FnMut(Piece) -> Result<()>> Sink for Cutter<'_, E> {
    fn start(&mut self, name: &str) -> Result<()> {
        self.utf8.start(name);
        self.starts = true;
        Ok(())
    }

    fn text(&mut self, bytes: &[u8]) -> Result<()> {
        match self.how {
            Cut::Bytes => self.pending.extend_from_slice(bytes),
            Cut::Characters | Cut::Words | Cut::Never => {
                self.pending.extend_from_slice(self.utf8.push(bytes)?.as_bytes())
            }
        }
        while self.pending.len() > (self.searched + 1) * self.limit {
            match self.how.last(&self.pending, (self.searched + 1) * self.limit).filter(|at| *at > 0) {
                Some(at) => self.hand_on(at)?,
                None => self.searched += 1,
            }
            if self.how == Cut::Never && self.searched * self.limit >= MOST_WHOLE {
                return Err(self.utf8.problem(&format!(
                    "the document has more than {} MiB, and this tokenizer takes it as a whole\nHINT: cut it into several",
                    MOST_WHOLE >> 20
                )));
            }
            if self.how != Cut::Never && self.searched * self.limit >= MOST_BYTES {
                return Err(self.utf8.problem(&format!(
                    "there is no white space in {} MiB; is it text?\nHINT: use --tokenizer byte, which takes any file",
                    MOST_BYTES >> 20
                )));
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if self.how != Cut::Bytes {
            self.utf8.finish()?;
        }
        if self.starts || !self.pending.is_empty() { self.hand_on(self.pending.len()) } else { Ok(()) }
    }

    fn bad(&mut self, problem: Error) -> Result<()> {
        let Some(skipped) = self.skipped else { return Err(problem) };
        skipped.add(self.next.source, &problem);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(how: Cut, limit: usize, text: &str, read: usize) -> Vec<String> {
        let mut found = Vec::new();
        let mut cutter = Cutter::new(how, limit, 3, |piece: Piece| {
            assert_eq!(piece.place, Place { source: 3, piece: found.len() as u64 });
            assert_eq!(piece.starts, found.is_empty());
            found.push(String::from_utf8(piece.text).unwrap());
            Ok(())
        });
        cutter.start("x").unwrap();
        text.as_bytes().chunks(read).for_each(|bytes| cutter.text(bytes).unwrap());
        cutter.end().unwrap();
        found
    }

    #[test]
    fn cuts_depend_on_the_text_alone() {
        let text = "aé b  cdefghijklmnop\u{3000}日本語 x\n\ny ".repeat(3);
        for how in [Cut::Characters, Cut::Words] {
            for limit in [4, 7, 30, 1000] {
                let at_once = pieces(how, limit, &text, text.len());
                assert_eq!(at_once.concat(), text);
                assert!(limit == 1000 || at_once.len() > 2, "{at_once:?}");
                for read in [1, 2, 5, 64] {
                    assert_eq!(pieces(how, limit, &text, read), at_once, "{how:?} {limit} {read}");
                }
            }
        }
        assert_eq!(pieces(Cut::Words, 4, "ab cd ef", 1), ["ab", " cd", " ef"]);
        assert_eq!(pieces(Cut::Bytes, 3, "abcdefg", 2), ["abc", "def", "g"]);
        assert_eq!(pieces(Cut::Words, 3, "", 1), [""], "an empty document is one, too");
    }
}
