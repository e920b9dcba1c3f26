//! Reading: which runs an output holds, and their tables as rows.

use std::collections::BTreeMap;

use super::column::Table;
use super::manifest::{self, Manifest, Part, RunRecord, paths};
use super::{parts, seal};
use crate::shown::Url;
use crate::storage::{Access, Location};
use crate::{Error, Result};

/// What helps where a finished run is damaged. The batches of a study are runs that are named after another key.
const ANOTHER_RUN: &str =
    "use a new run.name (in a study that sets convergence.batches a new one of these, too) and compute again";

/// What is said of a finished run without its manifest.
pub(super) fn no_manifest() -> String {
    format!("it is missing, although the run is done. Restore it, or {ANOTHER_RUN}")
}

/// An output URL, for reading.
pub struct Results {
    location: Location,
}

impl Results {
    /// Opens the results under a URL; one that holds no run is an [`Error::Config`].
    pub fn open(url: impl Into<Url>) -> Result<Self> {
        let results = Self { location: Location::open(url, Access::Read)? };
        if results.runs()?.is_empty() {
            let url = &results.location.url;
            return Err(Error::Config(format!("no run at `{url}`. Expected the output.url of `hesspec run`")));
        }
        Ok(results)
    }

    /// Names of the runs, sorted.
    pub fn runs(&self) -> Result<Vec<String>> {
        let objects = self.location.list(paths::RUNS)?;
        let prefix = format!("{}/", paths::RUNS);
        let name = |path: &String| Some(path.strip_prefix(&prefix)?.strip_suffix("/run.json")?.to_string());
        Ok(objects.keys().filter_map(name).collect())
    }

    /// The named run, or the only one.
    pub fn run(&self, name: Option<&str>) -> Result<RunResults> {
        let runs = self.runs()?;
        let found = match name {
            Some(name) => runs.iter().find(|run| *run == name),
            None if runs.len() == 1 => runs.first(),
            None => None,
        };
        let found = found.ok_or_else(|| {
            Error::Config(format!(
                "`{}` holds the runs {}; {}. Name one of them with --run",
                self.location.url,
                runs.join(", "),
                name.map_or("none was named".into(), |name| format!("`{name}` is not among them"))
            ))
        })?;
        RunResults::load(self.location.clone(), found)
    }
}

/// One run, for reading: all its parts when it is done, those of finished groups before.
pub struct RunResults {
    location: Location,
    record: RunRecord,
    parts: Vec<Part>,
    is_done: bool,
}

impl RunResults {
    fn load(location: Location, run: &str) -> Result<Self> {
        let record =
            record(&location, run)?.ok_or_else(|| Error::Config(format!("no run `{run}` at `{}`", location.url)))?;
        let is_done = location.get(&paths::done(run))?.is_some();
        let parts = match finished(&location, run)? {
            Some(manifest) if is_done => manifest.parts,
            None if is_done => return Err(location.failed("read", &paths::manifest(run), no_manifest())),
            _ => groups(&location, run)?.into_iter().flat_map(|group| group.parts).collect(),
        };
        Ok(Self { location, record, parts, is_done })
    }

    /// What the run is: name, resolved config, versions.
    pub fn record(&self) -> &RunRecord {
        &self.record
    }

    /// Whether the run is complete.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// What the run remembered under this name beside its record.
    ///
    /// # Errors
    /// [`Error::Storage`] for what cannot be read.
    pub fn recall<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        json(&self.location, &paths::note(&self.record.run, name), ANOTHER_RUN)
    }

    /// All rows of a table, parts by name.
    pub fn read<T: Table>(&self) -> Result<Vec<T>> {
        let run = &self.record.run;
        read_table(&self.location, &self.parts, |part| {
            if self.is_done { ANOTHER_RUN.into() } else { again(run, paths::group_of(&part.path)) }
        })
    }
}

/// Rows of the parts that belong to the table `T`; `advice` says what to do about a damaged one.
pub(super) fn read_table<'a, T: Table>(
    location: &Location,
    all: impl IntoIterator<Item = &'a Part>,
    advice: impl Fn(&Part) -> String,
) -> Result<Vec<T>> {
    let mut parts: Vec<_> =
        all.into_iter().filter(|part| part.table == T::NAME && paths::is_parquet(&part.path)).collect();
    parts.sort_by(|a, b| a.path.cmp(&b.path));
    let mut rows = Vec::new();
    for part in parts {
        rows.extend(parts::read::<T>(location, part, &advice(part))?);
    }
    Ok(rows)
}

/// How to compute a group again, in a run that is not done.
pub(super) fn again(run: &str, group: &str) -> String {
    format!("delete `{}` to compute group `{group}` again", paths::group(run, group))
}

/// The run's record; None where the name is free.
pub(super) fn record(location: &Location, run: &str) -> Result<Option<RunRecord>> {
    json(location, &paths::record(run), ANOTHER_RUN)
}

/// Identity of the run of this name, which must be there.
pub(super) fn identity(location: &Location, run: &str) -> Result<String> {
    let path = paths::record(run);
    let bytes = location.get(&path)?;
    bytes.map(|bytes| manifest::identity(&bytes)).ok_or_else(|| location.failed("read", &path, "it is not there"))
}

/// The manifest of a whole run, if it was written; each part is checked as in [`groups`].
pub(super) fn finished(location: &Location, run: &str) -> Result<Option<Manifest>> {
    let path = paths::manifest(run);
    let Some(manifest) = json::<Manifest>(location, &path, ANOTHER_RUN)? else { return Ok(None) };
    if let Some(why) = manifest.contradiction(run, &identity(location, run)?, None) {
        return Err(damaged(location, &path, &why, ANOTHER_RUN));
    }
    check_sizes(location, &sizes(location, run)?, &manifest, ANOTHER_RUN)?;
    Ok(Some(manifest))
}

/// Manifests of the finished groups, by name; each part is checked to be there in the size that was written. Its hash is
/// checked when it is read.
pub(super) fn groups(location: &Location, run: &str) -> Result<Vec<Manifest>> {
    let (sizes, identity) = (sizes(location, run)?, identity(location, run)?);
    let mut groups = Vec::new();
    for path in location.list(&paths::groups(run))?.keys() {
        let name = path.rsplit('/').next().and_then(|name| name.strip_suffix(".json")).unwrap_or(path);
        let advice = format!("delete `{path}` to compute group `{name}` again");
        let Some(group) = json::<Manifest>(location, path, &advice)? else { continue };
        if let Some(why) = group.contradiction(run, &identity, Some(name)) {
            return Err(damaged(location, path, &why, &advice));
        }
        check_sizes(location, &sizes, &group, &advice)?;
        groups.push(group);
    }
    Ok(groups)
}

/// Bytes of the run's objects in all tables, by path.
fn sizes(location: &Location, run: &str) -> Result<BTreeMap<String, u64>> {
    let mut sizes = BTreeMap::new();
    for table in super::TABLES {
        sizes.extend(location.list(&paths::partition(table, run))?);
    }
    Ok(sizes)
}

fn check_sizes(location: &Location, sizes: &BTreeMap<String, u64>, manifest: &Manifest, advice: &str) -> Result<()> {
    let wrong = |part: &&Part| sizes.get(&part.path) != Some(&part.num_bytes);
    manifest.parts.iter().find(wrong).map_or(Ok(()), |part| {
        let found = sizes.get(&part.path).map_or("missing".to_string(), |size| format!("{size} bytes"));
        Err(Error::Storage(format!(
            "`{}` under `{}`: {found} where {} bytes were written. Restore it, or {advice}",
            part.path, location.url, part.num_bytes
        )))
    })
}

fn json<T: serde::de::DeserializeOwned>(location: &Location, path: &str, advice: &str) -> Result<Option<T>> {
    let Some(bytes) = location.get(path)? else { return Ok(None) };
    seal::unseal(&bytes).map(Some).map_err(|why| damaged(location, path, &why, advice))
}

fn damaged(location: &Location, path: &str, why: &str, advice: &str) -> Error {
    Error::Storage(format!(
        "`{path}` under `{}` is not what hesspec writes: {why}. Restore it, or {advice}",
        location.url
    ))
}
