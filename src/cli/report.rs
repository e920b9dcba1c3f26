//! `hesspec report`

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::common::{print, print_json};
use crate::Result;
use crate::report;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Where the tables are: the output.url of the run.
    url: String,
    /// Which run, where there are several.
    #[arg(long, value_name = "NAME")]
    run: Option<String>,
    /// Folder for the page and the figures. Default: `report` in the folder of the tables, or here for other URLs.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Draws.
pub fn main(arguments: &Arguments, json: bool) -> Result<()> {
    let folder = arguments.out.clone().unwrap_or_else(|| default_folder(&arguments.url));
    let report = report::report(&arguments.url, arguments.run.as_deref(), &folder)?;
    if json {
        return print_json(&json!({ "page": report.page, "figures": report.figures, "notes": report.notes }));
    }
    let notes: String = report.notes.iter().map(|note| format!("note: {note}\n")).collect();
    print(&format!("{notes}{} ({} figures beside it)", report.page.display(), report.figures.len()))
}

fn default_folder(url: &str) -> PathBuf {
    let path = url.strip_prefix("file://localhost").or_else(|| url.strip_prefix("file://"));
    match path {
        Some(path) => Path::new(path).join("report"),
        None if url.contains("://") => "report".into(),
        None => Path::new(url).join("report"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_local_results_lie_beside_them() {
        assert_eq!(default_folder("results/a"), Path::new("results/a/report"));
        assert_eq!(default_folder("file:///tmp/a"), Path::new("/tmp/a/report"));
        assert_eq!(default_folder("s3://bucket/a"), Path::new("report"));
    }
}
