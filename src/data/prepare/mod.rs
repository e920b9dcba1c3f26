//! Text to tokens: nanoGPT's raw uint16 and `meta.json` in one folder.
//!
//! Everything streams: memory stays at some hundred megabytes, whatever the corpus (a JSON line, of at most 256 MiB, or a Parquet
//! batch must fit). The character tokeniser reads its sources twice, first for the vocabulary. Files appear whole or not at all,
//! `meta.json` last. In shards, a preparation that was killed goes on after the last finished one, with the same bytes.
//! What is finished is never replaced: the same preparation finds it done, another one is refused.

mod archive;
mod cut;
#[cfg(feature = "tokenizers")]
mod dialogs;
mod encode;
#[cfg(feature = "tokenizers")]
mod hugging_face;
mod json;
mod lock;
#[cfg(feature = "tokenizers")]
mod paired;
mod pairs;
mod record;
mod shards;
mod skipped;
mod source;
mod stream;
mod utf8;
mod write;

#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
mod source_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

pub use self::pairs::{PairPreparation, PreparedPairs, prepare_pairs};

use self::cut::PIECE_BYTES;
use self::encode::{Characters, Encoder};
use self::lock::Lock;
use self::record::{Position, Record};
use self::shards::{PATTERN, SINGLE, Shards};
use self::skipped::Skipped;
use self::source::{Reading, Sink, each_document};
use self::stream::each_batch;
use self::utf8::Utf8;
use self::write::replace;
use super::file_error;
use super::format::TokenType;
use super::meta::{FILE_NAME, Meta, Tokenizer};
use super::settings::{OnError, Settings, Source, TextFormat};
use crate::shown::Url;
use crate::storage::{Input, expand};
use crate::{Error, Result};

/// What to prepare.
#[derive(Debug, Clone)]
pub struct Preparation {
    /// Paths, globs and URLs. `.jsonl`, `.ndjson`, `.jsonlines`, `.json`: a document a line; `.parquet`: a document a row; `.tar`: a
    /// document a file; anything else: one document of text, unless it looks like something else. All but Parquet may be
    /// compressed (`.gz`, `.zst`, `.xz`).
    pub inputs: Vec<Url>,
    /// What all of them are, whatever they are called and look like.
    pub format: Option<TextFormat>,
    /// What happens at a line or row that has no text.
    pub on_error: OnError,
    /// Folder for the tokens and `meta.json`, made where it is missing.
    pub output: PathBuf,
    /// How text becomes tokens.
    pub tokenizer: Tokenizer,
    /// [`Tokenizer::HuggingFace`]: the `tokenizer.json`, path or URL.
    pub tokenizer_file: Option<Url>,
    /// [`Tokenizer::HuggingFace`]: the token between documents; `None`: the one that is common in such tokenizers.
    pub separator: Option<String>,
    /// Field of a JSON line or column of a Parquet file that has the text; in Parquet, `a.b` is the field `b` of the column `a`.
    pub text_field: String,
    /// Tokens of a shard `train_000000.bin`, ...; `None`: one file `train.bin`.
    pub shard_tokens: Option<u64>,
}

impl Preparation {
    fn reading(&self) -> Reading<'_> {
        let takes_any = self.tokenizer == Tokenizer::Byte;
        Reading { text_field: &self.text_field, format: self.format, takes_any }
    }
}

/// How far a preparation is.
#[derive(Debug, Clone, Copy)]
pub struct Advance {
    /// Source that is being read, from 0, and how many there are.
    pub source: (usize, usize),
    /// Bytes of text that this process encoded.
    pub text_bytes: u64,
    /// Tokens that this process made.
    pub new_tokens: u64,
    /// Tokens that an interrupted preparation had left.
    pub old_tokens: u64,
}

/// Hears how far a preparation is, after each piece; an error of its ends the preparation, as a kill would.
pub type OnAdvance<'a> = dyn FnMut(&Advance) -> Result<()> + 'a;

/// What [`prepare`] leaves in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The description.
    pub meta: Meta,
    /// Whether all of it had been there before.
    pub was_done: bool,
}

/// Writes the tokens and their description, and returns the latter; nothing is done where they are there already.
///
/// Between documents stands GPT-2's end-of-text token, or for `char` and `byte` a newline where the document has none at
/// its end. (nanoGPT also writes an end-of-text after the last one.)
///
/// # Errors
/// [`Error::Config`] for inputs that are missing or not what they should be, with file and line, or tokens of another
/// preparation in the same folder; [`Error::Storage`] where an input cannot be read on, the output cannot be written or
/// another process writes to it; those of `advance`.
pub fn prepare(request: &Preparation, advance: &mut OnAdvance<'_>) -> Result<Prepared> {
    if request.shard_tokens == Some(0) {
        return Err(Error::Config("--shard-tokens 0: expected at least 1".into()));
    }
    let sources = sources(&request.inputs)?;
    let given = Given::of(request)?;
    let settings = settings(request, &given, &sources);
    fs::create_dir_all(&request.output)
        .map_err(|error| Error::Storage(format!("{}: {error}", request.output.display())))?;
    let _lock = Lock::acquire(&request.output)?;
    if let Some(meta) = finished(&request.output, &settings)? {
        record::remove(&request.output)?; // left by a kill right after the description was written
        return Ok(Prepared { meta, was_done: true });
    }
    let stored = Record::load(&request.output, &settings)?;
    if stored.is_none() {
        shards::refuse_unknown(&request.output)?;
    }
    let meta = make(request, &sources, given, settings, stored, advance)?;
    Ok(Prepared { meta, was_done: false })
}

/// What is known of the tokenizer before any text is read.
#[derive(Default)]
struct Given {
    encoder: Option<Encoder>,
    sha256: Option<String>,
    dtype: TokenType,
}

impl Given {
    /// # Errors
    /// Those of reading a tokenizer; [`Error::Environment`] where this build cannot.
    fn of(request: &Preparation) -> Result<Self> {
        let is_file = request.tokenizer == Tokenizer::HuggingFace;
        match &request.tokenizer_file {
            Some(file) if is_file => Self::of_file(file, request.separator.as_deref()),
            None if is_file => {
                Err(Error::Config("--tokenizer huggingface: expected the path of a tokenizer.json".into()))
            }
            _ if request.separator.is_some() => {
                let problem = format!("--separator: the tokenizer {} has its own", request.tokenizer);
                Err(Error::Config(format!("{problem}; it goes with a tokenizer.json")))
            }
            _ => Ok(Self::default()),
        }
    }

    #[cfg(feature = "tokenizers")]
    fn of_file(file: &Url, separator: Option<&str>) -> Result<Self> {
        let tokenizer = hugging_face::HuggingFace::open(file, separator)?;
        let (sha256, dtype) = (tokenizer.sha256.clone(), TokenType::of_vocabulary(tokenizer.vocabulary_size));
        Ok(Self { encoder: Some(Encoder::HuggingFace(Box::new(tokenizer))), sha256: Some(sha256), dtype })
    }

    #[cfg(not(feature = "tokenizers"))]
    fn of_file(file: &Url, _separator: Option<&str>) -> Result<Self> {
        Err(without_tokenizers(file))
    }
}

#[cfg(not(feature = "tokenizers"))]
fn without_tokenizers(file: &Url) -> Error {
    Error::Environment(format!(
        "--tokenizer {file}: this build reads no tokenizer.json; build with `cargo build --release --features tokenizers`"
    ))
}

fn settings(request: &Preparation, given: &Given, sources: &[Input]) -> Settings {
    Settings {
        tokenizer: request.tokenizer,
        tokenizer_sha256: given.sha256.clone(),
        separator: request.separator.clone(),
        dtype: given.dtype,
        text_field: request.text_field.clone(),
        format: request.format,
        on_error: request.on_error,
        shard_tokens: request.shard_tokens,
        piece_bytes: PIECE_BYTES,
        sources: sources.iter().map(Source::of).collect(),
    }
}

/// The description of finished tokens in the folder, which are those that are asked for and whole.
///
/// # Errors
/// [`Error::Config`] where they are not.
fn finished(folder: &Path, settings: &Settings) -> Result<Option<Meta>> {
    let Some(meta) = Meta::beside(&folder.join(SINGLE))? else { return Ok(None) };
    let difference = match &meta.settings {
        Some(theirs) => theirs.difference(settings).map(|difference| format!("made with {difference}")),
        None => Some("which does not say how they were made (an earlier version wrote it)".into()),
    };
    if let Some(difference) = difference {
        let problem = format!("holds finished tokens with a meta.json, {difference}");
        let hint = format!("choose another --output; {}", record::anew(folder));
        return Err(file_error(folder, format!("{problem}\nHINT: {hint}")));
    }
    meta.files().try_for_each(|file| record::check_file(folder, file.file, file.num_tokens, meta.dtype))?;
    Ok(Some(meta))
}

/// All of the tokens, or those that `stored` lacks.
fn make(
    request: &Preparation,
    sources: &[Input],
    given: Given,
    settings: Settings,
    stored: Option<Record>,
    advance: &mut OnAdvance<'_>,
) -> Result<Meta> {
    let (encoder, vocabulary) = match given.encoder {
        Some(encoder) => (encoder, None),
        None => encoder(request, sources, stored.as_ref(), advance)?,
    };
    let new = || Record {
        settings,
        vocabulary: vocabulary.clone(),
        shards: Vec::new(),
        position: Position::default(),
        skipped: Default::default(),
    };
    let mut record = stored.unwrap_or_else(new);
    let settings = record.settings.clone();
    let from = record.position.place;
    let skipped = Skipped::before(from.source, std::mem::take(&mut record.skipped));
    let skips = (request.on_error == OnError::Skip).then_some(&skipped);
    let mut shards = Shards::new(&request.output, &encoder, &skipped, record);
    let before = shards.num_tokens();
    let mut state = Advance { source: (0, sources.len()), text_bytes: 0, new_tokens: 0, old_tokens: before };
    each_batch(sources, request.reading(), skips, &encoder, from, |batch| {
        for (piece, tokens) in batch {
            shards.push(piece, tokens)?;
            state.text_bytes += piece.text.len() as u64;
            state.source.0 = piece.place.source;
        }
        state.new_tokens = shards.num_tokens() - before;
        advance(&state)
    })?;
    if shards.num_tokens() == 0 {
        return Err(Error::Config("the inputs hold no text at all; nothing was written".into()));
    }
    finish(request, &encoder, settings, vocabulary, shards, &skipped)
}

fn finish(
    request: &Preparation,
    encoder: &Encoder,
    settings: Settings,
    vocabulary: Option<Vec<String>>,
    shards: Shards<'_>,
    skipped: &Skipped,
) -> Result<Meta> {
    let num_documents = shards.num_documents();
    let files = shards.finish()?;
    skipped.write(&request.output)?;
    let is_single = request.shard_tokens.is_none();
    let meta = Meta {
        file: if is_single { SINGLE } else { PATTERN }.into(),
        dtype: settings.dtype,
        tokenizer: request.tokenizer,
        vocabulary_size: encoder.vocabulary_size(),
        num_tokens: files.iter().map(|file| file.num_tokens).sum(),
        num_documents,
        num_skipped: skipped.count(),
        separator: encoder.separator_name(),
        sha256: files.first().filter(|_| is_single).map(|file| file.sha256.clone()),
        shards: if is_single { Vec::new() } else { files },
        sources: settings.sources.iter().map(|source| source.name.clone()).collect(),
        settings: Some(settings),
        vocabulary,
    };
    let text = serde_json::to_string_pretty(&meta).map_err(|error| Error::Other(format!("meta.json: {error}")))?;
    replace(&request.output.join(FILE_NAME), format!("{text}\n").as_bytes())?;
    record::remove(&request.output)?;
    Ok(meta)
}

fn sources(inputs: &[Url]) -> Result<Vec<Input>> {
    if inputs.is_empty() {
        return Err(Error::Config("there is nothing to prepare; name one or more files of text".into()));
    }
    let mut sources = Vec::new();
    for input in inputs {
        for name in expand(input)? {
            sources.push(Input::open(name)?);
        }
    }
    Ok(sources)
}

/// The encoder, and for `char` its vocabulary.
fn encoder(
    request: &Preparation,
    sources: &[Input],
    stored: Option<&Record>,
    advance: &mut OnAdvance<'_>,
) -> Result<(Encoder, Option<Vec<String>>)> {
    match request.tokenizer {
        Tokenizer::Byte => Ok((Encoder::Byte, None)),
        Tokenizer::Gpt2 => Ok((Encoder::Gpt2, None)),
        Tokenizer::HuggingFace => Err(Error::Other("a tokenizer's file that was not opened".into())),
        Tokenizer::Char => {
            let characters = match stored.and_then(|record| record.vocabulary.as_ref()) {
                Some(vocabulary) => vocabulary.iter().flat_map(|name| name.chars()).collect(),
                None => all_characters(sources, request, advance)?,
            };
            let characters = Characters::new(characters)?;
            let vocabulary = characters.names();
            Ok((Encoder::Char(characters), Some(vocabulary)))
        }
    }
}

fn all_characters(sources: &[Input], request: &Preparation, advance: &mut OnAdvance<'_>) -> Result<BTreeSet<char>> {
    let state = Advance { source: (0, sources.len()), text_bytes: 0, new_tokens: 0, old_tokens: 0 };
    let (characters, utf8, on_error) = (BTreeSet::new(), Utf8::default(), request.on_error);
    let mut found = Vocabulary { characters, utf8, last: None, on_error, state, advance };
    for (number, source) in sources.iter().enumerate() {
        found.state.source.0 = number;
        each_document(source, request.reading(), &mut found)?;
    }
    Ok(found.characters)
}

/// First pass of `char`: the set of characters, with the newlines that will stand between documents.
struct Vocabulary<'a> {
    characters: BTreeSet<char>,
    utf8: Utf8,
    last: Option<char>,
    on_error: OnError,
    state: Advance,
    advance: &'a mut OnAdvance<'a>,
}

impl Sink for Vocabulary<'_> {
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
        (self.advance)(&self.state)
    }

    fn end(&mut self) -> Result<()> {
        self.utf8.finish()
    }

    /// The second pass writes it down.
    fn bad(&mut self, problem: Error) -> Result<()> {
        match self.on_error {
            OnError::Skip => Ok(()),
            OnError::Stop => Err(problem),
        }
    }
}
