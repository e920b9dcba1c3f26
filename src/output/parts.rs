//! One Parquet part: rows to an object and back, with provenance inside.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use object_store::buffered::BufWriter;
use parquet::arrow::AsyncArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::column::Table;
use super::manifest::Part;
use crate::storage::Location;
use crate::{Error, Result};

/// Rows encoded at a time, so that a large table is never held twice as a whole.
const ROWS_PER_BATCH: usize = 65_536;

/// Key-values that go into the Parquet footer and into the Arrow schema of every part.
pub(super) type Metadata = Vec<(String, String)>;

/// Writes the rows as one immutable object.
pub(super) fn write<T: Table>(location: &Location, path: &str, rows: &[T], metadata: &Metadata) -> Result<Part> {
    let num_bytes = location
        .repeated(|_| true, || encode(location, path, rows, metadata))
        .map_err(|error| location.failed("write", path, error))?;
    Ok(Part { table: T::NAME.into(), path: path.into(), num_rows: rows.len() as u64, num_bytes: num_bytes as u64 })
}

async fn encode<T: Table>(
    location: &Location,
    path: &str,
    rows: &[T],
    metadata: &Metadata,
) -> std::result::Result<usize, ParquetError> {
    let mut pairs = metadata.clone();
    pairs.push(("hesspec.table".into(), T::NAME.into()));
    let key_values = pairs.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect();
    let schema = Arc::new(Schema::new_with_metadata(T::fields(), pairs.into_iter().collect::<HashMap<_, _>>()));
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by(concat!("hesspec version ", env!("CARGO_PKG_VERSION")).into())
        .set_key_value_metadata(Some(key_values))
        .build();
    let sink = BufWriter::new(location.store(), location.path(path));
    let mut writer = AsyncArrowWriter::try_new(sink, schema.clone(), Some(properties))?;
    for chunk in rows.chunks(ROWS_PER_BATCH) {
        writer.write(&RecordBatch::try_new(schema.clone(), T::columns(chunk))?).await?;
    }
    writer.finish().await?;
    Ok(writer.bytes_written())
}

/// Reads a part back into rows.
pub(super) fn read<T: Table>(location: &Location, path: &str) -> Result<Vec<T>> {
    let bytes = location.get(path)?.ok_or_else(|| damaged::<T>(location, path, "the object is missing"))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|builder| builder.build())
        .map_err(|error| damaged::<T>(location, path, error))?;
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| damaged::<T>(location, path, error))?;
        rows.extend(T::rows(&batch).map_err(|found| damaged::<T>(location, path, found))?);
    }
    Ok(rows)
}

fn damaged<T: Table>(location: &Location, path: &str, found: impl std::fmt::Display) -> Error {
    Error::Storage(format!(
        "cannot read table `{}` from `{path}` under `{}`: {found}. Restore the part, or use a new run.name and compute again",
        T::NAME,
        location.url
    ))
}
