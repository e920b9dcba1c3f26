//! The names that a glob stands for, in folders and on object stores.

use std::fmt::Display;
use std::path::Path;

use globset::GlobBuilder;

use super::location::{Access, Location};
use super::path::local_path;
use crate::shown::{Url, quoted};
use crate::{Error, Result};

/// Names of what is there instead that a message has at most.
const MOST_NAMED: usize = 5;

/// Whether the last part of a path, which may be a glob, stands for a file of this name.
pub fn stands_for(path: &str, file: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or(path);
    let glob = || GlobBuilder::new(last).build().is_ok_and(|glob| glob.compile_matcher().is_match(file));
    last == file || (Url::from(last).is_glob() && glob())
}

/// The names that a glob stands for, sorted; a name that is no glob stands for itself.
///
/// # Errors
/// [`Error::Config`] where nothing matches, with what is there instead.
pub fn expand(name: &Url) -> Result<Vec<Url>> {
    let path = local_path(name)?;
    if !name.is_glob() || path.as_ref().is_some_and(|path| path.exists()) {
        return Ok(vec![name.clone()]);
    }
    let (mut found, nearby) = match &path {
        Some(path) => (files(name, path)?, in_folder(path)),
        None => objects(name)?,
    };
    if found.is_empty() {
        return Err(Error::Config(format!(
            "{name}: no file matches this glob; {nearby}\nHINT: quote a glob, so that the shell leaves it alone; `*` stands for a \
             part of one name, `**` for folders"
        )));
    }
    found.sort();
    Ok(found.into_iter().map(Url::from).collect())
}

fn problem(name: &Url, error: &dyn Display) -> Error {
    Error::Config(format!("{name}: {error}"))
}

fn files(name: &Url, pattern: &Path) -> Result<Vec<String>> {
    let paths =
        glob::glob(&pattern.to_string_lossy()).map_err(|error| problem(name, &format!("not a glob: {error}")))?;
    paths.map(|path| path.map(|path| path.display().to_string()).map_err(|error| problem(name, &error))).collect()
}

/// What is in the last folder of a pattern that exists.
fn in_folder(pattern: &Path) -> String {
    let folder = pattern.ancestors().skip(1).find(|folder| folder.as_os_str().is_empty() || folder.is_dir());
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(std::result::Result::ok);
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    there(folder.display(), &names)
}

/// `in data there are a.bin, b.bin and 7 more`
fn there(folder: impl Display, names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(MOST_NAMED).map(|name| quoted(name)).collect();
    match names.len().saturating_sub(MOST_NAMED) {
        _ if names.is_empty() => format!("there is nothing in {folder}"),
        0 => format!("in {folder} there are {}", shown.join(", ")),
        more => format!("in {folder} there are {} and {more} more", shown.join(", ")),
    }
}

/// Names below the folder in front of the first wildcard that match, and what is there instead.
fn objects(name: &Url) -> Result<(Vec<String>, String)> {
    if let Some(why) = name.refused() {
        return Err(problem(name, &why));
    }
    if name.scheme().is_some_and(|scheme| scheme.starts_with("http")) {
        return Err(problem(name, &"a web server cannot be searched; name its files one by one"));
    }
    let text = name.exposed();
    let wildcard = text.find(['*', '[']).unwrap_or(text.len());
    let folder = text[..wildcard].rfind('/').unwrap_or(wildcard);
    let (parent, pattern) = (Url::from(&text[..folder]), &text[folder + 1..]);
    let glob = GlobBuilder::new(pattern).literal_separator(true).build();
    let glob = glob.map_err(|error| problem(name, &format!("not a glob: {error}")))?.compile_matcher();
    let listed: Vec<String> = Location::open(&parent, Access::Read)?.list("")?.into_keys().collect();
    let matching = listed.iter().filter(|key| glob.is_match(key)).map(|key| format!("{}/{key}", parent.exposed()));
    Ok((matching.collect(), there(&parent, &listed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(name: &str) -> Vec<String> {
        expand(&name.into()).unwrap().iter().map(|url| url.exposed().to_owned()).collect()
    }

    #[test]
    fn a_glob_finds_objects_by_name() {
        let url = "memory://input-glob/a";
        let location = Location::open(url, Access::Write).unwrap();
        ["b.txt", "a.txt", "c.bin", "d/e.txt"].iter().for_each(|name| location.put(name, "").unwrap());
        assert_eq!(expanded(&format!("{url}/*.txt")), [format!("{url}/a.txt"), format!("{url}/b.txt")]);
        assert_eq!(expanded(&format!("{url}/*/*.txt")), [format!("{url}/d/e.txt")]);
        assert_eq!(expanded(&format!("{url}/x.txt")), [format!("{url}/x.txt")]);
        let error = expand(&format!("{url}/*.pt").into()).unwrap_err().to_string();
        assert!(
            error.contains("no file matches") && error.contains("there are a.txt, b.txt, c.bin, d/e.txt"),
            "{error}"
        );
    }

    #[test]
    fn a_glob_that_matches_nothing_says_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..7 {
            std::fs::write(folder.path().join(format!("train_{number}.bin")), "").unwrap();
        }
        let error =
            |name: &str| expand(&folder.path().join(name).display().to_string().into()).unwrap_err().to_string();
        let there = format!("in {} there are train_0.bin,", folder.path().display());
        assert!(error("*.txt").contains(&there) && error("*.txt").contains("and 2 more"), "{}", error("*.txt"));
        assert!(error("none/x*/y.txt").contains(&there));
    }
}
