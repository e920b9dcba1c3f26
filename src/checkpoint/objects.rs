//! Where checkpoints lie.

use crate::Result;

/// Objects by path, as a folder or an object store has them.
pub trait Objects {
    /// Where they are, for messages.
    fn place(&self) -> String;

    /// Paths of all objects below a folder, sorted.
    ///
    /// # Errors
    /// [`Error::Storage`](crate::Error::Storage) where the storage does not answer; so all the others.
    fn list(&self, folder: &str) -> Result<Vec<String>>;

    /// An object; `None` if it is not there.
    fn get(&self, path: &str) -> Result<Option<Vec<u8>>>;

    /// Writes an object, whole or not at all.
    fn put(&self, path: &str, bytes: Vec<u8>) -> Result<()>;

    /// Removes an object; none is removed already.
    fn delete(&self, path: &str) -> Result<()>;
}

#[cfg(feature = "program")]
impl Objects for crate::storage::Location {
    fn place(&self) -> String {
        self.url.to_string()
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        Ok(Self::list(self, folder)?.into_keys().collect())
    }

    fn get(&self, path: &str) -> Result<Option<Vec<u8>>> {
        Ok(Self::get(self, path)?.map(Vec::from))
    }

    fn put(&self, path: &str, bytes: Vec<u8>) -> Result<()> {
        Self::put(self, path, bytes)
    }

    fn delete(&self, path: &str) -> Result<()> {
        Self::delete(self, path)
    }
}
