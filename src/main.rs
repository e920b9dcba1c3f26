//! The program `hesspec`: a table of contents. Commands are in `hesspec::cli`, exit codes in `hesspec::error`.

use std::io::Write;
use std::process::{ExitCode, exit};

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_panic));
    match hesspec::cli::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // a stop that was asked for, with everything saved, is no error
            let kind = if matches!(error, hesspec::Error::Interrupted(_)) { "" } else { "error: " };
            complain(&format!("{kind}{error}"));
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1)) // they are 1 to 75
        }
    }
}

/// A panic is a bug, on whatever thread: it ends the program at once with exit code 1, so that nothing waits for a
/// thread that is gone.
fn report_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic.location().map(|place| format!(" at {}:{}", place.file(), place.line())).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("no message");
    complain(&format!("internal error{place}: {message}\nThis is a bug in hesspec; please report it"));
    exit(1);
}

/// To stderr, where there may be nobody to read it.
fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "hesspec: {message}");
}

/// mimalloc, told never to give memory back: a pass frees and takes the same large tensors over and over, and what was
/// given back is faulted in again page by page (about 10 % of a product). It reads its options before the first
/// allocation, hence before `main`: on Linux a start-up function sets them ahead of mimalloc's own (priority 101).
/// Elsewhere set MIMALLOC_PURGE_DELAY=-1 in the environment. A value that is there already is kept.
#[cfg(feature = "mimalloc")]
mod allocator {
    #[global_allocator]
    static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

    #[cfg(target_os = "linux")]
    #[used]
    #[unsafe(link_section = ".init_array.00100")]
    static KEEP_MEMORY: extern "C" fn() = keep_memory;

    #[cfg(target_os = "linux")]
    extern "C" fn keep_memory() {
        // SAFETY: both strings end in NUL, and before `main` there is no other thread that reads the environment.
        unsafe { libc::setenv(c"MIMALLOC_PURGE_DELAY".as_ptr(), c"-1".as_ptr(), 0) };
    }
}
