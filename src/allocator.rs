//! mimalloc as the global allocator, told never to give memory back to the system.
//!
//! A pass allocates and frees the same large tensors over and over; what is given back has to be faulted in again page by
//! page (about 10 % of a Hessian-vector product). mimalloc reads its options before the first allocation, hence before
//! `main`: on Linux, from a start-up function that runs ahead of mimalloc's own (priority 101). Elsewhere set
//! `MIMALLOC_PURGE_DELAY=-1` in the environment. A value that is already there is kept.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array.00100")]
static KEEP_MEMORY: extern "C" fn() = keep_memory;

#[cfg(target_os = "linux")]
extern "C" fn keep_memory() {
    // SAFETY: both strings end in NUL, and before `main` there is no other thread that could read the environment.
    unsafe { libc::setenv(c"MIMALLOC_PURGE_DELAY".as_ptr(), c"-1".as_ptr(), 0) };
}
