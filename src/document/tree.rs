//! TOML values that know where they come from: a line and column of the file, or a `--set` argument.

use std::fmt;
use std::rc::Rc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::shown::redacted;
use crate::{Error, Result};

/// `configs/nano.toml:12:9`, or `--set lanczos.steps=0`.
pub type Origin = Rc<str>;

/// A value and its origin.
#[derive(Debug, Clone)]
pub struct Node {
    pub value: Value,
    pub origin: Origin,
}

/// A table's entry; the key has its own place in the file.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: String,
    pub key_origin: Origin,
    pub node: Node,
}

#[derive(Debug, Clone)]
pub enum Value {
    Boolean(bool),
    Integer(i64),
    Float(f64),
    String(String),
    Datetime(String),
    Array(Vec<Node>),
    Table(Vec<Entry>),
}

impl Node {
    /// The node at a dotted path of plain keys.
    pub fn find(&self, path: &str) -> Option<&Node> {
        path.split('.').try_fold(self, |node, key| node.entry(key).map(|entry| &entry.node))
    }

    /// The entries, none where this is not a table.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Table(entries) => entries,
            _ => &[],
        }
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }
}

/// Entries of a list, and keys of a table, that a message shows.
const MOST_SHOWN: usize = 16;
/// Characters of a text that a message shows.
const MOST_CHARACTERS: usize = 400;

/// The first of many, and how many more there are.
fn shown(texts: impl ExactSizeIterator<Item = String>) -> String {
    let more = texts.len().saturating_sub(MOST_SHOWN);
    let ending = if more > 0 { format!(", and {more} more") } else { String::new() };
    texts.take(MOST_SHOWN).collect::<Vec<_>>().join(", ") + &ending
}

/// A text cut to what fits into a message.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(MOST_CHARACTERS) {
        None => text.into(),
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()),
    }
}

/// As TOML would write it on one line, tables shortened to their keys, and what is long to its beginning: for error messages. Any
/// text may be a URL in the wrong place, so it is shown without the secrets of one.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Boolean(value) => write!(f, "{value}"),
            Value::Integer(value) => write!(f, "{value}"),
            Value::Float(value) => write!(f, "{value:?}"),
            Value::String(value) => write!(f, "{:?}", shortened(&redacted(value))),
            Value::Datetime(value) => write!(f, "{value}"),
            Value::Array(items) => write!(f, "[{}]", shown(items.iter().map(Node::to_string))),
            Value::Table(entries) => {
                write!(f, "{{{}}}", shown(entries.iter().map(|entry| shortened(&entry.key))))
            }
        }
    }
}

/// A file's text, to say where a byte of it is, for every key of it at next to no cost.
struct Places<'a> {
    source: &'a str,
    text: &'a str,
    /// Where each line starts.
    lines: Vec<usize>,
    /// Characters before each [`STRIDE`]th byte.
    characters: Vec<usize>,
}

/// Bytes between two of the counts in [`Places`].
const STRIDE: usize = 1024;

fn num_characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xC0 != 0x80).count() // all but those that continue one
}

impl<'a> Places<'a> {
    fn new(source: &'a str, text: &'a str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut characters = vec![0];
        for chunk in text.as_bytes().chunks(STRIDE) {
            characters.push(characters[characters.len() - 1] + num_characters(chunk));
        }
        Self { source, text, lines, characters }
    }

    fn characters_before(&self, offset: usize) -> usize {
        let at = offset / STRIDE;
        self.characters[at] + num_characters(&self.text.as_bytes()[at * STRIDE..offset])
    }

    /// Where byte `offset` is, as `source:line:column`, both from 1, columns in characters.
    fn place(&self, offset: usize) -> String {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.lines.partition_point(|start| *start <= offset);
        let column = self.characters_before(offset) - self.characters_before(self.lines[line - 1]) + 1;
        format!("{}:{line}:{column}", self.source)
    }
}

/// Parses a document; its root's origin is the file itself.
pub fn parse(text: &str, source: &str) -> Result<Node> {
    let places = Places::new(source, text);
    let table = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(text.len(), |span| span.start);
        Error::Config(format!("{}: not valid TOML: {}", places.place(offset), error.message()))
    })?;
    let locate = |offset: usize| -> Origin { places.place(offset).into() };
    Ok(Node { value: convert_table(table.get_ref(), &locate)?, origin: source.into() })
}

fn convert_table(table: &DeTable<'_>, locate: &dyn Fn(usize) -> Origin) -> Result<Value> {
    let mut entries = Vec::with_capacity(table.len());
    for (key, value) in table.iter() {
        let node = convert(value, locate)?;
        entries.push((
            key.span().start,
            Entry { key: key.get_ref().to_string(), key_origin: locate(key.span().start), node },
        ));
    }
    entries.sort_by_key(|(offset, _)| *offset); // the file's order, so that the first error is the first in the file
    Ok(Value::Table(entries.into_iter().map(|(_, entry)| entry).collect()))
}

fn convert(value: &Spanned<DeValue<'_>>, locate: &dyn Fn(usize) -> Origin) -> Result<Node> {
    let origin = locate(value.span().start);
    let out_of_range =
        |text: &str| Error::Config(format!("{origin}: the number {text} is out of range (64 bits, signed)"));
    let converted = match value.get_ref() {
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Integer(value) => Value::Integer(
            i64::from_str_radix(value.as_str(), value.radix()).map_err(|_| out_of_range(value.as_str()))?,
        ),
        DeValue::Float(value) => Value::Float(value.as_str().parse().map_err(|_| out_of_range(value.as_str()))?),
        DeValue::String(value) => Value::String(value.to_string()),
        DeValue::Datetime(value) => Value::Datetime(value.to_string()),
        DeValue::Array(items) => Value::Array(items.iter().map(|item| convert(item, locate)).collect::<Result<_>>()?),
        DeValue::Table(table) => convert_table(table, locate)?,
    };
    Ok(Node { value: converted, origin })
}

/// Applies one `--set table.key=value`: the value in TOML syntax, anything else is a bare string.
pub fn set(root: &mut Node, argument: &str) -> Result<()> {
    let shown = match argument.split_once('=') {
        Some((key, value)) => format!("{key}={}", redacted(value)),
        None => redacted(argument),
    };
    let usage = |problem: &str| {
        Error::Config(format!("--set {shown}: {problem}; expected table.key=value, as in --set lanczos.steps=50"))
    };
    let (key, value) = argument.split_once('=').ok_or_else(|| usage("there is no `=`"))?;
    let origin: Origin = format!("--set {shown}").into();
    let locate = |_: usize| -> Origin { origin.clone() };
    let path = key_path(key).ok_or_else(|| usage("the key is not a dotted TOML key"))?;

    let document = format!("value = {value}");
    let node = match DeTable::parse(&document) {
        // `1\nother = 2` would parse as two keys
        Ok(table) if table.get_ref().len() == 1 && !value.trim().is_empty() => match table.get_ref().values().next() {
            Some(parsed) => convert(parsed, &locate)?,
            None => return Err(usage("there is no value")),
        },
        _ => Node { value: Value::String(value.trim().to_string()), origin: origin.clone() },
    };
    insert(root, &path, node, &origin);
    Ok(())
}

/// `a."b.c".d` as its parts; `None` where it is no TOML key.
fn key_path(key: &str) -> Option<Vec<String>> {
    if key.contains('\n') {
        return None;
    }
    let document = format!("{key} = 0");
    let table = DeTable::parse(&document).ok()?;
    let mut path = Vec::new();
    let mut at = table.get_ref();
    loop {
        let (key, value) = at.iter().next()?;
        path.push(key.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(table) => at = table,
            _ => return Some(path),
        }
    }
}

/// A document in whose table at `path` the entries of another table stand in place of those of the same name. Values keep the
/// places where they are written.
pub fn overlaid(root: &Node, path: &[&str], over: &Node) -> Node {
    let mut root = root.clone();
    for Entry { key, key_origin, node } in over.entries() {
        let path: Vec<String> = path.iter().chain([&key.as_str()]).map(|key| (*key).to_owned()).collect();
        insert(&mut root, &path, node.clone(), key_origin);
    }
    root
}

fn insert(root: &mut Node, path: &[String], node: Node, origin: &Origin) {
    let Some((key, rest)) = path.split_first() else { return *root = node };
    if !matches!(root.value, Value::Table(_)) {
        *root = Node { value: Value::Table(Vec::new()), origin: origin.clone() };
    }
    let Value::Table(entries) = &mut root.value else { return };
    let index = entries.iter().position(|entry| entry.key == *key).unwrap_or_else(|| {
        let empty = Node { value: Value::Table(Vec::new()), origin: origin.clone() };
        entries.push(Entry { key: key.clone(), key_origin: origin.clone(), node: empty });
        entries.len() - 1
    });
    if rest.is_empty() {
        entries[index].key_origin = origin.clone();
    }
    insert(&mut entries[index].node, rest, node, origin);
}
