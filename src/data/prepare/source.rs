//! Documents out of text, JSON lines, Parquet and tar archives, plain or compressed, by path or URL.

use std::io::{self, Read};

use super::archive::archive;
use super::json::json_lines;
use crate::shown::quoted;
use crate::storage::Input;
use crate::{Error, Result};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use flate2::read::MultiGzDecoder;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Bytes of a text file that are read at a time.
pub(super) const PIECE: usize = 1 << 16;
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
pub(super) enum Kind {
    Text,
    JsonLines,
    Parquet,
    Tar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// `.jsonl`, `.ndjson`, `.parquet`, `.tar` and `.tgz` are what they say, anything else is text; `.gz` or `.zst` may follow.
pub(super) fn kind(name: &str) -> (Kind, Compression) {
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
    let name = input.name.to_string();
    let (kind, compression) = kind(input.name.without_query());
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
        Kind::JsonLines => json_lines(input, &name, reader, text_field, sink),
        Kind::Text | Kind::Parquet => text(input, &name, reader, sink),
    }
}

/// A reader failed: the storage did, or what is stored is damaged.
pub(super) fn unread(input: &Input, error: &io::Error) -> Error {
    let error = quoted(&error.to_string());
    input.error(format!("cannot be read: {error}\nHINT: the file is damaged or cut short; fetch it again"))
}

pub(super) fn text(input: &Input, name: &str, mut reader: impl Read, sink: &mut dyn Sink) -> Result<()> {
    let mut piece = vec![0; PIECE];
    sink.start(name)?;
    loop {
        match reader.read(&mut piece).map_err(|error| unread(input, &error))? {
            0 => return sink.end(),
            len => sink.text(&piece[..len])?,
        }
    }
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
        return Err(input.error(format!("there is no column `{text_field}`; there are {}", quoted(&names.join(", ")))));
    };
    let mask = ProjectionMask::roots(builder.parquet_schema(), [column]);
    let reader = builder.with_projection(mask).with_batch_size(ROWS).build().map_err(|error| unreadable(&error))?;
    let (name, mut first_row) = (input.name.to_string(), 0);
    for batch in reader {
        let batch = batch.map_err(|error| unreadable(&error))?;
        rows(&name, text_field, &batch, first_row, sink)?;
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
