//! What may be shown: places without their secrets, foreign text without what would steer a terminal.
//!
//! Whatever leaves the program (messages, answers, logs, records) passes here. [`Url`] is the type of everything that names
//! a place and shows itself redacted; [`scrubbed`] is for sentences that others have made up, libraries and the command line
//! among them; [`printable`] and [`quoted`] are for text that comes out of stored files.

mod url;

#[cfg(test)]
mod tests;

pub use url::Url;
pub(crate) use url::redacted;

/// Characters of foreign text that a message repeats at most.
const MOST_QUOTED: usize = 120;

/// A text without control characters, but for line breaks and tabs: escape codes from a stored file do not reach a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '?' } else { c }).collect()
}

/// Text out of a file, as a message may repeat it: on one line, and not all of a long one. Every run of what cannot be shown
/// becomes one `?`.
pub fn quoted(text: &str) -> String {
    let is_shown = |c: char| !c.is_control() && c != char::REPLACEMENT_CHARACTER;
    let long = text.trim().chars().take(10 * MOST_QUOTED);
    let mut shown: Vec<char> = long.map(|c| if is_shown(c) { c } else { '\0' }).collect();
    shown.dedup_by(|a, b| *a == '\0' && *b == '\0');
    let rest = if shown.len() > MOST_QUOTED { "..." } else { "" };
    shown.into_iter().take(MOST_QUOTED).map(|c| if c == '\0' { '?' } else { c }).collect::<String>() + rest
}

/// A sentence with the secrets of every URL in it hidden, and without control characters.
pub fn scrubbed(text: &str) -> String {
    let shown: String = text.split_inclusive(char::is_whitespace).map(scrubbed_word).collect();
    printable(&shown)
}

/// A word in quotes, or with some in it: those of a URL with a user may belong to its password.
fn scrubbed_word(word: &str) -> String {
    let has_user = word.split_once("://").is_some_and(|(_, rest)| rest.contains('@'));
    let ends = |c: char| c.is_whitespace() || (!has_user && matches!(c, '"' | '\'' | '`' | '<' | '>'));
    let mut shown = String::with_capacity(word.len());
    for part in word.split_inclusive(ends) {
        let end = part.char_indices().next_back().filter(|(_, c)| ends(*c)).map_or(part.len(), |(at, _)| at);
        shown.push_str(&redacted(&part[..end]));
        shown.push_str(&part[end..]);
    }
    shown
}
