//! A program around networks: every command, the exit codes, and what happens if something goes wrong.

use std::io::Write;
use std::process::{ExitCode, exit};

use crate::networks::{Network, Registry};
use crate::shown::scrubbed;
use crate::{Error, cli};

/// A program that has the networks of this project, and more if it is told so.
///
/// ```no_run
/// # use hesspec::networks::Network;
/// # fn with<Mine: Network>() -> std::process::ExitCode {
/// hesspec::program("mine").network::<Mine>().main()
/// # }
/// ```
pub fn program(name: &'static str) -> Program {
    Program { name, networks: Registry::built_in() }
}

/// See [`program`].
#[derive(Debug, Clone)]
pub struct Program {
    name: &'static str,
    networks: Registry,
}

impl Program {
    /// With one more kind of network, `[model.KIND]`.
    pub fn network<N: Network>(mut self) -> Self {
        self.networks = self.networks.with::<N>();
        self
    }

    /// Does what the command line says. A panic anywhere ends the process with exit code 1.
    pub fn main(self) -> ExitCode {
        std::panic::set_hook(Box::new(report_panic));
        match cli::main(self.name, &self.networks) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // a stop that was asked for, with everything saved, is no error
                let kind = if matches!(error, Error::Interrupted(_)) { "" } else { "error: " };
                complain(&format!("{}: {kind}{error}", self.name));
                ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1)) // they are 1 to 75
            }
        }
    }
}

/// A panic is a bug, on whatever thread: it ends the program at once with exit code 1, so that nothing waits for a
/// thread that is gone.
fn report_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic.location().map(|place| format!(" at {}:{}", place.file(), place.line())).unwrap_or_default();
    let message = scrubbed(panic.payload_as_str().unwrap_or("no message"));
    complain(&format!("hesspec: internal error{place}: {message}\nThis is a bug in hesspec; please report it"));
    exit(1);
}

/// To stderr, where there may be nobody to read it.
fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "{message}");
}
