//! How spectra change with the number of tokens: one log-log figure per block, distances between blocks, and how often
//! the errors hold what they promise.

use super::canvas::{Anchor, BLUE, Canvas, GREY, GRID, INK, ORANGE, plain, shortened, text_width};
use super::charts::{TICK_SIZE, left_axis, title};
use super::scale::{Axis, Scale};
use super::{Figure, Section, file_stem};
use crate::output::{ConvergencePairRow, ConvergenceRow, Tables};

/// Pairs that are drawn with error bars; of more, lines alone.
const MOST_WITH_BARS: usize = 15;

/// All figures of a study; none without one.
pub fn figures(tables: &Tables) -> Vec<Figure> {
    let of_blocks = blocks(&tables.convergence);
    let mut figures: Vec<Figure> = (of_blocks.len() > 1).then(|| overview(&of_blocks)).into_iter().collect();
    figures.extend(of_blocks.iter().enumerate().map(|(index, (name, rows))| block(index, name, rows)));
    figures.extend(pairs(&tables.convergence_pairs));
    figures
}

/// Rows of each block, by tokens, blocks in the order of the table.
pub fn blocks(rows: &[ConvergenceRow]) -> Vec<(&str, Vec<&ConvergenceRow>)> {
    let mut blocks: Vec<(&str, Vec<&ConvergenceRow>)> = Vec::new();
    for row in rows {
        match blocks.iter_mut().find(|(name, _)| *name == row.block) {
            Some((_, of_block)) => of_block.push(row),
            None => blocks.push((&row.block, vec![row])),
        }
    }
    blocks.iter_mut().for_each(|(_, rows)| rows.sort_by_key(|row| row.tokens));
    blocks
}

/// A curve: positive values over tokens.
struct Curve {
    color: &'static str,
    label: &'static str,
    points: Vec<(i64, f64)>,
}

impl Curve {
    fn of(
        rows: &[&ConvergenceRow],
        color: &'static str,
        label: &'static str,
        value: fn(&ConvergenceRow) -> Option<f64>,
    ) -> Self {
        let points =
            rows.iter().filter_map(|row| Some((row.tokens, value(row).filter(|x| *x > 0.0 && x.is_finite())?)));
        Self { color, label, points: points.collect() }
    }
}

/// Change and error of all blocks, in units of their spectral ranges.
fn overview(blocks: &[(&str, Vec<&ConvergenceRow>)]) -> Figure {
    let share = |row: &ConvergenceRow, w1: f64| w1 / (row.lambda_max - row.lambda_min);
    let curves = |value: fn(&ConvergenceRow) -> Option<f64>, color, label| {
        blocks.iter().map(move |(_, rows)| {
            let points = rows.iter().filter_map(|row| Some((row.tokens, share(row, value(row)?))));
            let points = points.filter(|(_, share)| *share > 0.0 && share.is_finite()).collect();
            Curve { color, label, points }
        })
    };
    let errors = curves(|row| Some(row.w1_error), ORANGE, "bootstrap error");
    let changes = curves(|row| row.w1_previous, BLUE, "from the previous batch");
    let all: Vec<Curve> = errors.chain(changes).collect();
    let tokens = || blocks.iter().flat_map(|(_, rows)| rows.iter().map(|row| row.tokens));
    let mut canvas = Canvas::new(760.0, 420.0);
    let area = [74.0, 58.0, 668.0, 304.0];
    let x = tokens_axis(tokens(), area);
    let y = upward(Scale::Log, &logarithms(&all), area);
    title(&mut canvas, area[0], "Wasserstein-1 distances of all blocks as the batch grows");
    frame(&mut canvas, area, &x, &y, tokens(), "share of the spectral range");
    draw(&mut canvas, area, &x, &y, &all);
    let caption = format!(
        "Wasserstein-1 distance from the previous batch and bootstrap error over segments, of {} blocks, each in units of its \
         spectral range.",
        blocks.len()
    );
    Figure { name: "convergence".into(), section: Section::ConvergenceOverview, caption, canvas }
}

fn logarithms(curves: &[Curve]) -> Vec<f64> {
    curves.iter().flat_map(|curve| &curve.points).map(|(_, value)| value.log10()).collect()
}

/// Curves on logarithmic axes, and what each colour is.
fn draw(canvas: &mut Canvas, [left, ..]: [f64; 4], x: &Axis, y: &Axis, curves: &[Curve]) {
    let mut named: Vec<&str> = Vec::new();
    let mut at = left;
    for curve in curves {
        let pixels = curve.points.iter().map(|(tokens, value)| (x.pixel(log10(*tokens)), y.pixel(value.log10())));
        let pixels: Vec<(f64, f64)> = pixels.collect();
        pixels.iter().for_each(|pixel| canvas.dot(*pixel, 3.0, curve.color));
        if pixels.len() > 1 {
            canvas.line(pixels, curve.color, 1.5);
        }
        if !named.contains(&curve.label) {
            named.push(curve.label);
            canvas.dot((at + 5.0, 40.0), 4.0, curve.color);
            canvas.text((at + 14.0, 44.0), curve.label, plain(TICK_SIZE, Anchor::Start));
            at += text_width(curve.label, TICK_SIZE) + 26.0;
        }
    }
}

fn block(index: usize, name: &str, rows: &[&ConvergenceRow]) -> Figure {
    let curves = [
        Curve::of(rows, GREY, "from the largest batch", |row| row.w1_largest),
        Curve::of(rows, ORANGE, "bootstrap error", |row| Some(row.w1_error)),
        Curve::of(rows, BLUE, "from the previous batch", |row| row.w1_previous),
    ];
    let mut canvas = Canvas::new(560.0, 330.0);
    let area = [74.0, 58.0, 468.0, 214.0];
    let x = tokens_axis(rows.iter().map(|row| row.tokens), area);
    let y = upward(Scale::Log, &logarithms(&curves), area);
    title(&mut canvas, area[0], &shortened(name, 56));
    frame(&mut canvas, area, &x, &y, rows.iter().map(|row| row.tokens), "Wasserstein-1 distance");
    guide(&mut canvas, &x, &y, rows);
    draw(&mut canvas, area, &x, &y, &curves);
    Figure {
        name: format!("convergence-{index:03}-{}", file_stem(name)),
        section: Section::Convergence,
        caption: format!(
            "{name}: Wasserstein-1 distance of its spectrum from those of the previous and of the largest batch, and bootstrap \
             error over segments; thin line: 1/√tokens."
        ),
        canvas,
    }
}

fn log10(tokens: i64) -> f64 {
    (tokens.max(1) as f64).log10()
}

/// 1/sqrt(tokens) through the bootstrap error of the largest batch.
fn guide(canvas: &mut Canvas, x: &Axis, y: &Axis, rows: &[&ConvergenceRow]) {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return };
    if last.w1_error > 0.0 {
        let height = |tokens: i64| last.w1_error.log10() + 0.5 * (log10(last.tokens) - log10(tokens));
        let end = |tokens: i64| (x.pixel(log10(tokens)), y.pixel(height(tokens)));
        canvas.line(vec![end(first.tokens), end(last.tokens)], INK, 0.7);
    }
}

fn tokens_axis(tokens: impl Iterator<Item = i64> + Clone, [x, _, width, _]: [f64; 4]) -> Axis {
    let (least, most) = (tokens.clone().min().unwrap_or(1), tokens.max().unwrap_or(1));
    Axis { scale: Scale::Log, from: log10(least) - 0.1, to: log10(most) + 0.1, start: x, end: x + width }
}

/// An axis around these coordinates.
fn upward(scale: Scale, coordinates: &[f64], [_, y, _, height]: [f64; 4]) -> Axis {
    let least = coordinates.iter().copied().fold(f64::INFINITY, f64::min);
    let most = coordinates.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (from, to) = if least <= most { (least, most) } else { (0.0, 1.0) };
    let pad = 0.06 * (to - from).max(0.1);
    Axis { scale, from: from - pad, to: to + pad, start: y + height, end: y }
}

/// Axes with a tick at every batch that has room.
fn frame(canvas: &mut Canvas, area: [f64; 4], x: &Axis, y: &Axis, tokens: impl Iterator<Item = i64>, label: &str) {
    let [left, top, width, height] = area;
    let bottom = top + height;
    let mut sizes: Vec<i64> = tokens.collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut free = f64::NEG_INFINITY;
    for size in sizes {
        let pixel = x.pixel(log10(size));
        canvas.line(vec![(pixel, top), (pixel, bottom)], GRID, 1.0);
        let text = short(size);
        if pixel - text_width(&text, TICK_SIZE) / 2.0 > free {
            canvas.line(vec![(pixel, bottom), (pixel, bottom + 4.0)], INK, 1.0);
            canvas.text((pixel, bottom + 17.0), &text, plain(TICK_SIZE, Anchor::Middle));
            free = pixel + text_width(&text, TICK_SIZE) / 2.0 + 4.0;
        }
    }
    canvas.text((left + width / 2.0, bottom + 36.0), "predicted tokens of the batch", plain(12.0, Anchor::Middle));
    left_axis(canvas, area, y, label);
    canvas.frame(area);
}

/// 512, 16.4k, 1.05M.
fn short(tokens: i64) -> String {
    let (value, unit) = match tokens as f64 {
        t if t < 1e4 => return tokens.to_string(),
        t if t < 1e6 => (t / 1e3, "k"),
        t if t < 1e9 => (t / 1e6, "M"),
        t => (t / 1e9, "G"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$}{unit}")
}

/// Distances between blocks over tokens.
fn pairs(rows: &[ConvergencePairRow]) -> Option<Figure> {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for row in rows {
        let pair = (row.block_a.as_str(), row.block_b.as_str());
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    if pairs.is_empty() {
        return None;
    }
    let mut canvas = Canvas::new(760.0, 420.0);
    let area = [74.0, 36.0, 668.0, 326.0];
    let x = tokens_axis(rows.iter().map(|row| row.tokens), area);
    let ends: Vec<f64> = rows.iter().flat_map(|row| [row.js - row.js_error, row.js + row.js_error]).collect();
    let y = upward(Scale::Linear, &ends, area);
    title(&mut canvas, area[0], "Distances between blocks (js) as the batch grows");
    frame(&mut canvas, area, &x, &y, rows.iter().map(|row| row.tokens), "Jensen-Shannon distance");
    for (a, b) in &pairs {
        let mut of_pair: Vec<_> = rows.iter().filter(|row| row.block_a == *a && row.block_b == *b).collect();
        of_pair.sort_by_key(|row| row.tokens);
        let pixel = |row: &ConvergencePairRow, js: f64| (x.pixel(log10(row.tokens)), y.pixel(js));
        if pairs.len() <= MOST_WITH_BARS {
            for row in &of_pair {
                canvas.line(vec![pixel(row, row.js - row.js_error), pixel(row, row.js + row.js_error)], ORANGE, 1.4);
                canvas.dot(pixel(row, row.js), 2.4, BLUE);
            }
        }
        if of_pair.len() > 1 {
            canvas.line(of_pair.iter().map(|row| pixel(row, row.js)).collect(), BLUE, 0.9);
        }
    }
    let bars = if pairs.len() <= MOST_WITH_BARS { "; bars: bootstrap error over segments" } else { "" };
    Some(Figure {
        name: "convergence-pairs".into(),
        section: Section::ConvergencePairs,
        caption: format!("Jensen-Shannon distance of {} pairs of blocks in each batch{bars}.", pairs.len()),
        canvas,
    })
}

/// How often the difference to the largest batch is within one and two of its errors, of one statistic.
#[derive(Debug, Clone, PartialEq)]
pub struct Coverage {
    pub statistic: &'static str,
    /// Blocks times batches.
    pub count: usize,
    /// Shares within 1 and 2 errors; 0.683 and 0.954 if the errors are right and the differences normal.
    pub within: [f64; 2],
    /// Mean difference in errors: 0 unless small batches are biased.
    pub bias: f64,
}

/// A value and its error.
type Statistic = fn(&ConvergenceRow) -> (f64, f64);

/// Coverage of all statistics that have a sign. With n of the largest batch's N tokens, which are among them, the difference has the
/// error of the smaller batch times sqrt(1 - n / N).
pub fn coverage(rows: &[ConvergenceRow]) -> Vec<Coverage> {
    let statistics: [(&str, Statistic); 4] = [
        ("trace", |row| (row.trace, row.trace_error)),
        ("Frobenius norm", |row| (row.frobenius, row.frobenius_error)),
        ("smallest eigenvalue", |row| (row.lambda_min, row.lambda_min_error)),
        ("largest eigenvalue", |row| (row.lambda_max, row.lambda_max_error)),
    ];
    statistics.into_iter().filter_map(|(name, of)| covered(name, rows, of)).collect()
}

fn covered(statistic: &'static str, rows: &[ConvergenceRow], of: Statistic) -> Option<Coverage> {
    let mut scores: Vec<f64> = Vec::new();
    for (_, rows) in blocks(rows) {
        let Some((largest, smaller)) = rows.split_last() else { continue };
        for row in smaller.iter().filter(|row| !row.status.starts_with("zero_block")) {
            let (value, error) = of(row);
            let left = 1.0 - row.tokens as f64 / largest.tokens as f64;
            scores.push((value - of(largest).0) / (error * left.sqrt()));
        }
    }
    scores.retain(|score| score.is_finite());
    let count = scores.len();
    let share = |most: f64| scores.iter().filter(|score| score.abs() <= most).count() as f64 / count as f64;
    let bias = scores.iter().sum::<f64>() / count as f64;
    (count > 0).then(|| Coverage { statistic, count, within: [share(1.0), share(2.0)], bias })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tokens: i64, trace: f64, trace_error: f64) -> ConvergenceRow {
        ConvergenceRow {
            block: "b".into(),
            tokens,
            batch: format!("r-{tokens}"),
            segments: 8,
            w1_previous: None,
            w1_largest: None,
            w1_error: 0.1,
            js_previous: None,
            js_largest: None,
            js_error: 0.1,
            trace,
            trace_error,
            frobenius: 1.0,
            frobenius_error: 0.0,
            noise_share: None,
            lambda_min: -1.0,
            lambda_min_error: 1.0,
            lambda_max: 1.0,
            lambda_max_error: 1.0,
            status: "ok".into(),
        }
    }

    #[test]
    fn coverage_counts_differences_in_errors() {
        // sqrt(1 - 1/4) = 0.866, sqrt(1 - 1/2) = 0.707; differences of 1 and -3
        let rows = [row(100, 6.0, 1.2), row(200, 2.0, 2.0), row(400, 5.0, 0.5)];
        let found = coverage(&rows);
        assert_eq!(
            found.iter().map(|c| c.statistic).collect::<Vec<_>>(),
            ["trace", "smallest eigenvalue", "largest eigenvalue"]
        );
        assert_eq!((found[0].count, found[0].within), (2, [0.5, 0.5]));
        let expected = (1.0 / (1.2 * 0.75f64.sqrt()) - 3.0 / (2.0 * 0.5f64.sqrt())) / 2.0;
        assert!((found[0].bias - expected).abs() < 1e-14);
        assert_eq!(coverage(&rows[..1]), vec![]);
    }

    #[test]
    fn tokens_are_short() {
        let texts = [512, 8192, 16_384, 262_144, 1_048_576, 16_777_216, 8_999_999_488].map(short);
        assert_eq!(texts, ["512", "8192", "16.4k", "262k", "1.05M", "16.8M", "9.00G"]);
    }
}
