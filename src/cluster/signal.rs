//! Stop requests: USR1, USR2, TERM, INT and HUP set a flag, and the run stops at its next safe point.
//!
//! Slurm sends USR1 or TERM before a time limit, a user INT, a terminal that closes HUP (unless `nohup` has it ignored). A rank never acts on its own flag: the flags are summed in
//! the step's reduction, and rank 0 broadcasts the decision, so that all ranks save and leave at the same step. A second
//! INT leaves at once with code 130 and saves nothing. The first signal is answered at once, by a line on stderr.

use std::ffi::{CStr, c_char};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering};

use crate::{Error, Result};

/// The first signal received; 0: none.
static RECEIVED: AtomicI32 = AtomicI32::new(0);
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);
/// What the first signal is answered with: a string that lives as long as the program; null: nothing.
static ANSWER: AtomicPtr<c_char> = AtomicPtr::new(null_mut());

const SIGNALS: [(libc::c_int, &str); 5] = [
    (libc::SIGUSR1, "USR1"),
    (libc::SIGUSR2, "USR2"),
    (libc::SIGTERM, "TERM"),
    (libc::SIGINT, "INT"),
    (libc::SIGHUP, "HUP"),
];

/// Only what is safe in a handler: atomics, `write`, and `_exit`.
extern "C" fn on_signal(number: libc::c_int) {
    if number == libc::SIGINT && INTERRUPTS.fetch_add(1, Ordering::SeqCst) > 0 {
        // SAFETY: `_exit` is async-signal-safe and does not return.
        unsafe { libc::_exit(128 + libc::SIGINT) }
    }
    // An earlier signal keeps its place.
    if RECEIVED.compare_exchange(0, number, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
        let answer = ANSWER.load(Ordering::SeqCst);
        if !answer.is_null() {
            // SAFETY: a string that ends in a zero and lives for ever; both calls are async-signal-safe, and `errno`, which they
            // may set, is put back for the code that was interrupted.
            unsafe {
                let errno = *libc::__errno_location();
                libc::write(libc::STDERR_FILENO, answer.cast(), libc::strlen(answer));
                *libc::__errno_location() = errno;
            }
        }
    }
}

/// Installs the handlers; after `cluster::start`, because an MPI library may install its own. `answer`: what the first signal
/// is answered with at once.
///
/// # Errors
/// [`Error::Environment`] if the system refuses.
pub fn install(answer: Option<&'static CStr>) -> Result<()> {
    ANSWER.store(answer.map_or(null_mut(), |text| text.as_ptr().cast_mut()), Ordering::SeqCst);
    SIGNALS.iter().try_for_each(|(number, name)| install_one(*number, name))
}

fn install_one(number: libc::c_int, name: &str) -> Result<()> {
    let handler: extern "C" fn(libc::c_int) = on_signal;
    // SAFETY: an all-zero sigaction is valid (no flags, empty mask); the handler is async-signal-safe and lives as long
    // as the program. SA_RESTART: interrupted system calls of libraries go on.
    let status = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        if number == libc::SIGHUP && libc::sigaction(number, std::ptr::null(), &mut action) == 0 {
            if action.sa_sigaction == libc::SIG_IGN {
                return Ok(()); // `nohup`: the run is to survive its terminal
            }
            action = std::mem::zeroed();
        }
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(number, &action, std::ptr::null_mut())
    };
    if status == 0 {
        return Ok(());
    }
    let cause = std::io::Error::last_os_error();
    Err(Error::Environment(format!("no handler for SIG{name}: {cause}; a stop request would kill the run unsaved")))
}

/// The name of the first stop signal that has arrived ("USR1", "USR2", "TERM", "INT", "HUP").
pub fn requested() -> Option<&'static str> {
    let received = RECEIVED.load(Ordering::SeqCst);
    SIGNALS.iter().find(|(number, _)| *number == received).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use super::*;

    /// The flags are process-wide: each case is a child process that runs `child` below.
    fn child_with(signals: &str) -> Output {
        let test = std::env::current_exe().unwrap();
        let arguments = ["--exact", "cluster::signal::tests::child", "--ignored", "--nocapture"];
        Command::new(test).args(arguments).env("HESSPEC_TEST_SIGNALS", signals).output().unwrap()
    }

    #[test]
    #[ignore = "started by the tests below"]
    fn child() {
        let Ok(signals) = std::env::var("HESSPEC_TEST_SIGNALS") else { return };
        install(Some(c"heard\n")).unwrap();
        assert_eq!(requested(), None);
        for name in signals.split(',') {
            let (number, _) = SIGNALS.iter().find(|(_, known)| *known == name).unwrap();
            // SAFETY: raise has no preconditions.
            unsafe { libc::raise(*number) };
        }
        println!("first: {}", requested().unwrap());
    }

    #[test]
    fn every_signal_is_a_request_and_the_first_one_counts() {
        for (signals, first) in [
            ("USR1", "USR1"),
            ("USR2", "USR2"),
            ("TERM", "TERM"),
            ("INT", "INT"),
            ("HUP", "HUP"),
            ("TERM,USR1,INT", "TERM"),
        ] {
            let output = child_with(signals);
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{signals}: {:?}", output.status);
            assert!(text.contains(&format!("first: {first}\n")), "{signals}: {text}");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(said.matches("heard").count(), 1, "{signals}: {said}");
        }
    }

    #[test]
    fn a_second_interrupt_leaves_at_once() {
        let output = child_with("INT,USR1,INT");
        assert_eq!(output.status.code(), Some(130));
        assert!(!String::from_utf8_lossy(&output.stdout).contains("first:"));
    }
}
