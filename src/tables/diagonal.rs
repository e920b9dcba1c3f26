//! Sums over the diagonal, from what each probe found.

use std::collections::HashMap;

use crate::block::Block;
use crate::output::{DiagonalProbeRow, DiagonalRow};
use crate::spectrum::stats;
use crate::worker::DiagonalSum;

/// What each probe of a group found.
pub fn diagonal_probes(blocks: &[Block], found: Vec<DiagonalSum>) -> Vec<DiagonalProbeRow> {
    let row = |DiagonalSum { pair, cell, value }: DiagonalSum| DiagonalProbeRow {
        block: blocks[pair.0].name.clone(),
        probe: pair.1 as i32,
        part: cell.part,
        kind: cell.kind.name().into(),
        index: cell.index as i32,
        num_entries: cell.num_entries as i64,
        value,
    };
    found.into_iter().map(row).collect()
}

/// Means over probes with their errors, in the order of each block's first probe.
pub fn diagonal(mut rows: Vec<DiagonalProbeRow>) -> Vec<DiagonalRow> {
    rows.sort_by_key(|row| row.probe);
    let (mut cells, mut at): (Vec<(DiagonalProbeRow, Vec<f64>)>, HashMap<_, usize>) = (Vec::new(), HashMap::new());
    for row in rows {
        let key = (row.block.clone(), row.part.clone(), row.kind.clone(), row.index);
        match at.get(&key) {
            Some(&cell) => cells[cell].1.push(row.value),
            None => {
                at.insert(key, cells.len());
                let value = row.value;
                cells.push((row, vec![value]));
            }
        }
    }
    let row = |(row, values): (DiagonalProbeRow, Vec<f64>)| DiagonalRow {
        block: row.block,
        part: row.part,
        kind: row.kind,
        index: row.index,
        num_entries: row.num_entries,
        value: stats::mean(&values),
        error: stats::standard_error(&values),
    };
    cells.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(block: &str, probe: i32, index: i32, value: f64) -> DiagonalProbeRow {
        let (part, kind) = ("p".to_owned(), "row".to_owned());
        DiagonalProbeRow { block: block.into(), probe, part, kind, index, num_entries: 3, value }
    }

    #[test]
    fn probes_of_different_groups_are_one_mean() {
        let rows =
            [row("b", 1, 0, 3.0), row("b", 1, 1, 1.0), row("a", 0, 0, 7.0), row("b", 0, 0, 1.0), row("b", 0, 1, 1.0)];
        let found = diagonal(rows.into());
        let of = |block: &str, index: i32| found.iter().find(|row| row.block == block && row.index == index).unwrap();
        assert_eq!((found.len(), of("b", 0).value, of("b", 1).value, of("b", 1).error), (3, 2.0, 1.0, Some(0.0)));
        assert_eq!((of("a", 0).value, of("a", 0).error), (7.0, None));
        // of two values the standard error is half their distance, times Student's t
        assert!((of("b", 0).error.unwrap() - 1.837).abs() < 1e-3);
    }
}
