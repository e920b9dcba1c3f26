//! The life of a run on storage: claim the name, write groups, finish.
//!
//! A group counts when its manifest is there, and that is written after its parts. Whatever a killed run left behind
//! beyond that is deleted when the run is begun again, before anything new is written, so a reader that globs
//! `*.parquet` never sees a row twice. Two processes must not write the same run at the same time: whoever calls
//! [`RunStore::begin`] makes sure of that.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::column::{EachTable, Table};
use super::manifest::{Manifest, Part, RunRecord, paths};
use super::parts::{self, Metadata};
use super::schema::{APART, SCHEMA_VERSION, TABLES, Tables};
use super::{results, seal};
use crate::shown::Url;
use crate::storage::{Access, Location, rfc3339};
use crate::{Error, Result};

/// Part name of the tables that are written at the end of a run.
const FINAL: &str = "final";

/// Where the tables come from; written into every part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Resolved configuration, as text.
    pub config: String,
    /// Program and libraries with their versions.
    pub versions: BTreeMap<String, String>,
}

impl Provenance {
    /// The versions as a JSON object, as the tables hold them.
    pub fn versions_json(&self) -> String {
        serde_json::json!(self.versions).to_string()
    }
}

/// A run that is open for writing.
pub struct RunStore {
    location: Location,
    run: String,
    metadata: Metadata,
    groups: BTreeMap<String, Vec<Part>>,
    /// Tables that were read from all groups, hash by hash.
    seen: RefCell<BTreeSet<&'static str>>,
    /// What tells this run from others of its name.
    identity: String,
    /// The name was claimed by this call.
    is_new: bool,
    /// Files of vectors of the group that is written next.
    vectors: RefCell<Vec<Part>>,
    is_done: bool,
}

impl RunStore {
    /// Opens a run, and claims its name if it is new. Nothing of it is changed before [`RunStore::begin`].
    ///
    /// `differing(stored, ours)` lists the differences of two resolved configs, one line each; an empty list is the
    /// same config. Errors: another config, schema or a bad name (`Config`), output not writable (`Storage`).
    pub fn open(
        url: impl Into<Url>,
        run: &str,
        provenance: &Provenance,
        differing: impl Fn(&str, &str) -> Vec<String>,
    ) -> Result<Self> {
        check_name("run.name", run)?;
        let location = Location::open(url, Access::Write)?;
        let mut is_new = false;
        if !is_ours(&location, run, provenance, &differing)? {
            check_writable(&location, run)?;
            is_new = claim(&location, run, provenance)?;
            // somebody else may have been faster
            if !is_ours(&location, run, provenance, &differing)? {
                return Err(location.failed("read", &paths::record(run), "it vanished after it was written"));
            }
        }
        let (metadata, groups) = (metadata(run, provenance), BTreeMap::new());
        let (seen, vectors) = (RefCell::default(), RefCell::default());
        let (run, identity) = (run.into(), results::identity(&location, run)?);
        let mut store = Self { location, run, metadata, groups, seen, identity, is_new, vectors, is_done: false };
        store.look()?;
        Ok(store)
    }

    /// Whether a run of this name is there, and [`RunStore::open`] would continue it; claims nothing.
    ///
    /// # Errors
    /// As [`RunStore::open`].
    pub fn check(
        url: impl Into<Url>,
        run: &str,
        provenance: &Provenance,
        differing: impl Fn(&str, &str) -> Vec<String>,
    ) -> Result<bool> {
        check_name("run.name", run)?;
        is_ours(&Location::open(url, Access::Write)?, run, provenance, &differing)
    }

    /// Starts or continues writing, in the one process that may: looks again, and deletes what a killed run left.
    /// Nothing happens if the run is done.
    pub fn begin(&mut self) -> Result<()> {
        self.look()?;
        if self.is_done {
            return Ok(());
        }
        check_writable(&self.location, &self.run)?;
        self.delete_leftovers()
    }

    /// What is there.
    fn look(&mut self) -> Result<()> {
        self.is_done = self.location.get(&paths::done(&self.run))?.is_some();
        if self.is_done && results::finished(&self.location, &self.run)?.is_none() {
            return Err(self.location.failed("read", &paths::manifest(&self.run), results::no_manifest()));
        }
        let groups = results::groups(&self.location, &self.run)?;
        self.groups = groups.into_iter().map(|group| (group.name, group.parts)).collect();
        Ok(())
    }

    /// What tells this run from any other of its name: what it writes beside tables is bound to it.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Gives up the name, if this call claimed it and nothing is there that took work to compute.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn release(&self) -> Result<()> {
        let folder = paths::folder(&self.run);
        let is_work = |path: &String| path.starts_with(&paths::groups(&self.run)) || path.ends_with(".bin");
        let objects = self.location.list(&folder)?;
        if !self.is_new
            || self.is_done
            || objects.keys().any(is_work)
            || !parts_of(&self.location, &self.run)?.is_empty()
        {
            return Ok(());
        }
        let lock = paths::lock(&self.run);
        objects.keys().filter(|path| **path != lock).try_for_each(|path| self.location.delete(path))
    }

    /// Whether the run is complete; nothing can be written then.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Groups whose tables are complete.
    pub fn finished_groups(&self) -> BTreeSet<&str> {
        self.groups.keys().map(String::as_str).collect()
    }

    /// Writes a file of vectors beside table `eigenvectors`, and gives its path. It belongs to the next group that is written.
    pub fn write_vectors(&self, name: &str, num_vectors: usize, bytes: Vec<u8>) -> Result<String> {
        check_name("vectors", name)?;
        self.check_record()?;
        let part = Part {
            table: paths::VECTORS.into(),
            path: paths::vectors(&self.run, name),
            num_rows: num_vectors as u64,
            num_bytes: bytes.len() as u64,
            sha256: Some(format!("{:x}", Sha256::digest(&bytes))),
        };
        let path = part.path.clone();
        self.location.put(&path, bytes)?;
        self.vectors.borrow_mut().push(part);
        Ok(path)
    }

    /// Writes the tables of a group; when this returns, the group is finished for good.
    pub fn write_group(&mut self, group: &str, tables: &Tables) -> Result<()> {
        check_name("group", group)?;
        if self.is_done || self.groups.contains_key(group) || group == FINAL {
            return Err(Error::Other(format!("group `{group}` of run `{}` is already written", self.run)));
        }
        self.check_record()?;
        let parts = [self.write_tables(group, tables, |_| false)?, self.vectors.take()].concat();
        let path = paths::group(&self.run, group);
        self.location.put(&path, self.manifest(group, parts.clone())?)?;
        self.groups.insert(group.into(), parts);
        self.seen.take();
        Ok(())
    }

    /// What was remembered under this name beside the run's record, by whoever began it.
    pub fn recall<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = paths::note(&self.run, name);
        let Some(bytes) = self.location.get(&path)? else { return Ok(None) };
        seal::unseal(&bytes).map(Some).map_err(|why| self.damaged(name, &why))
    }

    /// The error for something remembered that cannot be used.
    pub fn damaged(&self, name: &str, why: &str) -> Error {
        let path = paths::note(&self.run, name);
        Error::Storage(format!(
            "`{path}` under `{}` is damaged: {why}. Delete it; what it held is then decided anew, and finished groups are kept",
            self.location.url
        ))
    }

    /// Remembers a decision that a continued run has to take the same way.
    pub fn remember(&self, name: &str, value: &impl Serialize) -> Result<()> {
        self.location.put(&paths::note(&self.run, name), seal::seal(value)?)
    }

    /// Rows of a table from all finished groups.
    pub fn read<T: Table>(&self) -> Result<Vec<T>> {
        let parts = self.groups.values().flatten();
        let again = |part: &Part| results::again(&self.run, paths::group_of(&part.path));
        let rows = results::read_table(&self.location, parts, again)?;
        self.seen.borrow_mut().insert(T::NAME);
        Ok(rows)
    }

    /// Whether the run is still where it was claimed, and every part as it was written, those that nobody has read as well.
    fn check_all(&self) -> Result<()> {
        self.check_record()?;
        let there = results::groups(&self.location, &self.run)?; // with the sizes of their parts
        if let Some(lost) = self.groups.keys().find(|name| !there.iter().any(|group| group.name == **name)) {
            return Err(self.vanished(&paths::group(&self.run, lost)));
        }
        let is_seen = |part: &Part| self.seen.borrow().contains(part.table.as_str()) && paths::is_parquet(&part.path);
        self.groups.iter().try_for_each(|(group, parts)| {
            let mut unread = parts.iter().filter(|part| !is_seen(part));
            let again = results::again(&self.run, group);
            unread.try_for_each(|part| parts::bytes(&self.location, part, &again).map(drop))
        })
    }

    /// Whether the output is still there, before anything is added to what may be none.
    fn check_record(&self) -> Result<()> {
        let path = paths::record(&self.run);
        if self.location.get(&path)?.is_some() { Ok(()) } else { Err(self.vanished(&path)) }
    }

    fn vanished(&self, path: &str) -> Error {
        Error::Storage(format!(
            "`{path}` under `{}` vanished while the run was going on: the output was removed, moved or replaced. Nothing more \
             is written. Put it back and run again to go on, or run again to compute what is missing anew",
            self.location.url
        ))
    }

    /// Writes the run's last tables, then the manifest, then `DONE`. A table of runs that has no rows at all gets an empty
    /// part, so that every table can be read.
    pub fn finish(&mut self, tables: &Tables) -> Result<()> {
        self.finish_with(tables, |table| !APART.contains(&table))
    }

    /// As [`RunStore::finish`], for what is no run of spectra: tables without rows are left out.
    pub fn finish_apart(&mut self, tables: &Tables) -> Result<()> {
        self.finish_with(tables, |_| false)
    }

    /// `even_empty`: which tables get an empty part where they have no rows.
    fn finish_with(&mut self, tables: &Tables, even_empty: impl Fn(&str) -> bool) -> Result<()> {
        if self.is_done {
            return Err(Error::Other(format!("run `{}` is already done", self.run)));
        }
        self.check_all()?;
        let of_groups: BTreeSet<_> = self.groups.values().flatten().map(|part| part.table.clone()).collect();
        let last = self.write_tables(FINAL, tables, |table| even_empty(table) && !of_groups.contains(table))?;
        let parts = self.groups.values().flatten().cloned().chain(last).collect();
        self.location.put(&paths::manifest(&self.run), self.manifest(&self.run, parts)?)?;
        let done = paths::done(&self.run);
        if !self.location.create(&done, format!("{}\n", rfc3339(SystemTime::now())))? {
            return Err(self.location.failed("create", &done, "another process has finished this run in the meantime"));
        }
        self.is_done = true;
        Ok(())
    }

    fn manifest(&self, name: &str, parts: Vec<Part>) -> Result<String> {
        let of = Some(self.identity.clone());
        seal::seal(&Manifest { name: name.into(), of, written: rfc3339(SystemTime::now()), parts })
    }

    fn write_tables(&self, part: &str, tables: &Tables, even_empty: impl Fn(&str) -> bool) -> Result<Vec<Part>> {
        let mut writer = Writer { store: self, part, even_empty, parts: Vec::new() };
        tables.each(&mut writer)?;
        Ok(writer.parts)
    }

    /// Deletes parts of this run that belong to no finished group.
    fn delete_leftovers(&self) -> Result<()> {
        let kept: BTreeSet<_> = self.groups.values().flatten().map(|part| part.path.as_str()).collect();
        for path in parts_of(&self.location, &self.run)?.iter().filter(|path| !kept.contains(path.as_str())) {
            tracing::info!(path, "deleting a part of an unfinished group");
            self.location.delete(path)?;
        }
        let tables = TABLES.iter().map(|table| paths::partition(table, &self.run));
        tables
            .chain([paths::folder(&self.run)])
            .try_for_each(|folder| self.location.delete_staged(&folder, &[paths::LOCK]))
    }
}

/// Names are path segments and hive values: letters, digits, `.`, `_`, `-`.
fn check_name(what: &str, name: &str) -> Result<()> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.starts_with('.') || name.len() > 200 || !name.chars().all(is_plain) {
        return Err(Error::Config(format!(
            "{what} `{name}` cannot name a folder: expected 1 to 200 letters, digits, `.`, `_` or `-`, not starting with `.`"
        )));
    }
    Ok(())
}

/// Paths of the run's parts in all tables.
fn parts_of(location: &Location, run: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for table in TABLES {
        let objects = location.list(&paths::partition(table, run))?.into_keys();
        found.extend(objects.filter(|path| paths::is_part(path)));
    }
    Ok(found)
}

/// Whether the name is claimed by a run of the same configuration (true) or free (false).
fn is_ours(
    location: &Location,
    run: &str,
    provenance: &Provenance,
    differing: &impl Fn(&str, &str) -> Vec<String>,
) -> Result<bool> {
    match results::record(location, run)? {
        None => refuse_unknown_parts(location, run).map(|()| false),
        Some(stored) => check_same(location, &stored, provenance, differing).map(|()| true),
    }
}

/// Parts without a record were not written by a run we know: they are never touched.
fn refuse_unknown_parts(location: &Location, run: &str) -> Result<()> {
    match parts_of(location, run)?.first() {
        None => Ok(()),
        Some(path) => Err(Error::Config(format!(
            "`{}` holds `{path}` but no `{}`, so nobody knows what it is. Move it away, or choose another run.name",
            location.url,
            paths::record(run)
        ))),
    }
}

fn check_writable(location: &Location, run: &str) -> Result<()> {
    location.put(&paths::probe(run), "writable?\n")?;
    location.delete(&paths::probe(run))
}

/// Writes the run's record, and says whether it was this call that did. Losing a race for the name is fine: the caller compares with
/// whatever is there.
fn claim(location: &Location, run: &str, provenance: &Provenance) -> Result<bool> {
    let record = RunRecord {
        schema_version: SCHEMA_VERSION,
        run: run.into(),
        config: provenance.config.clone(),
        versions: provenance.versions_json(),
        created: rfc3339(SystemTime::now()),
    };
    location.create(&paths::record(run), seal::seal(&record)?)
}

fn check_same(
    location: &Location,
    stored: &RunRecord,
    ours: &Provenance,
    differing: &impl Fn(&str, &str) -> Vec<String>,
) -> Result<()> {
    let (run, url) = (&stored.run, &location.url);
    if stored.schema_version != SCHEMA_VERSION {
        return Err(Error::Config(format!(
            "run `{run}` at `{url}` has tables of schema {}, this program writes {SCHEMA_VERSION}. Choose another run.name",
            stored.schema_version
        )));
    }
    let differences = differing(&stored.config, &ours.config);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::Config(format!(
        "run `{run}` at `{url}` was begun with another configuration:\n  {}\nRestore these keys to continue it, or choose another run.name or output.url",
        differences.join("\n  ")
    )))
}

fn metadata(run: &str, provenance: &Provenance) -> Metadata {
    let pairs = [
        ("hesspec.schema_version", SCHEMA_VERSION.to_string()),
        ("hesspec.run", run.to_string()),
        ("hesspec.config", provenance.config.clone()),
        ("hesspec.versions", provenance.versions_json()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

/// Writes one part of every table that has rows, or is wanted without.
struct Writer<'a, F> {
    store: &'a RunStore,
    part: &'a str,
    even_empty: F,
    parts: Vec<Part>,
}

impl<F: Fn(&str) -> bool> EachTable for Writer<'_, F> {
    fn table<T: Table>(&mut self, rows: &[T]) -> Result<()> {
        if !rows.is_empty() || (self.even_empty)(T::NAME) {
            let path = paths::part(T::NAME, &self.store.run, self.part);
            self.parts.push(parts::write(&self.store.location, &path, rows, &self.store.metadata)?);
        }
        Ok(())
    }
}
