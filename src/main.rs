//! The program `hesspec`: the networks of this project, and the allocator. Commands are in `hesspec::cli`, exit codes in
//! `hesspec::error`.

use std::process::ExitCode;

fn main() -> ExitCode {
    hesspec::program("hesspec").main()
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
