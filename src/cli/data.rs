//! `hesspec data prepare` and `hesspec data inspect`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::common::{print, print_json};
use crate::Result;
use crate::data::{self, Inspection, Preparation, Tokenizer};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Text to tokens: train.bin (uint16) and meta.json in one folder.
    Prepare(Prepare),
    /// What a file of tokens, or a glob of them, holds.
    Inspect(Inspect),
}

#[derive(Debug, Args)]
pub struct Prepare {
    /// How text becomes tokens: char, byte or gpt2.
    #[arg(long)]
    tokenizer: Tokenizer,
    /// Folder for train.bin and meta.json.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Field of a JSON line, or column of a Parquet file, that has the text.
    #[arg(long, value_name = "FIELD", default_value = "text")]
    text_field: String,
    /// Text files, .jsonl (a document a line), .parquet (a document a row).
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// A file, or a glob in quotes.
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
    let Prepare { tokenizer, output, text_field, inputs } = arguments;
    let meta = data::prepare(&Preparation { inputs, output: output.clone(), tokenizer, text_field })?;
    if json {
        return print_json(&meta);
    }
    print(&format!(
        "{}: {} tokens of {} documents, vocabulary {}",
        output.join(&meta.file).display(),
        meta.num_tokens,
        meta.num_documents,
        meta.vocabulary_size
    ))
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
