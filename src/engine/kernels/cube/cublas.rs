//! Sums of matrix products by NVIDIA's cuBLAS, between kernels of CubeCL.
//!
//! CubeCL keeps its CUDA streams to itself, so products go through a stream of their own. Work is handed to the device by one
//! thread, and so are the products: there they wait for all that the context was given before ([cuCtxRecordEvent], of CUDA 12.5),
//! and all that it is given later waits for them; the host waits for nothing. That covers memory too, which CubeCL takes back
//! and gives out again in the order of that thread. A product takes the same algorithm each time, so that bits repeat.
//!
//! [cuCtxRecordEvent]: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__CTX.html

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::OnceLock;

use burn_backend::Shape;
use burn_cubecl::tensor::CubeTensor;
use cubecl::Runtime;
use cubecl::cuda::CudaRuntime;
use cubecl::device::Device;
use cubecl::device_handle::DeviceHandle;
use cubecl::server::{Binding, ComputeServer};
use cubecl::stream_id::StreamId;
use cudarc::cublas::{result, sys};
use cudarc::driver::result as driver;
use cudarc::driver::sys as cuda;

use super::library::{Library, Sum};
use crate::engine::kernels::Arithmetic;
use crate::engine::kernels::strided::{Strided, strided};

/// The bits of an f32 that is NaN.
const NAN: u32 = 0x7FC0_0000;

type Server = <CudaRuntime as Runtime>::Server;

impl Library for CudaRuntime {
    const F64: bool = true;

    fn library() -> Result<String, String> {
        static FOUND: OnceLock<Result<String, String>> = OnceLock::new();
        FOUND.get_or_init(find).clone()
    }

    fn accepts(x: &CubeTensor<Self>, batch: &Shape) -> bool {
        strided(x.meta.shape(), x.meta.strides(), batch).is_some()
    }

    fn enqueue(sums: Vec<Sum<Self>>, arithmetic: Arithmetic) {
        let Some(first) = sums.first() else { return };
        let device = DeviceHandle::<Server>::new(first.output.device.to_id());
        let sums: Vec<Gemms> = sums.iter().map(Gemms::new).collect();
        let stream = StreamId::current();
        device.submit(move |server| {
            let computed = catch_unwind(AssertUnwindSafe(|| compute(server, stream, &sums, arithmetic)));
            if let Err(error) = computed.unwrap_or_else(|_| Err("a panic".into())) {
                // nobody waits for an answer here; a result that is NaN stops a run
                tracing::error!("matrix products by cuBLAS: {error}");
                poison(server, stream, &sums);
            }
        });
    }
}

/// Name and version of the library, if it can be used here.
fn find() -> Result<String, String> {
    // SAFETY: opens and closes the libraries; asks for plain numbers.
    unsafe {
        if !cuda::is_culib_present() {
            return Err("libcuda.so, the driver, is not found".into());
        }
        ContextEvents::load()?;
        if !sys::is_culib_present() {
            return Err("libcublas.so is not found on LD_LIBRARY_PATH".into());
        }
        let part = |which| {
            let mut value = 0;
            sys::cublasGetProperty(which, &mut value);
            value
        };
        let [major, minor, patch] = [
            sys::libraryPropertyType::MAJOR_VERSION,
            sys::libraryPropertyType::MINOR_VERSION,
            sys::libraryPropertyType::PATCH_LEVEL,
        ]
        .map(part);
        Ok(format!("cuBLAS {major}.{minor}.{patch}"))
    }
}

/// cuCtxRecordEvent and cuCtxWaitEvent, by name: a build for an older CUDA lacks them, and so does an older driver.
#[derive(Clone, Copy)]
struct ContextEvents {
    record: ContextEvent,
    wait: ContextEvent,
}

type ContextEvent = unsafe extern "C" fn(cuda::CUcontext, cuda::CUevent) -> cuda::CUresult;

impl ContextEvents {
    fn load() -> Result<Self, String> {
        // SAFETY: both have this type in cuda.h, since CUDA 12.5; the library stays loaded
        let symbol = |name: &str| unsafe { cuda::culib().get::<ContextEvent>(name.as_bytes()).map(|symbol| *symbol) };
        let missing = |_| "the driver has no events of contexts: cuBLAS needs one of CUDA 12.5 or newer";
        Ok(Self {
            record: symbol("cuCtxRecordEvent").map_err(missing)?,
            wait: symbol("cuCtxWaitEvent").map_err(missing)?,
        })
    }
}

/// A sum of products of `batch` pairs of matrices, all of them row by row: out (rows, columns) = sum_i lhs_i rhs_i.
struct Gemms {
    rows: usize,
    columns: usize,
    batch: usize,
    terms: Vec<Gemm>,
    output: Binding,
}

/// What keeps memory alive here are bindings, as in CubeCL's launches: a handle would say that its tensor is in use elsewhere.
struct Gemm {
    inner: usize,
    lhs: (Binding, Strided),
    rhs: (Binding, Strided),
}

impl Gemms {
    fn new(sum: &Sum<CudaRuntime>) -> Self {
        let shape = sum.output.meta.shape();
        let rank = shape.num_dims();
        let seen = |x: &CubeTensor<CudaRuntime>| {
            let seen = strided(x.meta.shape(), x.meta.strides(), &shape[..rank - 2]);
            (x.handle.clone().binding(), seen.expect("operands that are not accepted are copied before"))
        };
        let term = |(lhs, rhs): &(CubeTensor<CudaRuntime>, CubeTensor<CudaRuntime>)| Gemm {
            inner: lhs.meta.shape()[rank - 1],
            lhs: seen(lhs),
            rhs: seen(rhs),
        };
        Self {
            rows: shape[rank - 2],
            columns: shape[rank - 1],
            batch: shape[..rank - 2].iter().product(),
            terms: sum.terms.iter().map(term).collect(),
            output: sum.output.handle.clone().binding(),
        }
    }

    fn len(&self) -> usize {
        self.batch * self.rows * self.columns
    }
}

/// What a device's thread keeps.
struct Session {
    handle: sys::cublasHandle_t,
    stream: cuda::CUstream,
    context: cuda::CUcontext,
    events: ContextEvents,
    /// All work before the products.
    before: cuda::CUevent,
    /// The products.
    after: cuda::CUevent,
}

thread_local! {
    static SESSION: RefCell<Option<Result<Rc<Session>, String>>> = const { RefCell::new(None) };
}

impl Session {
    /// That of this thread, whose context is current, or why there is none.
    fn current() -> Result<Rc<Self>, String> {
        SESSION.with_borrow_mut(|session| session.get_or_insert_with(|| Self::open().map(Rc::new)).clone())
    }

    fn open() -> Result<Self, String> {
        let events = ContextEvents::load()?;
        let event = || driver::event::create(cuda::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(text);
        let context = driver::ctx::get_current().map_err(text)?.ok_or("no CUDA context is current")?;
        let stream = driver::stream::create(driver::stream::StreamKind::NonBlocking).map_err(text)?;
        let handle = result::create_handle().map_err(text)?;
        // SAFETY: the handle and the stream were just made in the same context
        unsafe { result::set_stream(handle, stream.cast()) }.map_err(text)?;
        Ok(Self { handle, stream, context, events, before: event()?, after: event()? })
    }

    /// Runs `enqueue`, which gives work to the stream, between what the context has and what it will be given.
    fn between(&self, enqueue: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        let wait = cuda::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: events, stream and context belong together and live as long as the thread
        unsafe {
            (self.events.record)(self.context, self.before).result().map_err(text)?;
            driver::stream::wait_event(self.stream, self.before, wait).map_err(text)?;
            let enqueued = enqueue();
            driver::event::record(self.after, self.stream).map_err(text)?;
            (self.events.wait)(self.context, self.after).result().map_err(text)?;
            enqueued
        }
    }

    /// output = lhs rhs + beta output. BLAS takes columns for rows, so that it is asked for output' = rhs' lhs'.
    fn gemm(&self, sum: &Gemms, term: &Gemm, pointers: [u64; 3], beta: f32, kind: Kind) -> Result<(), String> {
        let [lhs, rhs, output] = pointers;
        let operation = |seen: &Strided| match seen.transposed {
            true => sys::cublasOperation_t::CUBLAS_OP_T,
            false => sys::cublasOperation_t::CUBLAS_OP_N,
        };
        let size = |n: usize| c_int::try_from(n).map_err(|_| format!("a matrix of {n} rows or columns"));
        let (single, one) = (sys::cudaDataType_t::CUDA_R_32F, 1.0f32);
        let (a, b) = (&term.rhs.1, &term.lhs.1);
        let (m, n, k) = (size(sum.columns)?, size(sum.rows)?, size(term.inner)?);
        let (lda, ldb) = (size(a.leading)?, size(b.leading)?);
        let (alpha, beta) = ((&raw const one).cast::<c_void>(), (&raw const beta).cast::<c_void>());
        let algorithm = sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT;
        // SAFETY: the pointers are of buffers that hold tensors of these shapes and strides, on this device
        let done = unsafe {
            let (a_at, b_at, c_at) = (rhs as *const c_void, lhs as *const c_void, output as *mut c_void);
            if sum.batch == 1 {
                result::gemm_ex(
                    self.handle,
                    operation(a),
                    operation(b),
                    m,
                    n,
                    k,
                    alpha,
                    a_at,
                    single,
                    lda,
                    b_at,
                    single,
                    ldb,
                    beta,
                    c_at,
                    single,
                    m,
                    kind,
                    algorithm,
                )
            } else {
                result::gemm_strided_batched_ex(
                    self.handle,
                    operation(a),
                    operation(b),
                    m,
                    n,
                    k,
                    alpha,
                    a_at,
                    single,
                    lda,
                    a.step as i64,
                    b_at,
                    single,
                    ldb,
                    b.step as i64,
                    beta,
                    c_at,
                    single,
                    m,
                    (sum.rows * sum.columns) as i64,
                    size(sum.batch)?,
                    kind,
                    algorithm,
                )
            }
        };
        done.map_err(|error| format!("gemm of {} x {m} x {n} x {k}: {error:?}", sum.batch))
    }
}

/// How cuBLAS multiplies.
type Kind = sys::cublasComputeType_t;

fn kind(arithmetic: Arithmetic) -> Kind {
    match arithmetic {
        Arithmetic::F32 => Kind::CUBLAS_COMPUTE_32F,
        Arithmetic::Tf32 | Arithmetic::Tf32x3 => Kind::CUBLAS_COMPUTE_32F_FAST_TF32,
        Arithmetic::Bf16 => Kind::CUBLAS_COMPUTE_32F_FAST_16BF,
    }
}

/// On the device's thread.
fn compute(server: &mut Server, stream: StreamId, sums: &[Gemms], arithmetic: Arithmetic) -> Result<(), String> {
    // first of all, which makes the context current; what holds the memory lives until the work is handed over
    let mut kept = Vec::new();
    let mut pointer = |binding: &Binding| {
        let resource = server.get_resource(binding.clone(), stream).map_err(|error| format!("{error:?}"))?;
        let pointer = resource.resource().ptr;
        kept.push(resource);
        Ok::<_, String>(pointer)
    };
    let mut pointers = Vec::new();
    for sum in sums {
        for term in &sum.terms {
            pointers.push([pointer(&term.lhs.0)?, pointer(&term.rhs.0)?, pointer(&sum.output)?]);
        }
    }
    let session = Session::current()?;
    session.between(|| {
        let mut pointers = pointers.into_iter();
        for sum in sums.iter() {
            for (at, (term, pointers)) in sum.terms.iter().zip(pointers.by_ref()).enumerate() {
                session.gemm(sum, term, pointers, if at == 0 { 0.0 } else { 1.0 }, kind(arithmetic))?;
            }
        }
        Ok(())
    })
}

/// Makes all results NaN.
fn poison(server: &mut Server, stream: StreamId, sums: &[Gemms]) {
    let synchronize = || unsafe { cuda::cuCtxSynchronize().result() };
    // SAFETY: nothing computes any more while the results, of this many numbers, are overwritten, nor before they are
    let spoil = |pointer: u64, len: usize| {
        synchronize()?;
        unsafe { cuda::cuMemsetD32_v2(pointer, NAN, len).result()? };
        synchronize()
    };
    for sum in sums {
        match server.get_resource(sum.output.clone(), stream) {
            Ok(resource) => {
                if let Err(error) = spoil(resource.resource().ptr, sum.len()) {
                    tracing::error!("the device does not answer: {error:?}"); // nor will it when the result is read
                }
            }
            Err(error) => tracing::error!("no memory of a result: {error:?}"),
        }
    }
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}
