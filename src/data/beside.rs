//! What stands beside files of tokens says which files there should be: `meta.json` of a finished preparation,
//! `progress.json` of an unfinished one. Files with neither are taken as they are.

use std::fmt::Display;
use std::path::Path;

use super::file_error;
use super::meta::{FILE_NAME, Meta, PROGRESS};
use crate::storage::{Location, stands_for};
use crate::{Error, Result};

/// Files that a message names; of more it says how many.
const MOST_NAMED: usize = 5;

/// The description in a local folder.
///
/// # Errors
/// [`Error::Config`] for an unfinished preparation, and for a meta.json that is none.
pub(super) fn local(folder: &Path) -> Result<Option<Meta>> {
    let progress = folder.join(PROGRESS);
    if progress.exists() {
        return Err(unfinished(progress.display()));
    }
    Meta::beside(&progress)
}

/// The description at a place on storage.
///
/// # Errors
/// As [`local`]; [`Error::Storage`] where the storage does not answer.
pub(super) fn remote(location: &Location) -> Result<Option<Meta>> {
    if location.size(PROGRESS)?.is_some() {
        return Err(unfinished(format!("{}/{PROGRESS}", location.url)));
    }
    let Some(text) = location.get(FILE_NAME)? else { return Ok(None) };
    Meta::parse(Path::new(&format!("{}/{FILE_NAME}", location.url)), &text).map(Some)
}

fn unfinished(progress: impl Display) -> Error {
    Error::Config(format!(
        "{progress}: the tokens beside it are those of an unfinished preparation\nHINT: run the same `hesspec data prepare` \
         again, which goes on where it stopped"
    ))
}

/// Holds the names of files that `pattern`, a path or glob, stands for in a folder against its description: all of those
/// that are listed are there, in their order, and no other shards.
///
/// # Errors
/// [`Error::Config`]
pub(super) fn check(folder: &str, pattern: &str, meta: &Meta, found: &[String]) -> Result<()> {
    let described = Path::new(folder).join(FILE_NAME);
    let listed: Vec<&str> = meta.files().map(|file| file.file).collect();
    let missing: Vec<&str> =
        listed.iter().copied().filter(|file| stands_for(pattern, file) && !found.iter().any(|f| f == file)).collect();
    if !missing.is_empty() {
        let problem = format!("{} of its {} files are missing: {}", missing.len(), listed.len(), some(&missing));
        return Err(file_error(
            &described,
            format!("{problem}\nHINT: fetch them again, or name the files that you want"),
        ));
    }
    let is_unlisted = |file: &&String| stands_for(&meta.file, file) && !listed.contains(&file.as_str());
    if let Some(file) = found.iter().find(is_unlisted) {
        return Err(file_error(&described, format!("{file} is not in it\nHINT: move that file elsewhere")));
    }
    let places: Vec<usize> = found.iter().filter_map(|file| listed.iter().position(|listed| listed == file)).collect();
    if !places.is_sorted() {
        return Err(file_error(
            &described,
            "lists its files in another order than that of their names\nHINT: restore it, or name the files as they were",
        ));
    }
    Ok(())
}

fn some(names: &[&str]) -> String {
    let more = names.len().saturating_sub(MOST_NAMED);
    let named = names[..names.len() - more].join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}
