//! What a value must satisfy beyond its type; every error names the place of the value in the file.

use std::fmt::Display;

use super::tree::Node;
use crate::shown::Url;
use crate::{Error, Result};

/// Checks the values of a table, or of a whole document.
#[derive(Debug, Clone, Copy)]
pub struct Check<'a> {
    root: &'a Node,
    /// What stands before the keys that are checked: empty, or like `model.gpt2.`.
    prefix: &'a str,
}

impl<'a> Check<'a> {
    /// Checks a document; keys are `table.key`.
    pub fn document(root: &'a Node) -> Self {
        Self { root, prefix: "" }
    }

    /// Checks one table of a document; `prefix` is its name and a dot.
    pub fn table(root: &'a Node, prefix: &'a str) -> Self {
        Self { root, prefix }
    }

    /// Whether a key is written down, and has no default.
    pub fn is_given(&self, key: &str) -> bool {
        self.root.find(&format!("{}{key}", self.prefix)).is_some()
    }

    /// `file:line:column: key = value: problem` unless it holds; located at the key or, where that has its default, at the file.
    ///
    /// # Errors
    /// [`Error::Config`]
    pub fn that(&self, holds: bool, key: &str, value: impl Display, problem: impl Display) -> Result<()> {
        if holds {
            return Ok(());
        }
        let key = format!("{}{key}", self.prefix);
        let (origin, value) = match self.root.find(&key) {
            Some(node) => (&node.origin, node.to_string()),
            None => (&self.root.origin, format!("{value} (by default)")),
        };
        Err(Error::Config(format!("{origin}: {key} = {value}: {problem}")))
    }

    /// Refuses 0.
    ///
    /// # Errors
    /// [`Error::Config`]
    pub fn at_least_one(&self, key: &str, value: Option<usize>) -> Result<()> {
        self.that(value != Some(0), key, 0, "expected 1 or more")
    }

    /// Refuses 0, and more than `most`.
    ///
    /// # Errors
    /// [`Error::Config`]
    pub fn size(&self, key: &str, value: usize, most: usize) -> Result<()> {
        self.at_least_one(key, Some(value))?;
        self.that(value <= most, key, value, format!("expected {most} or less"))
    }

    /// Refuses a place that nothing can be at, or against which something speaks.
    ///
    /// # Errors
    /// [`Error::Config`]
    pub fn place(&self, key: &str, url: &Url, problem: Option<&str>) -> Result<()> {
        self.that(!url.is_empty(), key, "\"\"", "expected a path or URL")?;
        self.that(problem.is_none(), key, format!("{url:?}"), problem.unwrap_or_default())
    }

    /// Refuses weights that are no place, or in one against which something speaks.
    ///
    /// # Errors
    /// [`Error::Config`]
    pub fn weights(&self, key: &str, url: Option<&Url>) -> Result<()> {
        let Some(url) = url else { return Ok(()) };
        self.that(!url.is_empty(), key, "\"\"", "expected a path or URL; leave it out to initialise from run.seed")?;
        self.place(key, url, url.refused_as_input())
    }

    /// The place of a key, or of the file where it has its default.
    pub fn origin(&self, key: &str) -> &'a str {
        let key = format!("{}{key}", self.prefix);
        self.root.find(&key).map_or(&self.root.origin, |node| &node.origin)
    }
}
