//! NCCL (feature `nccl`): collectives on device memory, one GPU per rank. **It has run in a world of one GPU only** (the whole
//! conformance suite, NCCL 2.28 on an H100): between GPUs it is written against the documentation.
//!
//! - cudarc loads the libraries at run time and *panics* where one is missing, so [`library`] asks first.
//! - The 128-byte id is made on rank 0 and carried by another communicator (MPI, threads), which stays in use beside.
//! - Communicators are non-blocking; every call is watched: an asynchronous error of NCCL, or no end within the timeout,
//!   ends in ncclCommAbort and an error here. The caller then takes that error to the carrier's `abort`.
//! - Work runs on a stream of its own, which is empty again when a call returns. Before a call, the *caller* has to have
//!   synchronised whatever stream wrote the buffers (cubecl's are private: `client.sync()` on the same thread).
//! - A device vector is padded: [`Shard::padded_len`](super::Shard::padded_len) entries, zeros at the end. NCCL cuts
//!   long vectors itself and needs no scratch memory, so nothing is sent in pieces here.

mod beside;
mod staged;

use std::cell::Cell;
use std::ffi::CStr;
use std::mem::offset_of;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{self, CudaContext, CudaStream};
use cudarc::nccl::result::{self, NcclError, NcclStatus};
use cudarc::nccl::{NcclType, sys};

use super::{Comm, Element, host_name};
use crate::{Error, Result};

/// ncclConfig_t's magic and the oldest layout we fill in (nccl.h: NCCL_CONFIG_INITIALIZER, NCCL_CONFIG_UNDEF_INT).
/// A newer library takes its defaults for the fields that this layout lacks.
const CONFIG_MAGIC: u32 = 0xcafe_beef;
const CONFIG_VERSION: u32 = 21_700;
const UNDEFINED: i32 = i32::MIN;

/// Longest time that a run waits in one call: longer than a slow rank's segment of micro-batches may be late.
pub const TIMEOUT: Duration = Duration::from_secs(6 * 3600);

/// The version of the NCCL library, as 22005 for 2.20.5.
///
/// # Errors
/// [`Error::Environment`] if it is not found or too old for non-blocking communicators.
pub fn library() -> Result<usize> {
    // SAFETY: opens and closes the library; NCCL has no unsound constructors that we know of.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Environment(
            "libnccl.so is not found: install NCCL and put its folder on LD_LIBRARY_PATH. Where there is only \
             libnccl.so.2, make a link: ln -s libnccl.so.2 libnccl.so"
                .into(),
        ));
    }
    let version = result::get_nccl_version().map_err(|error| failed("ncclGetVersion", &error))? as usize;
    if version < CONFIG_VERSION as usize {
        return Err(Error::Environment(format!("NCCL {version} is too old; 2.17 or newer is needed")));
    }
    Ok(version)
}

/// Number of CUDA devices visible to this process.
///
/// # Errors
/// [`Error::Environment`] without a driver.
pub fn num_devices() -> Result<usize> {
    // SAFETY: opens and closes the driver's library.
    if !unsafe { driver::sys::is_culib_present() } {
        return Err(Error::Environment("libcuda.so is not found: this machine has no CUDA driver".into()));
    }
    let count = CudaContext::device_count().map_err(|error| cuda("cuDeviceGetCount", &error))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

fn failed(call: &str, error: &NcclError) -> Error {
    // SAFETY: NCCL returns a static string for every result.
    let text = unsafe { CStr::from_ptr(sys::ncclGetErrorString(error.0)) }.to_string_lossy().into_owned();
    Error::Environment(format!("{call} on {}: {text}; NCCL_DEBUG=INFO tells more", host_name()))
}

fn cuda(call: &str, error: &driver::DriverError) -> Error {
    Error::Environment(format!("{call} on {}: {error:?}", host_name()))
}

/// A communicator on device memory. Bound to the thread that made it.
pub struct Nccl {
    /// Null after an abort.
    comm: Cell<sys::ncclComm_t>,
    stream: Arc<CudaStream>,
    rank: usize,
    size: usize,
    timeout: Duration,
}

impl Nccl {
    /// Joins all ranks of `carrier`, each with its own `device` (a visible ordinal). `timeout`: how long a call may last;
    /// longer than the slowest rank can be late.
    ///
    /// # Errors
    /// [`Error::Environment`], on all ranks if one has no NCCL or no device.
    pub fn start(carrier: &Comm, device: usize, timeout: Duration) -> Result<Self> {
        let ready = open(device);
        let mut missing = [f64::from(u8::from(ready.is_err()))];
        carrier.all_reduce_sum(&mut missing)?;
        let stream = ready?;
        if missing[0] > 0.0 {
            return Err(Error::Environment(format!("{} of {} ranks cannot use NCCL", missing[0], carrier.size())));
        }
        let id = carried_id(carrier)?;
        let (rank, size) = (carrier.rank(), carrier.size());
        let nccl = Self { comm: Cell::new(std::ptr::null_mut()), stream, rank, size, timeout };
        nccl.initialise(id)?;
        Ok(nccl)
    }

    fn initialise(&self, id: sys::ncclUniqueId) -> Result<()> {
        // SAFETY: ncclConfig_t is plain data, for which zeros are valid; `size` tells the library to read no further than
        // the fields filled in here. The communicator and the configuration outlive the call.
        let status = unsafe {
            let mut config: sys::ncclConfig_t = std::mem::zeroed();
            config.size = offset_of!(sys::ncclConfig_t, splitShare);
            config.magic = CONFIG_MAGIC;
            config.version = CONFIG_VERSION;
            config.blocking = 0;
            (config.cgaClusterSize, config.minCTAs, config.maxCTAs) = (UNDEFINED, UNDEFINED, UNDEFINED);
            let (size, rank) = (self.size as i32, self.rank as i32);
            result::comm_init_rank_config(self.comm.as_ptr(), size, id, rank, &mut config)
        };
        self.settle("ncclCommInitRankConfig", status, Instant::now() + self.timeout)
    }

    /// Adds the ranks' padded vectors (size x `slice_len` entries at `send`) and leaves this rank's slice at `receive`.
    /// In place where `receive` is this rank's slice of `send`.
    ///
    /// # Safety
    /// Both point to device memory of these lengths on this communicator's device, written by finished work.
    pub unsafe fn reduce_scatter_sum<T: Element + NcclType>(
        &self,
        send: CUdeviceptr,
        receive: CUdeviceptr,
        slice_len: usize,
    ) -> Result<()> {
        let (kind, sum) = (T::as_nccl_type(), sys::ncclRedOp_t::ncclSum);
        self.watched("ncclReduceScatter", |comm, stream| unsafe {
            result::reduce_scatter(send as _, receive as _, slice_len, kind, sum, comm, stream)
        })
    }

    /// Puts the ranks' slices (`slice_len` entries at `send`) together at `receive` (size x `slice_len`). In place where
    /// `send` is this rank's slice of `receive`.
    ///
    /// # Safety
    /// As [`Nccl::reduce_scatter_sum`].
    pub unsafe fn all_gather<T: Element + NcclType>(
        &self,
        send: CUdeviceptr,
        receive: CUdeviceptr,
        slice_len: usize,
    ) -> Result<()> {
        self.watched("ncclAllGather", |comm, stream| unsafe {
            result::all_gather(send as _, receive as _, slice_len, T::as_nccl_type(), comm, stream)
        })
    }

    /// Leaves the sum over ranks in the `len` entries at `pointer`.
    ///
    /// # Safety
    /// As [`Nccl::reduce_scatter_sum`].
    pub unsafe fn all_reduce_sum<T: Element + NcclType>(&self, pointer: CUdeviceptr, len: usize) -> Result<()> {
        let (kind, sum) = (T::as_nccl_type(), sys::ncclRedOp_t::ncclSum);
        self.watched("ncclAllReduce", |comm, stream| unsafe {
            result::all_reduce(pointer as _, pointer as _, len, kind, sum, comm, stream)
        })
    }

    /// The carrier with this communicator for its vectors, staged through the device piece by piece.
    ///
    /// # Errors
    /// [`Error::Environment`] if the device has no room for two pieces; the carrier comes back with it.
    pub fn beside(self, carrier: Comm) -> std::result::Result<Comm, (Comm, Error)> {
        match staged::Staged::new(self) {
            Ok(vectors) => Ok(Comm::new(Box::new(beside::Beside { vectors, carrier }))),
            Err(error) => Err((carrier, error)),
        }
    }

    /// This communicator alone, for vectors on the host, staged in the same way: for the conformance suite and for
    /// measurements.
    ///
    /// # Errors
    /// [`Error::Environment`] if the device has no room for two pieces.
    pub fn into_comm(self) -> Result<Comm> {
        Ok(Comm::new(Box::new(staged::Staged::new(self)?)))
    }

    /// Enqueues a call and waits for its end, with the watchdog.
    fn watched(
        &self,
        call: &str,
        enqueue: impl FnOnce(sys::ncclComm_t, sys::cudaStream_t) -> std::result::Result<NcclStatus, NcclError>,
    ) -> Result<()> {
        if self.comm.get().is_null() {
            return Err(Error::Environment(format!("{call} on a communicator that was aborted")));
        }
        let deadline = Instant::now() + self.timeout;
        self.stream.context().bind_to_thread().map_err(|error| cuda("cuCtxSetCurrent", &error))?;
        let status = enqueue(self.comm.get(), self.stream.cu_stream() as sys::cudaStream_t);
        self.settle(call, status, deadline)?;
        let mut pause = Pause::default();
        loop {
            // SAFETY: the stream is alive.
            match unsafe { driver::sys::cuStreamQuery(self.stream.cu_stream()) } {
                driver::sys::CUresult::CUDA_SUCCESS => return Ok(()),
                driver::sys::CUresult::CUDA_ERROR_NOT_READY => {}
                error => return self.give_up(cuda(call, &driver::DriverError(error))),
            }
            if let Some(error) = self.asynchronous(call, deadline).1 {
                return self.give_up(error);
            }
            pause.wait();
        }
    }

    /// Waits until a non-blocking call has been taken up.
    fn settle(&self, call: &str, status: std::result::Result<NcclStatus, NcclError>, deadline: Instant) -> Result<()> {
        if let Err(error) = status {
            return self.give_up(failed(call, &error));
        }
        let mut pause = Pause::default();
        loop {
            match self.asynchronous(call, deadline) {
                (_, Some(error)) => return self.give_up(error),
                (NcclStatus::InProgress, None) => pause.wait(),
                _ => return Ok(()),
            }
        }
    }

    /// The communicator's state, and what is wrong with it or with the clock.
    fn asynchronous(&self, call: &str, deadline: Instant) -> (NcclStatus, Option<Error>) {
        let mut state = sys::ncclResult_t::ncclSuccess;
        // SAFETY: the communicator was made by NCCL and has not been aborted.
        let asked = unsafe { sys::ncclCommGetAsyncError(self.comm.get(), &mut state) }.result();
        match asked.and_then(|_| state.result()) {
            Err(error) => (NcclStatus::Success, Some(failed(call, &error))),
            Ok(status) if Instant::now() < deadline => (status, None),
            Ok(status) => {
                let message = format!(
                    "{call} on rank {} of {} ({}) took longer than {:?}: another rank is stuck or gone",
                    self.rank,
                    self.size,
                    host_name(),
                    self.timeout
                );
                (status, Some(Error::Environment(message)))
            }
        }
    }

    fn give_up<T>(&self, error: Error) -> Result<T> {
        self.abort_communicator();
        Err(error)
    }

    fn abort_communicator(&self) {
        let comm = self.comm.replace(std::ptr::null_mut());
        if !comm.is_null() {
            // SAFETY: taken out above, so it is aborted once. Its own failure changes nothing: the job ends anyway.
            let _ = unsafe { result::comm_abort(comm) };
        }
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        let comm = self.comm.get();
        if comm.is_null() {
            return;
        }
        // SAFETY: alive and not aborted. Every call has waited for its end, so there is nothing in flight.
        let status = unsafe { result::comm_finalize(comm) };
        if self.settle("ncclCommFinalize", status, Instant::now() + self.timeout).is_ok() {
            // SAFETY: finalised, and destroyed once. A failure here can hurt nobody any more.
            let _ = unsafe { result::comm_destroy(self.comm.replace(std::ptr::null_mut())) };
        }
    }
}

/// What a rank needs of its own: library, device, stream.
fn open(device: usize) -> Result<Arc<CudaStream>> {
    library()?;
    let count = num_devices()?;
    if device >= count {
        return Err(Error::Environment(format!("CUDA device {device} of {count} visible on {}", host_name())));
    }
    let context = CudaContext::new(device).map_err(|error| cuda("cuDevicePrimaryCtxRetain", &error))?;
    context.new_stream().map_err(|error| cuda("cuStreamCreate", &error))
}

/// A unique id of rank 0, on all ranks. An empty message says that rank 0 got none.
fn carried_id(carrier: &Comm) -> Result<sys::ncclUniqueId> {
    let own = if carrier.is_root() { Some(unique_id()) } else { None };
    let mut bytes = match &own {
        Some(Ok(id)) => id.to_vec(),
        _ => Vec::new(),
    };
    carrier.broadcast_bytes(0, &mut bytes)?;
    if let Some(Err(error)) = own {
        return Err(error);
    }
    let id: [u8; 128] = bytes.try_into().map_err(|_| Error::Environment("rank 0 could not make a NCCL id".into()))?;
    Ok(sys::ncclUniqueId { internal: id.map(|byte| byte as std::ffi::c_char) })
}

/// A fresh id; NCCL listens on a socket for it from now on.
fn unique_id() -> Result<[u8; 128]> {
    let id = result::get_uniqueid().map_err(|error| failed("ncclGetUniqueId", &error))?;
    Ok(id.internal.map(|byte| byte as u8))
}

/// Waits a little: first by yielding, for calls of microseconds, then by sleeping.
#[derive(Default)]
struct Pause(u32);

impl Pause {
    fn wait(&mut self) {
        self.0 = self.0.saturating_add(1);
        if self.0 < 1000 {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

#[cfg(test)]
mod tests;
