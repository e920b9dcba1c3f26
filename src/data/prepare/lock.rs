//! One preparation at a time in a folder: an advisory lock of the operating system on a file in it, which goes with its
//! process however that ends. The room `lock` guards runs, on any storage; tokens are prepared into local folders only.

use std::fs::{File, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

const FILE_NAME: &str = "prepare.lock";

/// Held until it is dropped, which also removes the file.
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock of a folder that is there.
    ///
    /// # Errors
    /// [`Error::Storage`] while another process holds it, or where the folder cannot be written.
    pub fn acquire(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE_NAME);
        let failed = |error: std::io::Error| Error::Storage(format!("{}: cannot be locked: {error}", path.display()));
        loop {
            // a pipe of that name would be waited for
            let mut how = File::options();
            how.write(true).create(true).truncate(true).custom_flags(libc::O_NONBLOCK);
            let file = how.open(&path).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Storage(format!(
                        "{}: another process is preparing tokens into this folder\nHINT: wait for its end, or choose another --output",
                        folder.display()
                    )));
                }
                Err(TryLockError::Error(error)) => {
                    let path = path.display();
                    tracing::warn!("{path}: this file system has no locks ({error}); start no second preparation here");
                }
            }
            // whoever held it before may have removed the file between our two calls
            if is_at(&file, &path) {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path); // one that is left behind is locked by nobody
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let (ours, there) = (file.metadata().map(place), std::fs::metadata(path).map(place));
    ours.ok().zip(there.ok()).is_some_and(|(ours, there)| ours == there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_holder_at_a_time_and_keeps_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_NAME), "left by a kill").unwrap();
        let held = Lock::acquire(folder.path()).unwrap();
        let refused = Lock::acquire(folder.path()).err().unwrap();
        assert!(refused.exit_code() == 5 && refused.to_string().contains("another process"), "{refused}");
        drop(held);
        assert!(!folder.path().join(FILE_NAME).exists());
        assert!(Lock::acquire(folder.path()).is_ok());
        assert_eq!(Lock::acquire(&folder.path().join("none")).err().unwrap().exit_code(), 5);
    }
}
