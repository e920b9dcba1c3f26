//! Documents out of text, JSON lines, Parquet and tar archives, plain or compressed, by path or URL. Names say what files are, content
//! where they do not.

use std::io::{self, Read};

use arrow::array::{Array, ArrayRef, AsArray, LargeStringArray, make_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::DataType;
use flate2::read::MultiGzDecoder;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::super::settings::TextFormat;
use super::archive::archive;
use super::json::json_lines;
use crate::shown::quoted;
use crate::storage::Input;
use crate::{Error, Result, file};

/// Bytes of a text file that are read at a time.
pub(super) const PIECE: usize = 1 << 16;
/// Rows of a Parquet file that are read at a time.
const ROWS: usize = 256;
/// Base-2 logarithm of the largest window of a zstd stream: the most that the format has (`zstd --long=31`).
const ZSTD_WINDOW: u32 = 31;
/// Bytes that unpacking xz may take: `xz -9` takes 65 MiB.
const XZ_MEMORY: u64 = 1 << 30;
/// Bytes by which a file is told whose name does not say what it is.
const HEAD: u64 = 4096;
/// UTF-8's byte order mark: no part of the text.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

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
        text.as_bytes().chunks(PIECE).try_for_each(|piece| self.text(piece))?;
        self.end()
    }

    /// A line or row that has no text: ends everything, unless whoever listens passes over it.
    fn bad(&mut self, problem: Error) -> Result<()> {
        Err(problem)
    }
}

/// How files of text are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading<'a> {
    /// Field of a JSON line, or column of a Parquet file, that has the text.
    pub text_field: &'a str,
    /// What all inputs are, whatever they are called and look like.
    pub format: Option<TextFormat>,
    /// Whether any bytes are a text.
    pub takes_any: bool,
}

/// What a name's ending says of the content; `None`: nothing.
fn kind(name: &str) -> (Option<TextFormat>, Compression) {
    let lower = name.to_lowercase();
    let stems = [
        (".gz", Compression::Gzip),
        (".zst", Compression::Zstd),
        (".zstd", Compression::Zstd),
        (".xz", Compression::Xz),
    ];
    let compressed = stems.iter().find_map(|(ending, how)| Some((lower.strip_suffix(ending)?, *how)));
    let (stem, compression) = compressed.unwrap_or((&lower, Compression::None));
    let is = |endings: &[&str]| endings.iter().any(|ending| stem.ends_with(ending));
    match stem {
        _ if is(&[".tgz"]) => (Some(TextFormat::Tar), Compression::Gzip),
        _ if is(&[".tar"]) => (Some(TextFormat::Tar), compression),
        _ if is(&[".jsonl", ".ndjson", ".jsonlines"]) => (Some(TextFormat::JsonLines), compression),
        _ if is(&[".parquet"]) => (Some(TextFormat::Parquet), compression),
        _ => (None, compression),
    }
}

/// What the name of a file inside an archive says of it; `None` for one that is not read there.
pub(super) fn kind_inside(name: &str) -> Option<Option<TextFormat>> {
    match kind(name) {
        (kind @ (None | Some(TextFormat::JsonLines)), Compression::None) => Some(kind),
        _ => None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
}

/// Sends every document of an input, in order.
pub(super) fn each_document(input: &Input, reading: Reading<'_>, sink: &mut dyn Sink) -> Result<()> {
    let name = input.name.to_string();
    let (kind, compression) = kind(input.name.without_query());
    let kind = reading.format.or(kind);
    if kind == Some(TextFormat::Parquet) {
        return match compression {
            Compression::None => parquet(input, reading.text_field, sink),
            _ => Err(input.error("Parquet is compressed inside; unpack this file")),
        };
    }
    let reader = unpacked(input, compression)?;
    match kind {
        Some(TextFormat::Tar) => archive(input, reader, reading, sink),
        Some(TextFormat::JsonLines) => json_lines(input, &name, reader, reading.text_field, sink),
        Some(TextFormat::Text) => text(input, &name, reader, sink),
        Some(TextFormat::Parquet) | None => by_content(input, &name, reader, reading, sink),
    }
}

fn unpacked(input: &Input, compression: Compression) -> Result<Box<dyn Read>> {
    let raw = input.reader(0)?;
    Ok(match compression {
        Compression::None => raw,
        Compression::Gzip => Box::new(MultiGzDecoder::new(raw)),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::new(raw).map_err(|error| unread(input, &error))?;
            decoder.window_log_max(ZSTD_WINDOW).map_err(|error| unread(input, &error))?;
            Box::new(decoder)
        }
        Compression::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED);
            let stream = stream.map_err(|error| unread(input, &error.into()))?;
            Box::new(liblzma::read::XzDecoder::new_stream(raw, stream))
        }
    })
}

/// A file whose name does not say what it is: JSON lines where its ending says JSON, text where nothing speaks against it.
pub(super) fn by_content(
    input: &Input,
    name: &str,
    mut reader: impl Read,
    reading: Reading<'_>,
    sink: &mut dyn Sink,
) -> Result<()> {
    let mut head = Vec::new();
    reader.by_ref().take(HEAD).read_to_end(&mut head).map_err(|error| unread(input, &error))?;
    let begin = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&head).trim_ascii_start();
    let whole = io::Cursor::new(head.clone()).chain(reader);
    let lower = name.to_lowercase();
    let stem = [".gz", ".zst", ".zstd", ".xz"].iter().find_map(|ending| lower.strip_suffix(ending)).unwrap_or(&lower);
    let is = |ending: &str| stem.ends_with(ending);
    let refused = |what: &str| {
        Err(Error::Config(format!(
            "{name}: {what}\nHINT: say what it is by --format jsonl, text, parquet or tar, or by its name (.jsonl, .txt, .parquet, .tar)"
        )))
    };
    if is(".json") {
        return match begin.first() {
            Some(b'[') => refused("it is one list of JSON, not JSON lines; make these of it (jq -c '.[]')"),
            _ => json_lines(input, name, whole, reading.text_field, sink),
        };
    }
    if reading.takes_any {
        return text(input, name, whole, sink);
    }
    if looks_like_json_lines(begin) {
        return refused("its name says text, and it looks like JSON lines");
    }
    if is(".csv") || is(".tsv") {
        return refused("a table is no text; make JSON lines or Parquet of it");
    }
    match file::kind(&head).filter(|what| file::utf8_of(&head).is_none() || what.contains("Git LFS")) {
        Some(what) => refused(what),
        None => text(input, name, whole, sink),
    }
}

/// Whether the first line is an object of JSON, as far as it is there.
fn looks_like_json_lines(begin: &[u8]) -> bool {
    let line = begin.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
    let is_whole = line.len() < begin.len();
    let inside = line.strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
    match serde_json::from_slice::<serde::de::IgnoredAny>(line) {
        Ok(_) => inside.is_some(),
        Err(_) => {
            !is_whole
                && inside.is_some_and(|inside| inside.starts_with(b"\"") && inside.windows(2).any(|two| two == b"\":"))
        }
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
    let mark = BYTE_ORDER_MARK.len();
    let mut len = 0; // as much as a mark has, or all
    while len < mark {
        match reader.read(&mut piece[len..]).map_err(|error| unread(input, &error))? {
            0 => break,
            more => len += more,
        }
    }
    let begin = &piece[..len];
    sink.text(begin.strip_prefix(BYTE_ORDER_MARK).unwrap_or(begin))?;
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
    let columns = builder.schema().fields().iter().map(|field| field.name().as_str());
    let names = quoted(&columns.collect::<Vec<_>>().join(", "));
    let (root, inside) = match builder.schema().column_with_name(text_field) {
        Some((root, _)) => (root, Vec::new()),
        // `a.b`: the field `b` of the column `a`
        None => {
            let mut path = text_field.split('.');
            let root = path.next().and_then(|root| builder.schema().column_with_name(root));
            let Some((root, _)) = root.filter(|_| text_field.contains('.')) else {
                return Err(input.error(format!("there is no column `{text_field}`; there are {names}")));
            };
            (root, path.map(str::to_owned).collect())
        }
    };
    let mask = ProjectionMask::roots(builder.parquet_schema(), [root]);
    let reader = builder.with_projection(mask).with_batch_size(ROWS).build().map_err(|error| unreadable(&error))?;
    let (name, mut first_row) = (input.name.to_string(), 0);
    for batch in reader {
        let batch = batch.map_err(|error| unreadable(&error))?;
        let texts =
            texts(batch.column(0), &inside).map_err(|why| input.error(format!("the column `{text_field}` {why}")))?;
        rows(&name, text_field, &texts, first_row, sink)?;
        first_row += batch.num_rows();
    }
    Ok(())
}

/// The texts of a column, or of a field inside it.
fn texts(column: &ArrayRef, inside: &[String]) -> std::result::Result<LargeStringArray, String> {
    let mut column = column.clone();
    for name in inside {
        let nested =
            column.as_struct_opt().ok_or_else(|| format!("is {}, which has no field `{name}`", column.data_type()))?;
        let field = nested
            .column_by_name(name)
            .ok_or_else(|| format!("has no field `{name}`; there are {}", quoted(&nested.column_names().join(", "))))?;
        // a row that has no struct has no text either
        let nulls = NullBuffer::union(nested.nulls(), field.logical_nulls().as_ref());
        column = make_array(field.to_data().into_builder().nulls(nulls).build().map_err(|error| error.to_string())?);
    }
    let is_text = |kind: &DataType| matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    match column.data_type() {
        kind if is_text(kind) => {}
        DataType::Dictionary(_, values) if is_text(values) => {}
        other => return Err(format!("has type {other}; expected texts (utf8)")),
    }
    let texts = arrow::compute::cast(&column, &DataType::LargeUtf8).map_err(|error| error.to_string())?;
    Ok(texts.as_string::<i64>().clone())
}

/// The texts of a batch, whose first row is row `first_row` of the file.
fn rows(file: &str, text_field: &str, texts: &LargeStringArray, first_row: usize, sink: &mut dyn Sink) -> Result<()> {
    for row in 0..texts.len() {
        let name = format!("{file} row {}", first_row + row);
        if texts.is_null(row) {
            sink.bad(Error::Config(format!("{name}: the column `{text_field}` is null; expected a text")))?;
        } else {
            sink.document(&name, texts.value(row))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_says_what_it_is() {
        assert_eq!(kind("a/b.TXT"), (None, Compression::None));
        assert_eq!(kind("b.jsonl.zst"), (Some(TextFormat::JsonLines), Compression::Zstd));
        assert_eq!(kind("s3://x/b.ndjson.gz"), (Some(TextFormat::JsonLines), Compression::Gzip));
        assert_eq!(kind("b.jsonlines.xz"), (Some(TextFormat::JsonLines), Compression::Xz));
        assert_eq!(kind("b.tgz"), (Some(TextFormat::Tar), Compression::Gzip));
        assert_eq!(kind("b.tar.zst"), (Some(TextFormat::Tar), Compression::Zstd));
        assert_eq!(kind("b.parquet"), (Some(TextFormat::Parquet), Compression::None));
        assert_eq!(kind("b.gz"), (None, Compression::Gzip));
    }
}
