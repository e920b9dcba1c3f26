//! The metrics that blocks can be compared by: one list. A metric is a name and the rows that it makes; adding one is a file
//! and a line here.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::divergence::{Divergence, Frame};
use super::{BlockSpectrum, energy, js, symkl, wasserstein};
use crate::{Error, Result};

/// Every metric, what is resolved best first: the default of `distance.metrics`.
pub const METRICS: [Metric; 4] = [energy::METRIC, js::METRIC, wasserstein::METRIC, symkl::METRIC];

const NAMES: [&str; METRICS.len()] = {
    let mut names = [""; METRICS.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = METRICS[at].name;
        at += 1;
    }
    names
};

/// A way to compare blocks.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name in configurations and tables; variants have longer ones.
    pub name: &'static str,
    /// Its rows and those of its variants, for all pairs of blocks.
    pub(super) rows: fn(&[BlockSpectrum], &Frame) -> Result<Vec<Divergence>>,
}

impl Metric {
    /// The metric of a name.
    ///
    /// # Errors
    /// [`Error::Config`] for other names than those in [`METRICS`].
    pub fn named(name: &str) -> Result<Self> {
        let found = METRICS.into_iter().find(|metric| metric.name == name);
        found.ok_or_else(|| Error::Config(format!("no metric `{name}`; expected one of {}", NAMES.join(", "))))
    }
}

impl PartialEq for Metric {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::named(&name).map_err(|_| de::Error::unknown_variant(&name, &NAMES))
    }
}
