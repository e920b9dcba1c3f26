//! Whether a place is fit to compute in: machine, device, kernels, ranks, storage, each tried and not believed.
//!
//! Owns the measurements behind `hesspec doctor`; every run and `hesspec check` take the precision of the device's matrix
//! products from here. Knows nothing of how findings are printed.

mod exchange;
mod kernels;
mod machine;
mod precision;
mod storage;

use serde::{Deserialize, Serialize};

pub use exchange::exchange;
pub use kernels::{KernelError, kernel_error, kernels};
pub use machine::{build, disk, machine};
pub use precision::{LONG_PRODUCTS, MatmulError, SHORT_PRODUCTS, matmul_error, products};
pub use storage::storage;

use crate::Error;

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but look at it.
    Warn,
    /// A run must not go on like this.
    Fail,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// What it came to.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty where all is well.
    pub advice: String,
}

impl Finding {
    /// As it should be.
    pub fn ok(what: &str, found: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Ok, found: found.into(), advice: String::new() }
    }

    /// Works, with a doubt.
    pub fn warn(what: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Warn, found: found.into(), advice: advice.into() }
    }

    /// Does not work.
    pub fn fail(what: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Fail, found: found.into(), advice: advice.into() }
    }

    /// An error's message says what to do by itself.
    pub fn of(what: &str, error: &Error) -> Self {
        Self::fail(what, error.to_string(), "")
    }
}
