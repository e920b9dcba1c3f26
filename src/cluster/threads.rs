//! A world of threads in one process: for `run.ranks`, and so that every distributed test runs in `cargo test`.
//!
//! Stricter than MPI. Every collective is one exchange: each rank deposits its data and what it is calling, and the
//! calls are compared. A rank that fails, panics, leaves early or calls something else brings all others down with its
//! message instead of leaving them waiting. Sums are taken in rank order: the same bits in every run.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::{Comm, Element, Pair, Transport};
use crate::{Error, Result};

/// Stack of a rank in bytes, as a main thread has it.
const STACK_BYTES: usize = 8 << 20;

/// Runs `body` on `size` ranks and returns their results in rank order.
///
/// # Errors
/// The first failure of any rank; a panic is [`Error::Other`], an abort the error of its code.
pub fn run<T: Send>(size: usize, body: impl Fn(Comm) -> Result<T> + Sync) -> Result<Vec<T>> {
    spawned(size, &body)
}

/// Runs ranks as threads, each with a pool of so many threads of its own (itself among them) for all that runs in parallel below it.
///
/// # Errors
/// As [`run`]; [`Error::Environment`] where the system has no threads left.
pub fn run_with_pools<T: Send>(size: usize, threads: usize, body: impl Fn(Comm) -> Result<T> + Sync) -> Result<Vec<T>> {
    let failed =
        |error| Error::Environment(format!("no pool of {threads} threads for a rank: {error}; use fewer ranks"));
    spawned(size, &|comm| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build().map_err(failed)?;
        let result = body(comm);
        drop(pool);
        result
    })
}

fn spawned<T: Send>(size: usize, body: &(impl Fn(Comm) -> Result<T> + Sync)) -> Result<Vec<T>> {
    let shared = Arc::new(Shared::new(size));
    let results: Vec<Option<T>> = thread::scope(|scope| {
        let spawn = |rank| {
            let own = shared.clone();
            let builder = thread::Builder::new().name(format!("rank {rank}")).stack_size(STACK_BYTES);
            let spawned = builder.spawn_scoped(scope, move || live(own, rank, body));
            spawned.inspect_err(|error| {
                shared
                    .fail(Error::Environment(format!("no thread for rank {rank} of {size}: {error}; use fewer ranks")))
            })
        };
        let threads: Vec<_> = (0..size).map(spawn).collect();
        threads.into_iter().map(|thread| thread.ok()?.join().ok()?).collect()
    });
    match shared.lock().failure.take() {
        Some(error) => Err(error),
        None => Ok(results.into_iter().flatten().collect()),
    }
}

/// One rank from birth to death; whatever its end, the others hear of it.
fn live<T>(shared: Arc<Shared>, rank: usize, body: &(impl Fn(Comm) -> Result<T> + Sync)) -> Option<T> {
    let comm = Comm::new(Box::new(Rank { rank, shared: shared.clone() }));
    match catch_unwind(AssertUnwindSafe(|| body(comm))) {
        Ok(Ok(value)) => {
            shared.leave(rank);
            return Some(value);
        }
        Ok(Err(error)) => shared.fail(error),
        Err(panic) if panic.is::<Aborted>() => {}
        Err(panic) => shared.fail(Error::Other(format!("rank {rank} panicked: {}", panic_message(panic.as_ref())))),
    }
    None
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// What unwinds the thread of a rank that called abort; its message is already with the others.
struct Aborted;

/// What a rank is calling: equal on all ranks, or the program is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    name: &'static str,
    root: usize,
    len: usize,
}

/// What a rank hands in.
struct Deposit {
    call: Call,
    data: Data,
}

enum Data {
    Bytes(Vec<u8>),
    F32(Vec<f32>),
    F64(Vec<f64>),
}

struct Shared {
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Exchanges completed.
    generation: u64,
    /// Deposits of the exchange in progress, by rank.
    deposits: Vec<Option<Deposit>>,
    /// Deposits of the last completed exchange. Nobody can complete the next one before all have read this.
    complete: Arc<Vec<Deposit>>,
    /// Point-to-point messages by (from, to).
    mail: HashMap<(usize, usize), VecDeque<Vec<u8>>>,
    /// Who has returned.
    left: Vec<bool>,
    /// The first failure; it ends everything.
    failure: Option<Error>,
}

impl Shared {
    fn new(size: usize) -> Self {
        let state = State {
            generation: 0,
            deposits: (0..size).map(|_| None).collect(),
            complete: Arc::default(),
            mail: HashMap::new(),
            left: vec![false; size],
            failure: None,
        };
        Self { size, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: Error) {
        self.lock().failure.get_or_insert(error);
        self.changed.notify_all();
    }

    fn leave(&self, rank: usize) {
        let mut state = self.lock();
        state.left[rank] = true;
        if let Some((waiting, deposit)) = first_deposit(&state.deposits) {
            let error = left_early(rank, waiting, &deposit.call);
            state.failure.get_or_insert(error);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Deposits, waits for all, returns all deposits in rank order.
    fn exchange(&self, rank: usize, deposit: Deposit) -> Result<Arc<Vec<Deposit>>> {
        let mut state = self.lock();
        if let Some(error) = misfit(&state, rank, &deposit.call) {
            state.failure.get_or_insert(error);
            self.changed.notify_all();
        }
        state.check()?;
        state.deposits[rank] = Some(deposit);
        let generation = state.generation;
        if state.deposits.iter().all(Option::is_some) {
            state.complete = Arc::new(state.deposits.iter_mut().filter_map(Option::take).collect());
            state.generation += 1;
            self.changed.notify_all();
        }
        while state.generation == generation {
            state.check()?;
            state = self.wait(state);
        }
        Ok(state.complete.clone())
    }
}

impl State {
    fn check(&self) -> Result<()> {
        match &self.failure {
            Some(error) => Err(Error::Environment(format!("stopped, because another rank failed: {error}"))),
            None => Ok(()),
        }
    }
}

fn first_deposit(deposits: &[Option<Deposit>]) -> Option<(usize, &Deposit)> {
    deposits.iter().enumerate().find_map(|(rank, deposit)| Some((rank, deposit.as_ref()?)))
}

/// Why this call can never complete.
fn misfit(state: &State, rank: usize, call: &Call) -> Option<Error> {
    if let Some(gone) = state.left.iter().position(|left| *left) {
        return Some(left_early(gone, rank, call));
    }
    let (other, deposit) = first_deposit(&state.deposits)?;
    (deposit.call != *call).then(|| {
        Error::Environment(format!(
            "rank {rank} calls {call:?} while rank {other} calls {:?}: all ranks must make the same calls in the same order",
            deposit.call
        ))
    })
}

fn left_early(gone: usize, waiting: usize, call: &Call) -> Error {
    Error::Environment(format!(
        "rank {gone} has returned while rank {waiting} waits in {call:?}: all ranks must make the same calls"
    ))
}

struct Rank {
    rank: usize,
    shared: Arc<Shared>,
}

impl Rank {
    fn exchange(&self, name: &'static str, root: usize, len: usize, data: Data) -> Result<Arc<Vec<Deposit>>> {
        self.shared.exchange(self.rank, Deposit { call: Call { name, root, len }, data })
    }

    /// Sums the entries from `start` of all ranks' send buffers into the receive buffer, where this rank `receives`.
    fn sum(&self, name: &'static str, pair: Pair<'_>, start: usize, receives: bool) -> Result<()> {
        match pair {
            Pair::F32(send, receive) => {
                let all = self.exchange(name, 0, send.len(), Data::F32(send.to_vec()))?;
                let parts =
                    all.iter().filter_map(|d| if let Data::F32(part) = &d.data { Some(&part[..]) } else { None });
                add(parts, start, if receives { receive } else { &mut [] });
            }
            Pair::F64(send, receive) => {
                let all = self.exchange(name, 0, send.len(), Data::F64(send.to_vec()))?;
                let parts =
                    all.iter().filter_map(|d| if let Data::F64(part) = &d.data { Some(&part[..]) } else { None });
                add(parts, start, if receives { receive } else { &mut [] });
            }
        }
        Ok(())
    }
}

fn add<'a, T: Element>(parts: impl Iterator<Item = &'a [T]>, start: usize, sum: &mut [T]) {
    for (rank, part) in parts.enumerate() {
        let part = &part[start..start + sum.len()];
        if rank == 0 {
            sum.copy_from_slice(part);
        } else {
            sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += *value);
        }
    }
}

fn bytes_of(deposit: &Deposit) -> &[u8] {
    if let Data::Bytes(bytes) = &deposit.data { bytes } else { &[] }
}

impl Transport for Rank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.shared.size
    }

    fn barrier(&self) -> Result<()> {
        self.exchange("barrier", 0, 0, Data::Bytes(Vec::new())).map(drop)
    }

    fn broadcast(&self, root: usize, bytes: &mut [u8]) -> Result<()> {
        let mine = if self.rank == root { bytes.to_vec() } else { Vec::new() };
        let all = self.exchange("broadcast", root, bytes.len(), Data::Bytes(mine))?;
        bytes.copy_from_slice(bytes_of(&all[root]));
        Ok(())
    }

    fn reduce_sum(&self, pair: Pair<'_>) -> Result<()> {
        self.sum("reduce_sum", pair, 0, self.rank == 0)
    }

    fn reduce_scatter_sum(&self, pair: Pair<'_>) -> Result<()> {
        let width = match &pair {
            Pair::F32(_, receive) => receive.len(),
            Pair::F64(_, receive) => receive.len(),
        };
        self.sum("reduce_scatter_sum", pair, self.rank * width, true)
    }

    fn all_gather(&self, send: &[u8], receive: &mut [u8]) -> Result<()> {
        let all = self.exchange("all_gather", 0, send.len(), Data::Bytes(send.to_vec()))?;
        receive
            .chunks_mut(send.len())
            .zip(all.iter())
            .for_each(|(part, deposit)| part.copy_from_slice(bytes_of(deposit)));
        Ok(())
    }

    fn send(&self, to: usize, bytes: &[u8]) -> Result<()> {
        let mut state = self.shared.lock();
        state.check()?;
        state.mail.entry((self.rank, to)).or_default().push_back(bytes.to_vec());
        self.shared.changed.notify_all();
        Ok(())
    }

    fn receive(&self, from: usize, bytes: &mut [u8]) -> Result<()> {
        let mut state = self.shared.lock();
        loop {
            state.check()?;
            let message = state.mail.get_mut(&(from, self.rank)).and_then(VecDeque::pop_front);
            let call = Call { name: "receive", root: from, len: bytes.len() };
            match message {
                Some(message) if message.len() == bytes.len() => {
                    bytes.copy_from_slice(&message);
                    return Ok(());
                }
                Some(message) => {
                    return Err(Error::Environment(format!("rank {from} sent {} bytes into {call:?}", message.len())));
                }
                None if state.left[from] => return Err(left_early(from, self.rank, &call)),
                None => state = self.shared.wait(state),
            }
        }
    }

    fn abort(&self, code: i32, message: &str) -> ! {
        let message = format!("rank {} aborted with code {code}: {message}", self.rank);
        self.shared.fail(match code {
            2 => Error::Config(message),
            3 => Error::Environment(message),
            4 => Error::Numerics(message),
            5 => Error::Storage(message),
            75 => Error::Interrupted(message),
            _ => Error::Other(message),
        });
        resume_unwind(Box::new(Aborted))
    }
}
