//! This build and this machine: features, threads, memory, clock, disk.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Finding;
use crate::output::rfc3339;
use crate::plan::limits::Limits;
use crate::shown::Url;
use crate::storage::local_path;

/// 2024-01-01 in seconds: no machine that runs this is older.
const EARLIEST: Duration = Duration::from_secs(1_704_067_200);
/// Free bytes below which a disk is worth a look.
const LITTLE_DISK: u64 = 10 << 30;
/// Free bytes of memory below which a run is hardly possible.
const LITTLE_MEMORY: f64 = 1e9;

/// Version and features of this program.
pub fn build() -> Finding {
    let features = [
        ("flex", cfg!(feature = "flex")),
        ("ndarray", cfg!(feature = "ndarray")),
        ("cuda", cfg!(feature = "cuda")),
        ("wgpu", cfg!(feature = "wgpu")),
        ("mpi", cfg!(feature = "mpi")),
        ("nccl", cfg!(feature = "nccl")),
        ("s3", cfg!(feature = "s3")),
        ("gs", cfg!(feature = "gs")),
        ("az", cfg!(feature = "az")),
        ("mimalloc", cfg!(feature = "mimalloc")),
    ];
    let named = |built: bool| {
        let names: Vec<&str> = features.iter().filter(|(_, is)| *is == built).map(|(name, _)| *name).collect();
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
    };
    let found = format!("hesspec {} with {}; without {}", env!("CARGO_PKG_VERSION"), named(true), named(false));
    Finding::ok("build", found)
}

/// Threads, memory and clock.
pub fn machine() -> Vec<Finding> {
    vec![threads(), memory_limits(), clock()]
}

fn threads() -> Finding {
    let (used, allowed) = (rayon::current_num_threads(), std::thread::available_parallelism().map_or(1, usize::from));
    let found = format!("{used} threads in use; this process may run on {allowed} processors (affinity and container)");
    if used <= allowed {
        return Finding::ok("threads", found);
    }
    Finding::warn("threads", found, format!("more threads than processors slow each other down: run.threads={allowed}"))
}

fn memory_limits() -> Finding {
    let what = "memory";
    let limits = match Limits::here() {
        Ok(limits) => limits,
        Err(error) => return Finding::of(what, &error),
    };
    let found = limits.tightest().map_or(String::new(), ToString::to_string);
    if limits.of_rank(1, 1) >= LITTLE_MEMORY {
        return Finding::ok(what, found);
    }
    Finding::warn(what, found, "ask for more memory (in Slurm: --mem), raise the limit, or end what else runs here")
}

fn clock() -> Finding {
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if since >= EARLIEST {
        return Finding::ok("clock", format!("{} (UTC)", rfc3339(now)));
    }
    let advice = "set the clock: object stores refuse requests from another time";
    Finding::fail("clock", format!("{} (UTC)", rfc3339(now)), advice)
}

/// Room where a local output goes; `None` for URLs of other kinds.
pub fn disk(url: impl Into<Url>) -> Option<Finding> {
    let path = local_path(&url.into()).ok()??;
    let existing = path.ancestors().find(|folder| folder.exists()).filter(|f| !f.as_os_str().is_empty());
    let folder = existing.unwrap_or(Path::new("."));
    let what = "disk";
    let Some(free) = free_bytes(folder) else {
        return Some(Finding::warn(what, format!("cannot tell the room on `{}`", folder.display()), "look at `df`"));
    };
    let found = format!("{:.1} GB free on `{}`", free as f64 / 1e9, folder.display());
    Some(if free >= LITTLE_DISK {
        Finding::ok(what, found)
    } else {
        Finding::warn(what, found, "compare with what `hesspec plan` says of checkpoints and tables")
    })
}

fn free_bytes(folder: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: the structure is plain data that the call fills in; the path ends in a zero.
    unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &mut found) == 0).then(|| found.f_bavail as u64 * found.f_frsize as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn this_machine_is_fit() {
        for finding in machine() {
            assert_ne!(finding.verdict, Verdict::Fail, "{finding:?}");
        }
        assert!(build().found.contains(env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_measured_where_it_will_be() {
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().join("a/b");
        let finding = disk(url.to_str().unwrap()).unwrap();
        assert!(finding.found.contains(folder.path().to_str().unwrap()), "{finding:?}");
        assert!(disk("s3://bucket/x").is_none());
        assert!(disk("results").unwrap().found.contains("GB"));
    }
}
