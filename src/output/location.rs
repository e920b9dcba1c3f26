//! An output URL as an object store with blocking calls, paths relative to the URL.
//!
//! object_store is asynchronous; a current-thread runtime inside makes each call blocking. It must not be called from
//! within another tokio runtime.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::runtime::Runtime;

use crate::{Error, Result};

/// An object store and the prefix of the output in it.
#[derive(Clone)]
pub struct Location {
    /// As the user wrote it, for messages.
    pub url: String,
    store: Arc<dyn ObjectStore>,
    prefix: String,
    /// The folder, where the store is the file system.
    folder: Option<PathBuf>,
    runtime: Arc<Runtime>,
}

/// Whether a missing local folder is made or is an error.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

impl Location {
    /// Opens a plain path, `file://`, `memory://`, or a cloud URL where its feature is built.
    pub fn open(url: &str, access: Access) -> Result<Self> {
        let folder = match url.split_once("://") {
            None => Some(PathBuf::from(url)),
            Some(("file", path)) => Some(file_path(url, path)?),
            Some(_) => None,
        };
        let (store, prefix) = match (&folder, url.split_once("://")) {
            (Some(folder), _) => (local(url, folder, access)?, String::new()),
            (None, Some(("memory", path))) => memory(path),
            (None, Some((scheme, path))) => (cloud(url, scheme)?, object_prefix(path)),
            (None, None) => return Err(Error::Config(format!("`{url}` is neither a path nor a URL"))),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::Environment(format!("no runtime for storage: {error}")))?;
        Ok(Self { url: url.to_string(), store, prefix, folder, runtime: Arc::new(runtime) })
    }

    /// Runs an asynchronous storage operation to its end.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// The store, for writers and readers of Parquet.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        self.store.clone()
    }

    /// A relative path as the store's path.
    pub fn path(&self, relative: &str) -> Path {
        Path::from(format!("{}/{relative}", self.prefix))
    }

    /// The message of a failed operation: what, where, why, and what to do.
    pub fn failed(&self, action: &str, relative: &str, source: impl std::fmt::Display) -> Error {
        Error::Storage(format!(
            "cannot {action} `{relative}` under `{}`: {source}. Check that the place exists, is writable and has room; finished groups are kept, so run again afterwards",
            self.url
        ))
    }

    /// Writes an object, replacing one that is there.
    pub fn put(&self, relative: &str, bytes: impl Into<Bytes>) -> Result<()> {
        let payload = PutPayload::from_bytes(bytes.into());
        let written = self.wait(self.store.put(&self.path(relative), payload));
        written.map(|_| ()).map_err(|error| self.failed("write", relative, error))
    }

    /// Writes an object unless there is one; false when there is.
    pub fn create(&self, relative: &str, bytes: impl Into<Bytes>) -> Result<bool> {
        let payload = PutPayload::from_bytes(bytes.into());
        match self.wait(self.store.put_opts(&self.path(relative), payload, PutMode::Create.into())) {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.failed("create", relative, error)),
        }
    }

    /// Reads an object; None when there is none.
    pub fn get(&self, relative: &str) -> Result<Option<Bytes>> {
        let path = self.path(relative);
        match self.wait(async { self.store.get(&path).await?.bytes().await }) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", relative, error)),
        }
    }

    /// Deletes an object; one that is not there is fine.
    pub fn delete(&self, relative: &str) -> Result<()> {
        match self.wait(self.store.delete(&self.path(relative))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("delete", relative, error)),
        }
    }

    /// Deletes the half-written files that a killed writer leaves anywhere below a local folder: object_store stages an
    /// object as `name#1` and hides such names from its listings, but readers of whole folders do not. Objects whose
    /// name is in `kept` may be in the making by another process.
    pub fn delete_staged(&self, folder: &str, kept: &[&str]) -> Result<()> {
        let Some(root) = &self.folder else { return Ok(()) };
        let Ok(files) = std::fs::read_dir(root.join(folder)) else { return Ok(()) }; // no folder yet
        for file in files.filter_map(std::result::Result::ok) {
            let name = file.file_name();
            let Some(name) = name.to_str() else { continue };
            if file.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.delete_staged(&format!("{folder}/{name}"), kept)?;
                continue;
            }
            let Some((object, number)) = name.rsplit_once('#') else { continue };
            if number.bytes().all(|c| c.is_ascii_digit()) && !kept.contains(&object) {
                std::fs::remove_file(file.path()).map_err(|error| self.failed("delete", folder, error))?;
            }
        }
        Ok(())
    }

    /// Relative paths and sizes of the objects below a folder, by name.
    pub fn list(&self, folder: &str) -> Result<BTreeMap<String, u64>> {
        let objects: Vec<_> = self
            .wait(self.store.list(Some(&self.path(folder))).try_collect())
            .map_err(|error| self.failed("list", folder, error))?;
        let root = if self.prefix.is_empty() { 0 } else { self.prefix.len() + 1 };
        Ok(objects.into_iter().map(|object| (object.location.as_ref()[root..].to_string(), object.size)).collect())
    }
}

/// Normal form of a prefix: no slash at either end.
fn object_prefix(path: &str) -> String {
    path.split_once('/').map_or(String::new(), |(_, prefix)| Path::from(prefix).to_string())
}

fn local(url: &str, folder: &std::path::Path, access: Access) -> Result<Arc<dyn ObjectStore>> {
    if access == Access::Read && !folder.is_dir() {
        return Err(Error::Config(format!("no results at `{url}`: no such folder. Expected the output.url of a run")));
    }
    let opened = std::fs::create_dir_all(folder)
        .map_err(|error| error.to_string())
        .and_then(|()| LocalFileSystem::new_with_prefix(folder).map_err(|error| error.to_string()));
    // fsync: a group's manifest must not outlive its parts when the machine loses power
    let store = opened.map(|store| store.with_fsync(access == Access::Write)).map_err(|error| {
        Error::Storage(format!("cannot open the output `{url}`: {error}. Expected a folder that exists or can be made"))
    })?;
    Ok(Arc::new(store))
}

/// The path of `file://[localhost]/absolute/path`, percent-decoded.
fn file_path(url: &str, rest: &str) -> Result<PathBuf> {
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    let decoded = path.starts_with('/').then(|| percent_decoded(path)).flatten();
    decoded.map(PathBuf::from).ok_or_else(|| {
        Error::Config(format!(
            "`{url}` is no file URL: expected file:///absolute/path, or a plain path for a relative one"
        ))
    })
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

/// `memory://name/prefix`: stores live as long as the process and are found again by name.
fn memory(path: &str) -> (Arc<dyn ObjectStore>, String) {
    static STORES: OnceLock<Mutex<BTreeMap<String, Arc<InMemory>>>> = OnceLock::new();
    let name = path.split('/').next().unwrap_or_default().to_string();
    let mut stores = STORES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    (stores.entry(name).or_default().clone(), object_prefix(path))
}

fn cloud(url: &str, scheme: &str) -> Result<Arc<dyn ObjectStore>> {
    let feature = match scheme {
        "s3" | "s3a" => "s3",
        "gs" => "gs",
        "az" | "abfs" | "abfss" => "az",
        _ => {
            return Err(Error::Config(format!(
                "`{url}`: unknown scheme `{scheme}`. Expected a plain path, file://, memory://, s3://, gs:// or az://"
            )));
        }
    };
    match feature {
        #[cfg(feature = "s3")]
        "s3" => built(url, object_store::aws::AmazonS3Builder::from_env().with_url(url).build()),
        #[cfg(feature = "gs")]
        "gs" => built(url, object_store::gcp::GoogleCloudStorageBuilder::from_env().with_url(url).build()),
        #[cfg(feature = "az")]
        "az" => built(url, object_store::azure::MicrosoftAzureBuilder::from_env().with_url(url).build()),
        _ => Err(Error::Environment(format!(
            "`{url}`: this program was built without {scheme}:// storage. Build it with `cargo build --features {feature}`, or write to a plain path"
        ))),
    }
}

#[cfg(any(feature = "s3", feature = "gs", feature = "az"))]
fn built(url: &str, store: object_store::Result<impl ObjectStore>) -> Result<Arc<dyn ObjectStore>> {
    match store {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => Err(Error::Storage(format!("cannot open the output `{url}`: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_urls_are_absolute_and_decoded() {
        assert_eq!(file_path("u", "/a%20b/c").unwrap(), PathBuf::from("/a b/c"));
        assert_eq!(file_path("u", "localhost/x").unwrap(), PathBuf::from("/x"));
        assert_eq!(file_path("file://relative", "relative").unwrap_err().exit_code(), 2);
        assert_eq!(file_path("u", "/a%2").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_cloud_url_without_its_feature_names_the_feature() {
        for (url, feature) in [("s3://b/k", "s3"), ("gs://b/k", "gs"), ("az://c/k", "az")] {
            if cfg!(not(any(feature = "s3", feature = "gs", feature = "az"))) {
                let error = Location::open(url, Access::Write).err().unwrap();
                assert_eq!(error.exit_code(), 3);
                assert!(error.to_string().contains(&format!("--features {feature}")), "{error}");
            }
        }
        assert_eq!(Location::open("ftp://b", Access::Write).err().unwrap().exit_code(), 2);
    }

    #[test]
    fn listing_is_relative_under_a_prefix() {
        let location = Location::open("memory://listing/some/prefix", Access::Write).unwrap();
        location.put("a/b.txt", "hello").unwrap();
        assert_eq!(location.list("a").unwrap(), BTreeMap::from([("a/b.txt".to_string(), 5)]));
        assert!(!location.create("a/b.txt", "other").unwrap());
        assert_eq!(location.get("a/b.txt").unwrap().unwrap().as_ref(), b"hello");
        assert!(location.get("a/c.txt").unwrap().is_none());
    }
}
