//! Second order for any burn model.

pub mod jvp;
pub mod kernels;
pub mod outer;

pub use jvp::{Choices, Jvp, in_f64, recorded};
pub use kernels::{Arithmetic, Dual, Kernels};
pub use outer::{Gradients, SecondOrder, adjoint, leaf, linear_cross_entropy, tangents_of, training};
