//! Logs: on stderr, filtered by HESSPEC_LOG, else RUST_LOG, else `info` for commands with progress and `warn` for the
//! rest; and with `--log-dir`, one JSON object a line in a file for each rank, from `debug` on. More than warnings come from this
//! program only: libraries log requests, with the secrets in them. Ranks are processes, or threads of one ([`as_rank`]).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::{Error, Result};

thread_local! {
    static RANK: Cell<Option<usize>> = const { Cell::new(None) };
}

/// From now on this thread's events are those of a rank that is a thread.
pub fn as_rank(rank: usize) {
    RANK.set(Some(rank));
}

/// The files `rank-NNN.jsonl` of a folder, each opened when something is written to it.
pub struct RankFiles {
    folder: PathBuf,
    /// The rank of the process, whose file is open.
    own: usize,
    files: Mutex<BTreeMap<usize, Arc<File>>>,
}

impl RankFiles {
    /// Opens the file of this process's rank for appending: a run that is continued goes on in the same files.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn open(folder: &Path, own: usize) -> Result<Self> {
        let file = std::fs::create_dir_all(folder).and_then(|()| append(folder, own)).map_err(|error| {
            let path = path(folder, own);
            Error::Storage(format!(
                "--log-dir: cannot open `{}`: {error}. Expected a folder that can be made and written",
                path.display()
            ))
        })?;
        Ok(Self { folder: folder.into(), own, files: Mutex::new(BTreeMap::from([(own, Arc::new(file))])) })
    }
}

fn path(folder: &Path, rank: usize) -> PathBuf {
    folder.join(format!("rank-{rank:03}.jsonl"))
}

fn append(folder: &Path, rank: usize) -> std::io::Result<File> {
    let path = path(folder, rank);
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return Err(std::io::Error::other("it is there and no regular file")); // opening a pipe would wait for its reader
    }
    File::options().create(true).append(true).open(path)
}

impl<'a> MakeWriter<'a> for RankFiles {
    type Writer = Arc<File>;

    /// The file of the thread's rank; the process's own, should another not open.
    fn make_writer(&'a self) -> Arc<File> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let rank = RANK.get().unwrap_or(self.own);
        if !files.contains_key(&rank)
            && let Ok(file) = append(&self.folder, rank)
        {
            files.insert(rank, Arc::new(file));
        }
        files.get(&rank).unwrap_or(&files[&self.own]).clone()
    }
}

/// Starts logging; `json`: to these files as well.
///
/// # Errors
/// [`Error::Config`] for a variable that is no filter.
pub fn start(shows_progress: bool, json: Option<RankFiles>) -> Result<()> {
    let default = if shows_progress { "hesspec=info,warn" } else { "warn" };
    let asked = ["HESSPEC_LOG", "RUST_LOG"].iter().find_map(|name| Some((*name, std::env::var(name).ok()?)));
    let (name, text) = asked.as_ref().map_or(("", default), |(name, text)| (name, text.as_str()));
    let filter = EnvFilter::builder().parse(text).map_err(|error| {
        let expected = "expected off, error, warn, info, debug, trace, or PART=LEVEL, several with commas between";
        Error::Config(format!("{name}: `{text}` is no filter ({error}); {expected}"))
    })?;
    let for_people = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let for_people = for_people.with_filter(filter.and(filter_fn(may_be_shown)));
    let for_programs = json.map(|files| {
        let layer = fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(files);
        layer.with_filter(EnvFilter::builder().parse_lossy("hesspec=debug"))
    });
    tracing_subscriber::registry().with(for_programs).with(for_people).init();
    Ok(())
}

fn may_be_shown(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("hesspec") || *metadata.level() <= Level::WARN
}
