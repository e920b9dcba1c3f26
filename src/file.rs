//! Local files as inputs: regular ones only. A named pipe without a writer would be waited for for ever, a device never ends.

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
