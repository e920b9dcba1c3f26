//! Models: ordinary burn modules, their names, their weights, their blocks.
//!
//! Owned here: what a network computes (`gpt2`), how its parameters are called (`names`), where their values
//! come from (`init`, `weights`) and how they are grouped into blocks (`partition`). Nothing here knows that
//! anything is ever differentiated: these modules run on every burn backend.

pub mod gpt2;
pub mod init;
pub mod names;
pub mod partition;
pub mod weights;

pub use gpt2::{Gelu, Gpt2, Gpt2Config};
pub use init::{Initialisation, initialise};
pub use names::{Names, fill, parameters};
pub use partition::{Partition, Structure, partition};
