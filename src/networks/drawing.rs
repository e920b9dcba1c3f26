//! What a network's own initialisers draw.
//!
//! burn's random numbers on the processor are the process's: `seed` sets one generator, and whoever makes a module draws from it.
//! Ranks that are threads of one process make modules at the same time, so [`own_values`] draws while nobody else makes one.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use burn::tensor::TensorData;
use burn::tensor::backend::Backend;

use super::Network;
use crate::Result;
use crate::models::read;

/// Written by who seeds and draws, read by who makes a module whose random values are of no use.
static GENERATOR: RwLock<()> = RwLock::new(());

/// Makes a module whose random values nobody uses: they are drawn while no [`own_values`] are.
///
/// Not to be nested: a thread that waits in [`own_values`] would stop the inner call for ever.
pub(super) fn aside<T>(make: impl FnOnce() -> T) -> T {
    let _guard = GENERATOR.read().unwrap_or_else(PoisonError::into_inner);
    make()
}

/// The values that a network's own initialisers draw, by name: a function of `seed` alone. They are drawn on the processor, so
/// that they are those of any backend.
///
/// # Errors
/// As [`Network::module`].
pub(super) fn own_values<N: Network>(network: &N, seed: u64) -> Result<BTreeMap<String, TensorData>> {
    type Plain = burn_flex::Flex;
    let _guard = GENERATOR.write().unwrap_or_else(PoisonError::into_inner);
    let device = Default::default();
    Plain::seed(&device, seed);
    let module = network.module::<Plain>(&device)?;
    let mut values = BTreeMap::new();
    read(&module, network.names(), |name, data| drop(values.insert(name.to_owned(), data)));
    Ok(values)
}
