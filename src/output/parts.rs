//! One Parquet part: rows to an object and back, with provenance inside.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::buffered::BufWriter;
use parquet::arrow::AsyncArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use sha2::{Digest, Sha256};

use super::column::Table;
use super::manifest::Part;
use crate::storage::{Location, is_refusal};
use crate::{Error, Result};

/// Rows encoded at a time, so that a large table is never held twice as a whole.
const ROWS_PER_BATCH: usize = 65_536;

/// Key-values that go into the Parquet footer and into the Arrow schema of every part.
pub(super) type Metadata = Vec<(String, String)>;

/// Writes the rows as one immutable object.
pub(super) fn write<T: Table>(location: &Location, path: &str, rows: &[T], metadata: &Metadata) -> Result<Part> {
    let (num_bytes, sha256) = location
        .repeated(|error| !is_refusal(error), || encode(location, path, rows, metadata))
        .map_err(|error| location.failed_in_storage("write", path, &error))?;
    Ok(Part {
        table: T::NAME.into(),
        path: path.into(),
        num_rows: rows.len() as u64,
        num_bytes: num_bytes as u64,
        sha256: Some(sha256),
    })
}

/// An object that is written, and the hash of what was written so far.
struct Hashed {
    object: BufWriter,
    hasher: Sha256,
}

impl AsyncFileWriter for Hashed {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, parquet::errors::Result<()>> {
        self.hasher.update(&bytes);
        AsyncFileWriter::write(&mut self.object, bytes)
    }

    fn complete(&mut self) -> BoxFuture<'_, parquet::errors::Result<()>> {
        self.object.complete()
    }
}

/// Number of bytes and their SHA-256.
async fn encode<T: Table>(
    location: &Location,
    path: &str,
    rows: &[T],
    metadata: &Metadata,
) -> std::result::Result<(usize, String), ParquetError> {
    let mut pairs = metadata.clone();
    pairs.push(("hesspec.table".into(), T::NAME.into()));
    let key_values = pairs.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect();
    let schema = Arc::new(Schema::new_with_metadata(T::fields(), pairs.into_iter().collect::<HashMap<_, _>>()));
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by(concat!("hesspec version ", env!("CARGO_PKG_VERSION")).into())
        .set_key_value_metadata(Some(key_values))
        .build();
    let sink = Hashed { object: BufWriter::new(location.store(), location.path(path)), hasher: Sha256::new() };
    let mut writer = AsyncArrowWriter::try_new(sink, schema.clone(), Some(properties))?;
    for chunk in rows.chunks(ROWS_PER_BATCH) {
        writer.write(&RecordBatch::try_new(schema.clone(), T::columns(chunk))?).await?;
    }
    writer.finish().await?;
    let num_bytes = writer.bytes_written();
    Ok((num_bytes, format!("{:x}", writer.into_inner().hasher.finalize())))
}

/// Reads a part back into rows; one with other bytes or rows than were written is an error, which ends in `advice`.
pub(super) fn read<T: Table>(location: &Location, part: &Part, advice: &str) -> Result<Vec<T>> {
    let bytes = bytes(location, part, advice)?;
    let damaged = |found: &dyn std::fmt::Display| damaged(location, part, found, advice);
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|builder| builder.build())
        .map_err(|error| damaged(&error))?;
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| damaged(&error))?;
        rows.extend(T::rows(&batch).map_err(|found| damaged(&found))?);
    }
    if rows.len() as u64 != part.num_rows {
        return Err(damaged(&format!("it has {} rows where {} were written", rows.len(), part.num_rows)));
    }
    Ok(rows)
}

/// The bytes of a part, if they are those that were written.
pub(super) fn bytes(location: &Location, part: &Part, advice: &str) -> Result<Bytes> {
    let bytes = location.get(&part.path)?.ok_or_else(|| damaged(location, part, &"the object is missing", advice))?;
    let found = part.sha256.as_ref().map(|_| format!("{:x}", Sha256::digest(&bytes)));
    if found == part.sha256 {
        return Ok(bytes);
    }
    Err(damaged(location, part, &"its bytes are not those that were written (SHA-256)", advice))
}

fn damaged(location: &Location, part: &Part, found: &dyn std::fmt::Display, advice: &str) -> Error {
    Error::Storage(format!(
        "cannot read table `{}` from `{}` under `{}`: {found}. Restore the part, or {advice}",
        part.table, part.path, location.url
    ))
}
