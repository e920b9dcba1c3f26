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
    pub fn open(url: &str, run: &str) -> Result<Self> {
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

    /// The furthest point from which a group can go on.
    pub fn position(&self, group: &str) -> Result<Position> {
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
                bytes.extend((t.segments.len() as u32).to_le_bytes());
                t.segments.iter().for_each(|segment| push(&mut bytes, &segment[packed(at, 0)..packed(at + 1, 0)]));
            }
        }
        self.put(group, &step_name(step), bytes)
    }

    /// The Jacobi matrices after `steps` steps.
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
    t.segments.resize(count, Vec::new());
    for segment in &mut t.segments {
        segment.extend(reader.numbers(step)?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(steps: usize) -> Tridiagonal {
        let number = |i: usize| 0.1 + i as f64 / 3.0;
        Tridiagonal {
            alpha: (0..steps).map(number).collect(),
            beta: (0..steps).map(|i| number(i + 7)).collect(),
            orthogonality_loss: vec![1e-16; steps],
            segments: vec![
                (0..packed(steps, 0)).map(number).collect(),
                (0..packed(steps, 0)).map(|i| -number(i)).collect(),
            ],
        }
    }

    #[test]
    fn steps_are_read_back_bit_for_bit_and_a_slot_may_end_early() {
        let checkpoint = Checkpoint::open("memory://checkpoint-steps", "r").unwrap();
        let (long, short) = (matrix(5), matrix(3));
        checkpoint.begin("g", &[(0, 1), (4, 0)]).unwrap();
        for step in 1..=5 {
            checkpoint.save_step("g", step, &[Some(&long), (step <= 3).then_some(&short)]).unwrap();
        }
        assert_eq!(checkpoint.position("g").unwrap(), Position { step: 5, segments: 0 });
        assert_eq!(checkpoint.load_steps("g", 5, 2).unwrap(), [long, short]);
        assert_eq!(checkpoint.begun().unwrap(), [("g".to_owned(), vec![(0, 1), (4, 0)])]);
        checkpoint.delete("g").unwrap();
        assert!(checkpoint.begun().unwrap().is_empty());
    }

    #[test]
    fn any_number_of_ranks_reads_what_any_other_wrote() {
        let checkpoint = Checkpoint::open("memory://checkpoint-ranks", "r").unwrap();
        let vector: Vec<f32> = (0..11).map(|i| i as f32 / 7.0).collect();
        for rank in 0..3 {
            let shard = Shard::new(rank, 3, 11);
            checkpoint.save_vector("g", 2, 0, shard, &vector[shard.range()]).unwrap();
        }
        for size in 1..6 {
            for rank in 0..size {
                let range = Shard::new(rank, size, 11).range();
                assert_eq!(checkpoint.load_vector::<f32>("g", 2, 0, range.clone()).unwrap(), vector[range]);
            }
        }
        let error = checkpoint.load_vector::<f32>("g", 3, 0, 0..11).unwrap_err();
        assert_eq!(error.exit_code(), 5);
    }

    #[test]
    fn a_sweep_replaces_the_one_before_and_a_flipped_bit_is_seen() {
        let checkpoint = Checkpoint::open("memory://checkpoint-sweep", "r").unwrap();
        let shard = Shard::new(0, 1, 2);
        for segments in 1..=3 {
            let at = Position { step: 0, segments };
            checkpoint.save_sum("g", at, 0, shard, &[segments as f64, 0.5]).unwrap();
            checkpoint.save_sweep("g", at, &vec![vec![vec![1.0 / 3.0]; segments]]).unwrap();
        }
        let at = checkpoint.position("g").unwrap();
        assert_eq!(at, Position { step: 0, segments: 3 });
        assert_eq!(checkpoint.load_sweep("g", at, 1).unwrap(), vec![vec![vec![1.0 / 3.0]; 3]]);
        assert_eq!(checkpoint.load_sum("g", at, 0, 0..2).unwrap(), [3.0, 0.5]);
        assert!(checkpoint.load_sum("g", Position { step: 0, segments: 2 }, 0, 0..2).is_err());
        let path = checkpoint.path("g", "sweep-00000-00002.bin");
        let mut bytes = checkpoint.location.get(&path).unwrap().unwrap().to_vec();
        bytes[5] ^= 1;
        checkpoint.location.put(&path, bytes).unwrap();
        assert!(checkpoint.load_sweep("g", at, 1).unwrap_err().to_string().contains("hash"));
    }
}
