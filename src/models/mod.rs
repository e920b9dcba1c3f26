//! The parameters of burn modules: how they are called (`names`), where their values come from (`init`, `weights`) and how they
//! are grouped into blocks (`partition`) and, in these, into rows, neurons and heads (`cells`).
//!
//! Nothing here knows a network, or that anything is ever differentiated: modules of every burn backend will do.

pub mod cells;
pub mod init;
pub mod names;
mod naming;
pub mod own;
pub mod partition;
mod vectors;
pub mod walk;
#[cfg(feature = "program")]
pub mod weights;

pub use init::{Initial, initialise};
pub use names::{Names, fill, parameters, read, stored};
pub use naming::{Naming, Part, Rule};
pub use partition::{Partition, Structure, partition};
pub use vectors::VectorObject;
