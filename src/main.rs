//! The program `hesspec`: a table of contents. Commands are in `hesspec::cli`, exit codes in `hesspec::error`.

#[cfg(feature = "mimalloc")]
mod allocator;

use std::io::Write;
use std::process::{ExitCode, exit};

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_panic));
    match hesspec::cli::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error}"));
            // exit codes are 1 to 75
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
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
