//! `[series]`: the same spectra of several states of one network, as one study.

use serde::{Deserialize, Serialize};

use crate::shown::Url;

/// `[series]`. One of its keys is given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Series {
    /// Weights of one training run, by path, URL or glob: members in the order of the numbers in their names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checkpoints: Vec<Url>,
    /// Values of `run.seed`, which initial values and probes follow from: members in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<u64>,
}

impl Series {
    /// Number of members; of globs, which may stand for more, each counts as one.
    pub fn least_members(&self) -> usize {
        self.checkpoints.len() + self.seeds.len()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{assert_refused, with};

    #[test]
    fn a_series_has_one_key_and_members_that_differ() {
        let config = with("[series]\nseeds = [3, 1]\n", &[]).unwrap();
        assert_eq!(config.series.unwrap().seeds, [3, 1]);
        assert!(with("", &[]).unwrap().resolved_json().unwrap().get("series").is_none());
        for (text, parts) in [
            ("[series]\nseeds = [1, 1]\n", &["series.seeds", "[1, 1]", "each seed once"][..]),
            ("[series]\nseeds = [1]\n", &["series.seeds", "two or more"]),
            ("[series]\n", &["series", "checkpoints", "seeds"]),
            ("[series]\nseeds = [1, 2]\ncheckpoints = [\"a.pt\"]\n", &["series", "one of"]),
            ("[series]\nseed = [1, 2]\n", &["did you mean `seeds`?"]),
            ("[series]\nseeds = [1, 2]\n[convergence]\nfrom = 1024\nto = 8192\n", &["series", "[convergence]"]),
        ] {
            assert_refused(text, &[], parts);
        }
    }
}
