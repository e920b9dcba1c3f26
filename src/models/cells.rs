//! Sets of a block's entries over which its diagonal is summed: parts of parameters, and in each of these rows, neurons, heads.
//!
//! A part is a parameter, or one of those that a fused projection holds side by side, and is called as the blocks of the partition
//! `parameter`. A row is one index of the first axis of a matrix, a neuron one index of the axis that holds a layer's outputs,
//! where the structure knows it. An entry is in one cell of each kind at most.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::partition::{Part, Structure, parts};
use crate::Result;
use crate::block::{Block, Layout, Parameter, Piece};

/// What a cell is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CellKind {
    /// All of a part.
    Part,
    /// One row of a matrix as it is stored.
    Row,
    /// What belongs to one of a layer's outputs.
    Neuron,
    /// What belongs to one attention head.
    Head,
}

impl CellKind {
    /// Its name in configurations and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Part => "part",
            Self::Row => "row",
            Self::Neuron => "neuron",
            Self::Head => "head",
        }
    }
}

/// A set of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The part.
    pub part: String,
    /// What it is of that.
    pub kind: CellKind,
    /// Its number there: of a row or neuron along its axis, counted from the part's first; of a head.
    pub index: usize,
    /// Entries of the block in it.
    pub num_entries: usize,
}

/// The cells of a block.
#[derive(Debug, Clone)]
pub struct Cells {
    list: Vec<Cell>,
    pieces: Vec<OfPiece>,
}

/// Which cells the entries of a piece are in.
#[derive(Debug, Clone)]
struct OfPiece {
    num_entries: usize,
    families: Vec<Family>,
}

/// An axis of a piece.
#[derive(Debug, Clone, Copy)]
struct Along {
    inner: usize,
    len: usize,
}

impl Along {
    fn new(shape: &[usize], axis: usize) -> Self {
        Self { inner: shape[axis + 1..].iter().product(), len: shape[axis] }
    }

    /// The coordinate of an entry.
    fn of(self, entry: usize) -> usize {
        entry / self.inner % self.len
    }
}

/// One kind of cells of one part: an entry's coordinate along the part's axis says whether it is in the part, that along the
/// family's in which cell.
#[derive(Debug, Clone)]
struct Family {
    part: Along,
    in_part: Range<usize>,
    along: Along,
    /// By coordinate within the piece; `None` outside of the part.
    cells: Vec<Option<usize>>,
}

impl Cells {
    /// The cells of these kinds.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for fused parameters that do not divide into their parts.
    pub fn of(layout: &Layout, structure: &Structure, block: &Block, kinds: &[CellKind]) -> Result<Self> {
        let mut cells = Self { list: Vec::new(), pieces: Vec::new() };
        let mut known = HashMap::new();
        for piece in &block.pieces {
            let parameter = &layout.parameters()[piece.parameter];
            let shape = piece.shape(layout);
            let mut of_piece = OfPiece { num_entries: shape.iter().product(), families: Vec::new() };
            for part in parts(parameter, structure)? {
                for &kind in kinds {
                    let family = axis_and_width(parameter, structure, &part, kind);
                    let family = family.map(|of| cells.family(&mut known, piece, &shape, &part, kind, of));
                    of_piece.families.extend(family);
                }
            }
            cells.pieces.push(of_piece);
        }
        cells.count();
        Ok(cells)
    }

    /// The cells.
    pub fn list(&self) -> &[Cell] {
        &self.list
    }

    /// Sums over the cells of `value(i)` for the entries `range` of the block's flat order, one sum a cell; i counts from the
    /// range's start.
    pub fn sums(&self, range: Range<usize>, value: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut sums = vec![0.0; self.list.len()];
        self.visit(range, |cell, at| sums[cell] += value(at));
        sums
    }

    fn count(&mut self) {
        let mut counts = vec![0; self.list.len()];
        let all = self.pieces.iter().map(|piece| piece.num_entries).sum();
        self.visit(0..all, |cell, _| counts[cell] += 1);
        self.list.iter_mut().zip(counts).for_each(|(cell, count)| cell.num_entries = count);
    }

    /// Calls `visit(cell, position in the range)` for each entry of a range and each cell that it is in.
    fn visit(&self, range: Range<usize>, mut visit: impl FnMut(usize, usize)) {
        let mut start = 0;
        for OfPiece { num_entries, families } in &self.pieces {
            let end = start + num_entries;
            for at in start.max(range.start)..end.min(range.end) {
                for Family { part, in_part, along, cells } in families {
                    if in_part.contains(&part.of(at - start))
                        && let Some(cell) = cells[along.of(at - start)]
                    {
                        visit(cell, at - range.start);
                    }
                }
            }
            start = end;
        }
    }

    /// A family, its cells added to the list where they are not there from another piece.
    fn family(
        &mut self,
        known: &mut HashMap<(String, CellKind, usize), usize>,
        piece: &Piece,
        shape: &[usize],
        part: &Part,
        kind: CellKind,
        (axis, width): (usize, usize),
    ) -> Family {
        let first =
            |axis: usize| piece.cut.as_ref().filter(|(cut, _)| *cut == axis).map_or(0, |(_, range)| range.start);
        let within = |at: usize| at.clamp(first(part.axis), first(part.axis) + shape[part.axis]) - first(part.axis);
        let in_part = within(part.range.start)..within(part.range.end);
        let begin = if axis == part.axis { part.range.start } else { 0 };
        let mut cell = |coordinate: usize| {
            let at = first(axis) + coordinate;
            let outside = in_part.is_empty() || (axis == part.axis && !part.range.contains(&at));
            if outside {
                return None;
            }
            let index = (at - begin) / width;
            match known.entry((part.name.clone(), kind, index)) {
                Entry::Occupied(cell) => Some(*cell.get()),
                Entry::Vacant(new) => {
                    self.list.push(Cell { part: part.name.clone(), kind, index, num_entries: 0 });
                    Some(*new.insert(self.list.len() - 1))
                }
            }
        };
        let cells = (0..shape[axis]).map(&mut cell).collect();
        Family { part: Along::new(shape, part.axis), in_part, along: Along::new(shape, axis), cells }
    }
}

/// Axis and width of the cells of a kind in a part of a parameter, if there are any.
fn axis_and_width(parameter: &Parameter, structure: &Structure, part: &Part, kind: CellKind) -> Option<(usize, usize)> {
    let is_matrix = parameter.shape.len() > 1;
    match kind {
        CellKind::Part => Some((part.axis, parameter.shape[part.axis].max(1))),
        CellKind::Row => is_matrix.then_some((0, 1)),
        CellKind::Neuron => structure.output_axis(&parameter.name).filter(|_| is_matrix).map(|axis| (axis, 1)),
        CellKind::Head => {
            let width = structure.head;
            let is_cut = width > 0 && part.headed && part.range.len().is_multiple_of(width);
            is_cut.then_some((part.axis, width))
        }
    }
}

#[cfg(test)]
#[path = "cells_tests.rs"]
mod tests;
