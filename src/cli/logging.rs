//! Logs: on stderr, filtered by HESSPEC_LOG, else RUST_LOG, else `info` for commands with progress and `warn` for the
//! rest; and with `--log-dir`, one JSON object a line in a file for each rank, from `debug` on. More than warnings come from this
//! program only: libraries log requests, with the secrets in them.

use std::fs::File;
use std::path::Path;
use std::sync::Mutex;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::{Error, Result};

/// Starts logging; `json`: to this file as well.
pub fn start(shows_progress: bool, json: Option<File>) {
    let default = if shows_progress { "hesspec=info,warn" } else { "warn" };
    let asked = ["HESSPEC_LOG", "RUST_LOG"].iter().find_map(|name| std::env::var(name).ok());
    let filter = EnvFilter::builder().parse_lossy(asked.as_deref().unwrap_or(default));
    let for_people = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let for_people = for_people.with_filter(filter.and(filter_fn(may_be_shown)));
    let for_programs = json.map(|file| {
        let layer = fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(Mutex::new(file));
        layer.with_filter(EnvFilter::builder().parse_lossy("hesspec=debug"))
    });
    tracing_subscriber::registry().with(for_programs).with(for_people).init();
}

fn may_be_shown(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("hesspec") || *metadata.level() <= Level::WARN
}

/// Opens `FOLDER/rank-000.jsonl` for appending: a run that is continued goes on in the same file.
///
/// # Errors
/// [`Error::Storage`]
pub fn open(folder: &Path, rank: usize) -> Result<File> {
    let path = folder.join(format!("rank-{rank:03}.jsonl"));
    let opened = std::fs::create_dir_all(folder).and_then(|()| File::options().create(true).append(true).open(&path));
    opened.map_err(|error| {
        let path = path.display();
        Error::Storage(format!(
            "--log-dir: cannot open `{path}`: {error}. Expected a folder that can be made and written"
        ))
    })
}
