//! Documents out of text, JSON lines and Parquet.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use super::super::file_error;
use crate::Result;

/// Bytes of a text file that are read at a time.
const PIECE: usize = 1 << 16;
/// Rows of a Parquet file that are read at a time.
const ROWS: usize = 256;

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

/// Sends every document of every input, in order.
pub(super) fn each_document(inputs: &[PathBuf], text_field: &str, sink: &mut dyn Sink) -> Result<()> {
    for input in inputs {
        let file = File::open(input).map_err(|error| file_error(input, error))?;
        match input.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl" | "ndjson") => json_lines(input, file, text_field, sink)?,
            Some("parquet") => parquet(input, file, text_field, sink)?,
            _ => text(input, file, sink)?,
        }
    }
    Ok(())
}

fn text(path: &Path, mut file: File, sink: &mut dyn Sink) -> Result<()> {
    let mut piece = vec![0; PIECE];
    sink.start(&path.display().to_string())?;
    loop {
        match file.read(&mut piece).map_err(|error| file_error(path, error))? {
            0 => return sink.end(),
            len => sink.text(&piece[..len])?,
        }
    }
}

fn json_lines(path: &Path, file: File, text_field: &str, sink: &mut dyn Sink) -> Result<()> {
    let mut reader = BufReader::new(file);
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        let name = format!("{}:{number}", path.display());
        let at = |problem: String| file_error(Path::new(&name), problem);
        if reader.read_line(&mut line).map_err(|error| at(error.to_string()))? == 0 {
            break;
        }
        if line.trim().is_empty() {
            continue;
        }
        let value: Value = serde_json::from_str(&line).map_err(|error| at(format!("not JSON: {error}")))?;
        match value.get(text_field) {
            Some(Value::String(text)) => sink.document(&name, text)?,
            Some(other) => return Err(at(format!("the field `{text_field}` is {other}; expected a text"))),
            None => return Err(at(format!("there is no field `{text_field}`; {}", fields(&value)))),
        }
    }
    Ok(())
}

fn fields(value: &Value) -> String {
    match value {
        Value::Object(table) => format!("there are {}", table.keys().cloned().collect::<Vec<_>>().join(", ")),
        _ => "the line is no object".into(),
    }
}

fn parquet(path: &Path, file: File, text_field: &str, sink: &mut dyn Sink) -> Result<()> {
    let unreadable = |error: &dyn std::fmt::Display| {
        file_error(
            path,
            format!(
                "cannot be read as Parquet: {error}\nHINT: this build reads plain and zstd-compressed Parquet, or JSON lines"
            ),
        )
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| unreadable(&error))?;
    let names: Vec<String> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    let Some(column) = names.iter().position(|name| name == text_field) else {
        return Err(file_error(path, format!("there is no column `{text_field}`; there are {}", names.join(", "))));
    };
    let mask = ProjectionMask::roots(builder.parquet_schema(), [column]);
    let reader = builder.with_projection(mask).with_batch_size(ROWS).build().map_err(|error| unreadable(&error))?;
    let mut first_row = 0;
    for batch in reader {
        let batch = batch.map_err(|error| unreadable(&error))?;
        rows(path, text_field, &batch, first_row, sink)?;
        first_row += batch.num_rows();
    }
    Ok(())
}

/// The one column of `batch`, whose first row is row `first_row` of the file.
fn rows(path: &Path, text_field: &str, batch: &RecordBatch, first_row: usize, sink: &mut dyn Sink) -> Result<()> {
    let column = batch.column(0);
    for row in 0..batch.num_rows() {
        let name = format!("{} row {}", path.display(), first_row + row);
        if column.is_null(row) {
            return Err(file_error(Path::new(&name), format!("the column `{text_field}` is null; expected a text")));
        }
        let text = match column.data_type() {
            DataType::Utf8 => column.as_string::<i32>().value(row),
            DataType::LargeUtf8 => column.as_string::<i64>().value(row),
            DataType::Utf8View => column.as_string_view().value(row),
            other => {
                return Err(file_error(
                    path,
                    format!("the column `{text_field}` has type {other}; expected texts (utf8)"),
                ));
            }
        };
        sink.document(&name, text)?;
    }
    Ok(())
}
