//! Second order for any burn model.

pub mod kernels;
