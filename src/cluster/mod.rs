//! The world of ranks: who takes part, how they exchange numbers, how they stop.
//!
//! Owns the launch (`world`), the collectives (`Comm` over a `Transport`: `solo`, `threads`, `mpi`, `nccl`), how a
//! vector is cut into slices (`Shard`), and stop signals (`signal`). Knows nothing of operators, files or models.
//!
//! Rules that every caller keeps, or the job hangs (MPI) or fails at once (threads):
//! - all ranks make the same calls in the same order, with the same lengths and roots;
//! - no rank branches on a floating-point value of its own: reduce to rank 0, which broadcasts the decision;
//! - the thread that starts a `Comm` owns it (MPI, NCCL and CUDA contexts are bound to it): `Comm` is not `Send`;
//! - an error never leaves `main` without [`Comm::abort`], a good end passes [`Comm::finish`].

mod comm;
mod conformance;
mod element;
mod messages;
#[cfg(feature = "mpi")]
pub mod mpi;
#[cfg(feature = "nccl")]
pub mod nccl;
mod shard;
pub mod signal;
pub mod solo;
#[cfg(test)]
mod tests;
pub mod threads;
mod timed;
pub mod world;

use std::time::Duration;

pub use comm::{Comm, PIECE_BYTES, Traffic, Transport};
pub use conformance::conformance;
pub use element::{Element, Pair};
pub use messages::{gathered, told};
pub use shard::Shard;
pub use world::{Flags, Launcher, World};

use crate::Result;

/// The communicator of a discovered world: solo for one rank, MPI for more. To be called once, from the main thread.
///
/// # Errors
/// [`Environment`](crate::Error::Environment) if the build has no MPI, or MPI sees another world than the launcher.
pub fn start(world: &World) -> Result<Comm> {
    if world.size == 1 {
        return Ok(solo::comm());
    }
    #[cfg(feature = "mpi")]
    return mpi::start(world);
    #[cfg(not(feature = "mpi"))]
    Err(crate::Error::Environment(format!(
        "{} started {} ranks, but this hesspec was built without MPI: each rank would do the whole job. \
         Build with `cargo build --release --features mpi`, or start one process",
        world.launcher, world.size
    )))
}

/// Waits until the ranks before this one have had time to say what is wrong and to end the job, which takes a launcher a second:
/// what all ranks find out at the same time is then said once. Rank 0 does not wait, and no rank more than three seconds.
pub fn take_turn(rank: usize) {
    let after_rank_1 = u32::try_from(rank).unwrap_or(u32::MAX).saturating_sub(1);
    if rank > 0 {
        let turn = Duration::from_millis(1500) + Duration::from_millis(500).saturating_mul(after_rank_1);
        std::thread::sleep(turn.min(Duration::from_secs(3)));
    }
}

/// Name of this machine, for messages and logs.
pub fn host_name() -> String {
    let mut buffer = [0_u8; 256];
    // SAFETY: the pointer and the length are those of `buffer`; one byte is left for the terminating zero.
    let status = unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len() - 1) };
    let end = buffer.iter().position(|byte| *byte == 0).unwrap_or(0);
    if status == 0 && end > 0 {
        String::from_utf8_lossy(&buffer[..end]).into_owned()
    } else {
        "unknown host".to_owned()
    }
}
