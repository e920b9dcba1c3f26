//! A URL as an object store with blocking calls, paths relative to the URL.
//!
//! object_store is asynchronous; a current-thread runtime inside makes each call blocking. It must not be called from
//! within another tokio runtime.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload, WriteMultipart,
};
use tokio::runtime::Runtime;

use super::path::local_path;
use super::{answer, cloud};
use crate::shown::Url;
use crate::{Error, Result};

/// Larger objects go to a cloud in parts of this size, each of which is tried again by itself.
const PART_BYTES: usize = 16 << 20;
/// Parts under way at a time: so many are held in memory.
const PARTS_AT_ONCE: usize = 4;
/// Over a network, an operation is repeated so often, in addition to object_store's own repetition of requests, which
/// leaves out answers that break off and what it takes for unrepeatable ...
const ATTEMPTS: u32 = 5;
/// ... unless the storage has been gone for so long by then,
const REPEAT_WITHIN: Duration = Duration::from_secs(60);
/// with pauses of this times the number of the attempt.
const PAUSE: Duration = Duration::from_millis(200);

/// An object store and the prefix of the output in it.
#[derive(Clone)]
pub struct Location {
    /// As the user wrote it.
    pub url: Url,
    store: Arc<dyn ObjectStore>,
    prefix: String,
    /// The folder, where the store is the file system.
    folder: Option<PathBuf>,
    /// Whether requests go over a network.
    is_remote: bool,
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
    ///
    /// # Errors
    /// [`Error::Config`] for what is no such thing, or carries credentials; [`Error::Environment`] for a URL whose feature is
    /// not built; [`Error::Storage`].
    pub fn open(url: impl Into<Url>, access: Access) -> Result<Self> {
        let url = url.into();
        if let Some(problem) = url.refused() {
            return Err(Error::Config(format!("`{url}`: {problem}")));
        }
        let folder = local_path(&url)?;
        let (store, prefix) = match (&folder, url.exposed().split_once("://")) {
            (Some(folder), _) => (local(&url, folder, access)?, String::new()),
            (None, Some(("memory", path))) => memory(path),
            (None, Some((scheme, _))) if access == Access::Write && cloud::is_web(scheme) => {
                return Err(Error::Config(format!(
                    "`{url}`: files are read from web servers, never written to them; expected a path or an object store"
                )));
            }
            (None, Some((scheme, path))) => (cloud::open(&url, scheme)?, object_prefix(path)),
            (None, None) => return Err(Error::Config(format!("`{url}` is neither a path nor a URL"))),
        };
        Self::of(url, store, prefix, folder)
    }

    /// The place of one object that is read only, and its name there. A URL with a query, which may be a signature of that
    /// request, is a place by itself, with an object without a name.
    ///
    /// # Errors
    /// As [`Location::open`].
    pub fn of_object(url: &Url) -> Result<(Self, String)> {
        if let Some(problem) = url.refused_as_input() {
            return Err(Error::Config(format!("`{url}`: {problem}")));
        }
        if !url.has_query() {
            let (parent, object) = url.split();
            return Ok((Self::open(parent, Access::Read)?, object.into()));
        }
        let store = cloud::open(url, &url.scheme().unwrap_or_default())?;
        Ok((Self::of(url.clone(), store, String::new(), None)?, String::new()))
    }

    fn of(url: Url, store: Arc<dyn ObjectStore>, prefix: String, folder: Option<PathBuf>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::Environment(format!("no runtime for storage: {error}")))?;
        let is_remote = folder.is_none() && url.scheme().is_some_and(|scheme| scheme != "memory");
        Ok(Self { url, store, prefix, folder, is_remote, runtime: Arc::new(runtime) })
    }

    /// The URL of an object here.
    pub fn url_of(&self, relative: &str) -> Url {
        match relative {
            "" => self.url.clone(),
            _ => format!("{}/{relative}", self.url.exposed().trim_end_matches('/')).into(),
        }
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

    /// The message of an operation that failed in the storage.
    pub(crate) fn failed_in_storage(
        &self,
        action: &str,
        relative: &str,
        source: &(dyn std::error::Error + 'static),
    ) -> Error {
        self.failed(action, relative, self.described(source))
    }

    /// A server's answer may have secrets in it; a file system's error names the file.
    fn described(&self, source: &(dyn std::error::Error + 'static)) -> String {
        if self.is_remote { answer::described(source) } else { source.to_string() }
    }

    /// The message of a failed operation: what, where, why, and what to do.
    pub fn failed(&self, action: &str, relative: &str, source: impl std::fmt::Display) -> Error {
        Error::Storage(format!(
            "cannot {action} `{relative}` under `{}`: {source}. Check that the place exists, is writable and has room{}; finished groups are kept, so run again afterwards",
            self.url,
            if self.is_remote { ", and the credentials in the environment" } else { "" }
        ))
    }

    /// Runs a storage operation to its end that may as well happen twice; over a network, repeats it after failures that
    /// can pass.
    pub(crate) fn repeated<T, E: std::error::Error + 'static, F: Future<Output = std::result::Result<T, E>>>(
        &self,
        can_pass: impl Fn(&E) -> bool,
        operation: impl Fn() -> F,
    ) -> std::result::Result<T, E> {
        let begin = Instant::now();
        for attempt in 1..ATTEMPTS {
            match self.wait(operation()) {
                Err(error) if self.is_remote && can_pass(&error) && begin.elapsed() < REPEAT_WITHIN => {
                    tracing::debug!(error = self.described(&error), attempt, "storage: trying again");
                    std::thread::sleep(PAUSE * attempt);
                }
                result => return result,
            }
        }
        self.wait(operation())
    }

    /// Writes an object, replacing one that is there.
    pub fn put(&self, relative: &str, bytes: impl Into<Bytes>) -> Result<()> {
        let (path, bytes) = (self.path(relative), bytes.into());
        let written = self.repeated(can_pass, || async {
            if self.is_remote && bytes.len() > PART_BYTES {
                return self.put_in_parts(&path, &bytes).await;
            }
            self.store.put(&path, PutPayload::from_bytes(bytes.clone())).await.map(drop)
        });
        written.map_err(|error| self.failed_in_storage("write", relative, &error))
    }

    async fn put_in_parts(&self, path: &Path, bytes: &Bytes) -> object_store::Result<()> {
        let mut writer = WriteMultipart::new_with_chunk_size(self.store.put_multipart(path).await?, PART_BYTES);
        for start in (0..bytes.len()).step_by(PART_BYTES) {
            if let Err(error) = writer.wait_for_capacity(PARTS_AT_ONCE).await {
                let _ = writer.abort().await; // parts of an upload that is never completed cost money
                return Err(error);
            }
            writer.put(bytes.slice(start..bytes.len().min(start + PART_BYTES)));
        }
        writer.finish().await.map(drop)
    }

    /// Writes an object unless there is one; false when there is.
    ///
    /// An answer that was lost on the way does not tell whether the object was made. Over a network the object is then
    /// read: one with exactly these bytes is ours.
    pub fn create(&self, relative: &str, bytes: impl Into<Bytes>) -> Result<bool> {
        let (path, bytes) = (self.path(relative), bytes.into());
        let created = self.repeated(can_pass, || async {
            let payload = PutPayload::from_bytes(bytes.clone());
            let error = match self.store.put_opts(&path, payload, PutMode::Create.into()).await {
                Ok(_) => return Ok(true),
                Err(object_store::Error::AlreadyExists { .. }) if !self.is_remote => return Ok(false),
                Err(error) if !self.is_remote => return Err(error),
                Err(error) => error,
            };
            match self.read(&path).await? {
                Some(found) => Ok(found == bytes),
                None => Err(error),
            }
        });
        created.map_err(|error| self.failed_in_storage("create", relative, &error))
    }

    /// Reads an object; None when there is none.
    pub fn get(&self, relative: &str) -> Result<Option<Bytes>> {
        let path = self.path(relative);
        self.check_regular(relative)?;
        self.repeated(can_pass, || self.read(&path)).map_err(|error| self.failed_in_storage("read", relative, &error))
    }

    /// A folder, or a pipe, that stands where a file of ours should be is neither read nor waited for.
    fn check_regular(&self, relative: &str) -> Result<()> {
        let file = self.folder.as_ref().and_then(|folder| std::fs::metadata(folder.join(relative)).ok());
        match file.is_none_or(|file| file.is_file()) {
            true => Ok(()),
            false => Err(self.failed("read", relative, "it is no file; move it elsewhere")),
        }
    }

    async fn read(&self, path: &Path) -> object_store::Result<Option<Bytes>> {
        match self.store.get(path).await {
            Ok(object) => object.bytes().await.map(Some),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Bytes of an object; None when there is none.
    pub fn size(&self, relative: &str) -> Result<Option<u64>> {
        Ok(self.describe(relative)?.map(|object| object.size))
    }

    /// Size, time and entity tag of an object; None when there is none.
    pub fn describe(&self, relative: &str) -> Result<Option<ObjectMeta>> {
        let path = self.path(relative);
        let is_signed = self.url.has_query();
        let look = || async {
            match is_signed {
                // a signature is good for one kind of request
                true => self.store.get_opts(&path, first_byte()).await.map(|found| found.meta),
                false => self.store.head(&path).await,
            }
        };
        match self.repeated(can_pass, look) {
            Ok(object) => Ok(Some(object)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.unreadable(relative, &error)),
        }
    }

    /// Ranges of an object's bytes; near ones are asked for together.
    pub fn get_ranges(&self, relative: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let path = self.path(relative);
        let read = self.repeated(can_pass, || async {
            let found = self.store.get_ranges(&path, ranges).await?;
            let short = found.iter().zip(ranges).find(|(bytes, range)| bytes.len() as u64 != range.end - range.start);
            match short {
                None => Ok(found),
                Some((bytes, range)) => Err(object_store::Error::Generic {
                    store: "answer",
                    source: format!("{}{} for the bytes {range:?}", answer::SHORT, bytes.len()).into(),
                }),
            }
        });
        read.map_err(|error| self.unreadable(relative, &error))
    }

    /// The message of an object that cannot be read as an input.
    fn unreadable(&self, relative: &str, source: &object_store::Error) -> Error {
        let (name, why) = (self.url_of(relative), self.described(source));
        if matches!(source, object_store::Error::NotFound { .. }) {
            return Error::Config(format!("{name}: there is no such object"));
        }
        Error::Storage(format!(
            "{name}: cannot be read: {why}. Check the endpoint and the credentials in the environment, or that the URL has not \
             expired; what was finished is kept, so run again afterwards"
        ))
    }

    /// When an object was written, by the storage's clock.
    pub fn modified(&self, relative: &str) -> Result<SystemTime> {
        let path = self.path(relative);
        let found = self.repeated(can_pass, || self.store.head(&path));
        found
            .map(|object| object.last_modified.into())
            .map_err(|error| self.failed_in_storage("look at", relative, &error))
    }

    /// Deletes an object; one that is not there is fine.
    pub fn delete(&self, relative: &str) -> Result<()> {
        let path = self.path(relative);
        match self.repeated(can_pass, || self.store.delete(&path)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed_in_storage("delete", relative, &error)),
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
                std::fs::remove_file(file.path()).map_err(|error| self.failed_in_storage("delete", folder, &error))?;
            }
        }
        Ok(())
    }

    /// Relative paths and sizes of the objects below a folder, by name.
    pub fn list(&self, folder: &str) -> Result<BTreeMap<String, u64>> {
        let path = self.path(folder);
        let objects: Vec<_> = self
            .repeated(can_pass, || self.store.list(Some(&path)).try_collect::<Vec<_>>())
            .map_err(|error| self.failed_in_storage("list", folder, &error))?;
        let root = if self.prefix.is_empty() { 0 } else { self.prefix.len() + 1 };
        Ok(objects.into_iter().map(|object| (object.location.as_ref()[root..].to_string(), object.size)).collect())
    }
}

/// Whether another attempt may succeed: not where the server has understood and refused.
fn can_pass(error: &object_store::Error) -> bool {
    use object_store::Error::{Generic, JoinError};
    matches!(error, Generic { .. } | JoinError { .. }) && !answer::is_refusal(error)
}

fn first_byte() -> GetOptions {
    GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() }
}

/// Normal form of a prefix: no slash at either end.
fn object_prefix(path: &str) -> String {
    path.split_once('/').map_or(String::new(), |(_, prefix)| Path::from(prefix).to_string())
}

fn local(url: &Url, folder: &std::path::Path, access: Access) -> Result<Arc<dyn ObjectStore>> {
    if access == Access::Read && !folder.is_dir() {
        return Err(Error::Config(format!("no results at `{url}`: no such folder. Expected the output.url of a run")));
    }
    let opened = std::fs::create_dir_all(folder)
        .map_err(|error| error.to_string())
        .and_then(|()| LocalFileSystem::new_with_prefix(folder).map_err(|error| error.to_string()));
    // fsync: a group's manifest must not outlive its parts when the machine loses power; cleanup: folders are no objects, and
    // go with their last one
    let store = opened.map(|store| store.with_fsync(access == Access::Write).with_automatic_cleanup(true));
    let store = store.map_err(|error| {
        Error::Storage(format!("cannot open the output `{url}`: {error}. Expected a folder that exists or can be made"))
    })?;
    Ok(Arc::new(store))
}

/// `memory://name/prefix`: stores live as long as the process and are found again by name.
fn memory(path: &str) -> (Arc<dyn ObjectStore>, String) {
    static STORES: OnceLock<Mutex<BTreeMap<String, Arc<InMemory>>>> = OnceLock::new();
    let name = path.split('/').next().unwrap_or_default().to_string();
    let mut stores = STORES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    (stores.entry(name).or_default().clone(), object_prefix(path))
}

#[cfg(test)]
mod tests {
    use super::*;

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
