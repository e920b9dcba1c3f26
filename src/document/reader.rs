//! From located nodes to plain serde structs, with errors a reader of the file can act on.
//!
//! toml's own deserialiser loses the place of a value as soon as `--set` changes the tree, and says `usize`
//! where a person expects "a whole number". This one is small because a configuration needs little of serde.

use serde::de::{
    self, DeserializeSeed, EnumAccess, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected, VariantAccess,
    Visitor,
};

use super::tree::{Entry, Node, Origin, Value, shortened};
use crate::Error;

/// Reads `T` from a document.
///
/// # Errors
/// [`Error::Config`] with the place of what is wrong.
pub fn read<T: de::DeserializeOwned>(root: &Node) -> crate::Result<T> {
    T::deserialize(root).map_err(|fault| fault.into_error(root))
}

/// Reads `T` from the table at a path of keys; errors name keys from the root on.
///
/// # Errors
/// [`Error::Config`] with the place; if there is no such table, with that of the document.
pub fn read_table<T: de::DeserializeOwned>(root: &Node, path: &[&str]) -> crate::Result<T> {
    let mut nodes = Vec::with_capacity(path.len());
    let mut node = root;
    for key in path {
        node = node.find(key).ok_or_else(|| Fault::missing_table(path).into_error(root))?;
        nodes.push((*key, node));
    }
    let outwards = |fault: Fault, (key, node): &(&str, &Node)| fault.within(key, &node.origin, node);
    T::deserialize(node).map_err(|fault| nodes.iter().rev().fold(fault, outwards).into_error(root))
}

/// How the problem of a key that there is not begins.
const UNKNOWN_KEY: &str = "unknown key";

/// What is wrong, and where; path and origin are filled in on the way out.
#[derive(Debug)]
pub struct Fault {
    problem: String,
    path: String,
    place: Option<(Origin, String)>,
}

impl Fault {
    fn new(problem: String) -> Self {
        Self { problem, path: String::new(), place: None }
    }

    fn missing_table(path: &[&str]) -> Self {
        Self::new(format!("the table [{}] is missing", path.join(".")))
    }

    /// Adds the key that leads here; the innermost caller also sets origin and value.
    fn within(mut self, key: &str, origin: &Origin, node: &Node) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{}{dot}{}", shortened(key), self.path);
        self.place.get_or_insert_with(|| (origin.clone(), node.to_string()));
        self
    }

    fn into_error(self, root: &Node) -> Error {
        Error::Config(match self.place {
            // a key that there is not may be one for a secret
            Some((origin, value)) if self.problem.starts_with(UNKNOWN_KEY) && value.starts_with(['"', '[']) => {
                let origin =
                    if origin.starts_with("--set ") { origin.split('=').next().unwrap_or_default() } else { &origin };
                format!("{origin}: {}: {}", self.path, self.problem)
            }
            Some((origin, value)) => format!("{origin}: {} = {value}: {}", self.path, self.problem),
            None => format!("{}: {}", root.origin, self.problem),
        })
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {}", in_words(&expected.to_string())))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {}", in_words(&expected.to_string())))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("not an allowed value{}", suggestion(variant, expected)))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("{UNKNOWN_KEY}{}", suggestion(field, expected)))
    }

    fn missing_field(field: &'static str) -> Self {
        match field {
            "model" => {
                Self::new("the table [model.*] is missing; add [model.gpt2], for example with preset = \"nano\"".into())
            }
            "data" => Self::new("the table [data.*] is missing; add [data.tokens] with path = \"train.bin\"".into()),
            _ => Self::new(format!("the key `{field}` is missing")),
        }
    }
}

/// serde's name of a type as a person would say it.
fn in_words(expected: &str) -> String {
    match expected {
        "usize" | "u64" | "u32" => "a whole number, 0 or larger".into(),
        "i64" | "i32" => "a whole number".into(),
        "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a string" => "a text in quotes".into(),
        "a sequence" => "a list, in [ and ]".into(),
        other if other.starts_with("struct ") => "a table".into(),
        other => other.into(),
    }
}

/// `; did you mean "x"? Allowed: ...`
fn suggestion(found: &str, allowed: &[&str]) -> String {
    let nearest = nearest(found, allowed).map_or(String::new(), |name| format!("; did you mean `{name}`?"));
    let joint = if nearest.is_empty() { ";" } else { "" };
    format!("{nearest}{joint} allowed: {}", allowed.join(", "))
}

/// Longer than any name: comparing it would only take long.
const LONG: usize = 100;

/// The allowed name within a third of its length in edits, if any.
pub fn nearest<'a>(found: &str, allowed: &[&'a str]) -> Option<&'a str> {
    if found.len() > LONG {
        return None;
    }
    let found = found.to_lowercase();
    let (distance, name) =
        allowed.iter().map(|name| (edits(&found, name), *name)).min_by_key(|(distance, _)| *distance)?;
    (distance <= (name.chars().count() / 3).max(1)).then_some(name)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

impl<'de> de::Deserializer<'de> for &'de Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::String(value) => visitor.visit_borrowed_str(value),
            Value::Datetime(_) => Err(de::Error::invalid_type(Unexpected::Other("date"), &visitor)),
            Value::Array(items) => visitor.visit_seq(Items { items, index: 0 }),
            Value::Table(entries) => visitor.visit_map(Entries { entries, index: 0 }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    /// By name only: a list would be read by position.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Array(_) => Err(Fault::new("expected a table".into())),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.value {
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::Table(entries) => match entries.as_slice() {
                [entry] => visitor.visit_enum(Tagged { entry }),
                _ => Err(Fault::new(format!("expected exactly one of {}", variants.join(", ")))),
            },
            _ => Err(Fault::new(format!("expected one of {}", variants.join(", ")))),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

struct Items<'de> {
    items: &'de [Node],
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(item) = self.items.get(self.index) else { return Ok(None) };
        let key = format!("[{}]", self.index);
        self.index += 1;
        seed.deserialize(item).map(Some).map_err(|fault| fault.within(&key, &item.origin, item))
    }
}

struct Entries<'de> {
    entries: &'de [Entry],
    index: usize,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some(Entry { key, key_origin, node }) = self.entries.get(self.index) else { return Ok(None) };
        let key_reader: de::value::StrDeserializer<'_, Fault> = key.as_str().into_deserializer();
        seed.deserialize(key_reader).map(Some).map_err(|fault| fault.within(key, key_origin, node))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let entry = &self.entries[self.index];
        self.index += 1;
        seed.deserialize(&entry.node).map_err(|fault| fault.within(&entry.key, &entry.node.origin, &entry.node))
    }
}

/// `{ relative = 0.003 }`, or `[model.gpt2]`: the one key is the variant.
struct Tagged<'de> {
    entry: &'de Entry,
}

impl<'de> EnumAccess<'de> for Tagged<'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let Entry { key, key_origin, node } = self.entry;
        let key_reader: de::value::StrDeserializer<'_, Fault> = key.as_str().into_deserializer();
        let variant = seed.deserialize(key_reader).map_err(|fault| fault.within(key, key_origin, node))?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Tagged<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Err(Fault::new(format!("expected the text \"{}\", not a table", self.entry.key)))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        let Entry { key, node, .. } = self.entry;
        seed.deserialize(node).map_err(|fault| fault.within(key, &node.origin, node))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        Err(de::Error::invalid_type(Unexpected::TupleVariant, &visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        de::Deserializer::deserialize_any(&self.entry.node, visitor)
    }
}
