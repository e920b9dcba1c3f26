//! Report: figures (SVG and PNG) and one self-contained HTML page from the Parquet tables, and from nothing else.
//!
//! Owns how results look. It computes no spectra: every number shown is read from a table, or is a mean of such numbers
//! (JS0). What a figure cannot show (standard errors of distances, statuses, advice) is in the page's tables.

mod canvas;
mod charts;
mod convergence;
mod dense;
mod density;
mod heatmap;
mod html;
mod means;
mod quadratic;
mod scale;
mod summary;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::output::{
    BlockRow, ConvergencePairRow, ConvergenceRow, DenseRow, DenseShareRow, DensityRow, DivergenceRow,
    QuadraticBlockRow, QuadraticCurveRow, QuadraticRow, Results, RunRecord, RunResults, RunRow, SummaryRow, Table,
    Tables,
};
use crate::shown::Url;
use crate::{Error, Result};
use canvas::Canvas;

/// What `report` wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The HTML page.
    pub page: PathBuf,
    /// SVG and PNG files.
    pub figures: Vec<PathBuf>,
    /// What could not be drawn, and why.
    pub notes: Vec<String>,
}

/// One drawing.
struct Figure {
    /// File stem.
    name: String,
    /// Section of the page it belongs to.
    section: Section,
    /// What is to be seen, for the page and for screen readers.
    caption: String,
    canvas: Canvas,
}

/// Sections of the page that hold figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Quadratic,
    Dense,
    Summary,
    ConvergenceOverview,
    Convergence,
    ConvergencePairs,
    Full,
    Overview,
    Blocks,
    Distances,
}

/// What the page is made from.
struct Content {
    record: RunRecord,
    is_done: bool,
    tables: Tables,
    figures: Vec<Figure>,
    notes: Vec<String>,
}

/// Draws a run (the only one under the URL, or the named one) into a local folder.
pub fn report(url: impl Into<Url>, run: Option<&str>, folder: &Path) -> Result<Report> {
    let run = Results::open(url)?.run(run)?;
    let content = Content::draw(&run)?;
    let figures_folder = folder.join("figures");
    std::fs::create_dir_all(&figures_folder).map_err(|error| unwritable(&figures_folder, error))?;
    let mut figures = Vec::new();
    for figure in &content.figures {
        let svg = figures_folder.join(format!("{}.svg", figure.name));
        let png = figures_folder.join(format!("{}.png", figure.name));
        save(&svg, figure.canvas.svg())?;
        save(&png, figure.canvas.png()?)?;
        figures.extend([svg, png]);
    }
    let page = folder.join("index.html");
    save(&page, html::page(&content))?;
    Ok(Report { page, figures, notes: content.notes })
}

impl Content {
    fn draw(run: &RunResults) -> Result<Self> {
        let tables = Tables {
            blocks: run.read::<BlockRow>()?,
            density: run.read::<DensityRow>()?,
            divergence: run.read::<DivergenceRow>()?,
            summary: run.read::<SummaryRow>()?,
            runs: run.read::<RunRow>()?,
            convergence: run.read::<ConvergenceRow>()?,
            convergence_pairs: run.read::<ConvergencePairRow>()?,
            quadratic: run.read::<QuadraticRow>()?,
            quadratic_blocks: run.read::<QuadraticBlockRow>()?,
            quadratic_curves: run.read::<QuadraticCurveRow>()?,
            dense: run.read::<DenseRow>()?,
            dense_shares: run.read::<DenseShareRow>()?,
            ..Tables::default()
        };
        let mut notes = Vec::new();
        let mut figures = quadratic::figures(&tables);
        if figures.is_empty() {
            figures.extend(dense::figures(&tables));
        }
        if figures.is_empty() {
            figures.extend(summary::figures(&tables, &mut notes));
            figures.extend(convergence::figures(&tables));
            figures.extend(density::figures(&tables, &mut notes));
            figures.extend(heatmap::figures(&tables, &mut notes));
        }
        if !run.is_done() {
            notes.push("The run is not done: only finished groups are here. Run it again to continue.".into());
        }
        Ok(Self { record: run.record().clone(), is_done: run.is_done(), tables, figures, notes })
    }
}

/// The note about a table that has nothing to draw.
fn missing<T: Table>(figure: &str) -> String {
    format!("No {figure}: the table `{}` has no rows to draw.", T::NAME)
}

fn save(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    std::fs::write(path, content).map_err(|error| unwritable(path, error))
}

fn unwritable(path: &Path, error: std::io::Error) -> Error {
    Error::Storage(format!(
        "cannot write the report to `{}`: {error}. Name a folder that can be written",
        path.display()
    ))
}

/// A block's name as a file name.
fn file_stem(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect()
}
