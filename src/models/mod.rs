//! The parameters of burn modules: how they are called (`names`), where their values come from (`init`, `weights`) and how they
//! are grouped into blocks (`partition`).
//!
//! Nothing here knows a network, or that anything is ever differentiated: modules of every burn backend will do.

pub mod init;
pub mod names;
pub mod partition;
pub mod weights;

pub use init::{Initial, initialise};
pub use names::{Names, fill, parameters, read};
pub use partition::{Partition, Structure, partition};
