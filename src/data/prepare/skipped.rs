//! Lines and rows that have no text, where `--on-error skip` passes over them: how many, and a list of them in the folder.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::write::replace;
use crate::{Error, Result};

/// Name of the list.
pub(super) const FILE_NAME: &str = "skipped.txt";
/// Entries of the list of one source, at most; all are counted.
const MOST_LISTED: usize = 1000;

/// What is passed over in a source.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct OfSource {
    count: u64,
    /// `file:line: what is wrong`, the first of them.
    listed: Vec<String>,
}

/// What is passed over, by the number of the source. The thread that reads the sources adds to it.
#[derive(Debug, Default)]
pub(super) struct Skipped(Mutex<BTreeMap<usize, OfSource>>);

impl Skipped {
    /// What was found in the sources before `from`, which is read again from its beginning.
    pub fn before(from: usize, mut found: BTreeMap<usize, OfSource>) -> Self {
        found.retain(|source, _| *source < from);
        Self(Mutex::new(found))
    }

    /// One more.
    pub fn add(&self, source: usize, problem: &Error) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = all.entry(source).or_default();
        of.count += 1;
        if of.listed.len() < MOST_LISTED {
            of.listed.push(problem.to_string().lines().next().unwrap_or_default().to_owned());
        }
    }

    /// By source, for the record.
    pub fn found(&self) -> BTreeMap<usize, OfSource> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.found().values().map(|of| of.count).sum()
    }

    /// Writes the list into the folder, or removes the one of a preparation before, where there is nothing to list.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn write(&self, folder: &Path) -> Result<()> {
        let found = self.found();
        if found.is_empty() {
            return super::write::remove(&folder.join(FILE_NAME));
        }
        let mut text = String::new();
        for OfSource { count, listed } in found.values() {
            listed.iter().for_each(|line| text += &format!("{line}\n"));
            let more = *count - listed.len() as u64;
            if more > 0 {
                text += &format!("... and {more} more in this file\n");
            }
        }
        replace(&folder.join(FILE_NAME), text.as_bytes())
    }
}
