//! Documents out of text, JSON lines, Parquet and tar archives, plain or compressed, by path or URL.

use std::io::{self, BufRead, BufReader, Read};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use flate2::read::MultiGzDecoder;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::storage::Input;
use crate::{Error, Result};

/// Bytes of a text file that are read at a time.
const PIECE: usize = 1 << 16;
/// Rows of a Parquet file that are read at a time.
const ROWS: usize = 256;
/// Base-2 logarithm of the largest window of a zstd stream: the most that the format has (`zstd --long=31`).
const ZSTD_WINDOW: u32 = 31;

/// Where documents go: `start`, any number of `text`, `end`.
pub(super) trait Sink {
    /// Begins a document; `name` is its file, and its line or row, for errors.
    fn start(&mut self, name: &str) -> Result<()>;
    /// The next bytes of the document, cut anywhere.
    fn text(&mut self, bytes: &[u8]) -> Result<()>;
    /// Ends the document.
    fn end(&mut self) -> Result<()>;

    /// A document that is in memory as a whole.
    fn document(&mut self, name: &str, text: &str) -> Result<()> {
        self.start(name)?;
        self.text(text.as_bytes())?;
        self.end()
    }
}

/// What a name's ending says of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    JsonLines,
    Parquet,
    Tar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

/// `.jsonl`, `.ndjson`, `.parquet`, `.tar` and `.tgz` are what they say, anything else is text; `.gz` or `.zst` may follow.
fn kind(name: &str) -> (Kind, Compression) {
    let lower = name.to_lowercase();
    let stems = [(".gz", Compression::Gzip), (".zst", Compression::Zstd), (".zstd", Compression::Zstd)];
    let compressed = stems.iter().find_map(|(ending, how)| Some((lower.strip_suffix(ending)?, *how)));
    let (stem, compression) = compressed.unwrap_or((&lower, Compression::None));
    let is = |endings: &[&str]| endings.iter().any(|ending| stem.ends_with(ending));
    match stem {
        _ if is(&[".tgz"]) => (Kind::Tar, Compression::Gzip),
        _ if is(&[".tar"]) => (Kind::Tar, compression),
        _ if is(&[".jsonl", ".ndjson"]) => (Kind::JsonLines, compression),
        _ if is(&[".parquet"]) => (Kind::Parquet, compression),
        _ => (Kind::Text, compression),
    }
}

/// Sends every document of an input, in order.
pub(super) fn each_document(input: &Input, text_field: &str, sink: &mut dyn Sink) -> Result<()> {
    let (kind, compression) = kind(&input.name);
    if kind == Kind::Parquet {
        return match compression {
            Compression::None => parquet(input, text_field, sink),
            _ => Err(input.error("Parquet is compressed inside; unpack this file")),
        };
    }
    let raw = input.reader(0)?;
    let reader: Box<dyn Read> = match compression {
        Compression::None => raw,
        Compression::Gzip => Box::new(MultiGzDecoder::new(raw)),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::new(raw).map_err(|error| unread(input, &error))?;
            decoder.window_log_max(ZSTD_WINDOW).map_err(|error| unread(input, &error))?;
            Box::new(decoder)
        }
    };
    match kind {
        Kind::Tar => archive(input, reader, text_field, sink),
        Kind::JsonLines => json_lines(input, &input.name, reader, text_field, sink),
        Kind::Text | Kind::Parquet => text(input, &input.name, reader, sink),
    }
}

/// Characters of foreign text that a message repeats at most.
const MOST_QUOTED: usize = 120;

/// Text out of a file, as a message may repeat it: damaged archives put their raw bytes into their errors. Every run of
/// what cannot be shown becomes one `?`.
fn quoted(text: &str) -> String {
    let is_shown = |c: char| !c.is_control() && c != char::REPLACEMENT_CHARACTER;
    let mut shown: Vec<char> = text.trim().chars().map(|c| if is_shown(c) { c } else { '\0' }).collect();
    shown.dedup_by(|a, b| *a == '\0' && *b == '\0');
    let rest = if shown.len() > MOST_QUOTED { "..." } else { "" };
    shown.into_iter().take(MOST_QUOTED).map(|c| if c == '\0' { '?' } else { c }).collect::<String>() + rest
}

/// A reader failed: the storage did, or what is stored is damaged.
fn unread(input: &Input, error: &io::Error) -> Error {
    let error = quoted(&error.to_string());
    input.error(format!("cannot be read: {error}\nHINT: the file is damaged or cut short; fetch it again"))
}

fn text(input: &Input, name: &str, mut reader: impl Read, sink: &mut dyn Sink) -> Result<()> {
    let mut piece = vec![0; PIECE];
    sink.start(name)?;
    loop {
        match reader.read(&mut piece).map_err(|error| unread(input, &error))? {
            0 => return sink.end(),
            len => sink.text(&piece[..len])?,
        }
    }
}

fn json_lines(input: &Input, name: &str, reader: impl Read, text_field: &str, sink: &mut dyn Sink) -> Result<()> {
    let mut reader = BufReader::with_capacity(PIECE, reader);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(|error| unread(input, &error))? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let place = format!("{name}:{number}");
        let at = |problem: String| Error::Config(format!("{place}: {problem}"));
        let value: Value = serde_json::from_slice(&line).map_err(|error| at(format!("not JSON: {error}")))?;
        match value.get(text_field) {
            Some(Value::String(text)) => sink.document(&place, text)?,
            Some(other) => {
                return Err(at(format!("the field `{text_field}` is {}; expected a text", quoted(&other.to_string()))));
            }
            None => return Err(at(format!("there is no field `{text_field}`; {}", fields(&value)))),
        }
    }
    Ok(())
}

fn fields(value: &Value) -> String {
    match value {
        Value::Object(table) => {
            format!("there are {}", quoted(&table.keys().cloned().collect::<Vec<_>>().join(", ")))
        }
        _ => "the line is no object".into(),
    }
}

/// Every regular file of a tar archive: a document of text, or JSON lines.
fn archive(input: &Input, reader: impl Read, text_field: &str, sink: &mut dyn Sink) -> Result<()> {
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(|error| unread(input, &error))? {
        let entry = entry.map_err(|error| unread(input, &error))?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let inside = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = format!("{}: {}", input.name, quoted(&inside));
        match kind(&inside) {
            (Kind::Text, Compression::None) => text(input, &name, entry, sink)?,
            (Kind::JsonLines, Compression::None) => json_lines(input, &name, entry, text_field, sink)?,
            _ => {
                return Err(Error::Config(format!(
                    "{name}: only texts and JSON lines are read inside an archive; unpack it and name the files"
                )));
            }
        }
    }
    Ok(())
}

fn parquet(input: &Input, text_field: &str, sink: &mut dyn Sink) -> Result<()> {
    let unreadable = |error: &dyn std::fmt::Display| {
        input.error(format!(
            "cannot be read as Parquet: {error}\nHINT: this build reads Parquet that is plain or compressed with zstd, snappy or gzip"
        ))
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(input.clone()).map_err(|error| unreadable(&error))?;
    let names: Vec<String> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    let Some(column) = names.iter().position(|name| name == text_field) else {
        return Err(input.error(format!("there is no column `{text_field}`; there are {}", names.join(", "))));
    };
    let mask = ProjectionMask::roots(builder.parquet_schema(), [column]);
    let reader = builder.with_projection(mask).with_batch_size(ROWS).build().map_err(|error| unreadable(&error))?;
    let mut first_row = 0;
    for batch in reader {
        let batch = batch.map_err(|error| unreadable(&error))?;
        rows(&input.name, text_field, &batch, first_row, sink)?;
        first_row += batch.num_rows();
    }
    Ok(())
}

/// The one column of `batch`, whose first row is row `first_row` of the file.
fn rows(file: &str, text_field: &str, batch: &RecordBatch, first_row: usize, sink: &mut dyn Sink) -> Result<()> {
    let column = batch.column(0);
    for row in 0..batch.num_rows() {
        let name = format!("{file} row {}", first_row + row);
        if column.is_null(row) {
            return Err(Error::Config(format!("{name}: the column `{text_field}` is null; expected a text")));
        }
        let text = match column.data_type() {
            DataType::Utf8 => column.as_string::<i32>().value(row),
            DataType::LargeUtf8 => column.as_string::<i64>().value(row),
            DataType::Utf8View => column.as_string_view().value(row),
            other => {
                return Err(Error::Config(format!(
                    "{file}: the column `{text_field}` has type {other}; expected texts (utf8)"
                )));
            }
        };
        sink.document(&name, text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_says_what_it_is() {
        assert_eq!(kind("a/b.TXT"), (Kind::Text, Compression::None));
        assert_eq!(kind("b.jsonl.zst"), (Kind::JsonLines, Compression::Zstd));
        assert_eq!(kind("s3://x/b.ndjson.gz"), (Kind::JsonLines, Compression::Gzip));
        assert_eq!(kind("b.tgz"), (Kind::Tar, Compression::Gzip));
        assert_eq!(kind("b.tar.zst"), (Kind::Tar, Compression::Zstd));
        assert_eq!(kind("b.parquet"), (Kind::Parquet, Compression::None));
        assert_eq!(kind("b.gz"), (Kind::Text, Compression::Gzip));
    }
}
