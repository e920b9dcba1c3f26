//! UTF-8 in pieces that may end within a character.

use crate::{Error, Result};

/// Decodes one document after the other.
#[derive(Default)]
pub(super) struct Utf8 {
    name: String,
    /// The beginning of a character whose rest is in the next piece.
    carry: Vec<u8>,
    /// Bytes of the document that were decoded.
    decoded: usize,
}

impl Utf8 {
    /// Begins a document; `name` is for errors.
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
        let hint = "convert it (iconv -t UTF-8), or use --tokenizer byte, which takes any file";
        self.problem(&format!("not UTF-8 at byte {}\nHINT: {hint}", self.decoded + offset))
    }

    /// What is wrong with the document.
    pub fn problem(&self, problem: &str) -> Error {
        Error::Config(format!("{}: {problem}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
