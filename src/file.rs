//! Files as inputs: what they are by their first bytes, and local ones: regular ones only. A named pipe without a writer would be
//! waited for for ever, a device never ends.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Opens a file to read it; folders open as well, and fail when they are read.
///
/// # Errors
/// Those of the system; [`ErrorKind::InvalidInput`] for a named pipe, a socket or a device.
pub fn open(path: &Path) -> Result<File> {
    // without O_NONBLOCK the call itself waits for a pipe's writer; reading a regular file is not changed by it
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() || kind.is_dir() {
        return Ok(file);
    }
    let what = match () {
        () if kind.is_fifo() => "a named pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    let problem = format!("it is {what}; expected a regular file, so write what it gives into one and name that");
    Err(Error::new(ErrorKind::InvalidInput, problem))
}

/// All of a file.
///
/// # Errors
/// As [`open`].
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// All of a file of text.
///
/// # Errors
/// As [`open`]; [`ErrorKind::InvalidData`] for what is not UTF-8.
pub fn read_to_string(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?).map_err(|error| Error::new(ErrorKind::InvalidData, error.utf8_error()))
}

/// Bytes that must be text before something is called text.
const FEWEST_OF_TEXT: usize = 32;

/// What kind of file begins with these bytes, as a sentence, for files that are neither tokens nor weights that this program reads.
/// `None` for what it does not know, numbers among it.
pub fn kind(header: &[u8]) -> Option<&'static str> {
    const KINDS: [(&[u8], &str); 21] = [
        (b"\x1f\x8b", "it is compressed with gzip"),
        (b"\x28\xb5\x2f\xfd", "it is compressed with zstd"),
        (b"\xfd7zXZ\x00", "it is compressed with xz"),
        (b"BZh", "it is compressed with bzip2"),
        (b"PK\x03\x04", "it is a zip archive (NumPy's .npz, or a file of torch.save)"),
        (b"PAR1", "it is a Parquet file"),
        (b"ARROW1", "it is an Arrow file"),
        (b"\x89HDF", "it is an HDF5 file (Keras, TensorFlow)"),
        (b"\x93NUMPY", "it is a NumPy file"),
        (b"GGUF", "it is a GGUF model (llama.cpp)"),
        (b"\x80\x02", "it is a Python pickle"),
        (b"\x80\x03", "it is a Python pickle"),
        (b"\x80\x04\x95", "it is a Python pickle"),
        (b"\x80\x05\x95", "it is a Python pickle"),
        (b"SQLite format 3", "it is an SQLite database"),
        (b"MMIDIDX", "it is the index of a Megatron data set, whose tokens are in the .bin beside it"),
        (b"\xff\xfe", "it begins like text in UTF-16"),
        (b"\xfe\xff", "it begins like text in UTF-16"),
        (b"\xc6\xd7\x34\x01", "it is a model of llm.c"), // magic 20240326
        (b"\x82\xa8metadata", "it is a record of burn"),
        (b"version https://git-lfs", "it is a pointer of Git LFS, whose file was not fetched (git lfs pull)"),
    ];
    let kind = KINDS.iter().find(|(magic, _)| header.starts_with(magic)).map(|(_, what)| *what);
    kind.or_else(|| {
        let text = text_of(header)?.trim_start();
        let begins = |with: &str| text.get(..with.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(with));
        Some(match () {
            () if begins("<!doctype") || begins("<html") => "it is a web page, no download",
            () if text.starts_with(['{', '[']) => "it is JSON",
            () => "it is text",
        })
    })
}

/// The beginning of a file as UTF-8, without the character that its end may cut; `None` if it is anything else.
pub fn utf8_of(header: &[u8]) -> Option<&str> {
    match std::str::from_utf8(header) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&header[..error.valid_up_to()]).ok(),
        Err(_) => None,
    }
}

/// The bytes as text, if they are nothing but text.
fn text_of(header: &[u8]) -> Option<&str> {
    let text = utf8_of(header)?;
    let is_text = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    (text.len() >= FEWEST_OF_TEXT && text.chars().all(is_text)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_and_devices_are_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
        // SAFETY: the name ends in a zero
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        assert!(read(&pipe).unwrap_err().to_string().contains("a named pipe"));
        assert!(read(Path::new("/dev/zero")).unwrap_err().to_string().contains("a device"));
        std::fs::write(folder.path().join("x"), "text").unwrap();
        assert_eq!(read_to_string(&folder.path().join("x")).unwrap(), "text");
    }
}
