//! Progress inside a group of slots, on the output's storage: what a stopped job has to do again is at most
//! `[checkpoint] every`.
//!
//! ```text
//! _runs/<run>/checkpoint/<group>/group.json                             the group's pairs
//!   step-<j>-slot-<s>-<start>-<end>.bin                                 entries start .. end of v_{j+1}, one per rank
//!   step-<j>.bin                                                        alpha_j, beta_{j+1}, segment rows; written last
//!   sweep-<j>-<segment>-slot-<s>-<start>-<end>.bin                      sums over segments 0 ..= segment of step j + 1
//!   sweep-<j>-<segment>.bin                                             segment rows so far; written last
//! ```
//!
//! Every object ends in the SHA-256 of what is before it. Steps are immutable and counted from 1 (step 0 has the start
//! vectors); sweeps replace each other. Ranges are global, so any number of ranks can read what any other wrote.
//! Everything goes when the group's tables are written.

use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::cluster::{Element, Shard};
use crate::krylov::{Tridiagonal, packed};
use crate::output::{Access, Location};
use crate::plan::Pair;
use crate::shown::Url;
use crate::{Error, Result};

/// Bytes of a hash.
const HASH: usize = 32;

/// The checkpoints of a run.
pub struct Checkpoint {
    location: Location,
    folder: String,
}

/// Where a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Lanczos steps that are complete.
    pub step: usize,
    /// Segments of the next step's sweep that are complete.
    pub segments: usize,
}

/// Segment rows of a sweep: by slot, by segment.
pub type Rows = Vec<Vec<Vec<f64>>>;

impl Checkpoint {
    /// The checkpoints of a run below an output URL.
    pub fn open(url: impl Into<Url>, run: &str) -> Result<Self> {
        Ok(Self { location: Location::open(url, Access::Write)?, folder: format!("_runs/{run}/checkpoint") })
    }

    fn path(&self, group: &str, object: &str) -> String {
        format!("{}/{group}/{object}", self.folder)
    }

    /// Groups that were begun, with their pairs.
    pub fn begun(&self) -> Result<Vec<(String, Vec<Pair>)>> {
        let mut groups = Vec::new();
        for path in self.location.list(&self.folder)?.into_keys().filter(|path| path.ends_with("/group.json")) {
            let Some(group) = path.rsplit('/').nth(1) else { continue };
            let bytes = self.location.get(&self.path(group, "group.json"))?.unwrap_or_default();
            let pairs = serde_json::from_slice(&bytes).map_err(|error| self.damaged(&path, &error.to_string()))?;
            groups.push((group.to_owned(), pairs));
        }
        Ok(groups)
    }

    /// Records that a group is begun.
    pub fn begin(&self, group: &str, pairs: &[Pair]) -> Result<()> {
        let text = serde_json::to_string(pairs).map_err(|error| Error::Other(error.to_string()))?;
        self.location.put(&self.path(group, "group.json"), text)
    }

    /// Forgets a group.
    pub fn delete(&self, group: &str) -> Result<()> {
        let folder = format!("{}/{group}", self.folder);
        self.location.list(&folder)?.keys().try_for_each(|path| self.location.delete(path))
    }

    /// Forgets all groups but these: what a killed job left of groups that are finished, or not even begun.
    pub fn keep_only(&self, groups: &[&str]) -> Result<()> {
        let prefix = format!("{}/", self.folder);
        let group = |path: &str| path.strip_prefix(&prefix).and_then(|rest| rest.split('/').next()).map(str::to_owned);
        let mut objects = self.location.list(&self.folder)?.into_keys();
        objects.try_for_each(|path| match group(&path) {
            Some(group) if !groups.contains(&group.as_str()) => self.location.delete(&path),
            _ => Ok(()),
        })
    }

    /// The furthest point from which a group can go on. What a job killed while saving has written beyond it is
    /// deleted: other ranks, with other ranges, will write these objects anew, and ranges must not overlap.
    pub fn recover(&self, group: &str) -> Result<Position> {
        let at = self.position(group)?;
        let (sweep, sum) = (format!("{}.bin", sweep_prefix(at)), format!("{}-slot-", sweep_prefix(at)));
        for path in self.location.list(&format!("{}/{group}", self.folder))?.into_keys() {
            let name = path.rsplit('/').next().unwrap_or_default();
            let is_valid = match name.strip_prefix("step-").and_then(|rest| rest.get(..5)?.parse::<usize>().ok()) {
                Some(step) => step <= at.step && at != Position::default(),
                None if name.starts_with("sweep-") => at.segments > 0 && (name == sweep || name.starts_with(&sum)),
                None => true,
            };
            if !is_valid {
                self.location.delete(&path)?;
            }
        }
        Ok(at)
    }

    /// The furthest point that is complete.
    fn position(&self, group: &str) -> Result<Position> {
        let objects = self.location.list(&format!("{}/{group}", self.folder))?;
        let has = |name: String| objects.keys().any(|path| path.ends_with(&format!("/{name}")));
        let mut step = 0;
        while has(step_name(step + 1)) {
            step += 1;
        }
        let prefix = format!("/sweep-{step:05}-");
        let segments = objects.keys().filter_map(|path| {
            let rest = path.split_once(&prefix)?.1.strip_suffix(".bin")?;
            rest.parse::<usize>().ok()
        });
        Ok(Position { step, segments: segments.max().map_or(0, |last| last + 1) })
    }

    /// This rank's entries of v_{step + 1} of a slot.
    pub fn save_vector<T: Element>(
        &self,
        group: &str,
        step: usize,
        slot: usize,
        shard: Shard,
        entries: &[T],
    ) -> Result<()> {
        let name = format!("step-{step:05}-{}", part_name(slot, &shard.range()));
        self.put(group, &name, bytemuck::cast_slice(entries).to_vec())
    }

    /// This rank's entries of a slot's sum over segments `0 ..= segment` of step `step + 1`.
    pub fn save_sum(&self, group: &str, at: Position, slot: usize, shard: Shard, entries: &[f64]) -> Result<()> {
        let name = format!("{}-{}", sweep_prefix(at), part_name(slot, &shard.range()));
        self.put(group, &name, bytemuck::cast_slice(entries).to_vec())
    }

    /// Entries `range` of v_{step + 1} of a slot, whoever wrote them.
    pub fn load_vector<T: Element>(
        &self,
        group: &str,
        step: usize,
        slot: usize,
        range: Range<usize>,
    ) -> Result<Vec<T>> {
        self.load(group, &format!("step-{step:05}-slot-{slot:03}-"), range)
    }

    /// Entries `range` of a slot's sum over segments.
    pub fn load_sum(&self, group: &str, at: Position, slot: usize, range: Range<usize>) -> Result<Vec<f64>> {
        self.load(group, &format!("{}-slot-{slot:03}-", sweep_prefix(at)), range)
    }

    /// Completes a step: what it added to each slot's Jacobi matrix (`None`: the slot was done before).
    pub fn save_step(&self, group: &str, step: usize, slots: &[Option<&Tridiagonal>]) -> Result<()> {
        let mut bytes = Vec::new();
        for slot in slots {
            bytes.push(u8::from(slot.is_some()));
            if let Some(t) = slot {
                let at = step - 1;
                push(&mut bytes, &[t.alpha[at], t.beta[at], t.orthogonality_loss[at]]);
                // steps beyond those of the long recursion have no rows
                let rows = t.segments.iter().filter_map(|segment| segment.get(packed(at, 0)..packed(at + 1, 0)));
                bytes.extend((rows.clone().count() as u32).to_le_bytes());
                rows.for_each(|row| push(&mut bytes, row));
            }
        }
        self.put(group, &step_name(step), bytes)
    }

    /// The Jacobi matrices after `steps` steps, as [`Chain::flat`](crate::krylov::Chain::flat) gives them.
    pub fn load_steps(&self, group: &str, steps: usize, num_slots: usize) -> Result<Vec<Tridiagonal>> {
        let mut slots = vec![Tridiagonal::default(); num_slots];
        for step in 1..=steps {
            let name = step_name(step);
            let bytes = self.get(group, &name)?;
            let mut reader = Reader(&bytes);
            for slot in &mut slots {
                append(slot, step, &mut reader)
                    .ok_or_else(|| self.damaged(&self.path(group, &name), "it is too short"))?;
            }
        }
        Ok(slots)
    }

    /// Completes a sweep's checkpoint and forgets older ones.
    pub fn save_sweep(&self, group: &str, at: Position, rows: &Rows) -> Result<()> {
        let mut bytes = Vec::new();
        for slot in rows {
            bytes.extend((slot.len() as u32).to_le_bytes());
            for row in slot {
                bytes.extend((row.len() as u32).to_le_bytes());
                push(&mut bytes, row);
            }
        }
        let prefix = sweep_prefix(at);
        self.put(group, &format!("{prefix}.bin"), bytes)?;
        let objects = self.location.list(&format!("{}/{group}", self.folder))?;
        let old = objects.into_keys().filter(|path| path.contains("/sweep-") && !path.contains(&format!("/{prefix}")));
        old.into_iter().try_for_each(|path| self.location.delete(&path))
    }

    /// The segment rows of a sweep's checkpoint.
    pub fn load_sweep(&self, group: &str, at: Position, num_slots: usize) -> Result<Rows> {
        let name = format!("{}.bin", sweep_prefix(at));
        let bytes = self.get(group, &name)?;
        let mut reader = Reader(&bytes);
        let mut slot = || {
            let count = reader.count()?;
            (0..count).map(|_| reader.count().and_then(|len| reader.numbers(len))).collect::<Option<Vec<_>>>()
        };
        let rows: Option<Rows> = (0..num_slots).map(|_| slot()).collect();
        rows.ok_or_else(|| self.damaged(&self.path(group, &name), "it is too short"))
    }

    fn put(&self, group: &str, name: &str, mut bytes: Vec<u8>) -> Result<()> {
        let hash = Sha256::digest(&bytes);
        bytes.extend_from_slice(&hash);
        self.location.put(&self.path(group, name), bytes)
    }

    fn get(&self, group: &str, name: &str) -> Result<Vec<u8>> {
        let path = self.path(group, name);
        let bytes = self.location.get(&path)?.ok_or_else(|| self.damaged(&path, "it is not there"))?;
        let split = bytes.len().checked_sub(HASH).ok_or_else(|| self.damaged(&path, "it is too short"))?;
        if Sha256::digest(&bytes[..split]).as_slice() != &bytes[split..] {
            return Err(self.damaged(&path, "its hash is wrong"));
        }
        Ok(bytes[..split].to_vec())
    }

    /// Puts the wanted range together from the objects that hold parts of it.
    fn load<T: Element>(&self, group: &str, prefix: &str, wanted: Range<usize>) -> Result<Vec<T>> {
        let mut values = vec![T::default(); wanted.len()];
        let mut found = 0;
        for path in self.location.list(&format!("{}/{group}", self.folder))?.into_keys() {
            let Some((_, rest)) = path.split_once(&format!("/{prefix}")) else { continue };
            let Some(held) = parse_range(rest) else { continue };
            let common = held.start.max(wanted.start)..held.end.min(wanted.end);
            if common.is_empty() {
                continue;
            }
            let bytes = self.get(group, &format!("{prefix}{rest}"))?;
            if bytes.len() != held.len() * size_of::<T>() {
                return Err(self.damaged(&path, "its size is not that of its range"));
            }
            let part = &bytes[(common.start - held.start) * size_of::<T>()..(common.end - held.start) * size_of::<T>()];
            let target = &mut values[common.start - wanted.start..common.end - wanted.start];
            bytemuck::cast_slice_mut::<T, u8>(target).copy_from_slice(part);
            found += common.len();
        }
        if found == wanted.len() {
            return Ok(values);
        }
        let (path, length) = (self.path(group, prefix), wanted.len());
        Err(self.damaged(&path, &format!("{found} of the {length} entries {wanted:?} are there")))
    }

    fn damaged(&self, path: &str, why: &str) -> Error {
        Error::Storage(format!(
            "checkpoint `{path}` under `{}`: {why}. Delete the folder `{}` to compute the group anew",
            self.location.url, self.folder
        ))
    }
}

fn step_name(step: usize) -> String {
    format!("step-{step:05}.bin")
}

fn sweep_prefix(at: Position) -> String {
    format!("sweep-{:05}-{:05}", at.step, at.segments.saturating_sub(1))
}

fn part_name(slot: usize, range: &Range<usize>) -> String {
    format!("slot-{slot:03}-{}-{}.bin", range.start, range.end)
}

fn parse_range(rest: &str) -> Option<Range<usize>> {
    let (start, end) = rest.strip_suffix(".bin")?.split_once('-')?;
    Some(start.parse().ok()?..end.parse().ok()?)
}

fn push(bytes: &mut Vec<u8>, numbers: &[f64]) {
    numbers.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
}

/// Reads what [`push`] wrote.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn count(&mut self) -> Option<usize> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?) as usize)
    }

    fn numbers(&mut self, count: usize) -> Option<Vec<f64>> {
        let bytes = self.take(count.checked_mul(8)?)?;
        bytes.chunks_exact(8).map(|chunk| Some(f64::from_le_bytes(chunk.try_into().ok()?))).collect()
    }
}

/// Adds one step to a slot's Jacobi matrix.
fn append(t: &mut Tridiagonal, step: usize, reader: &mut Reader<'_>) -> Option<()> {
    if reader.take(1)? == [0] {
        return Some(());
    }
    let scalars = reader.numbers(3)?;
    t.alpha.push(scalars[0]);
    t.beta.push(scalars[1]);
    t.orthogonality_loss.push(scalars[2]);
    let count = reader.count()?;
    t.segments.resize(count.max(t.segments.len()), Vec::new());
    for segment in t.segments.iter_mut().take(count) {
        segment.extend(reader.numbers(step)?);
    }
    Some(())
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
