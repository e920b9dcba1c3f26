//! Text to tokens: `train.bin` (nanoGPT's raw uint16) and `meta.json` in one folder.
//!
//! Everything streams: memory stays at some megabytes (a JSON line or a Parquet batch must fit). The character tokeniser
//! reads its sources twice, first for the vocabulary. Files appear whole or not at all, `meta.json` last.

mod encode;
mod source;
mod write;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use self::encode::{Characters, Encoder, Utf8};
use self::source::{Sink, each_document};
use self::write::{TokenWriter, replace};
use super::file_error;
use super::meta::{FILE_NAME, Meta, Tokenizer};
use crate::{Error, Result};

/// Name of the tokens' file.
const TOKENS_NAME: &str = "train.bin";

/// What to prepare.
#[derive(Debug, Clone)]
pub struct Preparation {
    /// `.jsonl`/`.ndjson`: a document a line; `.parquet`: a document a row; anything else: one document of text.
    pub inputs: Vec<PathBuf>,
    /// Folder for `train.bin` and `meta.json`, made where it is missing.
    pub output: PathBuf,
    /// How text becomes tokens.
    pub tokenizer: Tokenizer,
    /// Field of a JSON line or column of a Parquet file that has the text.
    pub text_field: String,
}

/// Writes the tokens and their description, and returns the latter.
///
/// Between documents stands GPT-2's end-of-text token, or for `char` and `byte` a newline where the document has none at
/// its end.
///
/// # Errors
/// [`Error::Config`] for inputs that are missing or not what they should be, with file and line;
/// [`Error::Storage`] where the output cannot be written.
pub fn prepare(request: &Preparation) -> Result<Meta> {
    check_inputs(&request.inputs)?;
    let (encoder, vocabulary_size, vocabulary) = encoder(request)?;

    let storage = |error: std::io::Error| Error::Storage(format!("{}: {error}", request.output.display()));
    fs::create_dir_all(&request.output).map_err(storage)?;
    let mut pipeline =
        Pipeline { encoder, writer: TokenWriter::create(&request.output.join(TOKENS_NAME))?, num_documents: 0 };
    each_document(&request.inputs, &request.text_field, &mut pipeline)?;
    if pipeline.writer.num_tokens() == 0 {
        return Err(Error::Config("the inputs hold no text at all; nothing was written".into()));
    }

    let meta_path = request.output.join(FILE_NAME);
    if meta_path.exists() {
        fs::remove_file(&meta_path).map_err(storage)?; // it describes the tokens that are about to be replaced
    }
    let num_documents = pipeline.num_documents;
    let (num_tokens, sha256) = pipeline.writer.finish()?;
    let meta = Meta {
        file: TOKENS_NAME.into(),
        dtype: "uint16".into(),
        tokenizer: request.tokenizer,
        vocabulary_size,
        num_tokens,
        num_documents,
        separator: separator(request.tokenizer).into(),
        sha256,
        sources: request.inputs.iter().map(|input| input.display().to_string()).collect(),
        vocabulary,
    };
    let text = serde_json::to_string_pretty(&meta).map_err(|error| Error::Other(format!("meta.json: {error}")))?;
    replace(&meta_path, format!("{text}\n").as_bytes())?;
    Ok(meta)
}

fn check_inputs(inputs: &[PathBuf]) -> Result<()> {
    if inputs.is_empty() {
        return Err(Error::Config("there is nothing to prepare; name one or more files of text".into()));
    }
    for input in inputs {
        let metadata =
            fs::metadata(input).map_err(|error| file_error(input, format!("cannot read the text: {error}")))?;
        if metadata.is_dir() {
            return Err(file_error(input, "is a folder; name the files in it"));
        }
    }
    Ok(())
}

/// What meta.json says of the space between documents.
fn separator(tokenizer: Tokenizer) -> &'static str {
    match tokenizer {
        Tokenizer::Gpt2 => "<|endoftext|>",
        Tokenizer::Char | Tokenizer::Byte => "newline",
    }
}

/// The encoder, the size of its vocabulary, and for `char` the vocabulary itself.
fn encoder(request: &Preparation) -> Result<(Encoder, usize, Option<Vec<String>>)> {
    match request.tokenizer {
        Tokenizer::Byte => Ok((Encoder::Byte, 256, None)),
        Tokenizer::Gpt2 => Ok((Encoder::gpt2(), encode::GPT2_VOCABULARY, None)),
        Tokenizer::Char => {
            let mut found = Vocabulary::default();
            each_document(&request.inputs, &request.text_field, &mut found)?;
            let characters = Characters::new(found.characters)?;
            let vocabulary = characters.names();
            Ok((Encoder::Char(characters, Utf8::default()), vocabulary.len(), Some(vocabulary)))
        }
    }
}

/// First pass of `char`: the set of characters, with the newlines that will stand between documents.
#[derive(Default)]
struct Vocabulary {
    characters: BTreeSet<char>,
    utf8: Utf8,
    last: Option<char>,
}

impl Sink for Vocabulary {
    fn start(&mut self, name: &str) -> Result<()> {
        if self.last.is_some() {
            self.characters.insert('\n');
        }
        self.utf8.start(name);
        Ok(())
    }

    fn text(&mut self, bytes: &[u8]) -> Result<()> {
        let text = self.utf8.push(bytes)?;
        self.characters.extend(text.chars());
        self.last = text.chars().next_back().or(self.last);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.utf8.finish()
    }
}

/// The only, or second, pass: tokens into the file.
struct Pipeline {
    encoder: Encoder,
    writer: TokenWriter,
    num_documents: u64,
}

impl Sink for Pipeline {
    fn start(&mut self, name: &str) -> Result<()> {
        if let (true, Some(separator)) = (self.num_documents > 0, self.encoder.separator(self.writer.last())) {
            self.writer.push(&[separator])?;
        }
        self.num_documents += 1;
        self.encoder.start(name);
        Ok(())
    }

    fn text(&mut self, bytes: &[u8]) -> Result<()> {
        let tokens = self.encoder.encode(bytes)?;
        self.writer.push(&tokens)
    }

    fn end(&mut self) -> Result<()> {
        let tokens = self.encoder.finish()?;
        self.writer.push(&tokens)
    }
}
