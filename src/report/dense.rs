//! Dense Hessians: one map of the entries of each block, with lines between its parts.

use super::canvas::{Canvas, EMPTY, PAPER, shade};
use super::charts::{bottom_axis, colour_bar, left_axis, title};
use super::scale::{Axis, Scale, number};
use super::{Figure, Section, file_stem};
use crate::output::{DenseRow, DenseShareRow, Tables};

/// Cells along a side at most; of a larger matrix a cell is a root mean square.
const MOST_CELLS: usize = 128;
/// Decades of colours.
const DECADES: f64 = 6.0;
/// Up to this many parts lines are drawn between them.
const MOST_LINES: usize = 40;

/// A figure for each block; none without matrices, and none of an experiment on quadratics.
pub fn figures(tables: &Tables) -> Vec<Figure> {
    let mut blocks: Vec<&str> = Vec::new();
    for row in &tables.dense {
        if !blocks.contains(&row.block.as_str()) {
            blocks.push(&row.block);
        }
    }
    let of_block = |(index, block): (usize, &&str)| {
        let mut rows: Vec<&DenseRow> = tables.dense.iter().filter(|row| row.block == **block).collect();
        rows.sort_by_key(|row| row.row);
        let shares: Vec<&DenseShareRow> = tables.dense_shares.iter().filter(|row| row.block == **block).collect();
        map(index, block, &rows, &shares)
    };
    blocks.iter().enumerate().map(of_block).collect()
}

/// Root mean squares of the entries in each cell, row by row; cells have the same size but for the last.
fn cells(rows: &[&DenseRow]) -> (usize, Vec<Vec<f64>>) {
    let size = rows.len().div_ceil(MOST_CELLS).max(1);
    let count = rows.len().div_ceil(size);
    let mut cells = vec![vec![0.0; count]; count];
    for (line, rows) in cells.iter_mut().zip(rows.chunks(size)) {
        for row in rows {
            for (cell, values) in line.iter_mut().zip(row.values.chunks(size)) {
                *cell += values.iter().map(|x| x * x).sum::<f64>() / (rows.len() * values.len()) as f64;
            }
        }
        line.iter_mut().for_each(|cell| *cell = cell.sqrt());
    }
    (size, cells)
}

fn map(index: usize, block: &str, rows: &[&DenseRow], shares: &[&DenseShareRow]) -> Figure {
    let (size, cells) = cells(rows);
    let dim = rows.len().max(1) as f64;
    let area = [74.0, 36.0, 520.0, 520.0];
    let [left, top, width, height] = area;
    let bar = [left + width + 40.0, top, 14.0, height];
    let mut canvas = Canvas::new(left + width + 130.0, top + height + 48.0);
    title(&mut canvas, 16.0, &format!("Hessian of {block}"));
    let largest = cells.iter().flatten().copied().fold(0.0, f64::max);
    let high = if largest > 0.0 { largest.log10() } else { 0.0 };
    let colours = Axis { scale: Scale::Log, from: high - DECADES, to: high, start: top + height, end: top };
    let x = Axis { scale: Scale::Linear, from: 0.0, to: dim, start: left, end: left + width };
    let y = Axis { scale: Scale::Linear, from: 0.0, to: dim, start: top, end: top + height };
    bottom_axis(&mut canvas, area, &x, "parameter");
    left_axis(&mut canvas, area, &y, "parameter");
    canvas.rect(area, EMPTY);
    let ends = |at: usize| ((at * size) as f64, ((at + 1) * size) as f64);
    for (line, of_line) in cells.iter().enumerate() {
        for (column, value) in of_line.iter().enumerate().filter(|(_, value)| **value > 0.0) {
            let share = ((value.log10() - colours.from) / DECADES).clamp(0.0, 1.0);
            let ((from_x, to_x), (from_y, to_y)) = (ends(column), ends(line));
            let (x0, y0) = (x.pixel(from_x), y.pixel(from_y));
            canvas.rect([x0, y0, x.pixel(to_x) - x0 + 0.2, y.pixel(to_y) - y0 + 0.2], &shade(share));
        }
    }
    let starts: Vec<f64> = shares
        .iter()
        .filter(|row| row.part_a == row.part_b)
        .map(|row| row.first_a as f64)
        .filter(|at| *at > 0.0)
        .collect();
    if starts.len() < MOST_LINES {
        for at in starts {
            canvas.line(vec![(x.pixel(at), top), (x.pixel(at), top + height)], PAPER, 0.6);
            canvas.line(vec![(left, y.pixel(at)), (left + width, y.pixel(at))], PAPER, 0.6);
        }
    }
    canvas.frame(area);
    colour_bar(&mut canvas, bar, &colours, "|entry|");
    Figure {
        name: format!("dense-{index:03}-{}", file_stem(block)),
        section: Section::Dense,
        caption: caption(block, rows.len(), size, shares),
        canvas,
    }
}

fn caption(block: &str, dim: usize, size: usize, shares: &[&DenseShareRow]) -> String {
    let cells = match size {
        1 => "|entries|".to_owned(),
        _ => format!("root mean squares of {size} × {size} entries"),
    };
    let parts = shares.iter().filter(|row| row.part_a == row.part_b).count();
    let between: f64 = shares.iter().filter(|row| row.part_a != row.part_b).filter_map(|row| row.share).sum();
    let shares = match parts {
        0 | 1 => String::new(),
        _ => format!("; {} of the squared Frobenius norm lies between its {parts} parts", number(between)),
    };
    format!("{block}: {cells} of its {dim} × {dim} Hessian, logarithmic colours over {DECADES} decades{shares}.")
}
