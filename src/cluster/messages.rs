//! Values between ranks that are no numbers of a vector: as JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Comm;
use crate::{Error, Result};

/// Rank 0's value, on every rank.
///
/// # Errors
/// Those of the exchange.
pub fn told<T: Serialize + DeserializeOwned>(comm: &Comm, value: Option<T>) -> Result<T> {
    let mut bytes = serde_json::to_vec(&value).map_err(unreadable)?;
    comm.broadcast_bytes(0, &mut bytes)?;
    let value: Option<T> = serde_json::from_slice(&bytes).map_err(unreadable)?;
    value.ok_or_else(|| Error::Other("rank 0 had nothing to say".into()))
}

/// The values of all ranks, in their order, on rank 0; `None` elsewhere.
///
/// # Errors
/// Those of the exchange.
pub fn gathered<T: Serialize + DeserializeOwned>(comm: &Comm, mine: &T) -> Result<Option<Vec<T>>> {
    let all = comm.gather_bytes(0, &serde_json::to_vec(mine).map_err(unreadable)?)?;
    let read = |all: Vec<Vec<u8>>| all.iter().map(|bytes| serde_json::from_slice(bytes).map_err(unreadable)).collect();
    all.map(read).transpose()
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::Other(format!("a message between ranks: {error}; do all of them run the same program?"))
}
