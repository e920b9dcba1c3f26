//! `hesspec data prepare` and `hesspec data inspect`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::common::{print, print_json};
use super::progress::Counter;
use crate::Result;
use crate::data::{self, Advance, Inspection, Preparation, Tokenizer};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Text to tokens: train.bin or shards (uint16), and meta.json, in one folder.
    Prepare(Prepare),
    /// What a file of tokens, or a glob of them, holds.
    Inspect(Inspect),
}

#[derive(Debug, Args)]
pub struct Prepare {
    /// How text becomes tokens: char, byte or gpt2.
    #[arg(long)]
    tokenizer: Tokenizer,
    /// Folder for the tokens and meta.json.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Write shards train_000000.bin, ... of so many tokens (say 100000000) instead of one file; killed and started again,
    /// the preparation goes on after the last whole shard.
    #[arg(long, value_name = "N")]
    shard_tokens: Option<u64>,
    /// Field of a JSON line, or column of a Parquet file, that has the text.
    #[arg(long, value_name = "FIELD", default_value = "text")]
    text_field: String,
    /// Paths, globs in quotes, URLs: text files, .jsonl (a document a line), .parquet (a document a row), .tar (a document a
    /// file); all but Parquet also with .gz or .zst.
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// A file, or a glob in quotes; path or URL.
    path: String,
}

/// Does one of them.
pub fn main(command: Command, json: bool) -> Result<()> {
    match command {
        Command::Prepare(arguments) => prepare(arguments, json),
        Command::Inspect(arguments) => inspect(&arguments.path, json),
    }
}

fn prepare(arguments: Prepare, json: bool) -> Result<()> {
    let Prepare { tokenizer, output, shard_tokens, text_field, inputs } = arguments;
    let request = Preparation { inputs, output: output.clone(), tokenizer, text_field, shard_tokens };
    let meter = Counter::new();
    let mut state = None;
    let meta = data::prepare(&request, &mut |advance| {
        meter.show(&rates(advance, meter.seconds()));
        state = Some(*advance);
    })?;
    if json {
        return print_json(&meta);
    }
    let seconds = meter.seconds();
    let rates = state.map_or(String::new(), |state| format!("\n{} in {seconds:.1} s", rates(&state, seconds)));
    print(&format!(
        "{}: {} tokens of {} documents, vocabulary {}{rates}",
        output.join(&meta.file).display(),
        meta.num_tokens,
        meta.num_documents,
        meta.vocabulary_size
    ))
}

/// `source 3 of 80, 512 MB of text, 128.4 M tokens, 1.21 M tokens/s`
fn rates(advance: &Advance, seconds: f64) -> String {
    format!(
        "source {} of {}, {:.0} MB of text, {:.1} M tokens, {:.2} M tokens/s",
        advance.source.0 + 1,
        advance.source.1,
        advance.text_bytes as f64 / 1e6,
        advance.num_tokens as f64 / 1e6,
        advance.new_tokens as f64 / 1e6 / seconds.max(1e-9)
    )
}

fn inspect(path: &str, json: bool) -> Result<()> {
    let found = data::inspect(path)?;
    if json { print_json(&found) } else { print(&describe(&found)) }
}

fn describe(found: &Inspection) -> String {
    let mut lines: Vec<String> = found.formats.iter().map(|(file, format)| format!("{file}: {format}")).collect();
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
