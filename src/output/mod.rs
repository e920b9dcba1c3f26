//! Output: the tables of a run as Parquet on an object store, and the bookkeeping that makes a run resumable.
//!
//! Owns the schema of every table (`schema`), their encoding (`parts`) and the
//! life of a run (`store`: open, groups, finish), and the files of vectors beside a table (`vectors`). It computes nothing and knows nothing of the models.
//!
//! ```text
//! <url>/<table>/run=<name>/part-<group>.parquet   immutable parts, hive layout; `run` is not a column
//! <url>/eigenvectors/run=<name>/_<pair>.safetensors vectors of one block, whose first (block, probe) pair names the file
//! <url>/_runs/<name>/run.json                     resolved config and versions; claims the name, written first
//! <url>/_runs/<name>/shape.json                   how its sweeps are cut, so that a continued run cuts them alike
//! <url>/_runs/<name>/inputs.json                  by what its data and weights are known again
//! <url>/_runs/<name>/groups/<group>.json          written last of a group: only then the group counts
//! <url>/_runs/<name>/LOCK                       the job that is at work, while it is (room `lock`)
//! <url>/_runs/<name>/manifest.json                every part of the run, written after the last part
//! <url>/_runs/<name>/DONE                         written last of all
//! ```
//!
//! Every one of these JSON objects ends in its own SHA-256 (`seal`), and a manifest has that of every part.
//!
//! Readers of hive layouts ignore names that start with an underscore, so bookkeeping is never read as data.

#[macro_use]
mod column;
#[cfg(test)]
mod damage_tests;
mod manifest;
mod parts;
mod results;
mod schema;
mod seal;
mod store;
#[cfg(test)]
mod tests;

pub use crate::storage::{Access, Location, rfc3339};
pub use column::{Cell, ColumnDescription, Table, TableDescription};
pub use manifest::{Part, RunRecord};
pub use results::{Results, RunResults};
pub use schema::{
    APART, BlockRow, ComplementRow, ConvergencePairRow, ConvergenceRow, DenseBlockRow, DenseRow, DenseShareRow,
    DensityRow, DiagonalProbeRow, DiagonalRow, DivergenceRow, EigenvectorMassRow, EigenvectorRow, MetricsRow, NodeRow,
    QuadraticBlockRow, QuadraticCurveRow, QuadraticRow, QuadraticTrialRow, RunRow, SCHEMA_VERSION, SegmentRow,
    SeriesDistanceRow, SeriesPairRow, SeriesRow, SummaryRow, TABLES, Tables, TrainingRow, TridiagonalRow, descriptions,
};
pub use store::{Provenance, RunStore};

/// Path of a run's lock below the output URL.
pub fn lock_path(run: &str) -> String {
    manifest::paths::lock(run)
}
