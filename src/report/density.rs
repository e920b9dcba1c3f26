//! Spectral densities: one figure per block and one for the whole network (log y, error band), and all blocks at once.

use super::canvas::{Anchor, BLUE, Canvas, EMPTY, plain, shade, shortened, text_width};
use super::charts::{TICK_SIZE, bottom_axis, colour_bar, left_axis, title};
use super::scale::{Axis, Scale, number};
use super::{Figure, Section, file_stem, missing};
use crate::block::FULL;
use crate::output::{BlockRow, DensityRow, Tables};

/// Decades below the highest density that are drawn at most.
const MOST_DECADES: f64 = 12.0;

/// The horizontal axis that all blocks of a run share.
struct Common {
    scale: Scale,
    from: f64,
    to: f64,
    label: String,
}

/// All density figures.
pub fn figures(tables: &Tables, notes: &mut Vec<String>) -> Vec<Figure> {
    let Some(common) = common_axis(&tables.density) else {
        notes.push(missing::<DensityRow>("densities"));
        return Vec::new();
    };
    let mut figures = Vec::new();
    let mut drawn = Vec::new();
    for (index, block) in tables.blocks.iter().enumerate() {
        let rows: Vec<_> = tables.density.iter().filter(|row| row.block == block.block).collect();
        if rows.iter().any(|row| row.density > 0.0) {
            figures.push(block_figure(index, block, &rows, &common));
            if block.kind != FULL {
                drawn.push((block.block.as_str(), rows));
            }
        } else {
            notes.push(format!("No density of block `{}`: it has no positive values.", block.block));
        }
    }
    if drawn.len() > 1 {
        figures.push(overview(&drawn, &common));
    }
    figures
}

/// The axis of the rows. Tables of earlier versions do not hold lambda_c; there eigenvalue = lambda_c sinh(coordinate) has it.
fn common_axis(rows: &[DensityRow]) -> Option<Common> {
    let farthest = rows.iter().max_by(|a, b| a.coordinate.abs().total_cmp(&b.coordinate.abs()))?;
    let lambda_c = farthest.axis_scale.unwrap_or(farthest.eigenvalue / farthest.coordinate.sinh());
    let (scale, label) = if farthest.axis == "asinh" && lambda_c.is_finite() {
        (Scale::Asinh(lambda_c), format!("eigenvalue λ, on an asinh(λ / λc) axis with λc = {}", number(lambda_c)))
    } else {
        (Scale::Linear, "eigenvalue λ".to_string())
    };
    let from = rows.iter().map(|row| row.coordinate).fold(f64::INFINITY, f64::min);
    let to = rows.iter().map(|row| row.coordinate).fold(f64::NEG_INFINITY, f64::max);
    let pad = if to > from { 0.0 } else { 1.0 };
    Some(Common { scale, from: from - pad, to: to + pad, label })
}

/// Lowest log10 density drawn: a tenth of the peak of a single eigenvalue among `num_params`, which is the least that
/// means anything, and not more than [`MOST_DECADES`] below the top.
fn floor(top: f64, num_params: i64) -> f64 {
    let single = top - (10.0 * num_params.max(1) as f64).log10();
    single.max(top - MOST_DECADES).floor()
}

fn block_figure(index: usize, block: &BlockRow, rows: &[&DensityRow], common: &Common) -> Figure {
    let is_full = block.kind == FULL;
    let (width, height) = if is_full { (920.0, 420.0) } else { (560.0, 300.0) };
    let area = [74.0, 36.0, width - 92.0, height - 84.0];
    let mut canvas = Canvas::new(width, height);
    let peak = rows.iter().map(|row| row.density + row.sem.unwrap_or(0.0)).fold(0.0, f64::max).log10();
    let from = floor(peak, block.num_params);
    let to = (peak * 2.0).ceil().max(from * 2.0 + 1.0) / 2.0;
    let x = horizontal(common, area);
    let y = Axis { scale: Scale::Log, from, to, start: area[1] + area[3], end: area[1] };
    title(&mut canvas, area[0], &shortened(&block.block, 56));
    bottom_axis(&mut canvas, area, &x, &common.label);
    left_axis(&mut canvas, area, &y, "density per unit of the axis");
    let columns = Columns::of(rows, &x, &y);
    let has_band = rows.iter().any(|row| row.sem.is_some());
    if has_band {
        canvas.area(&columns.upper, &columns.lower, BLUE, 0.25);
    }
    for segment in columns.segments(area[1] + area[3]) {
        canvas.line(segment, BLUE, 1.4);
    }
    canvas.frame(area);
    named(index, block, has_band, canvas)
}

fn named(index: usize, block: &BlockRow, has_band: bool, canvas: Canvas) -> Figure {
    let (name, section, what) = if block.kind == FULL {
        ("density-full".to_string(), Section::Full, "the whole network")
    } else {
        (format!("density-{index:03}-{}", file_stem(&block.block)), Section::Blocks, block.block.as_str())
    };
    let band = if has_band { "band: one standard error over probes (Student's t)" } else { "one probe: no error band" };
    let caption = format!("Spectral density of {what} ({} parameters); {band}.", block.num_params);
    Figure { name, section, caption, canvas }
}

fn horizontal(common: &Common, [x, _, width, _]: [f64; 4]) -> Axis {
    Axis { scale: common.scale, from: common.from, to: common.to, start: x, end: x + width }
}

/// A density in pixels. Grids have many points per pixel: each pixel column keeps its lowest and highest.
#[derive(Default)]
struct Columns {
    line: Vec<(f64, f64)>,
    upper: Vec<(f64, f64)>,
    lower: Vec<(f64, f64)>,
}

impl Columns {
    fn of(rows: &[&DensityRow], x: &Axis, y: &Axis) -> Self {
        let height = |density: f64| y.pixel(if density > 0.0 { density.log10() } else { f64::NEG_INFINITY });
        let mut columns = Self::default();
        for chunk in rows.chunk_by(|a, b| x.pixel(a.coordinate).floor() == x.pixel(b.coordinate).floor()) {
            let Some(last) = chunk.last() else { continue };
            let pixels: Vec<_> = chunk.iter().map(|row| (x.pixel(row.coordinate), height(row.density))).collect();
            let by_height = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
            let ends =
                [pixels.first(), pixels.iter().min_by(by_height), pixels.iter().max_by(by_height), pixels.last()];
            let mut kept: Vec<_> = ends.into_iter().flatten().copied().collect();
            kept.sort_by(|a, b| a.0.total_cmp(&b.0));
            kept.dedup();
            columns.line.extend(kept);
            let at = x.pixel(last.coordinate);
            let bounds = chunk.iter().map(|row| {
                let sem = row.sem.unwrap_or(0.0);
                (height(row.density + sem), height(row.density - sem))
            });
            let (top, bottom) = bounds.fold((f64::INFINITY, 0.0f64), |(a, b), (c, d)| (a.min(c), b.max(d)));
            columns.upper.push((at, top));
            columns.lower.push((at, bottom));
        }
        columns
    }

    /// The line without its stretches along the bottom, where the density is below what is drawn.
    fn segments(&self, bottom: f64) -> Vec<Vec<(f64, f64)>> {
        let is_drawn = |pair: &[(f64, f64)]| pair.iter().any(|point| point.1 < bottom);
        let mut segments: Vec<Vec<(f64, f64)>> = Vec::new();
        let mut is_open = false;
        for pair in self.line.windows(2) {
            match segments.last_mut().filter(|_| is_open) {
                Some(segment) if is_drawn(pair) => segment.push(pair[1]),
                _ if is_drawn(pair) => segments.push(pair.to_vec()),
                _ => {}
            }
            is_open = is_drawn(pair);
        }
        segments
    }
}

/// All blocks, one row each, density as colour.
fn overview(blocks: &[(&str, Vec<&DensityRow>)], common: &Common) -> Figure {
    let row_height = (560.0 / blocks.len() as f64).clamp(3.0, 22.0);
    let names: Vec<_> = blocks.iter().map(|(name, _)| shortened(name, 44)).collect();
    let left = names.iter().map(|name| text_width(name, TICK_SIZE)).fold(60.0, f64::max) + 16.0;
    let area = [left, 36.0, 640.0, row_height * blocks.len() as f64];
    let mut canvas = Canvas::new(left + 740.0, area[1] + area[3].max(100.0) + 48.0);
    let top = blocks.iter().flat_map(|(_, rows)| rows.iter().map(|row| row.density)).fold(0.0, f64::max).log10();
    let x = horizontal(common, area);
    let bar = [left + 676.0, area[1], 14.0, area[3].max(100.0)];
    let shades = Axis { scale: Scale::Log, from: top - 8.0, to: top, start: bar[1] + bar[3], end: bar[1] };
    title(&mut canvas, 16.0, "Spectral densities of all blocks");
    bottom_axis(&mut canvas, area, &x, &common.label);
    canvas.rect(area, EMPTY);
    let label_every = (TICK_SIZE / row_height).ceil() as usize;
    for (index, (_, rows)) in blocks.iter().enumerate() {
        let y = area[1] + index as f64 * row_height;
        strip(&mut canvas, [area[0], y, area[2], row_height], &levels(rows, &x, &shades));
        if index % label_every == 0 {
            canvas.text((left - 6.0, y + row_height / 2.0 + 4.0), &names[index], plain(TICK_SIZE, Anchor::End));
        }
    }
    canvas.frame(area);
    colour_bar(&mut canvas, bar, &shades, "density per unit of the axis");
    Figure {
        name: "density-all-blocks".into(),
        section: Section::Overview,
        caption: "Every block's spectral density on the run's common axis, in network order; eight decades of density."
            .into(),
        canvas,
    }
}

/// Columns of the overview.
const COLUMNS: usize = 320;
/// Shades of the overview; neighbours of one shade are one rectangle, which keeps the page small.
const SHADES: f64 = 48.0;

/// Shade number of each column, None outside the grid.
fn levels(rows: &[&DensityRow], x: &Axis, shades: &Axis) -> Vec<Option<u8>> {
    let level = |density: f64| {
        let share = (density.log10() - shades.from) / (shades.to - shades.from);
        (share.clamp(0.0, 1.0) * SHADES).round() as u8
    };
    binned(rows, x, COLUMNS).into_iter().map(|density| density.map(level)).collect()
}

/// One row of the overview.
fn strip(canvas: &mut Canvas, [x, y, width, height]: [f64; 4], levels: &[Option<u8>]) {
    let column = width / levels.len() as f64;
    let mut start = 0;
    for run in levels.chunk_by(|a, b| a == b) {
        if let Some(level) = run[0] {
            let area = [x + start as f64 * column, y, run.len() as f64 * column + 0.4, height + 0.4];
            canvas.rect(area, &shade(f64::from(level) / SHADES));
        }
        start += run.len();
    }
}

/// Highest density per column; columns between two grid points take the interpolated value, those outside none.
fn binned(rows: &[&DensityRow], x: &Axis, columns: usize) -> Vec<Option<f64>> {
    let mut bins: Vec<Option<f64>> = vec![None; columns];
    let position = |row: &DensityRow| (row.coordinate - x.from) / (x.to - x.from) * columns as f64;
    let index = |position: f64| (position as usize).min(columns - 1);
    for pair in rows.windows(2) {
        let (from, to) = (position(pair[0]), position(pair[1]));
        for (column, bin) in bins.iter_mut().enumerate().take(index(to) + 1).skip(index(from)) {
            let share = if to > from { ((column as f64 + 0.5 - from) / (to - from)).clamp(0.0, 1.0) } else { 0.0 };
            let density = pair[0].density + share * (pair[1].density - pair[0].density);
            *bin = Some(bin.map_or(density, |most| most.max(density)));
        }
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_broken_where_it_runs_along_the_bottom() {
        let heights = [9.0, 5.0, 9.0, 9.0, 9.0, 3.0, 4.0];
        let line = heights.iter().enumerate().map(|(x, y)| (x as f64, *y)).collect();
        let segments = Columns { line, ..Columns::default() }.segments(9.0);
        let xs: Vec<Vec<_>> = segments.iter().map(|s| s.iter().map(|point| point.0).collect()).collect();
        assert_eq!(xs, [vec![0.0, 1.0, 2.0], vec![4.0, 5.0, 6.0]]);
    }

    #[test]
    fn the_floor_is_a_tenth_of_a_single_eigenvalue_or_twelve_decades_down() {
        assert_eq!(floor(0.5, 99_999), -6.0);
        assert_eq!(floor(0.0, i64::MAX), -MOST_DECADES);
    }

    #[test]
    fn bins_hold_the_highest_density_and_bridge_coarse_grids() {
        let row = |coordinate, density| DensityRow {
            block: "b".into(),
            axis: "linear".into(),
            coordinate,
            eigenvalue: coordinate,
            density,
            density_per_eigenvalue: None,
            sem: None,
            axis_scale: None,
            sigma: None,
        };
        let rows = [row(2.0, 1.0), row(2.2, 5.0), row(2.4, 1.0), row(6.4, 3.0)];
        let x = Axis { scale: Scale::Linear, from: 0.0, to: 10.0, start: 0.0, end: 10.0 };
        let bins = binned(&rows.iter().collect::<Vec<_>>(), &x, 10);
        assert_eq!((bins[1], bins[2], bins[7]), (None, Some(5.0), None));
        assert!(bins[3..=6].iter().all(|bin| bin.is_some_and(|density| (1.0..=3.0).contains(&density))), "{bins:?}");
    }
}
