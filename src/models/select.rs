//! Choosing blocks by globs on their names.

use globset::GlobBuilder;

use crate::block::Block;
use crate::error::{Error, Result};

/// Names listed when a pattern matches nothing.
const NEAR: usize = 5;

/// The blocks that some `include` pattern matches (all, where there is none) and no `exclude` pattern does.
///
/// `*` also crosses dots and slashes, `{0,3}` are alternatives. Errors, all [`Error::Config`]: a pattern that cannot
/// be read or matches no block at all, a choice that leaves nothing.
pub fn select(blocks: Vec<Block>, include: &[String], exclude: &[String]) -> Result<Vec<Block>> {
    let included = matches(&blocks, "include", include)?;
    let excluded = matches(&blocks, "exclude", exclude)?;
    let chosen: Vec<Block> = blocks
        .into_iter()
        .zip(included.into_iter().zip(excluded))
        .filter(|(_, (included, excluded))| (include.is_empty() || *included) && !excluded)
        .map(|(block, _)| block)
        .collect();
    if chosen.is_empty() {
        return Err(Error::Config(
            "blocks.include and blocks.exclude together leave no block; relax one of them".into(),
        ));
    }
    Ok(chosen)
}

/// For each block, whether one of the patterns matches it.
fn matches(blocks: &[Block], key: &str, patterns: &[String]) -> Result<Vec<bool>> {
    let mut matched = vec![false; blocks.len()];
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern)
            .build()
            .map_err(|error| Error::Config(format!("blocks.{key} = \"{pattern}\": {}", error.kind())))?
            .compile_matcher();
        let mut any = false;
        for (matched, block) in matched.iter_mut().zip(blocks) {
            let hit = glob.is_match(&block.name);
            *matched |= hit;
            any |= hit;
        }
        if !any {
            return Err(Error::Config(format!(
                "blocks.{key} = \"{pattern}\" matches none of the {} blocks; near: {}",
                blocks.len(),
                near(pattern, blocks).join(", ")
            )));
        }
    }
    Ok(matched)
}

/// Block names at the smallest edit distance from the pattern, `*` free of charge.
fn near<'a>(pattern: &str, blocks: &'a [Block]) -> Vec<&'a str> {
    let mut names: Vec<(usize, &str)> =
        blocks.iter().map(|block| (distance(pattern, &block.name), block.name.as_str())).collect();
    names.sort_by_key(|(distance, _)| *distance); // stable: network order among equals
    names.into_iter().take(NEAR).map(|(_, name)| name).collect()
}

/// Levenshtein distance, except that `*` in the pattern stands for any text.
fn distance(pattern: &str, name: &str) -> usize {
    let name: Vec<char> = name.chars().collect();
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for wanted in pattern.chars() {
        let mut diagonal = row[0];
        row[0] += usize::from(wanted != '*');
        for (at, found) in name.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if wanted == '*' {
                above.min(row[at]) // nothing, or one more character of the name
            } else {
                (diagonal + usize::from(wanted != *found)).min(above + 1).min(row[at] + 1)
            };
            diagonal = above;
        }
    }
    row[name.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(names: &[&str]) -> Vec<Block> {
        let block = |name: &&str| Block { name: (*name).into(), kind: "k".into(), layer: None, pieces: Vec::new() };
        names.iter().map(block).collect()
    }

    fn chosen(names: &[&str], include: &[&str], exclude: &[&str]) -> Result<Vec<String>> {
        let owned = |patterns: &[&str]| patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        Ok(select(blocks(names), &owned(include), &owned(exclude))?.into_iter().map(|block| block.name).collect())
    }

    const NAMES: [&str; 5] = [
        "transformer.wte.weight",
        "h.0.attn.q.weight",
        "h.0.ln_1.weight",
        "h.3.attn.q.weight/head.1",
        "h.5.attn.q.weight",
    ];

    #[test]
    fn stars_cross_dots_and_braces_are_alternatives() {
        let found = chosen(&NAMES, &["h.{0,3}.*"], &["*.ln_*"]).unwrap();
        assert_eq!(found, ["h.0.attn.q.weight", "h.3.attn.q.weight/head.1"]);
        assert_eq!(chosen(&NAMES, &[], &[]).unwrap().len(), 5);
        assert_eq!(
            chosen(&NAMES, &["h.3*", "*.wte.*"], &[]).unwrap(),
            ["transformer.wte.weight", "h.3.attn.q.weight/head.1"]
        );
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_an_error_with_near_names() {
        for (include, exclude, key) in [(&["h.5.atn.q.*"][..], &[][..], "include"), (&[], &["h.5.atn.q.*"], "exclude")]
        {
            let error = chosen(&NAMES, include, exclude).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let text = error.to_string();
            assert!(text.contains(&format!("blocks.{key} = \"h.5.atn.q.*\"")), "{text}");
            assert!(text.contains("near: h.5.attn.q.weight,"), "{text}");
        }
        assert!(chosen(&NAMES, &["h.{0"], &[]).unwrap_err().to_string().contains("h.{0"));
        assert!(chosen(&NAMES, &["h.0.*"], &["*"]).unwrap_err().to_string().contains("leave no block"));
    }

    #[test]
    fn distances() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("a*z", "abcz"), 0);
        assert_eq!(distance("*", ""), 0);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("a*b", "axxc"), 1);
    }
}
