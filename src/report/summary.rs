//! Every block in numbers: its extreme eigenvalues beside the noise floor, and its mean eigenvalue.

use std::collections::BTreeMap;

use super::canvas::{Anchor, BLUE, Canvas, GREY, GRID, ORANGE, plain, shortened, text_width};
use super::charts::{TICK_SIZE, bottom_axis, title};
use super::scale::{Axis, Scale};
use super::{Figure, Section, missing};
use crate::output::{SummaryRow, Tables};

const PANEL: f64 = 330.0;

/// A mark of a row: magnitude, the ends of its error bar, colour.
struct Mark {
    value: f64,
    ends: Option<(f64, f64)>,
    color: &'static str,
}

/// The summary figure.
pub fn figures(tables: &Tables, notes: &mut Vec<String>) -> Vec<Figure> {
    if tables.summary.is_empty() {
        notes.push(missing::<SummaryRow>("summary"));
        return Vec::new();
    }
    let sizes: BTreeMap<_, _> =
        tables.blocks.iter().map(|block| (block.block.as_str(), block.num_params as f64)).collect();
    let rows = &tables.summary;
    let names: Vec<_> = rows.iter().map(|row| shortened(&row.block, 44)).collect();
    let left = names.iter().map(|name| text_width(name, TICK_SIZE)).fold(60.0, f64::max) + 18.0;
    let row_height = (640.0 / rows.len() as f64).clamp(13.0, 24.0);
    let height = row_height * rows.len() as f64;
    let mut canvas = Canvas::new(left + 2.0 * PANEL + 40.0, height + 116.0);
    title(&mut canvas, 16.0, "Blocks in numbers");
    legend(&mut canvas, left);
    for (index, name) in names.iter().enumerate() {
        let y = 64.0 + (index as f64 + 0.5) * row_height + 4.0;
        canvas.text((left - 8.0, y), name, plain(TICK_SIZE, Anchor::End));
    }
    let extremes: Vec<_> = rows.iter().map(extremes).collect();
    let means: Vec<_> = rows.iter().map(|row| mean(row, sizes.get(row.block.as_str()))).collect();
    panel(&mut canvas, [left, 64.0, PANEL, height], &extremes, "|eigenvalue|");
    panel(&mut canvas, [left + PANEL + 24.0, 64.0, PANEL, height], &means, "|mean eigenvalue| = |trace| / parameters");
    vec![Figure {
        name: "summary".into(),
        section: Section::Summary,
        caption: "Largest and smallest eigenvalue of every block with how far they may be off (residual bound or noise floor, often smaller than the dot) and the noise floor; mean eigenvalue with the standard error that the probes leave."
            .into(),
        canvas,
    }]
}

fn legend(canvas: &mut Canvas, left: f64) {
    let entries = [
        (BLUE, "largest, or positive mean"),
        (ORANGE, "smallest where negative, or negative mean"),
        (GREY, "noise floor"),
    ];
    let mut x = left;
    for (color, text) in entries {
        canvas.dot((x + 5.0, 46.0), 4.0, color);
        canvas.text((x + 14.0, 50.0), text, plain(TICK_SIZE, Anchor::Start));
        x += text_width(text, TICK_SIZE) + 26.0;
    }
}

fn extremes(row: &SummaryRow) -> Vec<Mark> {
    let bar = |value: f64, bound: f64| Some((value.abs() - bound, value.abs() + bound));
    let mut marks = vec![Mark { value: row.noise_floor, ends: None, color: GREY }];
    if row.lambda_min < 0.0 {
        let ends = bar(row.lambda_min, row.lambda_min_residual_bound);
        marks.push(Mark { value: -row.lambda_min, ends, color: ORANGE });
    }
    if row.lambda_max > 0.0 {
        let ends = bar(row.lambda_max, row.lambda_max_residual_bound);
        marks.push(Mark { value: row.lambda_max, ends, color: BLUE });
    }
    marks
}

fn mean(row: &SummaryRow, num_params: Option<&f64>) -> Vec<Mark> {
    let Some(num_params) = num_params else { return Vec::new() };
    let value = row.trace.abs() / num_params;
    let ends = row.trace_sem.map(|sem| (value - sem / num_params, value + sem / num_params));
    vec![Mark { value, ends, color: if row.trace < 0.0 { ORANGE } else { BLUE } }]
}

/// Dots on a logarithmic axis, one row per block; marks of value zero are not drawn.
fn panel(canvas: &mut Canvas, area: [f64; 4], rows: &[Vec<Mark>], label: &str) {
    let [x, y, width, height] = area;
    let values = || rows.iter().flatten().map(|mark| mark.value).filter(|value| *value > 0.0 && value.is_finite());
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    let (from, to) = if most > 0.0 { (least.log10() - 0.3, most.log10() + 0.3) } else { (-1.0, 1.0) };
    let axis = Axis { scale: Scale::Log, from, to, start: x, end: x + width };
    bottom_axis(canvas, area, &axis, label);
    let row_height = height / rows.len() as f64;
    for (index, marks) in rows.iter().enumerate() {
        let middle = y + (index as f64 + 0.5) * row_height;
        canvas.line(vec![(x, middle), (x + width, middle)], GRID, 0.6);
        for mark in marks.iter().filter(|mark| mark.value > 0.0 && mark.value.is_finite()) {
            let pixel = |value: f64| axis.pixel(if value > 0.0 { value.log10() } else { from });
            if let Some((low, high)) = mark.ends {
                canvas.line(vec![(pixel(low), middle), (pixel(high), middle)], mark.color, 2.0);
            }
            canvas.dot((pixel(mark.value), middle), 3.6, mark.color);
        }
    }
    canvas.frame(area);
}
