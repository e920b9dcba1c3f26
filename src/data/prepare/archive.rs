//! Tar archives: every regular file in them is a document of text, or JSON lines.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use tar::EntryType;

use super::json::json_lines;
use super::source::{Reading, Sink, by_content, kind_inside, unread};
use crate::shown::quoted;
use crate::storage::Input;
use crate::{Error, Result};

/// Bytes in front of a file: its header, and what extends it, like a long name. The format allows any number, and the library
/// holds them in memory.
const MOST_HEADERS: u64 = 1 << 20;

/// Sends the documents of an archive, in order.
pub(super) fn archive(input: &Input, reader: impl Read, reading: Reading<'_>, sink: &mut dyn Sink) -> Result<()> {
    let allowed = Rc::new(Cell::new(u64::MAX));
    let mut archive = tar::Archive::new(Limited { reader, allowed: allowed.clone() });
    let mut entries = archive.entries().map_err(|error| unread(input, &error))?;
    loop {
        allowed.set(MOST_HEADERS);
        let next = entries.next();
        allowed.set(u64::MAX);
        let Some(entry) = next else { return Ok(()) };
        let mut entry = entry.map_err(|error| unread(input, &error))?;
        let inside = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = format!("{}: {}", input.name, quoted(&inside));
        match (entry.header().entry_type(), kind_inside(&inside)) {
            (EntryType::GNUSparse, _) => {
                return Err(Error::Config(format!(
                    "{name}: is stored sparse, which is not read; pack it again without --sparse"
                )));
            }
            (EntryType::Regular, Some(Some(_))) => json_lines(input, &name, &mut entry, reading.text_field, sink)?,
            (EntryType::Regular, Some(None)) => by_content(input, &name, &mut entry, reading, sink)?,
            (EntryType::Regular, None) => {
                return Err(Error::Config(format!(
                    "{name}: only texts and JSON lines are read inside an archive; unpack it and name the files"
                )));
            }
            _ => {}
        }
        // what is left of it would count as the next one's headers
        io::copy(&mut entry, &mut io::sink()).map_err(|error| unread(input, &error))?;
    }
}

/// A reader that fails beyond so many bytes.
struct Limited<R> {
    reader: R,
    allowed: Rc<Cell<u64>>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.reader.read(buffer)?;
        let left = self.allowed.get().checked_sub(len as u64);
        self.allowed.set(left.ok_or_else(|| io::Error::other("a file's headers have more than 1 MiB"))?);
        Ok(len)
    }
}
