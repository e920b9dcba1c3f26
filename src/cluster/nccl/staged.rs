//! Vectors on the host over NCCL: each piece goes up to the device, through the collective, and down again.
//!
//! A run's vectors are summed in f64 before they come here, so this is its way too.

use std::cell::RefCell;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaSlice, DevicePtr};
use cudarc::nccl::{NcclType, result, sys};

use super::super::{Element, PIECE_BYTES, Pair, Transport, host_name};
use super::{Nccl, cuda};
use crate::Result;

const BYTE: sys::ncclDataType_t = sys::ncclDataType_t::ncclUint8;

pub(super) struct Staged {
    nccl: Nccl,
    /// Device buffers of one piece each: what is sent, what is received.
    buffers: RefCell<[CudaSlice<u8>; 2]>,
}

impl Staged {
    pub(super) fn new(nccl: Nccl) -> Result<Self> {
        let buffer = || nccl.stream.alloc_zeros::<u8>(PIECE_BYTES).map_err(|error| cuda("cuMemAlloc", &error));
        let buffers = RefCell::new([buffer()?, buffer()?]);
        Ok(Self { nccl, buffers })
    }

    /// Ends the communicator, so that nothing of it is waited for.
    pub(super) fn give_up(&self) {
        self.nccl.abort_communicator();
    }

    /// Puts `send` (at most a piece) into the first buffer, runs `call` on both, copies the second to `receive`.
    fn staged<T: bytemuck::Pod>(
        &self,
        send: &[T],
        receive: &mut [T],
        call: impl FnOnce(CUdeviceptr, CUdeviceptr) -> Result<()>,
    ) -> Result<()> {
        let (mut buffers, stream) = (self.buffers.borrow_mut(), &self.nccl.stream);
        let (send, receive): (&[u8], &mut [u8]) = (bytemuck::cast_slice(send), bytemuck::cast_slice_mut(receive));
        let synchronise = || stream.synchronize().map_err(|error| cuda("cuStreamSynchronize", &error));
        if !send.is_empty() {
            let mut upload = buffers[0].slice_mut(..send.len());
            stream.memcpy_htod(send, &mut upload).map_err(|error| cuda("cuMemcpyHtoDAsync", &error))?;
        }
        let (from, to) = (buffers[0].device_ptr(stream).0, buffers[1].device_ptr(stream).0);
        synchronise()?;
        call(from, to)?;
        if !receive.is_empty() {
            let download = buffers[1].slice(..receive.len());
            stream.memcpy_dtoh(&download, receive).map_err(|error| cuda("cuMemcpyDtoHAsync", &error))?;
        }
        synchronise()
    }

    fn reduce<T: Element + NcclType>(&self, send: &[T], receive: &mut [T]) -> Result<()> {
        let (count, sum, kind) = (send.len(), sys::ncclRedOp_t::ncclSum, T::as_nccl_type());
        let receive = if self.nccl.rank == 0 { receive } else { &mut [] };
        self.staged(send, receive, |from, to| {
            self.nccl.watched("ncclReduce", |comm, stream| unsafe {
                result::reduce(from as _, to as _, count, kind, sum, 0, comm, stream)
            })
        })
    }

    fn scatter<T: Element + NcclType>(&self, send: &[T], receive: &mut [T]) -> Result<()> {
        let count = receive.len();
        // SAFETY: the buffers hold a piece each, which is all that `Comm` hands over; the upload has finished.
        self.staged(send, receive, |from, to| unsafe { self.nccl.reduce_scatter_sum::<T>(from, to, count) })
    }
}

impl Transport for Staged {
    fn rank(&self) -> usize {
        self.nccl.rank
    }

    fn size(&self) -> usize {
        self.nccl.size
    }

    /// A sum of one number, in place in the second buffer, whatever it holds.
    fn barrier(&self) -> Result<()> {
        // SAFETY: the buffer holds more than one number.
        self.staged::<f32>(&[], &mut [], |_, to| unsafe { self.nccl.all_reduce_sum::<f32>(to, 1) })
    }

    fn broadcast(&self, root: usize, bytes: &mut [u8]) -> Result<()> {
        let (send, count) = (bytes.to_vec(), bytes.len());
        self.staged(&send, bytes, |from, to| {
            self.nccl.watched("ncclBroadcast", |comm, stream| unsafe {
                result::broadcast(from as _, to as _, count, BYTE, root as i32, comm, stream)
            })
        })
    }

    fn reduce_sum(&self, pair: Pair<'_>) -> Result<()> {
        match pair {
            Pair::F32(send, receive) => self.reduce(send, receive),
            Pair::F64(send, receive) => self.reduce(send, receive),
        }
    }

    fn reduce_scatter_sum(&self, pair: Pair<'_>) -> Result<()> {
        match pair {
            Pair::F32(send, receive) => self.scatter(send, receive),
            Pair::F64(send, receive) => self.scatter(send, receive),
        }
    }

    fn all_gather(&self, send: &[u8], receive: &mut [u8]) -> Result<()> {
        let count = send.len();
        self.staged(send, receive, |from, to| {
            self.nccl.watched("ncclAllGather", |comm, stream| unsafe {
                result::all_gather(from as _, to as _, count, BYTE, comm, stream)
            })
        })
    }

    fn send(&self, to: usize, bytes: &[u8]) -> Result<()> {
        self.staged(bytes, &mut [], |buffer, _| {
            self.nccl.watched("ncclSend", |comm, stream| unsafe {
                result::send(buffer as _, bytes.len(), BYTE, to as i32, comm, stream)
            })
        })
    }

    fn receive(&self, from: usize, bytes: &mut [u8]) -> Result<()> {
        let count = bytes.len();
        self.staged(&[], bytes, |_, buffer| {
            self.nccl.watched("ncclRecv", |comm, stream| unsafe {
                result::recv(buffer as _, count, BYTE, from as i32, comm, stream)
            })
        })
    }

    fn abort(&self, code: i32, message: &str) -> ! {
        eprintln!("hesspec: rank {} of {} on {}: {message}", self.nccl.rank, self.nccl.size, host_name());
        self.nccl.abort_communicator();
        std::process::exit(code)
    }
}
