//! Parts that several figures share: axes with ticks, titles, the colour bar.

use super::canvas::{Anchor, Canvas, GRID, INK, plain, shade};
use super::scale::Axis;

/// Font size of tick labels.
pub const TICK_SIZE: f64 = 11.0;

/// Title in bold at the top left.
pub fn title(canvas: &mut Canvas, x: f64, text: &str) {
    let mut style = plain(14.0, Anchor::Start);
    style.bold = true;
    canvas.text((x, 22.0), text, style);
}

/// Grid, ticks and label of a horizontal axis below the area [x, y, width, height].
pub fn bottom_axis(canvas: &mut Canvas, area: [f64; 4], axis: &Axis, label: &str) {
    let [x, y, width, height] = area;
    let bottom = y + height;
    for (pixel, text) in axis.ticks(44.0) {
        canvas.line(vec![(pixel, y), (pixel, bottom)], GRID, 1.0);
        canvas.line(vec![(pixel, bottom), (pixel, bottom + 4.0)], INK, 1.0);
        canvas.text((pixel, bottom + 17.0), &text, plain(TICK_SIZE, Anchor::Middle));
    }
    canvas.text((x + width / 2.0, bottom + 35.0), label, plain(12.0, Anchor::Middle));
}

/// Grid, ticks and label of a vertical axis left of the area.
pub fn left_axis(canvas: &mut Canvas, area: [f64; 4], axis: &Axis, label: &str) {
    let [x, y, width, height] = area;
    for (pixel, text) in axis.ticks(26.0) {
        canvas.line(vec![(x, pixel), (x + width, pixel)], GRID, 1.0);
        canvas.line(vec![(x - 4.0, pixel), (x, pixel)], INK, 1.0);
        canvas.text((x - 8.0, pixel + 4.0), &text, plain(TICK_SIZE, Anchor::End));
    }
    let mut style = plain(12.0, Anchor::Middle);
    style.rotate = -90.0;
    canvas.text((16.0, y + height / 2.0), label, style);
}

/// Colour bar upward in the area, ticks on its right.
pub fn colour_bar(canvas: &mut Canvas, area: [f64; 4], axis: &Axis, label: &str) {
    const SLICES: usize = 128;
    let [x, y, width, height] = area;
    let slice = height / SLICES as f64;
    for number in 0..SLICES {
        let share = (number as f64 + 0.5) / SLICES as f64;
        let top = y + height - (number + 1) as f64 * slice;
        let below = if number == 0 { 0.0 } else { 0.6 }; // overlap hides hairlines between slices
        canvas.rect([x, top, width, slice + below], &shade(share));
    }
    canvas.frame(area);
    for (pixel, text) in axis.ticks(26.0) {
        canvas.line(vec![(x + width, pixel), (x + width + 4.0, pixel)], INK, 1.0);
        canvas.text((x + width + 8.0, pixel + 4.0), &text, plain(TICK_SIZE, Anchor::Start));
    }
    let mut style = plain(12.0, Anchor::Middle);
    style.rotate = -90.0;
    canvas.text((x - 8.0, y + height / 2.0), label, style);
}
