//! The output's storage: write, read, create-once, list, delete, speed, and its idea of the time.

use std::time::{Duration, Instant, SystemTime};

use super::Finding;
use crate::output::{Access, Location};
use crate::shown::Url;
use crate::{Error, Result};

/// Size of the object that measures the speed: more than one part of a multipart upload.
const BYTES: usize = 20 << 20;
/// S3 refuses requests that are off by more than 15 minutes.
const CLOCKS_DIFFER: Duration = Duration::from_secs(300);

/// Tries what a run does at this URL, in objects of its own that it deletes again.
pub fn storage(url: impl Into<Url>) -> Vec<Finding> {
    let opened = Location::open(url, Access::Write);
    let location = match opened {
        Ok(location) => location,
        Err(error) => return vec![Finding::of("storage", &error)],
    };
    let name = format!("_runs/doctor-{}-{}", crate::cluster::host_name(), std::process::id());
    let checks: [(&str, Check); 4] = [
        ("storage: write, read, list, delete", round_trip),
        ("storage: an object is created once", created_once),
        ("storage: speed", speed),
        ("storage: clock", clock),
    ];
    let finding =
        |(what, check): (&str, Check)| check(&location, what, &name).unwrap_or_else(|e| Finding::of(what, &e));
    let findings = checks.map(finding).into();
    let _ = location.delete(&name); // after a failure; what cannot be deleted has been said
    findings
}

type Check = fn(&Location, &str, &str) -> Result<Finding>;

fn expect(holds: bool, location: &Location, name: &str, what: &str) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::Storage(format!("`{name}` under `{}`: {what}. This storage cannot hold a run", location.url)))
}

fn round_trip(location: &Location, what: &str, name: &str) -> Result<Finding> {
    let begin = Instant::now();
    location.put(name, "one")?;
    location.put(name, "two")?;
    expect(
        location.get(name)?.is_some_and(|bytes| bytes == "two"),
        location,
        name,
        "an overwritten object reads as before",
    )?;
    expect(location.list("_runs")?.get(name) == Some(&3), location, name, "a written object is not listed")?;
    location.delete(name)?;
    expect(location.get(name)?.is_none(), location, name, "a deleted object is still there")?;
    Ok(Finding::ok(what, format!("`{}`, six requests in {:.0} ms", location.url, 1e3 * begin.elapsed().as_secs_f64())))
}

fn created_once(location: &Location, what: &str, name: &str) -> Result<Finding> {
    expect(location.create(name, "first")?, location, name, "an object cannot be created")?;
    expect(!location.create(name, "second")?, location, name, "two processes can create the same object")?;
    expect(location.get(name)?.is_some_and(|bytes| bytes == "first"), location, name, "creating replaced an object")?;
    location.delete(name)?;
    Ok(Finding::ok(what, "the second attempt is refused"))
}

fn speed(location: &Location, what: &str, name: &str) -> Result<Finding> {
    let bytes: Vec<u8> = (0..BYTES as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
    let begin = Instant::now();
    location.put(name, bytes.clone())?;
    let write = begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    let found = location.get(name)?;
    let read = begin.elapsed().as_secs_f64();
    expect(found.is_some_and(|found| found == bytes), location, name, "a large object does not come back as written")?;
    location.delete(name)?;
    let rate = |seconds: f64| BYTES as f64 / 1e6 / seconds.max(1e-9);
    Ok(Finding::ok(what, format!("{:.0} MB/s written, {:.0} MB/s read (one object of 21 MB)", rate(write), rate(read))))
}

fn clock(location: &Location, what: &str, name: &str) -> Result<Finding> {
    location.put(name, "now")?;
    let (there, here) = (location.modified(name)?, SystemTime::now());
    location.delete(name)?;
    let apart = here.duration_since(there).unwrap_or_else(|error| error.duration());
    let found = format!("{:.1} s apart from this machine's", apart.as_secs_f64());
    if apart <= CLOCKS_DIFFER {
        return Ok(Finding::ok(what, found));
    }
    Ok(Finding::warn(what, found, "set this machine's clock: object stores refuse requests from another time"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_folder_and_memory_pass_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        for url in [folder.path().to_str().unwrap(), "memory://doctor/x"] {
            let findings = storage(url);
            assert_eq!(findings.len(), 4);
            for finding in findings {
                assert_eq!(finding.verdict, Verdict::Ok, "{url}: {finding:?}");
            }
            assert!(Location::open(url, Access::Write).unwrap().list("_runs").unwrap().is_empty());
        }
    }

    #[test]
    fn a_place_that_cannot_be_written_fails() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let url = folder.path().join("file/below");
        assert_eq!(storage(url.to_str().unwrap())[0].verdict, Verdict::Fail);
    }
}
