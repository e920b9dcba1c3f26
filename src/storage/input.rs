//! Inputs: files by path or URL, read at any place, or from there to the end.

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::location::Location;
use super::path::local_path;
use super::time::rfc3339;
use crate::file;
use crate::shown::Url;
use crate::{Error, Result};

/// Bytes of an object that a sequential reader asks for at a time; each piece is tried again by itself.
const PIECE: u64 = 8 << 20;

/// One file or object that can be read.
#[derive(Clone)]
pub struct Input {
    /// As it was named.
    pub name: Url,
    place: Place,
    len: u64,
    version: Option<String>,
    /// The first failure to read: libraries in between keep its text at most.
    failure: Arc<Mutex<Option<Error>>>,
}

#[derive(Clone)]
enum Place {
    File(PathBuf),
    Object(Location, String),
}

impl Input {
    /// Opens a path or a URL.
    ///
    /// # Errors
    /// [`Error::Config`] where there is nothing, or no regular file; [`Error::Environment`] for a URL whose feature is not built;
    /// [`Error::Storage`] where the storage does not answer.
    pub fn open(name: impl Into<Url>) -> Result<Self> {
        let name = name.into();
        if let Some(path) = local_path(&name)? {
            return Self::file(name, path);
        }
        let (location, object) = Location::of_object(&name)?;
        Self::object(&location, &object)
    }

    /// An object below a location.
    ///
    /// # Errors
    /// As [`Input::open`].
    pub fn object(location: &Location, relative: &str) -> Result<Self> {
        let name = location.url_of(relative);
        let object =
            location.describe(relative)?.ok_or_else(|| Error::Config(format!("{name}: there is no such object")))?;
        let version = object.e_tag.map_or_else(|| time(object.last_modified.into()), |tag| format!("entity tag {tag}"));
        let (place, len) = (Place::Object(location.clone(), relative.into()), object.size);
        Ok(Self { name, place, len, version: Some(version), failure: Arc::default() })
    }

    fn file(name: Url, path: PathBuf) -> Result<Self> {
        let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        let opened = file::open(&path).and_then(|file| file.metadata());
        let metadata = opened.map_err(|error| {
            Error::Config(format!("{name}: cannot be read: {error} (tried {})", absolute.display()))
        })?;
        if metadata.is_dir() {
            return Err(Error::Config(format!("{name}: is a folder; name the files in it, or a glob in quotes")));
        }
        let (place, version) = (Place::File(path), metadata.modified().ok().map(time));
        Ok(Self { name, place, len: metadata.len(), version, failure: Arc::default() })
    }

    /// What is different once the content has been replaced: an object's entity tag, or when it was written; `None` where
    /// the file system keeps no times.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Its bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The path, where it is a local file.
    pub fn path(&self) -> Option<&std::path::Path> {
        match &self.place {
            Place::File(path) => Some(path),
            Place::Object(..) => None,
        }
    }

    /// Some of its bytes.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn read_at(&self, range: Range<u64>) -> Result<Bytes> {
        let read = match &self.place {
            Place::Object(location, relative) => {
                let read = location.get_ranges(relative, std::slice::from_ref(&range));
                read.map(|mut found| found.pop().unwrap_or_default())
            }
            Place::File(path) => {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                let read = file::open(path).and_then(|mut file| {
                    file.seek(SeekFrom::Start(range.start))?;
                    file.read_exact(&mut bytes)
                });
                read.map(|()| Bytes::from(bytes))
                    .map_err(|error| Error::Storage(format!("{}: cannot be read: {error}", self.name)))
            }
        };
        read.inspect_err(|error| {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
        })
    }

    /// All of its bytes.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn read(&self) -> Result<Bytes> {
        self.read_at(0..self.len)
    }

    /// A reader from a position on. Its errors hold an [`Error`], which [`Input::error`] brings back.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn reader(&self, from: u64) -> Result<Box<dyn Read + Send>> {
        let Place::File(path) = &self.place else {
            return Ok(Box::new(Reader { input: self.clone(), next: from, piece: Bytes::new() }));
        };
        let opened = file::open(path).and_then(|mut file| file.seek(SeekFrom::Start(from)).map(|_| file));
        let file = opened.map_err(|error| Error::Storage(format!("{}: cannot be read: {error}", self.name)))?;
        Ok(Box::new(BufReader::with_capacity(1 << 16, file)))
    }

    /// What is wrong: the storage, where it failed; else the content, as `problem` has it.
    pub fn error(&self, problem: impl std::fmt::Display) -> Error {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        failure.unwrap_or_else(|| Error::Config(format!("{}: {problem}", self.name)))
    }
}

/// To the nanosecond: two writes of a file differ.
fn time(modified: SystemTime) -> String {
    let nanoseconds = modified.duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    format!("written {}.{nanoseconds:09}Z", rfc3339(modified).trim_end_matches('Z'))
}

/// Reads an object from front to back.
struct Reader {
    input: Input,
    next: u64,
    piece: Bytes,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && self.next < self.input.len {
            let end = (self.next + PIECE).min(self.input.len);
            self.piece = self.input.read_at(self.next..end).map_err(io::Error::other)?;
            self.next = end;
        }
        let len = buffer.len().min(self.piece.len());
        buffer[..len].copy_from_slice(&self.piece.split_to(len));
        Ok(len)
    }
}

impl Length for Input {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Input {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        self.reader(start).map_err(|error| ParquetError::External(Box::new(error)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        if start + length as u64 > self.len {
            return Err(ParquetError::EOF(format!("{length} bytes from {start} on, of {}", self.len)));
        }
        self.read_at(start..start + length as u64).map_err(|error| ParquetError::External(Box::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Access;
    use super::*;
    use std::fs::File;

    fn place(name: &str, objects: &[(&str, &[u8])]) -> String {
        let url = format!("memory://{name}/a");
        let location = Location::open(&url, Access::Write).unwrap();
        objects.iter().for_each(|(object, bytes)| location.put(object, bytes.to_vec()).unwrap());
        url
    }

    #[test]
    fn objects_and_files_are_read_at_any_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.txt");
        std::fs::write(&path, b"0123456789").unwrap();
        let url = place("input-read", &[("x.txt", b"0123456789")]);
        for name in [path.display().to_string(), format!("file://{}", path.display()), format!("{url}/x.txt")] {
            let input = Input::open(&name).unwrap();
            assert_eq!((input.len(), input.read_at(2..5).unwrap().as_ref()), (10, b"234".as_slice()));
            let mut rest = Vec::new();
            input.reader(7).unwrap().read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"789");
        }
        for name in [path.with_extension("none").display().to_string(), format!("{url}/none"), url] {
            assert_eq!(Input::open(&name).err().unwrap().exit_code(), 2, "{name}");
        }
    }

    #[test]
    fn what_was_written_again_has_another_version() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.txt");
        std::fs::write(&path, b"one").unwrap();
        let url = place("input-version", &[("x.txt", b"one")]);
        let versions = || {
            let names = [path.display().to_string(), format!("{url}/x.txt")];
            names.map(|name| Input::open(&name).unwrap().version().unwrap().to_string())
        };
        let before = versions();
        assert_eq!(versions(), before);
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::write(&path, b"two").unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(modified + std::time::Duration::from_nanos(1000))
            .unwrap();
        place("input-version", &[("x.txt", b"two")]);
        let after = versions();
        assert!(before[0] != after[0] && before[1] != after[1], "{before:?} {after:?}");
    }
}
