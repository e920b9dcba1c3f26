//! Distances between blocks: one heatmap per metric, with block names.

use std::collections::BTreeMap;

use super::canvas::{Anchor, Canvas, EMPTY, plain, shade, shortened, text_width};
use super::charts::{TICK_SIZE, colour_bar, title};
use super::scale::{Axis, Scale, number};
use super::{Figure, Section, file_stem, missing};
use crate::output::{DivergenceRow, Tables};
use crate::spectrum::NOT_TOLD_APART;

/// Up to this many blocks the values are written into the cells.
const MOST_WITH_VALUES: usize = 12;
/// Up to this many blocks cells answer the pointer.
const MOST_WITH_TOOLTIPS: usize = 64;

/// Colours of the stroke through a pair within the noise, on dark and on light cells.
const STRIKES: (&str, &str) = ("#b0b0b0", "#606060");

/// All heatmaps, metrics in the order of the table.
pub fn figures(tables: &Tables, notes: &mut Vec<String>) -> Vec<Figure> {
    let mut figures = Vec::new();
    for metric in metrics(&tables.divergence) {
        let rows: Vec<_> = tables.divergence.iter().filter(|row| row.metric == metric).collect();
        match heatmap(metric, &rows) {
            Some(figure) => figures.push(figure),
            None => notes.push(format!("No heatmap of `{metric}`: none of its {} distances is a number.", rows.len())),
        }
    }
    if tables.divergence.is_empty() {
        notes.push(missing::<DivergenceRow>("distances"));
    }
    figures
}

/// The metrics of the table, in order of first appearance.
pub fn metrics(rows: &[DivergenceRow]) -> Vec<&str> {
    let mut metrics: Vec<&str> = Vec::new();
    for row in rows {
        if !metrics.contains(&row.metric.as_str()) {
            metrics.push(&row.metric);
        }
    }
    metrics
}

/// Colour axis in coordinates: logarithmic where the values span more than two decades.
fn colours(values: &[f64], [_, y, _, height]: [f64; 4]) -> Option<Axis> {
    let top = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let least = values.iter().copied().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
    if !top.is_finite() {
        return None;
    }
    let (scale, from, to) = if top > 0.0 && least < top / 100.0 {
        (Scale::Log, least.max(top * 1e-6).log10(), top.log10())
    } else {
        (Scale::Linear, 0.0, if top > 0.0 { top } else { 1.0 })
    };
    Some(Axis { scale, from, to, start: y + height, end: y })
}

fn heatmap(metric: &str, rows: &[&DivergenceRow]) -> Option<Figure> {
    let blocks = block_order(rows);
    let count = blocks.len();
    let cell = (620.0 / count as f64).clamp(4.0, 46.0);
    let names: Vec<_> = blocks.iter().map(|name| shortened(name, 40)).collect();
    let margin = names.iter().map(|name| text_width(name, TICK_SIZE)).fold(60.0, f64::max) + 14.0;
    let side = cell * count as f64;
    let area = [margin, 36.0, side, side];
    let bar = [margin + side + 36.0, 36.0, 14.0, side.max(160.0)];
    let finite: Vec<f64> = rows.iter().filter_map(|row| row.value).filter(|value| value.is_finite()).collect();
    let axis = colours(&finite, bar)?;
    let mut canvas = Canvas::new(margin + side + 124.0, 36.0 + bar[3].max(side) + margin * 0.84 + 8.0);
    title(&mut canvas, 16.0, &format!("Distance between blocks: {metric}"));
    canvas.rect(area, EMPTY);
    let index: BTreeMap<_, _> = blocks.iter().enumerate().map(|(index, name)| (*name, index)).collect();
    for row in rows {
        let (a, b) = (index[row.block_a.as_str()], index[row.block_b.as_str()]);
        let places = if a == b { vec![(a, b)] } else { vec![(a, b), (b, a)] };
        for (line, column) in places {
            let at = [area[0] + column as f64 * cell, area[1] + line as f64 * cell, cell - 0.5, cell - 0.5];
            draw_cell(&mut canvas, at, row, &axis, count);
        }
    }
    draw_names(&mut canvas, &names, area, cell);
    colour_bar(&mut canvas, bar, &axis, metric);
    Some(Figure {
        name: format!("distance-{}", file_stem(metric)),
        section: Section::Distances,
        caption: caption(metric, rows, &axis),
        canvas,
    })
}

fn caption(metric: &str, rows: &[&DivergenceRow], axis: &Axis) -> String {
    const RULE: &str = "value less two errors within what probes alone would give";
    let undefined = rows.iter().filter(|row| row.value.is_none()).count();
    let colours = if axis.scale == Scale::Log { ", logarithmic colours (zeros at the dark end)" } else { "" };
    let grey = if undefined > 0 { format!("; {undefined} pairs without a value in grey") } else { String::new() };
    let noise = match rows.iter().filter(|row| is_noise(row)).count() {
        0 => String::new(),
        1 => format!("; one pair, struck through, is not told apart ({RULE})"),
        pairs => format!("; {pairs} pairs, struck through, are not told apart ({RULE})"),
    };
    let of_axis = |(row, sigma): (&&DivergenceRow, f64)| {
        let scale = row.axis_scale.map_or(String::new(), |scale| format!("λc = {}, ", number(scale)));
        format!(", at the resolution {scale}sigma = {}", number(sigma))
    };
    let axis = rows.iter().find_map(|row| Some((row, row.sigma?))).map_or(String::new(), of_axis);
    format!("{metric} between every pair of blocks{axis}{colours}{grey}{noise}.")
}

/// Whether the table says that two blocks may as well be equal.
fn is_noise(row: &DivergenceRow) -> bool {
    row.status.split("; ").any(|word| word == NOT_TOLD_APART)
}

/// Blocks in network order: `block_a` comes before `block_b` in every row.
fn block_order<'a>(rows: &[&'a DivergenceRow]) -> Vec<&'a str> {
    let mut after: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        after.entry(&row.block_b).or_default();
        *after.entry(&row.block_a).or_default() += usize::from(row.block_a != row.block_b);
    }
    let mut blocks: Vec<_> = after.into_iter().collect();
    blocks.sort_by_key(|(_, num_after)| std::cmp::Reverse(*num_after));
    blocks.into_iter().map(|(name, _)| name).collect()
}

fn draw_cell(canvas: &mut Canvas, area: [f64; 4], row: &DivergenceRow, axis: &Axis, count: usize) {
    let share = row.value.map(|value| {
        let coordinate =
            if axis.scale == Scale::Log && value <= 0.0 { axis.from } else { axis.scale.coordinate(value) };
        ((coordinate - axis.from) / (axis.to - axis.from)).clamp(0.0, 1.0)
    });
    let fill = share.map_or(EMPTY.to_string(), shade);
    if count > MOST_WITH_TOOLTIPS {
        canvas.rect(area, &fill);
    } else {
        canvas.cell(area, &fill, tooltip(row));
    }
    let is_dark = share.is_some_and(|share| share < 0.6);
    if is_noise(row) {
        let [x, y, width, height] = area;
        canvas.line(vec![(x, y + height), (x + width, y)], if is_dark { STRIKES.0 } else { STRIKES.1 }, 1.0);
    }
    if count <= MOST_WITH_VALUES {
        let mut style = plain(if area[2] > 38.0 { 10.0 } else { 8.0 }, Anchor::Middle);
        style.color = Some(if is_dark { "#fefefe" } else { "#111111" });
        let text = row.value.map_or("–".into(), short);
        canvas.text((area[0] + area[2] / 2.0, area[1] + area[3] / 2.0 + 3.5), &text, style);
    }
}

fn short(value: f64) -> String {
    if value == 0.0 || (0.01..1000.0).contains(&value) {
        number((value * 100.0).round() / 100.0)
    } else {
        format!("{value:.0e}")
    }
}

fn tooltip(row: &DivergenceRow) -> String {
    let value = row.value.map_or("no value".into(), number);
    let error = row.error.map_or(String::new(), |error| format!(" ± {}", number(error)));
    format!("{} – {}: {value}{error} ({})", row.block_a, row.block_b, row.status)
}

fn draw_names(canvas: &mut Canvas, names: &[String], area: [f64; 4], cell: f64) {
    let every = (TICK_SIZE / cell).ceil().max(1.0) as usize;
    for (index, name) in names.iter().enumerate().step_by(every) {
        let middle = (index as f64 + 0.5) * cell;
        canvas.text((area[0] - 6.0, area[1] + middle + 4.0), name, plain(TICK_SIZE, Anchor::End));
        let mut style = plain(TICK_SIZE, Anchor::End);
        style.rotate = -60.0;
        canvas.text((area[0] + middle + 4.0, area[1] + area[3] + 12.0), name, style);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_within_the_noise_are_struck_through_and_said_so() {
        let row = |b: &str, value: f64| DivergenceRow {
            metric: "js".into(),
            block_a: "a".into(),
            block_b: b.into(),
            value: Some(value),
            sem: None,
            error: Some(0.01),
            noise_floor: Some(0.1),
            axis_scale: Some(0.25),
            sigma: Some(0.125),
            status: if value > 0.0 && value < 0.1 { "not_told_apart; more".into() } else { "ok".into() },
        };
        let rows = [row("a", 0.0), row("b", 0.09), row("c", 0.5)];
        let figure = heatmap("js", &rows.iter().collect::<Vec<_>>()).unwrap();
        assert!(figure.caption.contains("one pair, struck through"), "{}", figure.caption);
        assert!(figure.caption.contains("λc = 0.25, sigma = 0.125"), "{}", figure.caption);
        assert_eq!(figure.canvas.svg().matches(STRIKES.0).count(), 2, "(a, b) and (b, a)");
        let many: Vec<_> = (0..80).map(|at| row(&format!("b{at}"), 0.09)).collect();
        let strikes = |svg: String| svg.matches(STRIKES.0).count() + svg.matches(STRIKES.1).count();
        assert_eq!(strikes(heatmap("js", &many.iter().collect::<Vec<_>>()).unwrap().canvas.svg()), 160);
        let clear = [row("c", 0.5)];
        assert!(!heatmap("js", &clear.iter().collect::<Vec<_>>()).unwrap().caption.contains("struck"));
    }

    #[test]
    fn network_order_is_found_again_from_the_pairs() {
        let names = ["z", "a", "m", "b"];
        let mut rows = Vec::new();
        for (i, a) in names.iter().enumerate() {
            for b in &names[i..] {
                rows.push(DivergenceRow {
                    metric: "js".into(),
                    block_a: (*a).into(),
                    block_b: (*b).into(),
                    value: None,
                    sem: None,
                    error: None,
                    noise_floor: None,
                    axis_scale: None,
                    sigma: None,
                    status: "ok".into(),
                });
            }
        }
        rows.reverse();
        assert_eq!(block_order(&rows.iter().collect::<Vec<_>>()), names);
    }
}
