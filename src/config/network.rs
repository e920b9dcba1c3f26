//! `[model.*]` and `[data.*]` of a configuration, whatever their kinds.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::ser::{Error, SerializeMap};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::networks::Setup;
use crate::shown::Url;

/// The network and its data. It is written as two tables, `model` and `data`, each with the one table of its kind.
#[derive(Clone)]
pub struct Configured(pub Arc<dyn Setup>);

impl Configured {
    /// The network with the weights of another place.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for a network that has no key `weights`.
    pub fn with_weights(&self, weights: &Url) -> crate::Result<Self> {
        Ok(Self(self.0.with_weights(weights)?))
    }

    /// `{"gpt2": {...}}` and `{"tokens": {...}}`.
    fn tables(&self) -> crate::Result<[(&'static str, Value); 2]> {
        let table = |kind: &str, keys: Value| Value::Object(Map::from_iter([(kind.to_owned(), keys)]));
        let (network, data) = (self.network_json()?, self.data_json()?);
        Ok([("model", table(self.network_kind(), network)), ("data", table(self.data_kind(), data))])
    }
}

impl Deref for Configured {
    type Target = dyn Setup;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for Configured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PartialEq for Configured {
    fn eq(&self, other: &Self) -> bool {
        matches!((self.tables(), other.tables()), (Ok(own), Ok(theirs)) if own == theirs)
    }
}

impl Serialize for Configured {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tables = self.tables().map_err(S::Error::custom)?;
        let mut map = serializer.serialize_map(Some(tables.len()))?;
        tables.iter().try_for_each(|(name, table)| map.serialize_entry(name, table))?;
        map.end()
    }
}
