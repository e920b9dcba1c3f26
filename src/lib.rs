//! Hessian spectra of neural networks by stochastic Lanczos quadrature, blockwise and full, for any burn model.
//!
//! The program is `hesspec` (see README.md). As a library: implement [`Problem`] for your model and run an [`Analysis`];
//! `examples/own_model.rs` does it in one file. [`engine`] is second-order differentiation for burn by
//! itself. ARCHITECTURE.md is the map of the rooms below.

pub mod error;
pub mod shown;

// L0: pure
pub mod block;
pub mod document;
pub mod file;
pub mod krylov;
pub mod probe;
pub mod spectrum;

// Between: where bytes lie
pub mod storage;

// L1: one concern each
pub mod cluster;
pub mod data;
pub mod engine;
pub mod models;
pub mod output;

// L2: composition
pub mod analysis;
pub mod config;
pub mod datasets;
pub mod hessian;
pub mod networks;

// L3: the run
pub mod announce;
pub mod checkpoint;
pub mod convergence;
pub mod coordinator;
pub mod dense;
pub mod derive;
pub mod doctor;
pub mod inputs;
pub mod job;
pub mod lock;
pub mod metrics;
pub mod plan;
pub mod quadratic;
pub mod tables;
pub mod worker;

// L4: edges
pub mod cli;
pub mod program;
pub mod report;

pub use analysis::{Analysis, Curvature};
pub use error::{Error, Result};
pub use hessian::{Problem, spectrum};
pub use program::program;
