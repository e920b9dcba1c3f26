//! Files on object storage: the blocks of them that were read, within a budget of bytes.
//!
//! A sweep reads the same windows over and over, in the same order. So the cache keeps what came first and never gives it
//! up: of a batch larger than the budget that share is never read again, where evicting the oldest would read all of it in
//! every sweep. What came last beyond the budget is at hand until newer blocks take its place.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::format::HEADER_BYTES;
use crate::storage::Location;
use crate::{Error, Result};

/// Bytes of a block: a window of 1024 tokens lies in one or two, and neighbours are asked for in one request.
const BLOCK: u64 = 16 << 10;
/// Blocks in one request at most.
const BLOCKS_AT_ONCE: u64 = 512;
/// Bytes beyond the budget that are at hand: a micro-batch and the next one.
const RECENT_BYTES: u64 = 64 << 20;

/// Object and block.
type Key = (usize, u64);

/// See the module.
pub(super) struct Remote {
    location: Location,
    objects: Vec<Object>,
    budget: u64,
    recent_budget: u64,
    state: Mutex<State>,
    arrived: Condvar,
}

struct Object {
    name: String,
    bytes: u64,
}

#[derive(Default)]
struct State {
    kept: HashMap<Key, Bytes>,
    kept_bytes: u64,
    recent: HashMap<Key, Bytes>,
    recent_bytes: u64,
    /// Keys of `recent`, the oldest first.
    ages: VecDeque<Key>,
    under_way: HashSet<Key>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({}, {} objects)", self.location.url, self.objects.len())
    }
}

impl Remote {
    /// Finds the objects; no more than `budget` bytes of them are kept.
    pub fn new(location: Location, names: Vec<String>, budget: u64) -> Result<Self> {
        let find = |name: String| {
            let bytes = location.size(&name)?.ok_or_else(|| {
                Error::Config(format!(
                    "{}: there is no such object\nHINT: make the tokens with `hesspec data prepare` and copy them there",
                    location.url_of(&name)
                ))
            })?;
            Ok(Object { name, bytes })
        };
        let objects = names.into_iter().map(find).collect::<Result<_>>()?;
        let state = Mutex::default();
        Ok(Self { location, objects, budget, recent_budget: RECENT_BYTES, state, arrived: Condvar::new() })
    }

    /// An object's number of bytes, and its first ones.
    pub fn describe(&self, object: usize) -> Result<(u64, Bytes)> {
        let bytes = self.objects[object].bytes;
        let header = 0..bytes.min(HEADER_BYTES as u64);
        let header = if header.is_empty() { Bytes::new() } else { self.fetch_range(object, header)? };
        Ok((bytes, header))
    }

    fn fetch_range(&self, object: usize, range: Range<u64>) -> Result<Bytes> {
        let found = self.location.get_ranges(&self.objects[object].name, std::slice::from_ref(&range))?;
        Ok(found.into_iter().next().unwrap_or_default())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some bytes of an object.
    pub fn read(&self, object: usize, range: Range<u64>) -> Result<Vec<u8>> {
        let keys: Vec<Key> = blocks(&range).map(|block| (object, block)).collect();
        let found = self.obtain(&keys)?;
        let mut out = Vec::with_capacity((range.end - range.start) as usize);
        for key in keys {
            let (block, begin) = (&found[&key], key.1 * BLOCK);
            let from = range.start.max(begin) - begin;
            let to = range.end.min(begin + block.len() as u64) - begin;
            out.extend_from_slice(&block[from as usize..to as usize]);
        }
        Ok(out)
    }

    /// The blocks, from memory, from a thread that is fetching them, or from the storage.
    fn obtain(&self, keys: &[Key]) -> Result<HashMap<Key, Bytes>> {
        let mut found = HashMap::new();
        loop {
            let mut state = self.lock();
            found.extend(keys.iter().filter_map(|key| Some((*key, state.get(key)?))));
            let missing: Vec<Key> = keys.iter().filter(|key| !found.contains_key(*key)).copied().collect();
            if missing.is_empty() {
                return Ok(found);
            }
            let mine: Vec<Key> = missing.iter().filter(|key| state.under_way.insert(**key)).copied().collect();
            if mine.is_empty() {
                // others fetch them all; a block that they fail to fetch is ours in the next round
                drop(self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner));
                continue;
            }
            drop(state);
            found.extend(self.fetch(&mine)?);
        }
    }

    /// Fetches what these ranges need and nobody has.
    pub fn prefetch(&self, ranges: &[(usize, Range<u64>)]) -> Result<()> {
        let keys = ranges.iter().flat_map(|(object, range)| blocks(range).map(|block| (*object, block)));
        let mut state = self.lock();
        let mine: Vec<Key> = keys.filter(|key| state.get(key).is_none() && state.under_way.insert(*key)).collect();
        drop(state);
        self.fetch(&mine).map(drop)
    }

    /// Fetches blocks that were marked as under way, and keeps what comes.
    fn fetch(&self, keys: &[Key]) -> Result<Vec<(Key, Bytes)>> {
        let fetched = self.request(keys);
        let mut state = self.lock();
        for key in keys {
            state.under_way.remove(key);
        }
        for (key, block) in fetched.iter().flatten() {
            state.put(*key, block.clone(), [self.budget, self.recent_budget]);
        }
        drop(state);
        self.arrived.notify_all();
        fetched
    }

    /// From the storage: neighbouring blocks in one range, all ranges of an object in one call.
    fn request(&self, keys: &[Key]) -> Result<Vec<(Key, Bytes)>> {
        let mut found = Vec::new();
        for (object, runs) in runs(keys) {
            let Object { name, bytes } = &self.objects[object];
            let ranges: Vec<Range<u64>> =
                runs.iter().map(|run| run.start * BLOCK..(run.end * BLOCK).min(*bytes)).collect();
            let answers = self.location.get_ranges(name, &ranges)?;
            for (run, answer) in runs.into_iter().zip(answers) {
                for (block, part) in run.zip(answer.chunks(BLOCK as usize)) {
                    // a copy: a slice would hold on to the whole answer
                    found.push(((object, block), Bytes::copy_from_slice(part)));
                }
            }
        }
        Ok(found)
    }
}

impl State {
    fn get(&self, key: &Key) -> Option<Bytes> {
        self.kept.get(key).or_else(|| self.recent.get(key)).cloned()
    }

    fn put(&mut self, key: Key, block: Bytes, [budget, recent_budget]: [u64; 2]) {
        let len = block.len() as u64;
        if self.kept_bytes + len <= budget {
            self.kept_bytes += len;
            self.kept.insert(key, block);
            return;
        }
        if self.recent.insert(key, block).is_none() {
            self.recent_bytes += len;
            self.ages.push_back(key);
        }
        while self.recent_bytes > recent_budget
            && let Some(oldest) = self.ages.pop_front()
        {
            self.recent_bytes -= self.recent.remove(&oldest).map_or(0, |block| block.len() as u64);
        }
    }
}

/// Blocks that hold these bytes.
fn blocks(range: &Range<u64>) -> Range<u64> {
    if range.is_empty() { 0..0 } else { range.start / BLOCK..(range.end - 1) / BLOCK + 1 }
}

/// Runs of neighbouring blocks, by object.
fn runs(keys: &[Key]) -> BTreeMap<usize, Vec<Range<u64>>> {
    let mut sorted = keys.to_vec();
    sorted.sort_unstable();
    let mut found: BTreeMap<usize, Vec<Range<u64>>> = BTreeMap::new();
    for (object, block) in sorted {
        let runs = found.entry(object).or_default();
        match runs.last_mut() {
            Some(run) if run.end == block && run.end - run.start < BLOCKS_AT_ONCE => run.end += 1,
            _ => runs.push(block..block + 1),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Access;

    fn content(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at / 7) as u8).collect()
    }

    fn remote(name: &str, budget: u64) -> (Location, Remote, Vec<u8>) {
        let location = Location::open(format!("memory://{name}"), Access::Write).unwrap();
        let bytes = content(10 * BLOCK as usize + 100);
        location.put("a.bin", bytes.clone()).unwrap();
        location.put("b.bin", bytes.clone()).unwrap();
        let remote = Remote::new(location.clone(), vec!["a.bin".into(), "b.bin".into()], budget).unwrap();
        (location, remote, bytes)
    }

    #[test]
    fn ranges_are_the_bytes_of_the_object() {
        let (_, remote, bytes) = remote("remote-ranges", 3 * BLOCK);
        for range in [0..1, 5..5, 100..BLOCK + 1, BLOCK - 1..7 * BLOCK + 3, 10 * BLOCK + 1..10 * BLOCK + 100] {
            for object in 0..2 {
                let expected = &bytes[range.start as usize..range.end as usize];
                assert_eq!(remote.read(object, range.clone()).unwrap(), expected, "{range:?}");
            }
        }
        assert!(remote.lock().kept_bytes <= 3 * BLOCK);
    }

    #[test]
    fn what_is_kept_or_fetched_ahead_needs_no_storage() {
        let (location, mut remote, bytes) = remote("remote-cache", 2 * BLOCK);
        remote.recent_budget = 3 * BLOCK;
        remote.read(0, 0..2 * BLOCK).unwrap();
        remote.prefetch(&[(0, 2 * BLOCK..4 * BLOCK), (1, 0..10)]).unwrap();
        let b = location.get("b.bin").unwrap().unwrap();
        location.delete("a.bin").unwrap();
        location.delete("b.bin").unwrap();
        assert_eq!(remote.read(0, 0..4 * BLOCK).unwrap(), bytes[..4 * BLOCK as usize]);
        assert_eq!(remote.read(1, 0..10).unwrap(), bytes[..10]);
        assert!(remote.prefetch(&[(0, 8 * BLOCK..9 * BLOCK)]).is_err());
        location.put("b.bin", b).unwrap();
        remote.read(1, 5 * BLOCK..8 * BLOCK).unwrap();
        assert_eq!(remote.read(0, 0..2 * BLOCK).unwrap(), bytes[..2 * BLOCK as usize], "the first stay");
        assert!(remote.read(0, 2 * BLOCK..4 * BLOCK).is_err(), "newer blocks have taken their place");
        assert!(remote.lock().under_way.is_empty());
    }

    #[test]
    fn many_threads_get_the_same() {
        let (_, remote, bytes) = remote("remote-threads", BLOCK);
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let (remote, bytes) = (&remote, &bytes);
                scope.spawn(move || {
                    for step in 0..50 {
                        let start = (thread * 31 + step * 977) % (8 * BLOCK);
                        let range = start..start + BLOCK + 9;
                        if step % 3 == 0 {
                            remote.prefetch(&[(0, range.clone())]).unwrap();
                        }
                        assert_eq!(remote.read(0, range.clone()).unwrap(), bytes[start as usize..range.end as usize]);
                    }
                });
            }
        });
    }

    #[test]
    fn neighbours_are_asked_for_together() {
        let keys = [(1, 4), (1, 9), (0, 2), (0, 1), (0, 7)];
        assert_eq!(runs(&keys), BTreeMap::from([(0, vec![1..3, 7..8]), (1, vec![4..5, 9..10])]));
        assert_eq!((blocks(&(0..BLOCK)), blocks(&(1..BLOCK + 1)), blocks(&(5..5))), (0..1, 0..2, 0..0));
    }
}
