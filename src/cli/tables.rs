//! `hesspec tables`: what the tables of a run hold.

use clap::Args;

use super::common::{print, print_json};
use crate::document::nearest;
use crate::output::{ColumnDescription, TABLES, TableDescription, descriptions};
use crate::{Error, Result};

#[derive(Debug, Args)]
pub struct Arguments {
    /// One of them; default: all.
    table: Option<String>,
}

/// Prints them.
pub fn main(arguments: &Arguments, json: bool) -> Result<()> {
    let mut tables = descriptions();
    if let Some(name) = &arguments.table {
        tables.retain(|table| table.table == name);
        if tables.is_empty() {
            let hint = nearest(name, TABLES).map_or(String::new(), |name| format!("; did you mean `{name}`?"));
            let known = TABLES.join(", ");
            return Err(Error::Config(format!("no table is called {name:?}{hint}\nHINT: there are {known}")));
        }
    }
    if json {
        return print_json(&tables);
    }
    print(&tables.iter().map(described).collect::<Vec<_>>().join("\n\n"))
}

/// Width of a line.
const WIDTH: usize = 110;

fn described(table: &TableDescription) -> String {
    let names = table.columns.iter().map(|column| column.column.len()).max().unwrap_or(0);
    let kinds = table.columns.iter().map(|column| kind(column).len()).max().unwrap_or(0);
    let (indent, mut lines) = (names + kinds + 6, vec![format!("{}\n  {}", table.table, wrapped(&table.row, 2))]);
    for column in &table.columns {
        let (name, kind) = (&column.column, kind(column));
        lines.push(format!("  {name:<names$}  {kind:<kinds$}  {}", wrapped(&column.meaning, indent)));
    }
    lines.join("\n")
}

/// A column's type, with a question mark where it may be null.
fn kind(column: &ColumnDescription) -> String {
    format!("{}{}", column.r#type, if column.nullable { "?" } else { "" })
}

/// A text in lines, the later ones behind so many spaces.
fn wrapped(text: &str, indent: usize) -> String {
    let (mut lines, room) = (vec![String::new()], WIDTH.saturating_sub(indent).max(30));
    for word in text.split_whitespace() {
        let fits = lines.last().is_some_and(|line| line.is_empty() || line.len() + 1 + word.len() <= room);
        if !fits {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join(&format!("\n{}", " ".repeat(indent)))
}
