//! Dialogues of films, in the two files of Cornell's corpus (Danescu-Niculescu-Mizil and Lee 2011): `movie_lines.txt` has what is said, a
//! line each, and `movie_conversations.txt` which of it follows each other. Fields are separated by ` +++$+++ `.

use std::collections::HashMap;

use crate::shown::{Url, quoted};
use crate::storage::Input;
use crate::{Error, Result};

const SEPARATOR: &str = "+++$+++";

/// What is said, and what follows what.
pub(super) struct Dialogs {
    /// Everything that is said and is not empty.
    pub texts: Vec<String>,
    /// Positions of two texts of which the second follows the first.
    pub following: Vec<(usize, usize)>,
}

impl Dialogs {
    /// Reads both files by path or URL.
    ///
    /// # Errors
    /// [`Error::Config`] with file and line for what is not in these formats, and where nothing follows anything; [`Error::Storage`].
    pub fn read(lines: &Url, conversations: &Url) -> Result<Self> {
        let (mut texts, mut position_of) = (Vec::new(), HashMap::new());
        for (place, [id, _, _, _, text]) in fields(lines, "id, speaker, film, name, text")? {
            let position = (!text.is_empty()).then_some(texts.len());
            if position_of.insert(id.clone(), position).is_some() {
                return Err(Error::Config(format!("{place}: the id {} is there twice", quoted(&id))));
            }
            texts.extend(position.map(|_| text));
        }
        let mut following = Vec::new();
        for (place, [_, _, _, list]) in fields(conversations, "speaker, speaker, film, list of ids")? {
            let at = |problem: String| Error::Config(format!("{place}: {problem}"));
            let inside = list.strip_prefix('[').and_then(|list| list.strip_suffix(']'));
            let inside = inside.ok_or_else(|| at(format!("{} is no list like ['L1', 'L2']", quoted(&list))))?;
            let position = |id: &str| {
                let id = id.trim().trim_matches('\'');
                let found = position_of.get(id).copied();
                found.ok_or_else(|| at(format!("the id {} is not in {lines}", quoted(id))))
            };
            let positions = inside.split(',').map(position).collect::<Result<Vec<_>>>()?;
            following.extend(positions.windows(2).filter_map(|two| two[0].zip(two[1])));
        }
        if following.is_empty() {
            return Err(Error::Config(format!("{conversations}: nothing follows anything; expected a conversation")));
        }
        Ok(Self { texts, following })
    }
}

/// The fields of all lines that are not empty, with the place of each. What is no UTF-8 is Latin-1, as the corpus is.
fn fields<const N: usize>(name: &Url, expected: &str) -> Result<Vec<(String, [String; N])>> {
    let bytes = Input::open(name)?.read()?;
    let mut found = Vec::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = match std::str::from_utf8(line) {
            Ok(text) => text.to_owned(),
            Err(_) => line.iter().map(|byte| char::from(*byte)).collect(),
        };
        if line.trim().is_empty() {
            continue;
        }
        let place = format!("{name}:{}", number + 1);
        let parts: Vec<String> = line.split(SEPARATOR).map(|part| part.trim().to_owned()).collect();
        let count = parts.len();
        let parts = <[String; N]>::try_from(parts).map_err(|_| {
            Error::Config(format!("{place}: {count} fields between ` {SEPARATOR} `; expected {N}: {expected}"))
        })?;
        found.push((place, parts));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[u8], conversations: &str) -> Result<Dialogs> {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.path().join(name), bytes).unwrap();
            Url::from(folder.path().join(name).display().to_string().as_str())
        };
        Dialogs::read(&write("lines.txt", lines), &write("conversations.txt", conversations.as_bytes()))
    }

    const LINES: &[u8] = b"L3 +++$+++ u0 +++$+++ m0 +++$+++ BIANCA +++$+++ They do not!\n\
        L2 +++$+++ u2 +++$+++ m0 +++$+++ CAMERON +++$+++ caf\xe9\nL1 +++$+++ u0 +++$+++ m0 +++$+++ BIANCA +++$+++ \n\
        L4 +++$+++ u0 +++$+++ m0 +++$+++ BIANCA +++$+++ Why.\n";

    #[test]
    fn what_is_said_follows_what_was_said() {
        let list = "u0 +++$+++ u2 +++$+++ m0 +++$+++ ['L4', 'L3', 'L2', 'L1', 'L4']\n\nu0 +++$+++ u2 +++$+++ m0 +++$+++ ['L4']\n";
        let found = read(LINES, list).unwrap();
        assert_eq!(found.texts, ["They do not!", "café", "Why."]);
        assert_eq!(found.following, [(2, 0), (0, 1)], "and nothing follows what is empty");
    }

    #[test]
    fn what_is_no_dialogue_is_named() {
        let refused = |lines: &[u8], conversations: &str, part: &str| {
            let text = read(lines, conversations).err().unwrap().to_string();
            assert!(text.contains(part), "{text}");
        };
        let talk = |list: &str| format!("u0 +++$+++ u2 +++$+++ m0 +++$+++ {list}");
        refused(b"L1 +++$+++ u0 +++$+++ Why", &talk("['L1']"), "lines.txt:1: 3 fields");
        refused(&[LINES, LINES].concat(), &talk("['L1']"), "lines.txt:5: the id L3 is there twice");
        refused(LINES, &talk("L1"), "conversations.txt:1: L1 is no list");
        refused(LINES, &talk("['L3', 'L9']"), "conversations.txt:1: the id L9 is not in");
        refused(LINES, &talk("['L3']"), "nothing follows anything");
    }
}
