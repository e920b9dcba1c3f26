//! Conformance where there are GPUs; elsewhere what can be tried with the library alone. Skips are said aloud.

use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::cluster::{conformance, threads};

#[test]
fn conformance_on_every_gpu() {
    let devices = match library().and_then(|_| num_devices()) {
        Ok(count) if count > 0 => count,
        Ok(_) => return eprintln!("SKIPPED: conformance of NCCL: no CUDA device"),
        Err(error) => return eprintln!("SKIPPED: conformance of NCCL: {error}"),
    };
    let checks = threads::run(devices, |carrier| {
        let nccl = Nccl::start(&carrier, carrier.rank(), Duration::from_secs(60))?;
        conformance(&nccl.into_comm()?)
    });
    assert!(checks.unwrap().iter().all(|count| *count > 100));
}

#[test]
fn without_a_device_every_rank_gets_an_error_and_nobody_panics() {
    if num_devices().is_ok_and(|count| count > 0) {
        return eprintln!("SKIPPED: there is a CUDA device");
    }
    let start =
        |carrier: Comm| Ok(Nccl::start(&carrier, 0, Duration::from_secs(5)).err().map(|error| error.exit_code()));
    assert_eq!(threads::run(3, start).unwrap(), [Some(3); 3]);
}

/// HESSPEC_NCCL_LIB: a libnccl.so.2, as PyPI's nvidia-nccl-cu12 has it. cudarc looks for libnccl.so through the loader,
/// whose path is read when a process starts: so a link in a folder of its own, and a child process.
#[test]
fn version_and_id_of_the_real_library() {
    let Ok(library) = std::env::var("HESSPEC_NCCL_LIB") else {
        return eprintln!("SKIPPED: version and id of NCCL: set HESSPEC_NCCL_LIB to a libnccl.so.2");
    };
    let folder = tempfile::tempdir().unwrap();
    let target = PathBuf::from(library).canonicalize().unwrap();
    std::os::unix::fs::symlink(target, folder.path().join("libnccl.so")).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cluster::nccl::tests::child", "--ignored", "--nocapture"])
        .env("LD_LIBRARY_PATH", folder.path())
        .env("NCCL_SOCKET_IFNAME", "lo")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("NCCL version"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
#[ignore = "started by the test above, with the library on the loader's path"]
fn child() {
    let version = library().unwrap();
    assert!((21_700..40_000).contains(&version), "{version}");
    println!("NCCL version {version}");
    let ids = threads::run(3, |carrier| Ok(carried_id(&carrier)?.internal)).unwrap();
    assert!(ids[0].iter().any(|byte| *byte != 0));
    assert!(ids.iter().all(|id| *id == ids[0]), "one id on all ranks");
    assert_ne!(unique_id().unwrap().map(|byte| byte as std::ffi::c_char), ids[0], "a fresh id");
}
