//! How much memory this process may still take: of the machine, of every control group around it, and of its own limits.
//!
//! Slurm's `--mem` and containers are control groups: version 1 (`memory.limit_in_bytes`) or 2 (`memory.max`), nested, and
//! a parent's limit holds for all below it. What others of a group have in use counts; files that the kernel keeps in
//! memory only for as long as nobody wants it (`inactive_file`) do not. Everything is read below a root folder, which tests
//! make up.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use super::memory::amount;
use crate::{Error, Result};

/// Version 1 writes a number near 2^63 where there is no limit.
const NO_LIMIT: f64 = 1e17;

/// Something that ends the memory of this process.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// Whose it is, for messages.
    pub what: String,
    /// Bytes that may still be taken.
    pub free: f64,
    /// Bytes that all may take together.
    pub allowed: f64,
    /// Whether it holds for this process alone, and not for all ranks of the machine together.
    pub is_own: bool,
}

/// All of them; there is at least the machine's.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits(Vec<Limit>);

impl Limits {
    /// The limits of this process.
    ///
    /// # Errors
    /// [`Error::Environment`] if the machine does not say its memory.
    pub fn here() -> Result<Self> {
        Self::under(Path::new("/"))
    }

    /// As the files below a root folder say.
    ///
    /// # Errors
    /// As [`Limits::here`].
    pub fn under(root: &Path) -> Result<Self> {
        let groups = hierarchies(root).into_iter().flat_map(|hierarchy| hierarchy.limits());
        Ok(Self([machine(root)?].into_iter().chain(groups).chain(own(root)).collect()))
    }

    /// Bytes for each of `here` ranks of this machine, of which `together` are in this process.
    pub fn of_rank(&self, here: usize, together: usize) -> f64 {
        let share = |limit: &Limit| limit.free / if limit.is_own { together } else { here } as f64;
        self.0.iter().map(share).fold(f64::INFINITY, f64::min).max(0.0)
    }

    /// The one that leaves the least.
    pub fn tightest(&self) -> Option<&Limit> {
        self.0.iter().min_by(|a, b| a.free.total_cmp(&b.free))
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} free of {} ({})", amount(self.free), amount(self.allowed), self.what)
    }
}

fn machine(root: &Path) -> Result<Limit> {
    let text = read_to_string(root.join("proc/meminfo"))
        .map_err(|error| Error::Environment(format!("/proc/meminfo: {error}; set hessian.memory")))?;
    let bytes = |key| kilobytes(&text, key);
    let free = bytes("MemAvailable:")
        .ok_or_else(|| Error::Environment("/proc/meminfo has no MemAvailable; set hessian.memory".into()))?;
    let allowed = bytes("MemTotal:").unwrap_or(free);
    Ok(Limit { what: "the machine".into(), free, allowed, is_own: false })
}

/// `KEY   123 kB` in bytes.
fn kilobytes(text: &str, key: &str) -> Option<f64> {
    let number =
        text.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    Some(1024.0 * number?)
}

/// `ulimit -v` and `ulimit -d`.
fn own(root: &Path) -> Vec<Limit> {
    let read = |path| read_to_string(root.join(path)).unwrap_or_default();
    let (limits, status) = (read("proc/self/limits"), read("proc/self/status"));
    let kinds = [("Max address space", "VmSize:", "ulimit -v"), ("Max data size", "VmData:", "ulimit -d")];
    let limit = |(name, used, what): (&str, &str, &str)| {
        let soft =
            limits.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<f64>().ok())?;
        let free = (soft - kilobytes(&status, used).unwrap_or(0.0)).max(0.0);
        Some(Limit { what: what.into(), free, allowed: soft, is_own: true })
    };
    kinds.into_iter().filter_map(limit).collect()
}

/// Names of the files of a version: limits, what is in use, and in `memory.stat` what of it can be had back.
struct Version {
    limits: &'static [&'static str],
    used: &'static str,
    reclaimable: &'static str,
}

static ONE: Version =
    Version { limits: &["memory.limit_in_bytes"], used: "memory.usage_in_bytes", reclaimable: "total_inactive_file " };
static TWO: Version =
    Version { limits: &["memory.max", "memory.high"], used: "memory.current", reclaimable: "inactive_file " };

/// A tree of control groups in which this process has a place.
struct Hierarchy {
    version: &'static Version,
    /// Where it is mounted, below the root folder.
    mount: PathBuf,
    /// This process's group below that.
    group: PathBuf,
}

impl Hierarchy {
    /// Limits of this process's group and of all around it.
    fn limits(&self) -> Vec<Limit> {
        let inside = self.group.ancestors().map(|group| (group, self.mount.join(group)));
        inside.filter_map(|(group, folder)| self.limit(group, &folder)).collect()
    }

    fn limit(&self, group: &Path, folder: &Path) -> Option<Limit> {
        let number = |file: &&str| read_to_string(folder.join(file)).ok()?.trim().parse::<f64>().ok();
        let Version { limits, used, reclaimable } = self.version;
        let allowed = limits.iter().filter_map(number).filter(|limit| *limit < NO_LIMIT).reduce(f64::min)?;
        let statistics = read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let cached = statistics.lines().find_map(|line| line.strip_prefix(reclaimable)?.trim().parse::<f64>().ok());
        let used = (number(used).unwrap_or(0.0) - cached.unwrap_or(0.0)).max(0.0);
        let what = format!("control group /{}", group.display());
        Some(Limit { what, free: (allowed - used).max(0.0), allowed, is_own: false })
    }
}

/// Lines of /proc/self/cgroup: `0::/group` of version 2, `4:memory:/group` of version 1.
fn hierarchies(root: &Path) -> Vec<Hierarchy> {
    let text = read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mounts = read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    let place = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
        let (version, is_it): (_, fn(&str, &str) -> bool) = match controllers {
            "" => (&TWO, |kind, _| kind == "cgroup2"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                (&ONE, |kind, options| kind == "cgroup" && options.split(',').any(|option| option == "memory"))
            }
            _ => return None,
        };
        let (top, mount) = mounts.lines().find_map(|line| mounted(line, is_it)).unwrap_or_else(|| usual(root, version));
        let group = Path::new(group);
        // a container sees the group that its tree begins with, or one outside of what it sees
        let inside = group.strip_prefix(&top).ok().filter(|group| !group.starts_with(".."));
        let group = inside.map(Path::to_owned).unwrap_or_default();
        Some(Hierarchy { version, mount: root.join(mount.strip_prefix("/").unwrap_or(&mount)), group })
    };
    text.lines().filter_map(place).collect()
}

/// Top group and place of a line of /proc/self/mountinfo, if its kind and options are those wanted.
fn mounted(line: &str, is_it: fn(&str, &str) -> bool) -> Option<(PathBuf, PathBuf)> {
    let (place, file_system) = line.split_once(" - ")?;
    let mut kind = file_system.split(' ');
    let (kind, options) = (kind.next()?, kind.nth(1).unwrap_or_default());
    let mut place = place.split(' ').skip(3);
    is_it(kind, options).then_some((place.next()?.into(), place.next()?.into()))
}

/// Where trees are mounted, if nothing says so.
fn usual(root: &Path, version: &'static Version) -> (PathBuf, PathBuf) {
    let hybrid = "/sys/fs/cgroup/unified";
    let mount = match std::ptr::eq(version, &ONE) {
        true => "/sys/fs/cgroup/memory",
        false if root.join(&hybrid[1..]).is_dir() => hybrid,
        false => "/sys/fs/cgroup",
    };
    ("/".into(), mount.into())
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
