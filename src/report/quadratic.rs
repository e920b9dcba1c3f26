//! Optimizers on a quadratic problem: losses against iterations, and the spectra of its blocks.

use super::canvas::{Anchor, BLUE, Canvas, GREEN, GREY, INK, ORANGE, VIOLET, plain, shortened, text_width};
use super::charts::{TICK_SIZE, bottom_axis, left_axis, title};
use super::scale::{Axis, Scale, number};
use super::{Figure, Section};
use crate::output::{QuadraticBlockRow, QuadraticCurveRow, Tables};

/// Decades below the start that are drawn at most.
const MOST_DECADES: f64 = 8.0;
/// Decades above the start that are drawn at most: rates that are too large go further.
const MOST_DECADES_UP: f64 = 1.0;

/// All figures of an experiment; none of a run of spectra.
pub fn figures(tables: &Tables) -> Vec<Figure> {
    let mut figures = Vec::new();
    if !tables.quadratic_curves.is_empty() {
        figures.push(losses(&tables.quadratic_curves));
    }
    if !tables.quadratic_blocks.is_empty() {
        figures.push(spectra(&tables.quadratic_blocks));
    }
    figures
}

/// A curve: shares of the loss at the start over iterations.
struct Curve {
    label: String,
    color: &'static str,
    width: f64,
    points: Vec<(i64, f64)>,
}

/// One optimizer with one rate.
type Key<'a> = (&'a str, Option<u64>, Option<u64>);

fn key(row: &QuadraticCurveRow) -> Key<'_> {
    (&row.optimizer, row.beta2.map(f64::to_bits), row.learning_rate.map(f64::to_bits))
}

/// Curves that are drawn: the best rate of a grid stands for it. Bounds are thin lines in the colour of what they bound.
fn curves(rows: &[QuadraticCurveRow]) -> Vec<Curve> {
    let mut keys: Vec<Key<'_>> = Vec::new();
    for row in rows.iter().filter(|row| row.is_best || row.optimizer != "adam") {
        if !keys.contains(&key(row)) {
            keys.push(key(row));
        }
    }
    let mut others = [ORANGE, VIOLET, GREY].into_iter().cycle();
    let mut curves = Vec::new();
    for wanted in keys {
        let of_key: Vec<&QuadraticCurveRow> = rows.iter().filter(|row| key(row) == wanted).collect();
        let first = of_key[0];
        let rate = first.learning_rate.map_or(String::new(), |rate| format!(", rate {}", number(rate)));
        let beta2 = first.beta2.map_or(String::new(), number);
        let (label, color) = match first.optimizer.as_str() {
            "gd" => (format!("gradient descent{rate}"), BLUE),
            "blockwise_gd" => ("gradient descent, a rate for each block".to_owned(), INK),
            "adam_theory" => (format!("Adam, β2 = 1, rate of Theorem 2{}", rate.replace(", rate", ":")), GREEN),
            _ => (format!("Adam, β2 = {beta2}{rate}"), others.next().unwrap_or(GREY)),
        };
        let points = |value: fn(&QuadraticCurveRow) -> Option<f64>| -> Vec<(i64, f64)> {
            let shares = of_key.iter().filter_map(|row| Some((row.iteration, value(row)? / first.loss)));
            shares.filter(|(_, share)| share.is_finite()).collect()
        };
        if first.bound.is_some() {
            let label = format!("its bound{}", if first.optimizer == "adam_theory" { " with r′" } else { "" });
            curves.push(Curve { label, color, width: 0.7, points: points(|row| row.bound) });
        }
        if first.bound_as_printed.is_some() {
            let label = "its bound as printed".to_owned();
            curves.push(Curve { label, color, width: 0.35, points: points(|row| row.bound_as_printed) });
        }
        curves.push(Curve { label, color, width: 1.7, points: points(|row| Some(row.loss)) });
    }
    curves
}

fn losses(rows: &[QuadraticCurveRow]) -> Figure {
    let curves = curves(rows);
    let legend = legend_rows(&curves, 660.0);
    let top = 36.0 + 18.0 * legend.len() as f64;
    let mut canvas = Canvas::new(760.0, top + 360.0);
    let area = [74.0, top, 668.0, 300.0];
    let [left, top, width, height] = area;
    let all = || curves.iter().filter(|curve| curve.width > 1.0).flat_map(|curve| &curve.points);
    let last = all().map(|(iteration, _)| *iteration).max().unwrap_or(1);
    let shares = || all().map(|(_, share)| share.log10()).filter(|share| share.is_finite());
    let from = shares().fold(0.0, f64::min).max(-MOST_DECADES) - 0.2;
    let to = shares().fold(0.0, f64::max).min(MOST_DECADES_UP) + 0.2;
    let x = Axis { scale: Scale::Log, from: 0.0, to: place(last), start: left, end: left + width };
    let y = Axis { scale: Scale::Log, from, to, start: top + height, end: top };
    title(&mut canvas, left, "Loss of optimizers on a quadratic problem");
    bottom_axis(&mut canvas, area, &x, "1 + iterations");
    left_axis(&mut canvas, area, &y, "loss / loss at the start");
    for curve in &curves {
        let visible = curve.points.iter().filter(|(_, share)| *share > 0.0);
        let pixels = visible.map(|(iteration, share)| (x.pixel(place(*iteration)), y.pixel(share.log10())));
        canvas.line(pixels.collect(), curve.color, curve.width);
    }
    canvas.frame(area);
    for (row, entries) in legend.iter().enumerate() {
        let height = 40.0 + 18.0 * row as f64;
        for (at, curve) in entries {
            canvas.line(vec![(left + at, height), (left + at + 18.0, height)], curve.color, curve.width);
            canvas.text((left + at + 24.0, height + 4.0), &curve.label, plain(TICK_SIZE, Anchor::Start));
        }
    }
    Figure {
        name: "quadratic-losses".into(),
        section: Section::Quadratic,
        caption: "Loss after each iteration in the first trial. Of Adam's learning rates the best of the grid is drawn; thin \
                  lines are bounds from theory."
            .into(),
        canvas,
    }
}

/// Coordinate of an iteration.
fn place(iteration: i64) -> f64 {
    (1.0 + iteration as f64).log10()
}

/// Curves in rows of at most this width, each with its place.
fn legend_rows(curves: &[Curve], width: f64) -> Vec<Vec<(f64, &Curve)>> {
    let mut rows: Vec<Vec<(f64, &Curve)>> = Vec::new();
    let mut at = f64::INFINITY;
    for curve in curves.iter().rev() {
        let needed = 40.0 + text_width(&curve.label, TICK_SIZE);
        if at + needed > width {
            rows.push(Vec::new());
            at = 0.0;
        }
        if let Some(row) = rows.last_mut() {
            row.push((at, curve));
        }
        at += needed;
    }
    rows
}

/// A row of ticks for each block.
fn spectra(rows: &[QuadraticBlockRow]) -> Figure {
    const HEIGHT: f64 = 26.0;
    let mut blocks: Vec<&str> = Vec::new();
    for row in rows {
        if blocks.last() != Some(&row.block.as_str()) {
            blocks.push(&row.block);
        }
    }
    let names: Vec<String> = blocks.iter().map(|name| shortened(name, 40)).collect();
    let margin = names.iter().map(|name| text_width(name, TICK_SIZE)).fold(60.0, f64::max) + 14.0;
    let area = [margin, 36.0, 560.0, HEIGHT * blocks.len() as f64];
    let [left, top, width, height] = area;
    let mut canvas = Canvas::new(left + width + 20.0, top + height + 48.0);
    let logarithms = || rows.iter().map(|row| row.eigenvalue.log10());
    let (from, to) = (logarithms().fold(f64::INFINITY, f64::min), logarithms().fold(f64::NEG_INFINITY, f64::max));
    let pad = 0.05 * (to - from).max(0.1);
    let x = Axis { scale: Scale::Log, from: from - pad, to: to + pad, start: left, end: left + width };
    title(&mut canvas, 16.0, "Eigenvalues of the blocks");
    bottom_axis(&mut canvas, area, &x, "eigenvalue");
    for (at, (block, name)) in blocks.iter().zip(&names).enumerate() {
        let middle = top + HEIGHT * (at as f64 + 0.5);
        canvas.text((left - 8.0, middle + 4.0), name, plain(TICK_SIZE, Anchor::End));
        for row in rows.iter().filter(|row| row.block == *block) {
            let pixel = x.pixel(row.eigenvalue.log10());
            canvas.line(vec![(pixel, middle - 8.0), (pixel, middle + 8.0)], BLUE, 1.2);
        }
    }
    canvas.frame(area);
    Figure {
        name: "quadratic-spectra".into(),
        section: Section::Quadratic,
        caption: "Every eigenvalue of every block.".into(),
        canvas,
    }
}
