//! `hesspec report`

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::common::{local, print, print_json};
use crate::Result;
use crate::report;
use crate::shown::Url;
use crate::storage::local_path;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Where the tables are: the output.url of the run.
    url: Url,
    /// Which run, where there are several.
    #[arg(long, value_name = "NAME")]
    run: Option<String>,
    /// Folder for the page and the figures. Default: `report` in the folder of the tables, or here for other URLs.
    #[arg(long, value_name = "DIR", value_parser = local)]
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

fn default_folder(url: &Url) -> PathBuf {
    let folder = local_path(url).ok().flatten();
    folder.map_or("report".into(), |folder| folder.join("report"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn reports_of_local_results_lie_beside_them() {
        assert_eq!(default_folder(&"results/a".into()), Path::new("results/a/report"));
        assert_eq!(default_folder(&"file:///tmp/a".into()), Path::new("/tmp/a/report"));
        assert_eq!(default_folder(&"s3://bucket/a".into()), Path::new("report"));
    }
}
