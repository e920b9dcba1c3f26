//! Fused kernels on flex's slices (CPU).

use burn_flex::Flex;

use super::Kernels;

impl Kernels for Flex {}
