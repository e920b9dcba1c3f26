//! JSON lines: a document a line, in one field of an object. A line is held in memory, of the other fields nothing is.

use std::fmt;
use std::io::{BufRead, BufReader, Read};

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::source::{BYTE_ORDER_MARK, PIECE, Sink, unread};
use crate::shown::quoted;
use crate::storage::Input;
use crate::{Error, Result};

/// The longest line: a few hundred bytes of a compressed file can stand for any number.
const MOST_LINE: usize = if cfg!(test) { 1 << 20 } else { 256 << 20 };
/// Names of fields that a message has at most.
const MOST_NAMED: usize = 10;

/// Sends every line's document, in order.
pub(super) fn json_lines(
    input: &Input,
    name: &str,
    reader: impl Read,
    text_field: &str,
    sink: &mut dyn Sink,
) -> Result<()> {
    let mut reader = BufReader::with_capacity(PIECE, reader);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let place = format!("{name}:{number}");
        let at = |problem: String| Error::Config(format!("{place}: {problem}"));
        let read = reader.by_ref().take(MOST_LINE as u64 + 1).read_until(b'\n', &mut line);
        if read.map_err(|error| unread(input, &error))? == 0 {
            break;
        }
        if line.len() > MOST_LINE {
            sink.bad(at(format!(
                "the line has more than {} MiB, too many for a document\nHINT: are these JSON lines? Cut long documents into several",
                MOST_LINE >> 20
            )))?;
            let passed = pass_line(&mut reader);
            passed.map_err(|error| unread(input, &error))?;
            continue;
        }
        let bytes = if number == 1 { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line) } else { &line };
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        match parsed(bytes, text_field) {
            Ok(Found::Text(text)) => sink.document(&place, &text)?,
            Ok(Found::Other(what)) => sink.bad(at(format!("the field `{text_field}` is {what}; expected a text")))?,
            Ok(Found::Missing(names)) => {
                sink.bad(at(format!("there is no field `{text_field}`; {}", fields(&names))))?
            }
            Ok(Found::NoObject) => sink.bad(at(format!("there is no field `{text_field}`; the line is no object")))?,
            Err(error) => sink.bad(at(format!("not JSON: {}", quoted(&error.to_string()))))?,
        }
    }
    Ok(())
}

/// Reads up to the end of a line, and keeps nothing.
fn pass_line(reader: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let (len, is_end) = (end.map_or(buffer.len(), |at| at + 1), end.is_some() || buffer.is_empty());
        reader.consume(len);
        if is_end {
            return Ok(());
        }
    }
}

fn fields(names: &[String]) -> String {
    format!("there are {}", quoted(&names.join(", ")))
}

/// What a line has for the field.
enum Found {
    Text(String),
    Other(String),
    /// The first names that are there.
    Missing(Vec<String>),
    NoObject,
}

fn parsed(line: &[u8], text_field: &str) -> serde_json::Result<Found> {
    let mut reader = serde_json::Deserializer::from_slice(line);
    let found = Line(text_field).deserialize(&mut reader)?;
    reader.end().map(|()| found)
}

/// Reads a line for the field of this name.
struct Line<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Line<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> std::result::Result<Found, D::Error> {
        reader.deserialize_any(Values { field: Some(self.0) })
    }
}

/// Reads a value: a line's, with the field that is looked for in it, or the field's own.
struct Values<'a> {
    field: Option<&'a str>,
}

impl Values<'_> {
    fn other(&self, value: impl fmt::Display) -> Found {
        if self.field.is_some() { Found::NoObject } else { Found::Other(quoted(&value.to_string())) }
    }
}

impl<'de> DeserializeSeed<'de> for Values<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> std::result::Result<Found, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Values<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Found, E> {
        Ok(if self.field.is_some() { Found::NoObject } else { Found::Text(text.into()) })
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Found, E> {
        Ok(self.other(value))
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Found, E> {
        Ok(self.other(value))
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Found, E> {
        Ok(self.other(value))
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Found, E> {
        Ok(self.other(value))
    }

    fn visit_unit<E>(self) -> std::result::Result<Found, E> {
        Ok(self.other("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Found, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self.other("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Found, A::Error> {
        let Some(field) = self.field else {
            while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Found::Other("an object".into()));
        };
        let (mut found, mut names) = (None, Vec::new());
        while let Some(name) = entries.next_key::<String>()? {
            if name == field {
                found = Some(entries.next_value_seed(Values { field: None })?);
            } else {
                entries.next_value::<IgnoredAny>().map_err(A::Error::custom)?;
                names.extend((names.len() < MOST_NAMED).then_some(name));
            }
        }
        Ok(found.unwrap_or(Found::Missing(names)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_among_others_of_any_kind() {
        let found = |line: &str| match parsed(line.as_bytes(), "text") {
            Ok(Found::Text(text)) => text,
            Ok(Found::Other(what)) => format!("other {what}"),
            Ok(Found::Missing(names)) => format!("missing {}", names.join(" ")),
            Ok(Found::NoObject) => "no object".into(),
            Err(_) => "not JSON".into(),
        };
        for (line, expected) in [
            (r#"{"a": [1, {"text": 2}], "text": "x\u00e9\n", "b": null}"#, "x\u{e9}\n"),
            (r#"{"text": "old", "text": "new"}"#, "new"),
            (r#"{"text": 3.5}"#, "other 3.5"),
            (r#"{"text": null}"#, "other null"),
            (r#"{"text": {"text": "x"}}"#, "other an object"),
            (r#"{"text": ["x"]}"#, "other a list"),
            (r#"{"b": 1, "c": 2}"#, "missing b c"),
            ("[1]", "no object"),
            (r#""text""#, "no object"),
            (r#"{"text": "x"} y"#, "not JSON"),
            (r#"{"text": "x""#, "not JSON"),
        ] {
            assert_eq!(found(line), expected, "{line}");
        }
    }
}
