//! One error type for the whole program. Its kind is the exit code, and exit codes are a contract:
//! 0 done, 2 usage or configuration, 3 environment, 4 numerics, 5 storage, 75 interrupted, 1 anything else.
//!
//! A message names the file, key or line, the value found, what was expected, and what to do. However it came together, it is
//! shown without the secrets of the URLs in it and without control characters.

use crate::shown::scrubbed;

/// What went wrong, by who can mend it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The command line, the TOML file or an input file is wrong (exit 2).
    #[error("{}", scrubbed(.0))]
    Config(String),
    /// The machine cannot do it: world, device, precision, feature, memory (exit 3).
    #[error("{}", scrubbed(.0))]
    Environment(String),
    /// A number is wrong: not finite, not symmetric, an identity that does not hold (exit 4).
    #[error("{}", scrubbed(.0))]
    Numerics(String),
    /// The output or checkpoint storage failed (exit 5).
    #[error("{}", scrubbed(.0))]
    Storage(String),
    /// Stopped by a signal, everything saved; run again to continue (exit 75).
    #[error("{}", scrubbed(.0))]
    Interrupted(String),
    /// Anything else (exit 1).
    #[error("{}", scrubbed(.0))]
    Other(String),
}

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The process exit code of this error.
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::Config(_) => 2,
            Error::Environment(_) => 3,
            Error::Numerics(_) => 4,
            Error::Storage(_) => 5,
            Error::Interrupted(_) => 75,
            Error::Other(_) => 1,
        }
    }
}
