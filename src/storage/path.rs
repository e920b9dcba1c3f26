//! The local paths that names stand for.

use std::path::{Path, PathBuf};

use crate::shown::Url;
use crate::{Error, Result};

/// The path that a name stands for; `None` for an object.
///
/// # Errors
/// [`Error::Config`] for a `file://` URL that is none, and for what looks like a mistyped URL.
pub fn local_path(name: &Url) -> Result<Option<PathBuf>> {
    if !name.is_local() {
        return Ok(None);
    }
    if let Some(problem) = name.refused_as_input() {
        return Err(Error::Config(format!("`{name}`: {problem}")));
    }
    match name.exposed().split_once("://") {
        None => Ok(Some(PathBuf::from(name.exposed()))),
        Some((_, rest)) => file_path(name, rest).map(Some),
    }
}

/// The path of `file://[localhost]/absolute/path`, percent-decoded.
fn file_path(url: &Url, rest: &str) -> Result<PathBuf> {
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    let decoded = path.starts_with('/').then(|| percent_decoded(path)).flatten();
    decoded.map(PathBuf::from).ok_or_else(|| {
        Error::Config(format!(
            "`{url}` is no file URL: expected file:///absolute/path, or a plain path for a relative one"
        ))
    })
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

/// The absolute form of a path for error messages; relative paths count from the current directory.
pub fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_urls_are_absolute_and_decoded() {
        assert_eq!(file_path(&"u".into(), "/a%20b/c").unwrap(), PathBuf::from("/a b/c"));
        assert_eq!(file_path(&"u".into(), "localhost/x").unwrap(), PathBuf::from("/x"));
        assert_eq!(file_path(&"file://relative".into(), "relative").unwrap_err().exit_code(), 2);
        assert_eq!(file_path(&"u".into(), "/a%2").unwrap_err().exit_code(), 2);
    }
}
