//! Progress inside a group of slots, on the output's storage: what a stopped job has to do again is at most
//! `[checkpoint] every`.
//!
//! ```text
//! _runs/<run>/checkpoint/<group>/group.bin                              what the group is of (JSON); written first
//!   step-<j>-slot-<s>-<start>-<end>.bin                                 entries start .. end of v_{j+1}, one per rank
//!   step-<j>.bin                                                        alpha_j, beta_{j+1}, segment rows, times; written last
//!   sweep-<j>-<segment>-slot-<s>-<start>-<end>.bin                      sums over segments 0 ..= segment of step j + 1
//!   sweep-<j>-<segment>.bin                                             segment rows so far; written last
//! ```
//!
//! Every object ends in the SHA-256 of the run's identity, of its name and of what is before it, so that a changed bit is seen, and an
//! object of another run or in another's place. What `group.bin` says is held against the plan, and everything else against `group.bin`: ranges must
//! make up whole vectors, steps and segments be those of the plan. Steps are immutable and counted from 1 (step 0 has the start
//! vectors); sweeps replace each other. Ranges are global, so any number of ranks can read what any other wrote.
//! Everything goes when the group's tables are written.

mod codec;
mod contents;
mod objects;

use std::collections::BTreeSet;
use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::cluster::{Element, Shard};
use crate::hessian::Pair;
use crate::krylov::{Tridiagonal, packed};
use crate::metrics::StepMetrics;
use crate::{Error, Result};

use codec::{Reader, TIMES, append, metrics_of, push, times};
pub use contents::{Contents, SlotContents};
pub use objects::Objects;

/// Bytes of a hash.
const HASH: usize = 32;
/// What a group is of.
const CONTENTS: &str = "group.bin";
/// Name of a group's contents in versions before, without a hash.
const CONTENTS_BEFORE: &str = "group.json";

/// The checkpoints of a run.
pub struct Checkpoint {
    objects: Box<dyn Objects>,
    folder: String,
    /// What tells the run from others of its name.
    identity: String,
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
    /// The checkpoints of a run below an output URL. `identity`: what tells it from other runs of its name
    /// ([`RunStore::identity`](crate::output::RunStore::identity)).
    #[cfg(feature = "program")]
    pub fn open(url: impl Into<crate::shown::Url>, run: &str, identity: &str) -> Result<Self> {
        use crate::storage::{Access, Location};
        Ok(Self::new(Box::new(Location::open(url, Access::Write)?), run, identity))
    }

    /// The checkpoints of a run among these objects.
    pub fn new(objects: Box<dyn Objects>, run: &str, identity: &str) -> Self {
        Self { objects, folder: format!("_runs/{run}/checkpoint"), identity: identity.into() }
    }

    fn path(&self, group: &str, object: &str) -> String {
        format!("{}/{group}/{object}", self.folder)
    }

    /// Groups that were begun, with their pairs. `planned`: what the plan has for these pairs, if it has them all; `name`: the
    /// plan's name of a group that begins with a pair.
    ///
    /// # Errors
    /// [`Error::Storage`] for one that is damaged, is not of this plan, or was written by a version before.
    pub fn begun(
        &self,
        planned: &dyn Fn(&[Pair]) -> Option<Contents>,
        name: &dyn Fn(Pair) -> String,
    ) -> Result<Vec<(String, Vec<Pair>)>> {
        let (mut groups, mut taken) = (Vec::new(), BTreeSet::new());
        for path in self.objects.list(&self.folder)? {
            let mut parts = path.rsplit('/');
            let (Some(object), Some(group)) = (parts.next(), parts.next()) else { continue };
            if object == CONTENTS_BEFORE {
                let why = "it was written by a version of hesspec before, without a hash. Go on with that version";
                return Err(self.damaged(group, object, why));
            }
            if object != CONTENTS {
                continue;
            }
            let bytes = self.get(group, object)?;
            let damaged = |why: &str| self.damaged(group, object, why);
            let contents: Contents = serde_json::from_slice(&bytes).map_err(|error| damaged(&error.to_string()))?;
            let pairs = contents.pairs();
            if let Some(why) = contents.contradiction(planned(&pairs).as_ref()) {
                return Err(damaged(&why));
            }
            if pairs.first().is_none_or(|first| name(*first) != group) || !pairs.iter().all(|pair| taken.insert(*pair))
            {
                return Err(damaged(&format!("the pairs {pairs:?} belong into another group")));
            }
            groups.push((group.to_owned(), pairs));
        }
        Ok(groups)
    }

    /// Records that a group is begun.
    pub fn begin(&self, group: &str, contents: &Contents) -> Result<()> {
        let text = serde_json::to_vec(contents).map_err(|error| Error::Other(error.to_string()))?;
        self.put(group, CONTENTS, text)
    }

    /// Forgets a group.
    pub fn delete(&self, group: &str) -> Result<()> {
        let folder = format!("{}/{group}", self.folder);
        self.objects.list(&folder)?.iter().try_for_each(|path| self.objects.delete(path))
    }

    /// Forgets all groups but these: what a killed job left of groups that are finished, or not even begun. Returns the names
    /// of groups of which there were objects, but not what they are of.
    pub fn keep_only(&self, groups: &[&str]) -> Result<Vec<String>> {
        let prefix = format!("{}/", self.folder);
        let objects = self.objects.list(&self.folder)?;
        let split = |path: &str| {
            let (group, object) = path.strip_prefix(&prefix)?.split_once('/')?;
            Some((group.to_owned(), object.to_owned()))
        };
        let others =
            || objects.iter().filter_map(|path| split(path)).filter(|(group, _)| !groups.contains(&group.as_str()));
        let described: BTreeSet<String> =
            others().filter(|(_, object)| object == CONTENTS).map(|(group, _)| group).collect();
        others().try_for_each(|(group, object)| self.objects.delete(&self.path(&group, &object)))?;
        let all: BTreeSet<String> = others().map(|(group, _)| group).collect();
        Ok(all.difference(&described).cloned().collect())
    }

    /// The furthest point from which a group can go on. What a job killed while saving has written beyond it is
    /// deleted: other ranks, with other ranges, will write these objects anew, and ranges must not overlap.
    ///
    /// # Errors
    /// [`Error::Storage`] for a point that the plan never comes to.
    pub fn recover(&self, group: &str, contents: &Contents) -> Result<Position> {
        let at = self.position(group)?;
        if !contents.holds(at) {
            let Position { step, segments } = at;
            let why = format!("{step} steps and {segments} segments are more than the group has");
            return Err(self.damaged(group, CONTENTS, &why));
        }
        let (sweep, sum) = (format!("{}.bin", sweep_prefix(at)), format!("{}-slot-", sweep_prefix(at)));
        for path in self.objects.list(&format!("{}/{group}", self.folder))? {
            let name = path.rsplit('/').next().unwrap_or_default();
            let is_valid = match name.strip_prefix("step-").and_then(|rest| rest.get(..5)?.parse::<usize>().ok()) {
                Some(step) => step <= at.step && at != Position::default(),
                None if name.starts_with("sweep-") => at.segments > 0 && (name == sweep || name.starts_with(&sum)),
                None => true,
            };
            if !is_valid {
                self.objects.delete(&path)?;
            }
        }
        Ok(at)
    }

    /// The furthest point that is complete.
    fn position(&self, group: &str) -> Result<Position> {
        let objects = self.objects.list(&format!("{}/{group}", self.folder))?;
        let has = |name: String| objects.iter().any(|path| path.ends_with(&format!("/{name}")));
        let mut step = 0;
        while has(step_name(step + 1)) {
            step += 1;
        }
        let prefix = format!("/sweep-{step:05}-");
        let segments = objects.iter().filter_map(|path| {
            let rest = path.split_once(&prefix)?.1.strip_suffix(".bin")?;
            rest.parse::<u32>().ok()
        });
        Ok(Position { step, segments: segments.max().map_or(0, |last| last as usize + 1) })
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

    /// This rank's entries of v_{step + 1} of a slot of so many entries, whoever wrote them.
    pub fn load_vector<T: Element>(&self, group: &str, step: usize, slot: usize, shard: Shard) -> Result<Vec<T>> {
        self.load(group, &format!("step-{step:05}-slot-{slot:03}-"), shard)
    }

    /// This rank's entries of a slot's sum over segments.
    pub fn load_sum(&self, group: &str, at: Position, slot: usize, shard: Shard) -> Result<Vec<f64>> {
        self.load(group, &format!("{}-slot-{slot:03}-", sweep_prefix(at)), shard)
    }

    /// Completes a step: what it added to each slot's Jacobi matrix (`None`: the slot was done before), and its times.
    pub fn save_step(
        &self,
        group: &str,
        step: usize,
        slots: &[Option<&Tridiagonal>],
        metrics: &StepMetrics,
    ) -> Result<()> {
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
        push(&mut bytes, &times(metrics));
        self.put(group, &step_name(step), bytes)
    }

    /// The Jacobi matrices after `steps` steps, as [`Chain::flat`](crate::krylov::Chain::flat) gives them, and each step's
    /// times with the slots that took part.
    pub fn load_steps(&self, group: &str, steps: usize, contents: &Contents) -> Result<(Vec<Tridiagonal>, Vec<Timed>)> {
        let mut slots = vec![Tridiagonal::default(); contents.num_slots()];
        let mut timed = Vec::new();
        for step in 1..=steps {
            let name = step_name(step);
            let bytes = self.get(group, &name)?;
            let mut reader = Reader(&bytes);
            let mut took_part = Vec::new();
            for (at, slot) in slots.iter_mut().enumerate() {
                let is_active = append(slot, step, contents.num_segments(), &mut reader);
                let is_active =
                    is_active.ok_or_else(|| self.damaged(group, &name, "its rows are not those of the plan"))?;
                took_part.extend(is_active.then_some(at));
            }
            let metrics = reader.numbers(TIMES).filter(|_| reader.0.is_empty());
            let metrics = metrics.ok_or_else(|| self.damaged(group, &name, "it has another length"))?;
            timed.push((metrics_of(step, took_part.len(), &metrics), took_part));
        }
        Ok((slots, timed))
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
        let objects = self.objects.list(&format!("{}/{group}", self.folder))?;
        let mut old =
            objects.into_iter().filter(|path| path.contains("/sweep-") && !path.contains(&format!("/{prefix}")));
        old.try_for_each(|path| self.objects.delete(&path))
    }

    /// The segment rows of a sweep's checkpoint.
    pub fn load_sweep(&self, group: &str, at: Position, num_slots: usize) -> Result<Rows> {
        let name = format!("{}.bin", sweep_prefix(at));
        let bytes = self.get(group, &name)?;
        let mut reader = Reader(&bytes);
        // dots with v_1 ... v_{j + 1} in every segment, or nothing where no segments are wanted
        let mut slot = || {
            let count = reader.count().filter(|count| *count == 0 || *count == at.segments)?;
            let mut row = || reader.count().filter(|len| *len == at.step + 1).and_then(|len| reader.numbers(len));
            (0..count).map(|_| row()).collect::<Option<Vec<_>>>()
        };
        let rows: Option<Rows> = (0..num_slots).map(|_| slot()).collect();
        rows.filter(|_| reader.0.is_empty())
            .ok_or_else(|| self.damaged(group, &name, "its rows are not those of the plan"))
    }

    fn put(&self, group: &str, name: &str, mut bytes: Vec<u8>) -> Result<()> {
        let hash = self.hash(group, name, &bytes);
        bytes.extend_from_slice(&hash);
        self.objects.put(&self.path(group, name), bytes)
    }

    fn get(&self, group: &str, name: &str) -> Result<Vec<u8>> {
        let path = self.path(group, name);
        let bytes = self.objects.get(&path)?.ok_or_else(|| self.damaged(group, name, "it is not there"))?;
        let (body, found) =
            bytes.split_last_chunk::<HASH>().ok_or_else(|| self.damaged(group, name, "it is too short"))?;
        if self.hash(group, name, body) != *found {
            return Err(self.damaged(group, name, "its hash is wrong: it was changed, or another run wrote it"));
        }
        Ok(body.to_vec())
    }

    /// Puts a rank's range together from the objects that hold parts of it.
    fn load<T: Element>(&self, group: &str, prefix: &str, shard: Shard) -> Result<Vec<T>> {
        let wanted = shard.range();
        let mut values = vec![T::default(); wanted.len()];
        for held in self.tiles(group, prefix, shard.len)? {
            let common = held.start.max(wanted.start)..held.end.min(wanted.end);
            if common.is_empty() {
                continue;
            }
            let name = format!("{prefix}{}-{}.bin", held.start, held.end);
            let bytes = self.get(group, &name)?;
            if bytes.len() != held.len() * size_of::<T>() {
                return Err(self.damaged(group, &name, "its size is not that of its range"));
            }
            let part = &bytes[(common.start - held.start) * size_of::<T>()..(common.end - held.start) * size_of::<T>()];
            let target = &mut values[common.start - wanted.start..common.end - wanted.start];
            bytemuck::cast_slice_mut::<T, u8>(target).copy_from_slice(part);
        }
        Ok(values)
    }

    /// The ranges of a vector's objects, in order: together they are the whole vector, and none is there twice.
    fn tiles(&self, group: &str, prefix: &str, len: usize) -> Result<Vec<Range<usize>>> {
        let objects = self.objects.list(&format!("{}/{group}", self.folder))?;
        let of = |path: &String| parse_range(path.split_once(&format!("/{prefix}"))?.1);
        let mut ranges: Vec<Range<usize>> = objects.iter().filter_map(of).filter(|range| !range.is_empty()).collect();
        ranges.sort_by_key(|range| range.start);
        let covered = ranges.iter().try_fold(0, |end, range| (range.start == end).then_some(range.end));
        if covered == Some(len) {
            return Ok(ranges);
        }
        let why = format!("the entries {ranges:?} are there, which are not the {len} of the plan");
        Err(self.damaged(group, prefix, &why))
    }

    /// SHA-256 of an object in its place.
    fn hash(&self, group: &str, name: &str, bytes: &[u8]) -> [u8; HASH] {
        let mut hasher = Sha256::new();
        hasher.update(format!("{}/{group}/{name}\n", self.identity));
        hasher.update(bytes);
        hasher.finalize().into()
    }

    fn damaged(&self, group: &str, object: &str, why: &str) -> Error {
        Error::Storage(format!(
            "checkpoint `{}` under `{}`: {why}. Restore it, or delete the folder `{}/{group}` to compute the group anew; \
             finished groups are kept",
            self.path(group, object),
            self.objects.place(),
            self.folder
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

/// A step's times, and the slots that took part.
pub type Timed = (StepMetrics, Vec<usize>);

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
