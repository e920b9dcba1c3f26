//! `hesspec data prepare` and `hesspec data inspect`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::common::{local, print, print_json};
use super::progress::Counter;
use crate::cluster::signal;
use crate::data::{
    self, Advance, Inspection, Meta, OnError, PairPreparation, Preparation, Prepared, PreparedPairs, TextFormat,
    TokenType, Tokenizer,
};
use crate::shown::Url;
use crate::{Error, Result};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Text to tokens: train.bin or shards (uint16), and meta.json, in one folder.
    Prepare(Prepare),
    /// Dialogues of films to a file of pairs for [data.pairs]: Cornell's corpus, whose movie_lines.txt has what is said and
    /// movie_conversations.txt what follows what. In half of the pairs another line stands in place of what follows.
    Pairs(Pairs),
    /// What a file of tokens, or a glob of them, holds; checks it against the hashes in meta.json.
    Inspect(Inspect),
}

#[derive(Debug, Args)]
pub struct Prepare {
    /// How text becomes tokens: char, byte, gpt2, or a tokenizer.json of Hugging Face's by path or URL (builds with the feature
    /// `tokenizers`).
    #[arg(long)]
    tokenizer: Url,
    /// With a tokenizer.json: the token between documents. Default: <|endoftext|>, </s> or the like, where it has one.
    #[arg(long, value_name = "TOKEN")]
    separator: Option<String>,
    /// Folder for the tokens and meta.json. Where they are, the same command does nothing and another one is refused.
    #[arg(long, value_name = "DIR", value_parser = local)]
    output: PathBuf,
    /// Write shards train_000000.bin, ... of so many tokens (say 100000000) instead of one file; killed and started again,
    /// the preparation goes on after the last whole shard.
    #[arg(long, value_name = "N")]
    shard_tokens: Option<u64>,
    /// Field of a JSON line, or column of a Parquet file, that has the text; a.b is the field b of a nested column a.
    #[arg(long, value_name = "FIELD", default_value = "text")]
    text_field: String,
    /// What all inputs are: text, jsonl, parquet or tar. Default: what their names and content say.
    #[arg(long)]
    format: Option<TextFormat>,
    /// stop, or skip: pass over lines and rows that have no text, count them and list them in skipped.txt.
    #[arg(long, default_value = "stop")]
    on_error: OnError,
    /// Paths, globs in quotes, URLs: text files, .jsonl or .json (a document a line), .parquet (a document a row), .tar (a
    /// document a file); all but Parquet also with .gz, .zst or .xz.
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<Url>,
}

#[derive(Debug, Args)]
pub struct Pairs {
    /// A tokenizer.json of BERT's, by path or URL (builds with the feature `tokenizers`).
    #[arg(long)]
    tokenizer: Url,
    /// The most tokens of a pair; of longer ones the longer sentence is cut.
    #[arg(long, value_name = "TOKENS", default_value = "128")]
    context: usize,
    /// Seed of the random choice of pairs whose second line does not follow the first.
    #[arg(long, default_value = "0")]
    seed: u64,
    /// File to write: JSON lines, gzipped where it ends in .gz.
    #[arg(long, value_name = "FILE", value_parser = local)]
    output: PathBuf,
    /// Replace a file that is already there.
    #[arg(long)]
    force: bool,
    /// movie_lines.txt, by path or URL.
    lines: Url,
    /// movie_conversations.txt, by path or URL.
    conversations: Url,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// A file, or a glob in quotes; path or URL.
    path: Url,
    /// uint16 or uint32: the file is nothing but such numbers, whatever it looks like (`data.tokens.dtype`).
    #[arg(long)]
    dtype: Option<TokenType>,
}

/// Does one of them.
pub fn main(command: Command, json: bool) -> Result<()> {
    match command {
        Command::Prepare(arguments) => prepare(arguments, json),
        Command::Pairs(arguments) => pairs(arguments, json),
        Command::Inspect(arguments) => inspect(&arguments, json),
    }
}

fn prepare(arguments: Prepare, json: bool) -> Result<()> {
    let Prepare { tokenizer, separator, output, shard_tokens, text_field, format, on_error, inputs } = arguments;
    let (tokenizer, tokenizer_file) = tokenizer_of(tokenizer)?;
    let request = Preparation {
        inputs,
        format,
        on_error,
        output: output.clone(),
        tokenizer,
        tokenizer_file,
        separator,
        text_field,
        shard_tokens,
    };
    signal::install(Some(
        c"\nhesspec: heard; stopping after the piece of text at hand. A second Ctrl-C leaves at once\n",
    ))?;
    let meter = Counter::new();
    let mut state = None;
    let Prepared { meta, was_done } = data::prepare(&request, &mut |advance| {
        meter.show(&rates(advance, meter.seconds()));
        state = Some(*advance);
        stop_if_asked(shard_tokens.is_some())
    })?;
    if json {
        return print_json(&meta);
    }
    let file = output.join(&meta.file);
    let (done, now) = match state.filter(|_| !was_done) {
        None => ("already done: ", String::new()),
        Some(state) => ("", format!("\n{}", summary(&state, meter.seconds()))),
    };
    let Meta { num_tokens, num_documents, num_skipped, vocabulary_size, .. } = meta;
    let skipped = match num_skipped {
        0 => String::new(),
        count => format!(
            "\nskipped: {count} lines or rows without a text; {} lists them",
            output.join("skipped.txt").display()
        ),
    };
    print(&format!(
        "{}: {done}{num_tokens} tokens of {num_documents} documents, vocabulary {vocabulary_size}{skipped}{now}",
        file.display()
    ))
}

fn pairs(arguments: Pairs, json: bool) -> Result<()> {
    let Pairs { tokenizer, context, seed, output, force, lines, conversations } = arguments;
    if !force && output.symlink_metadata().is_ok() {
        let problem = "is already there; name another file, or replace it with --force";
        return Err(Error::Config(format!("{}: {problem}", output.display())));
    }
    let made = data::prepare_pairs(&PairPreparation {
        lines,
        conversations,
        tokenizer,
        context,
        seed,
        output: output.clone(),
    })?;
    if json {
        return print_json(&made);
    }
    let PreparedPairs { pairs, tokens, vocabulary, mask, never } = made;
    let mask = match mask {
        Some(token) => format!("\nmask = {{ token = {token}, never = {never:?} }}"),
        None => String::new(),
    };
    print(&format!("{}: {pairs} pairs of {tokens} tokens, vocabulary {vocabulary}{mask}", output.display()))
}

/// A tokenizer by its name, or the file of one.
fn tokenizer_of(named: Url) -> Result<(Tokenizer, Option<Url>)> {
    match named.exposed().parse() {
        Ok(tokenizer) => Ok((tokenizer, None)),
        Err(_) if named.without_query().ends_with(".json") => Ok((Tokenizer::HuggingFace, Some(named))),
        Err(problem) => Err(Error::Config(format!("--tokenizer: {problem}"))),
    }
}

/// # Errors
/// [`Error::Interrupted`] after a stop signal.
fn stop_if_asked(in_shards: bool) -> Result<()> {
    let Some(name) = signal::requested() else { return Ok(()) };
    let kept = match in_shards {
        true => "finished shards are kept. Run the same command again to go on after them",
        false => {
            "nothing is kept of a single file (of --shard-tokens N, finished shards are). Run the same command again"
        }
    };
    Err(Error::Interrupted(format!("stopped by SIG{name}; {kept}")))
}

/// What this process did, apart from what it found.
fn summary(advance: &Advance, seconds: f64) -> String {
    let now = format!("made now: {}, in {seconds:.1} s", made(advance, seconds));
    match advance.old_tokens {
        0 => now,
        old => format!("{now}\nkept from before: {}", millions(old)),
    }
}

/// `source 3 of 80, 128.4 M tokens of 512 MB of text, 1.21 M tokens/s, and 50.0 M tokens from before`
fn rates(advance: &Advance, seconds: f64) -> String {
    let (source, sources) = advance.source;
    let before = match advance.old_tokens {
        0 => String::new(),
        old => format!(", and {} from before", millions(old)),
    };
    format!("source {} of {sources}, {}{before}", source + 1, made(advance, seconds))
}

/// `128.4 M tokens of 512 MB of text, 1.21 M tokens/s`
fn made(advance: &Advance, seconds: f64) -> String {
    let rate = advance.new_tokens as f64 / 1e6 / seconds.max(1e-9);
    let text = advance.text_bytes as f64 / 1e6;
    format!("{} of {text:.1} MB of text, {rate:.2} M tokens/s", millions(advance.new_tokens))
}

fn millions(tokens: u64) -> String {
    format!("{:.1} M tokens", tokens as f64 / 1e6)
}

fn inspect(arguments: &Inspect, json: bool) -> Result<()> {
    let found = data::inspect(&arguments.path, arguments.dtype)?;
    if json { print_json(&found) } else { print(&describe(&found)) }
}

fn describe(found: &Inspection) -> String {
    let mut lines: Vec<String> = found.formats.iter().map(|(file, format)| format!("{file}: {format}")).collect();
    if found.num_verified > 0 {
        lines.push(format!("sha256       as in meta.json ({} of {} files)", found.num_verified, found.formats.len()));
    }
    lines.push(format!("tokens       {}", found.num_tokens));
    lines.push(format!("distinct     {}", found.num_distinct));
    lines.push(format!("largest      {} (the model's vocabulary must be larger)", found.max_token));
    if let Some(size) = found.vocabulary_size {
        lines.push(format!("vocabulary   {size} (meta.json)"));
    }
    let frequent = found.most_frequent.iter().map(|f| match &f.text {
        Some(text) => format!("{text:?} {}", f.count),
        None => format!("{} {}", f.token, f.count),
    });
    lines.push(format!("frequent     {}", frequent.collect::<Vec<_>>().join(", ")));
    if let Some(excerpt) = &found.excerpt {
        lines.push(format!("begins with  {excerpt:?}"));
    }
    lines.join("\n")
}
