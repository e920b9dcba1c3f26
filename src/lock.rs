//! One job at a time on a run's output: `_runs/<run>/LOCK`, taken by rank 0 with a conditional put, refreshed by a thread
//! while the job lives, removed at every orderly end (done, failed, interrupted).
//!
//! What a killed job leaves behind is taken over where it is certain that the job is gone: its process on this machine
//! does not exist any more, or it was an earlier start of this Slurm job (a requeue). In all other cases the second job
//! is refused and told who holds the lock, since when it has not been refreshed, and how to remove it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::cluster::host_name;
use crate::output::{Access, Location, lock_path, rfc3339};
use crate::shown::{Url, quoted};
use crate::{Error, Result};

/// Between two refreshes.
const REFRESH: Duration = Duration::from_secs(30);
/// A lock of another machine that is older is called stale: 20 refreshes have not come.
const STALE_SECONDS: u64 = 600;
/// How long a process of this machine that still holds the lock may take to leave, as after a kill of its launcher.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at the lock.
const PAUSE: Duration = Duration::from_millis(100);

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    /// No two locks have the same.
    id: String,
    user: String,
    host: String,
    /// Where the process number means something: this boot, these process numbers.
    machine: String,
    pid: u32,
    /// Start of the process in clock ticks since boot: a number that is used again has another one.
    process_start: Option<u64>,
    slurm_job: Option<String>,
    /// How often Slurm had started the job before.
    slurm_restarts: u64,
    /// When the lock was taken (RFC 3339, UTC).
    started: String,
    /// When its owner last said that it lives, in seconds since 1970.
    refreshed: u64,
}

/// A lock that is held; dropping it removes it.
pub struct Lock {
    location: Location,
    path: String,
    owner: Owner,
    lost: Arc<AtomicBool>,
    /// Dropped to end the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lock {
    /// Takes the lock of a run under an output URL; `log` hears of a lock that is taken over.
    ///
    /// # Errors
    /// [`Error::Storage`] while another job holds it, or if the storage fails.
    pub fn acquire(url: impl Into<Url>, run: &str, log: &dyn Fn(&str)) -> Result<Self> {
        let location = Location::open(url, Access::Write)?;
        let path = lock_path(run);
        let owner = Owner::this_process();
        let begin = Instant::now();
        while !location.create(&path, owner.json()?)? {
            let Some(held) = read(&location, &path)? else {
                // its owner has just left
                if begin.elapsed() > PATIENCE {
                    return Err(location.failed("create", &path, "it is neither made nor there to be read"));
                }
                sleep(PAUSE);
                continue;
            };
            match judge(&held, &owner, is_alive, now()) {
                State::Gone(why) if take_over(&location, &path, &held, &owner)? => {
                    log(&format!("took over the lock of {}: {why}", held.describe()));
                    break;
                }
                State::Held | State::Gone(_) if begin.elapsed() > PATIENCE => {
                    return Err(refused(&location, &path, &held, "it holds the lock"));
                }
                State::Elsewhere(what) => return Err(refused(&location, &path, &held, &what)),
                State::Held | State::Gone(_) => sleep(PAUSE),
            }
        }
        Self::keep(location, path, owner)
    }

    fn keep(location: Location, path: String, owner: Owner) -> Result<Self> {
        let lost = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = channel();
        let theirs = (location.clone(), path.clone(), owner.clone(), lost.clone());
        let thread = std::thread::Builder::new()
            .name("lock".into())
            .spawn(move || refresh_until(&stopped, REFRESH, &theirs.0, &theirs.1, theirs.2, &theirs.3))
            .map_err(|error| Error::Environment(format!("no thread to refresh the lock `{path}`: {error}")))?;
        Ok(Self { location, path, owner, lost, stop: Some(stop), thread: Some(thread) })
    }

    /// Fails once the lock is no longer this job's.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn check(&self) -> Result<()> {
        if !self.lost.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(Error::Storage(format!(
            "the lock `{}` under `{}` was removed or taken by another job; this one stops before their results mix",
            self.path, self.location.url
        )))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic there has ended the program
        }
        let removed = match read(&self.location, &self.path) {
            Ok(Some(held)) if held.id == self.owner.id => self.location.delete(&self.path),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, "the lock is left behind; the next job on this machine takes it over");
        }
    }
}

/// What can be known about the holder of a lock.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// It does not exist any more.
    Gone(String),
    /// A living process of this machine.
    Held,
    /// Out of sight: what its age says.
    Elsewhere(String),
}

fn judge(held: &Owner, me: &Owner, is_alive: impl Fn(&Owner) -> bool, now: u64) -> State {
    if held.slurm_job.is_some() && held.slurm_job == me.slurm_job && held.slurm_restarts < me.slurm_restarts {
        return State::Gone("an earlier start of this Slurm job".into());
    }
    if held.machine == me.machine {
        return if is_alive(held) { State::Held } else { State::Gone("this process does not exist any more".into()) };
    }
    let age = now.saturating_sub(held.refreshed);
    State::Elsewhere(if age > STALE_SECONDS {
        format!("it has not refreshed the lock for {} minutes, so that the lock is probably stale", age / 60)
    } else {
        format!("it refreshed the lock {age} s ago")
    })
}

fn refused(location: &Location, path: &str, held: &Owner, what: &str) -> Error {
    let lock = location.url_of(path);
    let how = if lock.scheme().is_some() { "delete the object" } else { "rm" };
    Error::Storage(format!(
        "another job is at work on this run: {}; {what}. Wait for its end or choose another run.name. \
         Only if you are sure that it is gone: {how} {lock}",
        held.describe()
    ))
}

/// Replaces a lock whose owner is gone. Of several jobs that find it, the one that creates the marker named after its
/// id does it; whoever comes later sees that the lock has another owner.
fn take_over(location: &Location, path: &str, held: &Owner, me: &Owner) -> Result<bool> {
    let marker = format!("{path}.taken-from-{}", held.id);
    if !location.create(&marker, me.json()?)? {
        // left by a job that died in between, or at work in another one this very moment
        let taker = read(location, &marker)?;
        if taker.is_some_and(|taker| matches!(judge(&taker, me, is_alive, now()), State::Gone(_))) {
            location.delete(&marker)?;
        }
        return Ok(false);
    }
    let is_same = read(location, path)?.is_some_and(|current| current.id == held.id);
    if is_same {
        location.put(path, me.json()?)?;
    }
    location.delete(&marker)?;
    Ok(is_same)
}

fn read(location: &Location, path: &str) -> Result<Option<Owner>> {
    let Some(bytes) = location.get(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Error::Storage(format!(
            "`{path}` under `{}` is no lock of this program ({error}). If no job is at work on this run, delete it",
            location.url
        ))
    })
}

/// The thread's work: says every `period` that the owner lives, until it is told to stop or the lock is not its own.
fn refresh_until(
    stopped: &Receiver<()>,
    period: Duration,
    location: &Location,
    path: &str,
    mut owner: Owner,
    lost: &AtomicBool,
) {
    while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
        owner.refreshed = now();
        let written = match read(location, path) {
            Ok(Some(held)) if held.id == owner.id => owner.json().and_then(|text| location.put(path, text)),
            Ok(_) => return lost.store(true, Ordering::Relaxed),
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "the lock could not be refreshed"); // the run's own next write will tell
        }
    }
}

impl Owner {
    fn this_process() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let (host, pid) = (host_name(), std::process::id());
        let variable = |name| std::env::var(name).ok();
        let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos());
        Self {
            id: format!("{pid}-{nanoseconds}-{}", COUNT.fetch_add(1, Ordering::Relaxed)),
            user: variable("USER").or_else(|| variable("LOGNAME")).unwrap_or_else(user_number),
            machine: machine(&host),
            host,
            pid,
            process_start: process_start(pid),
            slurm_job: variable("SLURM_JOB_ID"),
            slurm_restarts: variable("SLURM_RESTART_COUNT").and_then(|count| count.parse().ok()).unwrap_or(0),
            started: rfc3339(SystemTime::now()),
            refreshed: now(),
        }
    }

    fn json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|error| Error::Other(format!("cannot write JSON: {error}")))
    }

    /// The lock is a file that anybody may have written.
    fn describe(&self) -> String {
        let job = self.slurm_job.as_ref().map(|job| format!(", Slurm job {}", quoted(job))).unwrap_or_default();
        let [user, host, started] = [&self.user, &self.host, &self.started].map(|text| quoted(text));
        format!("process {} of {user} on {host}{job}, since {started}", self.pid)
    }
}

fn user_number() -> String {
    // SAFETY: no preconditions, cannot fail.
    format!("user {}", unsafe { libc::getuid() })
}

/// Host, boot and process numbering. Where the system does not tell the last two, no other process is ever in sight.
fn machine(host: &str) -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let numbering = std::fs::read_link("/proc/self/ns/pid").ok();
    match (boot, numbering) {
        (Some(boot), Some(numbering)) => format!("{host} {} {}", boot.trim(), numbering.display()),
        _ => format!("{host}, process {}", std::process::id()),
    }
}

fn is_alive(owner: &Owner) -> bool {
    process_start(owner.pid).is_some_and(|start| owner.process_start == Some(start))
}

/// Field 22 of /proc/<pid>/stat; `None` for a process that is not there or has only to be waited for (zombie).
fn process_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_start(&stat)
}

/// Fields are counted from 1; the second, the name in parentheses, may hold anything.
fn parse_start(stat: &str) -> Option<u64> {
    let mut rest = stat.rsplit_once(')')?.1.split_whitespace();
    let state = rest.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    rest.nth(18)?.parse().ok()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
