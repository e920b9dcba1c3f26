//! The bookkeeping objects of a run, as JSON.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::schema::TABLES;

/// One object of a run: Parquet, or a file of vectors beside the table that describes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Table the part belongs to.
    pub table: String,
    /// Path below the output URL.
    pub path: String,
    /// Number of rows, which is checked whenever the object is read; of a file of vectors, how many.
    pub num_rows: u64,
    /// Size of the object in bytes: what a finished group is checked against when a run is opened.
    pub num_bytes: u64,
    /// SHA-256 of the object: checked whenever it is read. Earlier versions wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// Parts of a finished group (or of the whole run).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// Group, or run.
    pub name: String,
    /// Identity of the run that wrote it, see [`identity`]. Earlier versions wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// When it was written (RFC 3339, UTC).
    pub written: String,
    /// The parts, in the order they were written.
    pub parts: Vec<Part>,
}

impl Manifest {
    /// What a run does not write: a manifest of another run, a part of a table that there is not, at a place where it does not
    /// belong, or twice. `identity`: the run's; `group`: the only one whose parts belong here, `None` in the manifest of a
    /// whole run.
    pub fn contradiction(&self, run: &str, identity: &str, group: Option<&str>) -> Option<String> {
        if self.of.as_deref().is_some_and(|of| of != identity) {
            return Some(format!(
                "it was written by another run than the one whose record is `{}`",
                paths::record(run)
            ));
        }
        if self.name != group.unwrap_or(run) {
            return Some(format!("it is of `{}`, not of `{}`", self.name, group.unwrap_or(run)));
        }
        let mut seen = BTreeSet::new();
        self.parts.iter().find_map(|part| {
            let Part { table, path, .. } = part;
            let of = group.unwrap_or(paths::group_of(path));
            if !TABLES.contains(&table.as_str()) {
                Some(format!("there is no table `{table}`"))
            } else if *path != paths::part(table, run, of) && !paths::is_vectors(table, run, path) {
                Some(format!("`{path}` is no place of a part of table `{table}`"))
            } else if !seen.insert(path) {
                Some(format!("it names `{path}` twice"))
            } else {
                None
            }
        })
    }
}

/// What a run is: claims the run's name under the URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRecord {
    /// Schema of the run's tables.
    pub schema_version: u32,
    /// Run name.
    pub run: String,
    /// Resolved configuration, as text.
    pub config: String,
    /// Versions of the program that began the run, as JSON text.
    pub versions: String,
    /// When it was begun (RFC 3339, UTC).
    pub created: String,
}

/// What tells a run from any other, one of the same name and configuration included: the SHA-256 of its record, which is written once
/// and says when the run was begun.
pub(super) fn identity(record: &[u8]) -> String {
    format!("{:x}", Sha256::digest(record))
}

/// Paths of a run below the output URL.
pub(super) mod paths {
    /// Folder of all bookkeeping.
    pub const RUNS: &str = "_runs";

    /// Name of the lock in a run's folder.
    pub const LOCK: &str = "LOCK";

    pub fn lock(run: &str) -> String {
        format!("{RUNS}/{run}/{LOCK}")
    }

    pub fn folder(run: &str) -> String {
        format!("{RUNS}/{run}")
    }

    pub fn record(run: &str) -> String {
        format!("{RUNS}/{run}/run.json")
    }

    /// A decision of the run, see `RunStore::remember`.
    pub fn note(run: &str, name: &str) -> String {
        format!("{RUNS}/{run}/{name}.json")
    }

    pub fn groups(run: &str) -> String {
        format!("{RUNS}/{run}/groups")
    }

    pub fn group(run: &str, group: &str) -> String {
        format!("{RUNS}/{run}/groups/{group}.json")
    }

    pub fn manifest(run: &str) -> String {
        format!("{RUNS}/{run}/manifest.json")
    }

    pub fn done(run: &str) -> String {
        format!("{RUNS}/{run}/DONE")
    }

    /// Object that is written and deleted to see whether the output is writable.
    pub fn probe(run: &str) -> String {
        format!("{RUNS}/{run}/.writable")
    }

    /// Hive folder of a run in a table.
    pub fn partition(table: &str, run: &str) -> String {
        format!("{table}/run={run}")
    }

    pub fn part(table: &str, run: &str, part: &str) -> String {
        format!("{table}/run={run}/part-{part}.parquet")
    }

    /// Table that has files of vectors beside it.
    pub const VECTORS: &str = "eigenvectors";

    /// A file of vectors, which readers of whole folders pass over because of its underscore.
    pub fn vectors(run: &str, name: &str) -> String {
        format!("{VECTORS}/run={run}/_{name}.safetensors")
    }

    /// Whether a part of a table is a file of vectors at its place.
    pub fn is_vectors(table: &str, run: &str, path: &str) -> bool {
        let begin = format!("{VECTORS}/run={run}/_");
        let name = path.strip_prefix(&begin).and_then(|rest| rest.strip_suffix(".safetensors"));
        table == VECTORS && name.is_some_and(|name| !name.is_empty() && !name.contains('/'))
    }

    /// Whether an object is a part of a table, or a file beside it.
    pub fn is_part(path: &str) -> bool {
        is_parquet(path) || path.ends_with(".safetensors")
    }

    /// Whether an object is a part with rows.
    pub fn is_parquet(path: &str) -> bool {
        path.ends_with(".parquet")
    }

    /// The name that a part's path has from [`part`].
    pub fn group_of(path: &str) -> &str {
        let name = path.rsplit('/').next().unwrap_or(path);
        name.strip_prefix("part-").and_then(|name| name.strip_suffix(".parquet")).unwrap_or(name)
    }
}
