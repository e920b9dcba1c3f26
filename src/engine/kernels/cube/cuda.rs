//! What has to be installed for CUDA, asked before CubeCL, which panics where something is missing.

use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
use cudarc::driver::{CudaContext, sys as driver};
use cudarc::nvrtc::sys as nvrtc;

/// Whether kernels can be compiled for the device with this ordinal, and run on it.
///
/// # Errors
/// What is missing.
pub fn usable(ordinal: usize) -> Result<(), String> {
    // SAFETY: opens and closes libraries.
    let (has_driver, has_compiler) = unsafe { (driver::is_culib_present(), nvrtc::is_culib_present()) };
    if !has_driver {
        return Err("libcuda.so is not found: this machine has no NVIDIA driver".into());
    }
    let count = CudaContext::device_count().map_err(|error| format!("cuDeviceGetCount: {error:?}"))? as usize;
    if ordinal >= count {
        return Err(format!("device {ordinal} of {count} that are visible"));
    }
    if !has_compiler {
        return Err(
            "libnvrtc.so, which compiles kernels, is not found on LD_LIBRARY_PATH: install the CUDA toolkit".into()
        );
    }
    if CubeClRuntimeConfig::get().compilation.cache.is_some() {
        return Err("cubecl.toml sets compilation.cache, which takes kernels that differ in which optional inputs they have for \
                    the same (CubeCL 0.10; seen to give wrong numbers): remove that line"
            .into());
    }
    match cubecl::cuda::install::cuda_path() {
        Some(path) if path.join("include").exists() => Ok(()),
        Some(path) => Err(format!("{} has no headers: set CUDA_PATH to the CUDA toolkit", path.display())),
        None => Err("the CUDA toolkit's headers are not found: set CUDA_PATH".into()),
    }
}

/// The model of the device with this ordinal, as its driver names it.
///
/// # Errors
/// As [`usable`].
pub fn name(ordinal: usize) -> Result<String, String> {
    usable(ordinal)?;
    CudaContext::new(ordinal).and_then(|context| context.name()).map_err(|error| format!("{error:?}"))
}

/// Free bytes of the device with this ordinal.
///
/// # Errors
/// As [`usable`].
pub fn free_memory(ordinal: usize) -> Result<f64, String> {
    usable(ordinal)?;
    let failed = |error| format!("{error:?}");
    let (free, _) = CudaContext::new(ordinal).and_then(|context| context.mem_get_info()).map_err(failed)?;
    Ok(free as f64)
}
