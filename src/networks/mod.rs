//! Networks: what is particular to each, behind one trait, and the list of those there are.
//!
//! A [`Network`] is a table `[model.KIND]`: sizes, an ordinary burn module, its loss, its names. With the data that it reads it
//! is a [`Setup`], an object that knows no types any more; everything above this room works on that. Adding a network: its own
//! file, and one line in [`Registry::built_in`].

pub mod bert;
pub mod convolution;
#[cfg(test)]
mod convolution_tests;
pub mod decoder;
mod described;
mod drawing;
pub mod gpt2;
pub mod loss;
pub mod mlp;
mod network;
mod profile;
mod registry;
mod residual;
pub mod resnet;
mod setup;
#[cfg(test)]
mod testing;
pub mod vgg;
pub mod vit;

pub use network::{BatchOf, Network, StagesOf};
pub use profile::{Product, Profile, Recomputed};
pub use registry::Registry;
pub use residual::{Place, Residual};
pub use setup::{Instance, OnBackends, OnCuda, OnNdarray, OnWgpu, Opening, Opens, Pair, Setup, Source};
