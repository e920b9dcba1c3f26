//! What a run's numbers come from beside its configuration, its data and its weights: as they were when a run goes on, and one and
//! the same on all ranks.

use serde::{Deserialize, Serialize};

use crate::cluster::{Comm, gathered, host_name, told};
use crate::config::Config;
use crate::engine::Kernels;
use crate::hessian::Precision;
use crate::job::Job;
use crate::output::RunStore;
use crate::{Error, Result};

/// What the run's store keeps them under.
const INPUTS: &str = "inputs";
/// Samples that are looked at to know a run's data again.
const KNOWN_BY: usize = 1024;
/// Samples that each rank looks at to find that all ranks read one set of data.
const COMPARED: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inputs {
    /// [`RunData::sampled_sha256`]
    samples: Option<String>,
    /// SHA-256 of the weights that were given; `None` where the network is initialised.
    weights: Option<String>,
}

/// Refuses to continue a run on other data or weights than it was begun on; a new run's are kept. For rank 0.
///
/// # Errors
/// [`Error::Config`] for other ones; [`Error::Storage`]; those of the data.
pub fn hold<K: Kernels, T: Precision>(job: &Job<K, T>, store: &RunStore) -> Result<()> {
    let config = &job.config;
    let weights = config.network.weights().map(|_| job.weights_sha256());
    let found = Inputs { samples: job.data().sampled_sha256(KNOWN_BY)?, weights };
    let Some(before) = store.recall::<Inputs>(INPUTS)? else { return store.remember(INPUTS, &found) };
    if before.samples.is_none() && found.samples.is_some() {
        return Err(store.damaged(INPUTS, "it has no hash of the data"));
    }
    let changed = match (before.samples == found.samples, before.weights == found.weights) {
        (true, true) => return Ok(()),
        (false, _) => format!("the data of [data.{}] is not what it was", config.network.data_kind()),
        (true, false) => {
            let weights = config.network.weights().map_or(String::new(), |url| format!(" (`{url}`)"));
            format!("the network's weights{weights} are not what they were")
        }
    };
    Err(Error::Config(format!(
        "run `{}` at `{}` cannot go on: {changed} when it was begun. Restore it, or choose another run.name",
        config.run.name, config.output.url
    )))
}

/// What a rank has before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    host: String,
    num_predictions: usize,
    samples: Option<String>,
    weights: String,
}

/// Holds that all ranks have the same data, of which up to 32 samples are looked at, and the same weights. A path may lead to
/// another file on each machine, and a network of the user's own may draw other values on each rank.
///
/// # Errors
/// [`Error::Config`] on every rank, with the first rank that differs from rank 0; those of the data and of the exchange.
pub fn agree<K: Kernels, T: Precision>(job: &Job<K, T>, comm: &Comm) -> Result<()> {
    let data = job.data();
    let seen = Seen {
        host: host_name(),
        num_predictions: data.num_predictions(),
        samples: data.sampled_sha256(COMPARED)?,
        weights: job.weights_sha256(),
    };
    let all = gathered(comm, &seen)?;
    let difference: String = told(comm, all.map(|all| difference(&job.config, &all).unwrap_or_default()))?;
    if difference.is_empty() { Ok(()) } else { Err(Error::Config(difference)) }
}

/// The first rank that has other data or weights than rank 0, in words.
fn difference(config: &Config, all: &[Seen]) -> Option<String> {
    let first = all.first()?;
    let same = |seen: &Seen| {
        (seen.num_predictions, &seen.samples, &seen.weights) == (first.num_predictions, &first.samples, &first.weights)
    };
    let (rank, other) = all.iter().enumerate().find(|(_, seen)| !same(seen))?;
    let (what, advice) = if other.weights == first.weights {
        (format!("the data of [data.{}]", config.network.data_kind()), "copy the same files to all machines")
    } else if let Some(url) = config.network.weights() {
        (format!("the network's weights (`{url}`)"), "copy the same file to all machines")
    } else {
        (
            "the network's initial values".to_owned(),
            "a network may draw them from burn's generator only, or say in `Network::initial` how they are drawn",
        )
    };
    Some(format!(
        "{what}: rank {rank} on {} has others than rank 0 on {}, and all ranks must have the same: {advice}",
        other.host, first.host
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::Registry;

    fn seen(host: &str, samples: &str, weights: &str) -> Seen {
        Seen { host: host.into(), num_predictions: 4, samples: Some(samples.into()), weights: weights.into() }
    }

    #[test]
    fn the_first_rank_that_differs_is_named() {
        let config = "[model.gpt2]\n[data.tokens]\npath = \"x\"\n[output]\nurl = \"y\"";
        let config = crate::config::parse(config, "test", "test", &[], &Registry::built_in()).unwrap();
        assert_eq!(difference(&config, &[]), None);
        assert_eq!(difference(&config, &[seen("a", "x", "w"), seen("b", "x", "w")]), None);
        let all = [seen("a", "x", "w"), seen("b", "x", "w"), seen("c", "y", "w"), seen("d", "x", "v")];
        let data = difference(&config, &all).unwrap();
        assert!(data.starts_with("the data of [data.tokens]: rank 2 on c has others than rank 0 on a"), "{data}");
        let drawn = difference(&config, &[all[0].clone(), all[3].clone()]).unwrap();
        assert!(drawn.starts_with("the network's initial values: rank 1 on d"), "{drawn}");
        let shorter = Seen { num_predictions: 3, ..all[0].clone() };
        assert!(difference(&config, &[all[0].clone(), shorter]).is_some());
    }
}
