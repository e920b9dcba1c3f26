//! Hessian spectra of neural networks by stochastic Lanczos quadrature, blockwise and full, for any burn model.
//!
//! The program is `hesspec` (see README.md). As a library: implement [`Problem`] for your model and run an [`Analysis`];
//! `examples/own_model.rs` does it in one file. [`engine`] is second-order differentiation for burn by
//! itself. ARCHITECTURE.md is the map of the rooms below.
//!
//! Without the feature `program`, which is on by default, the crate is engine, numerics and [`Analysis`]: no command line, no tables, no storage,
//! and a fifth of the dependencies.

pub mod error;
pub mod shown;

// L0: pure
pub mod block;
#[cfg(feature = "program")]
pub mod document;
#[cfg(feature = "program")]
pub mod file;
pub mod krylov;
pub mod probe;
pub mod spectrum;

// Between: where bytes lie
#[cfg(feature = "program")]
pub mod storage;

// L1: one concern each
pub mod cluster;
#[cfg(feature = "program")]
pub mod data;
pub mod engine;
pub mod models;
#[cfg(feature = "program")]
pub mod output;

// L2: composition
pub mod analysis;
pub mod checkpoint;
#[cfg(feature = "program")]
pub mod config;
#[cfg(feature = "program")]
pub mod datasets;
pub mod hessian;
pub mod metrics;
#[cfg(feature = "program")]
pub mod networks;
pub mod worker;

// L3: the run
#[cfg(feature = "program")]
pub mod announce;
#[cfg(feature = "program")]
pub mod coordinator;
#[cfg(feature = "program")]
pub mod dense;
#[cfg(feature = "program")]
pub mod derive;
#[cfg(feature = "program")]
pub mod doctor;
#[cfg(feature = "program")]
pub mod inputs;
#[cfg(feature = "program")]
pub mod job;
#[cfg(feature = "program")]
pub mod lock;
#[cfg(feature = "program")]
pub mod plan;
#[cfg(feature = "program")]
pub mod quadratic;
#[cfg(feature = "program")]
pub mod series;
#[cfg(feature = "program")]
pub mod tables;
#[cfg(feature = "program")]
pub mod train;

// L4: edges
#[cfg(feature = "program")]
pub mod cli;
#[cfg(feature = "program")]
pub mod program;
#[cfg(feature = "program")]
pub mod report;

pub use analysis::{Analysis, Curvature};
pub use error::{Error, Result};
pub use hessian::Problem;
#[cfg(feature = "program")]
pub use program::program;
