//! How much of a matrix lies within and between its parts: how block-diagonal it is.

use std::ops::Range;

use crate::block::{Block, Layout};
use crate::{Error, Result};

/// Most parts whose pairs are listed: nobody reads all pairs of more.
const MOST_PARTS: usize = 500;

/// A part of a block: a parameter, or what the partition cuts out of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its indices in the block's flat order, ascending.
    pub ranges: Vec<Range<usize>>,
}

impl Part {
    /// Its first index.
    pub fn first(&self) -> usize {
        self.ranges.first().map_or(0, |range| range.start)
    }

    /// Number of indices.
    pub fn len(&self) -> usize {
        self.ranges.iter().map(ExactSizeIterator::len).sum()
    }

    /// Whether nothing of the block is in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

/// What lies between two parts, on both sides of the diagonal.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// Number of one part.
    pub part_a: usize,
    /// Number of a part that does not come before it.
    pub part_b: usize,
    /// Entries.
    pub num_entries: usize,
    /// Sum of their squares.
    pub frobenius_squared: f64,
    /// As a share of all squares; `None` for a matrix of zeros.
    pub share: Option<f64>,
}

/// The parts of a block that a partition of the network makes, by their first index.
///
/// # Errors
/// [`Error::Config`] for more than 500.
pub fn parts(layout: &Layout, block: &Block, partition: &[Block]) -> Result<Vec<Part>> {
    let mut owners: Vec<(Range<usize>, usize)> = Vec::new();
    for (number, part) in partition.iter().enumerate() {
        owners.extend(global_runs(layout, part).into_iter().map(|run| (run, number)));
    }
    owners.sort_by_key(|(run, _)| run.start);
    let mut ranges: Vec<Vec<Range<usize>>> = vec![Vec::new(); partition.len()];
    let mut at = 0;
    for run in global_runs(layout, block) {
        let first = owners.partition_point(|(owner, _)| owner.end <= run.start);
        for (owner, number) in owners[first..].iter().take_while(|(owner, _)| owner.start < run.end) {
            let inside = owner.start.max(run.start)..owner.end.min(run.end);
            let local = at + inside.start - run.start..at + inside.end - run.start;
            match ranges[*number].last_mut() {
                Some(last) if last.end == local.start => last.end = local.end,
                _ => ranges[*number].push(local),
            }
        }
        at += run.len();
    }
    let named = partition.iter().zip(ranges).map(|(part, ranges)| Part { name: part.name.clone(), ranges });
    let mut parts: Vec<Part> = named.filter(|part| !part.is_empty()).collect();
    parts.sort_by_key(Part::first);
    if parts.len() > MOST_PARTS {
        return Err(Error::Config(format!(
            "block `{}` has {} parts; expected at most {MOST_PARTS}, because all pairs are listed. Choose a coarser \
             blocks.partition or a smaller block",
            block.name,
            parts.len()
        )));
    }
    Ok(parts)
}

/// Ranges of a block in the network's flat order, in the order of its own vector.
fn global_runs(layout: &Layout, block: &Block) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    for piece in &block.pieces {
        let offset = layout.parameters()[piece.parameter].offset;
        piece.runs(layout, |start, len| runs.push(offset + start..offset + start + len));
    }
    runs
}

/// All pairs of parts, the first one's with all that follow first.
pub fn shares(parts: &[Part], matrix: &[Vec<f64>]) -> Vec<Share> {
    let mut squares = vec![vec![0.0; parts.len()]; parts.len()];
    for (a, part) in parts.iter().enumerate() {
        for row in part.ranges.iter().cloned().flatten() {
            for (b, other) in parts.iter().enumerate() {
                let entries = other.ranges.iter().flat_map(|range| &matrix[row][range.clone()]);
                squares[a.min(b)][a.max(b)] += entries.map(|x| x * x).sum::<f64>();
            }
        }
    }
    let total: f64 = squares.iter().flatten().sum();
    let mut shares = Vec::new();
    for (part_a, of_a) in squares.iter().enumerate() {
        for (part_b, squared) in of_a.iter().enumerate().skip(part_a) {
            let sides = if part_a == part_b { 1 } else { 2 };
            shares.push(Share {
                part_a,
                part_b,
                num_entries: sides * parts[part_a].len() * parts[part_b].len(),
                frobenius_squared: *squared,
                share: (total > 0.0).then(|| squared / total),
            });
        }
    }
    shares
}
