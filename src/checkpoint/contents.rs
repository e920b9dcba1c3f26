//! What the objects of a group's checkpoint are of: written first, and held against the plan before anything else is read.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Position;
use crate::hessian::Pair;

/// Layout of the objects; another one is refused.
const FORMAT: u32 = 2;

/// One slot of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotContents {
    /// Block (by its place in the run) and probe.
    pub pair: Pair,
    /// The block's name.
    pub block: String,
    /// Its dimension: entries of a vector.
    pub dim: usize,
    /// Steps, those of short recursions included.
    pub steps: usize,
}

/// A group as the plan has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    format: u32,
    /// Bytes of a vector's entry.
    number: usize,
    /// Segments of a sweep.
    segments: usize,
    slots: Vec<SlotContents>,
}

impl Contents {
    /// Contents of a group of slots whose vectors have entries of so many bytes, in sweeps of so many segments.
    pub fn new(number: usize, segments: usize, slots: Vec<SlotContents>) -> Self {
        Self { format: FORMAT, number, segments, slots }
    }

    /// The slots' pairs.
    pub fn pairs(&self) -> Vec<Pair> {
        self.slots.iter().map(|slot| slot.pair).collect()
    }

    /// Number of slots.
    pub fn num_slots(&self) -> usize {
        self.slots.len()
    }

    /// Segments of a sweep.
    pub fn num_segments(&self) -> usize {
        self.segments
    }

    /// Why this is not what a plan that has `expected` would write; `None` if it is. `expected`: the plan's own contents
    /// for the same pairs, if it has them all.
    pub fn contradiction(&self, expected: Option<&Self>) -> Option<String> {
        if self.format != FORMAT {
            return Some(format!("it has the format {}, this program writes {FORMAT}", self.format));
        }
        let pairs: BTreeSet<Pair> = self.slots.iter().map(|slot| slot.pair).collect();
        if pairs.is_empty() || pairs.len() != self.slots.len() {
            return Some(format!("it has {} slots of {} pairs of block and probe", self.slots.len(), pairs.len()));
        }
        let Some(expected) = expected else {
            return Some("it has a block or a probe that the run has not".into());
        };
        let differing = self.slots.iter().zip(&expected.slots).find(|(found, planned)| found != planned);
        if let Some((found, planned)) = differing {
            return Some(format!("it has the slot {found:?}, the run has {planned:?}"));
        }
        let sizes = |contents: &Self| (contents.number, contents.segments);
        (sizes(self) != sizes(expected)).then(|| {
            let ((number, segments), (bytes, planned)) = (sizes(self), sizes(expected));
            format!("it has entries of {number} bytes and {segments} segments, the run has {bytes} and {planned}")
        })
    }

    /// Whether the plan ever comes to a position.
    pub fn holds(&self, at: Position) -> bool {
        let steps = self.slots.iter().map(|slot| slot.steps).max().unwrap_or(0);
        at.step <= steps && at.segments < self.segments.max(1)
    }
}
