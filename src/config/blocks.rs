//! `[blocks]`: which principal sub-matrices, by globs on block names.

use globset::{Glob, GlobMatcher};
use serde::{Deserialize, Serialize};

use crate::document::nearest;
use crate::models::Partition;
use crate::{Error, Result};

/// `[blocks]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Blocks {
    /// How the parameters are cut. Default: parameter.
    pub partition: Partition,
    /// Globs on block names; `*` also crosses dots. Default: all.
    pub include: Vec<String>,
    /// Globs on block names, taken out again. Default: none.
    pub exclude: Vec<String>,
    /// Also the whole network. Default: true.
    pub full: bool,
    /// `[[blocks.own]]`: also these. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<OwnBlock>,
}

/// `[[blocks.own]]`: a block of parameters and ranges of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnBlock {
    /// What it is called.
    pub name: String,
    /// Globs on the names that blocks of the partition `parameter` have, whatever the partition: all that match. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Also these ranges. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<OwnRange>,
}

/// A range of a parameter along one axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnRange {
    /// The parameter's name.
    pub parameter: String,
    /// The axis, from 0. Default: 0, the rows of a matrix as it is stored.
    #[serde(default)]
    pub axis: usize,
    /// First index.
    pub start: usize,
    /// The index behind the last.
    pub end: usize,
}

impl Default for Blocks {
    fn default() -> Self {
        Self {
            partition: Partition::Parameter,
            include: vec!["*".into()],
            exclude: Vec::new(),
            full: true,
            own: Vec::new(),
        }
    }
}

/// The globs of `[blocks]`, compiled.
#[derive(Debug, Clone)]
pub struct BlockFilter {
    /// Key of `include`, for messages.
    key: &'static str,
    include: Vec<GlobMatcher>,
    exclude: Vec<GlobMatcher>,
}

impl Blocks {
    /// Compiles the globs.
    ///
    /// # Errors
    /// [`Error::Config`] with the pattern that is none.
    pub fn filter(&self) -> Result<BlockFilter> {
        Ok(BlockFilter {
            key: "blocks.include",
            include: compile("blocks.include", &self.include)?,
            exclude: compile("blocks.exclude", &self.exclude)?,
        })
    }
}

impl OwnBlock {
    /// Compiles the globs.
    ///
    /// # Errors
    /// [`Error::Config`] with the pattern that is none.
    pub fn filter(&self) -> Result<BlockFilter> {
        let key = "blocks.own.include";
        Ok(BlockFilter { key, include: compile(key, &self.include)?, exclude: Vec::new() })
    }
}

fn compile(key: &str, patterns: &[String]) -> Result<Vec<GlobMatcher>> {
    let compile_one = |pattern: &String| match Glob::new(pattern) {
        Ok(glob) => Ok(glob.compile_matcher()),
        Err(error) => Err(Error::Config(format!(
            "{key}: \"{pattern}\" is not a glob ({}); allowed: * ? [ab] {{a,b}}",
            error.kind()
        ))),
    };
    patterns.iter().map(compile_one).collect()
}

impl BlockFilter {
    /// Whether a block of this name is asked for.
    pub fn is_match(&self, name: &str) -> bool {
        self.include.iter().any(|glob| glob.is_match(name)) && !self.exclude.iter().any(|glob| glob.is_match(name))
    }

    /// The positions of the names asked for, in their order.
    ///
    /// # Errors
    /// [`Error::Config`] where a pattern of `include` matches no name, or `exclude` takes every one of its names out.
    /// A pattern of `exclude` may match nothing: `*.ln_*` is right for a model without LayerNorm too.
    pub fn select<S: AsRef<str>>(&self, names: &[S]) -> Result<Vec<usize>> {
        let matches = |glob: &GlobMatcher| names.iter().any(|name| glob.is_match(name.as_ref()));
        if let Some(glob) = self.include.iter().find(|glob| !matches(glob)) {
            return Err(no_match(self.key, glob.glob().glob(), names));
        }
        let selected: Vec<usize> = (0..names.len()).filter(|index| self.is_match(names[*index].as_ref())).collect();
        if selected.is_empty() && !self.include.is_empty() {
            return Err(Error::Config(
                "blocks.exclude takes out every block that blocks.include names; for the whole network alone write include = []"
                    .into(),
            ));
        }
        Ok(selected)
    }
}

fn no_match<S: AsRef<str>>(key: &str, pattern: &str, names: &[S]) -> Error {
    let all: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    let hint = match nearest(pattern, &all) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("the {} blocks are {}", all.len(), abbreviated(&all)),
    };
    Error::Config(format!("{key}: \"{pattern}\" matches no block; {hint}"))
}

fn abbreviated(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let dots = if names.len() > SHOWN { ", ..." } else { "" };
    format!("{}{dots}", names[..names.len().min(SHOWN)].join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::config::tests::{assert_refused, with};
    use crate::networks::Registry;

    const NAMES: [&str; 5] = [
        "transformer.wte.weight",
        "transformer.h.0.ln_1.weight",
        "transformer.h.0.attn.q.weight",
        "transformer.h.3.attn.q.weight/head.3",
        "transformer.h.4.mlp.c_fc.weight",
    ];

    fn select(include: &[&str], exclude: &[&str]) -> Result<Vec<usize>> {
        let texts = |list: &[&str]| list.iter().map(|text| text.to_string()).collect();
        Blocks { include: texts(include), exclude: texts(exclude), ..Blocks::default() }.filter()?.select(&NAMES)
    }

    #[test]
    fn a_star_crosses_dots_and_slashes() {
        assert_eq!(select(&["*"], &[]).unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(select(&["transformer.h.{0,3}.attn.*"], &[]).unwrap(), [2, 3]);
        assert_eq!(select(&["*"], &["*.ln_*"]).unwrap(), [0, 2, 3, 4]);
        assert_eq!(select(&[], &[]).unwrap(), [0usize; 0]);
    }

    #[test]
    fn blocks_of_ones_own_are_read_and_written() {
        let text = "[[blocks.own]]\nname = \"mine\"\ninclude = [\"*.q.*\"]\n\
                    ranges = [{ parameter = \"transformer.wte.weight\", start = 0, end = 10 }]\n\
                    [[blocks.own]]\nname = \"other\"\ninclude = [\"*.k.*\"]\n";
        let config = with(text, &[]).unwrap();
        let range = &config.blocks.own[0].ranges[0];
        assert_eq!((config.blocks.own.len(), range.axis, range.start, range.end), (2, 0, 0, 10));
        let written = config.resolved_toml().unwrap();
        assert_eq!(parse(&written, "again.toml", "again", &[], &Registry::built_in()).unwrap(), config);
        assert!(!with("", &[]).unwrap().resolved_toml().unwrap().contains("own"));
        let own = |name: &str, rest: &str| format!("[[blocks.own]]\nname = \"{name}\"\n{rest}\n");
        for (text, parts) in [
            (own("a b", "include = [\"*\"]"), &["blocks.own", "\"a b\"", "A-Z"][..]),
            (own("full", "include = [\"*\"]"), &["\"full\"", "another block"]),
            (own("a", "include = [\"*\"]").repeat(2), &["\"a\"", "another block"]),
            (own("a", ""), &["neither include nor ranges"]),
            (own("a", "include = [\"a{b\"]"), &["blocks.own.include", "not a glob"]),
            (own("a", "inclde = []"), &["inclde", "did you mean `include`?"]),
            (own("a", "ranges = [{ parameter = \"p\", start = 0 }]"), &["`end` is missing"]),
        ] {
            assert_refused(&text, &[], parts);
        }
    }

    #[test]
    fn a_pattern_without_a_block_is_an_error_that_helps() {
        let error = select(&["transformer.wte.weigth"], &[]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("did you mean `transformer.wte.weight`?"), "{error}");
        assert!(select(&["*.conv.*"], &[]).unwrap_err().to_string().contains("the 5 blocks are transformer.wte"));
        assert!(select(&["*.ln_*"], &["*"]).unwrap_err().to_string().contains("include = []"));
        assert!(select(&["*"], &["no.such.block"]).is_ok());
        assert!(select(&["a{b"], &[]).unwrap_err().to_string().contains("\"a{b\" is not a glob"));
    }
}
