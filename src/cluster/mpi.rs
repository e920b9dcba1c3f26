//! MPI (feature `mpi`; tried with Open MPI 4.1 under mpirun, and under srun --mpi=pmix --kill-on-bad-exit=1).
//!
//! - The main thread initialises MPI and makes all calls (MPI_THREAD_FUNNELED); tokio and rayon run beside it.
//! - A rank that panics or leaves early would leave the others waiting for ever, so a panic hook installed right after
//!   MPI_Init ends the whole job, and an error is to be taken to [`Comm::abort`](super::Comm::abort).
//! - MPI's own errors end the job (MPI_ERRORS_ARE_FATAL, the default), so calls here do not fail.
//! - MPI does not promise an order of addition: the same sum may differ in its last bits from run to run.

use std::thread;

use ::mpi::Threading;
use ::mpi::collective::{CommunicatorCollectives, Root, SystemOperation};
use ::mpi::environment::Universe;
use ::mpi::point_to_point::{Destination, Source};
use ::mpi::topology::{Communicator, SimpleCommunicator};
use ::mpi::traits::Equivalence;

use super::{Comm, Pair, Transport, World, host_name};
use crate::{Error, Result};

/// Exit code of a job whose rank panicked: "anything else".
const PANIC_CODE: i32 = 1;

/// Initialises MPI and joins the world; once per process, from the main thread.
///
/// # Errors
/// [`Error::Environment`] if MPI runs already, cannot be used from a program with threads, or sees another world than
/// the launcher announced.
pub fn start(world: &World) -> Result<Comm> {
    let (universe, threading) = ::mpi::initialize_with_threading(Threading::Funneled)
        .ok_or_else(|| Error::Environment("MPI is initialised already; call cluster::start once".into()))?;
    let communicator = universe.world();
    let (rank, size) = (communicator.rank() as usize, communicator.size() as usize);
    abort_on_panic(rank, size);
    if threading < Threading::Funneled {
        let message = format!("this MPI library supports {threading:?}, but a program with threads needs Funneled");
        return refuse(&communicator, message);
    }
    if (rank, size) != (world.rank, world.size) {
        let message = format!(
            "{} says rank {} of {}, but MPI says rank {rank} of {size}: the launcher does not start MPI programs of this \
             library. Use mpirun of the same MPI, or srun --mpi=pmix",
            world.launcher, world.rank, world.size
        );
        return refuse(&communicator, message);
    }
    Ok(Comm::new(Box::new(Mpi { communicator, rank, size, _universe: universe })))
}

/// An error, where no other rank can be left waiting for this one; else the end of the job.
fn refuse(communicator: &SimpleCommunicator, message: String) -> Result<Comm> {
    let error = Error::Environment(message);
    if communicator.size() > 1 {
        super::take_turn(communicator.rank() as usize);
        eprintln!("hesspec on {}: {error}", host_name());
        communicator.abort(error.exit_code())
    }
    Err(error)
}

/// A panic on the main thread ends in MPI_Abort. On another thread MPI must not be called (FUNNELED): that process
/// leaves without MPI_Finalize, which the launcher takes for a failure of the job.
fn abort_on_panic(rank: usize, size: usize) {
    let main = thread::current().id();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        eprintln!("hesspec: rank {rank} of {size} on {} panicked; the job ends", host_name());
        if thread::current().id() == main {
            SimpleCommunicator::world().abort(PANIC_CODE)
        }
        // SAFETY: no preconditions; skips exit handlers, which could wait for MPI.
        unsafe { libc::_exit(PANIC_CODE) }
    }));
}

struct Mpi {
    communicator: SimpleCommunicator,
    rank: usize,
    size: usize,
    /// Its drop calls MPI_Finalize.
    _universe: Universe,
}

impl Mpi {
    fn reduce<T: Equivalence>(&self, send: &[T], receive: &mut [T]) {
        let root = self.communicator.process_at_rank(0);
        if self.rank == 0 {
            root.reduce_into_root(send, receive, SystemOperation::sum());
        } else {
            root.reduce_into(send, SystemOperation::sum());
        }
    }

    /// Ranks came from MPI's own `int`, so the cast loses nothing.
    fn process(&self, rank: usize) -> ::mpi::topology::Process<'_> {
        self.communicator.process_at_rank(rank as i32)
    }
}

impl Transport for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn barrier(&self) -> Result<()> {
        self.communicator.barrier();
        Ok(())
    }

    fn broadcast(&self, root: usize, bytes: &mut [u8]) -> Result<()> {
        self.process(root).broadcast_into(bytes);
        Ok(())
    }

    fn reduce_sum(&self, pair: Pair<'_>) -> Result<()> {
        match pair {
            Pair::F32(send, receive) => self.reduce(send, receive),
            Pair::F64(send, receive) => self.reduce(send, receive),
        }
        Ok(())
    }

    fn reduce_scatter_sum(&self, pair: Pair<'_>) -> Result<()> {
        let (world, sum) = (&self.communicator, SystemOperation::sum());
        match pair {
            Pair::F32(send, receive) => world.reduce_scatter_block_into(send, receive, sum),
            Pair::F64(send, receive) => world.reduce_scatter_block_into(send, receive, sum),
        }
        Ok(())
    }

    fn all_gather(&self, send: &[u8], receive: &mut [u8]) -> Result<()> {
        self.communicator.all_gather_into(send, receive);
        Ok(())
    }

    fn send(&self, to: usize, bytes: &[u8]) -> Result<()> {
        self.process(to).send(bytes);
        Ok(())
    }

    fn receive(&self, from: usize, bytes: &mut [u8]) -> Result<()> {
        let status = self.process(from).receive_into(bytes);
        let found = status.count(u8::equivalent_datatype());
        if usize::try_from(found) == Ok(bytes.len()) {
            return Ok(());
        }
        Err(Error::Environment(format!("rank {from} sent {found} bytes where {} were expected", bytes.len())))
    }

    /// What all ranks find out at the same time is said once: the first of them ends the others before they speak.
    fn abort(&self, code: i32, message: &str) -> ! {
        super::take_turn(self.rank);
        eprintln!("hesspec: rank {} of {} on {}: {message}", self.rank, self.size, host_name());
        self.communicator.abort(code)
    }
}
