//! A sheet to draw on, in pixels from the top left. The only file that knows the plotting library (kuva).
//!
//! Figures are drawn from lines, areas, rectangles and text rather than from kuva's charts: their axes (asinh, labelled
//! in eigenvalues), error bands on a logarithmic axis and block names at every cell are not among its charts.

use kuva::backend::raster::RasterBackend;
use kuva::backend::svg::SvgBackend;
use kuva::plot::ColorMap;
use kuva::render::color::Color;
use kuva::render::render::{PathData, Primitive, Scene, TextAnchor};

use crate::{Error, Result};

/// Paper; the page's style sheet recolours these constants in dark mode.
pub const PAPER: &str = "#ffffff";
/// Axes and frames.
pub const INK: &str = "#333333";
/// Grid lines.
pub const GRID: &str = "#e4e4e4";
/// First data colour.
pub const BLUE: &str = "#2f6db3";
/// Second data colour.
pub const ORANGE: &str = "#d9722b";
/// Third data colour.
pub const GREEN: &str = "#3a8f5a";
/// Fourth data colour.
pub const VIOLET: &str = "#8a5ab5";
/// Marks that stand back.
pub const GREY: &str = "#9a9a9a";
/// Cells without a value.
pub const EMPTY: &str = "#d0d0d0";

/// Pixels of the PNG per pixel of the sheet.
const PNG_SCALE: f32 = 2.0;

/// Where text is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// Size, anchor, rotation in degrees, weight and colour of a text.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    pub size: f64,
    pub anchor: Anchor,
    pub rotate: f64,
    pub bold: bool,
    /// None: the page's text colour.
    pub color: Option<&'static str>,
}

/// Plain text of a size, held at an anchor.
pub fn plain(size: f64, anchor: Anchor) -> Style {
    Style { size, anchor, rotate: 0.0, bold: false, color: None }
}

/// A sheet.
pub struct Canvas {
    scene: Scene,
}

impl Canvas {
    pub fn new(width: f64, height: f64) -> Self {
        let mut scene = Scene::new(width, height).with_background(Some(PAPER));
        scene.text_color = Some("#222222".into());
        scene.font_family = Some("DejaVu Sans, Verdana, Arial, sans-serif".into());
        Self { scene }
    }

    pub fn line(&mut self, points: Vec<(f64, f64)>, color: &str, width: f64) {
        self.scene.add(Primitive::PolyLine {
            points,
            stroke: Color::from(color),
            stroke_width: width,
            stroke_dasharray: None,
        });
    }

    /// The area between two curves over the same positions, each from left to right.
    pub fn area(&mut self, upper: &[(f64, f64)], lower: &[(f64, f64)], color: &str, opacity: f64) {
        let outline: Vec<_> = upper.iter().chain(lower.iter().rev()).map(|(x, y)| format!("{x:.2} {y:.2}")).collect();
        self.scene.add(Primitive::Path(Box::new(PathData {
            d: format!("M {} Z", outline.join(" L ")),
            fill: Some(Color::from(color)),
            stroke: Color::None,
            stroke_width: 0.0,
            opacity: Some(opacity),
            stroke_dasharray: None,
        })));
    }

    pub fn rect(&mut self, [x, y, width, height]: [f64; 4], fill: &str) {
        self.scene.add(Primitive::Rect {
            x,
            y,
            width,
            height,
            fill: Color::from(fill),
            stroke: None,
            stroke_width: None,
            opacity: None,
        });
    }

    /// A filled rectangle that says something when pointed at.
    pub fn cell(&mut self, area: [f64; 4], fill: &str, tooltip: String) {
        self.scene.add(Primitive::GroupStart { transform: None, title: Some(tooltip), extra_attrs: None });
        self.rect(area, fill);
        self.scene.add(Primitive::GroupEnd);
    }

    pub fn frame(&mut self, [x, y, width, height]: [f64; 4]) {
        let (right, bottom) = (x + width, y + height);
        self.line(vec![(x, y), (right, y), (right, bottom), (x, bottom), (x, y)], INK, 1.0);
    }

    pub fn dot(&mut self, (cx, cy): (f64, f64), r: f64, fill: &str) {
        self.scene.add(Primitive::Circle {
            cx,
            cy,
            r,
            fill: Color::from(fill),
            fill_opacity: None,
            stroke: None,
            stroke_width: None,
        });
    }

    pub fn text(&mut self, (x, y): (f64, f64), content: &str, style: Style) {
        self.scene.add(Primitive::Text {
            x,
            y,
            content: content.replace('$', "\\$"), // a pair of `$` would be read as mathematics
            size: style.size.round() as u32,
            anchor: match style.anchor {
                Anchor::Start => TextAnchor::Start,
                Anchor::Middle => TextAnchor::Middle,
                Anchor::End => TextAnchor::End,
            },
            rotate: (style.rotate != 0.0).then_some(style.rotate),
            bold: style.bold,
            color: style.color.map(Color::from),
        });
    }

    /// The sheet as SVG that scales with its container.
    pub fn svg(&self) -> String {
        let view = format!("<svg viewBox=\"0 0 {} {}\" role=\"img\" ", self.scene.width, self.scene.height);
        SvgBackend::new().render_scene(&self.scene).replacen("<svg ", &view, 1)
    }

    /// The sheet as PNG at twice its size.
    pub fn png(&self) -> Result<Vec<u8>> {
        let image = RasterBackend::new().with_scale(PNG_SCALE).render_scene(&self.scene);
        image.map_err(|error| Error::Other(format!("cannot draw a PNG: {error}")))
    }
}

/// Colour of a share in [0, 1]: dark to bright, legible without colour vision.
pub fn shade(share: f64) -> String {
    ColorMap::Viridis.map(share)
}

/// Width of a text in pixels, a little more than it needs.
pub fn text_width(text: &str, size: f64) -> f64 {
    0.62 * size * text.chars().count() as f64
}

/// A name cut in the middle to at most `limit` characters.
pub fn shortened(name: &str, limit: usize) -> String {
    let count = name.chars().count();
    if count <= limit {
        return name.to_string();
    }
    let head: String = name.chars().take(limit / 2).collect();
    let tail: String = name.chars().skip(count - (limit - limit / 2 - 1)).collect();
    format!("{head}…{tail}")
}
