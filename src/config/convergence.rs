//! `[convergence]`: the same spectra from several nested batches, to see how many tokens are enough.

use serde::{Deserialize, Serialize};

/// `[convergence]`. Batch i has `from * factor^i` tokens, the largest `to`; each is a prefix of every larger one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Convergence {
    /// Predicted tokens of the smallest batch, a multiple of the context.
    pub from: usize,
    /// Predicted tokens of the largest batch: `from` times a power of `factor`.
    pub to: usize,
    /// Ratio of two successive batches. Default: 2.
    #[serde(default = "doubling")]
    pub factor: usize,
    /// Ends the study early: at the first batch where, for every block, bootstrap error and change against the batch
    /// before are below this share of the spectral range. Default: all batches are computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_below: Option<f64>,
    /// Bootstrap draws behind every error. Default: 100, which gives a standard error to 7 %.
    #[serde(default = "default_draws")]
    pub draws: u64,
    /// The batch of n tokens is the run `<batches>-<n>`. Default: `run.name`. A study that goes further takes the batches of
    /// an earlier one by naming them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batches: Option<String>,
}

fn doubling() -> usize {
    2
}

fn default_draws() -> u64 {
    100
}

impl Convergence {
    /// Tokens of each batch, ascending. Both ends belong to it where `to` is `from` times a power of `factor`.
    pub fn sizes(&self) -> Vec<usize> {
        let next = |tokens: &usize| tokens.checked_mul(self.factor).filter(|next| *next <= self.to);
        std::iter::successors(Some(self.from), next).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{assert_refused, with};
    use crate::config::{Order, parse};
    use crate::networks::Registry;

    const STUDY: &str = "[convergence]\nfrom = 1024\nto = 8192\n";

    #[test]
    fn a_study_of_nested_batches_is_read_and_takes_permuted_windows() {
        let config = with(STUDY, &[]).unwrap();
        let study = config.convergence.as_ref().unwrap();
        assert_eq!((study.factor, study.stop_below, study.draws, study.batches.as_deref()), (2, None, 100, None));
        assert_eq!(study.sizes(), [1024, 2048, 4096, 8192]);
        assert_eq!((config.batch.tokens, config.batch.order), (Some(8192), Order::Permuted));
        let written = config.resolved_toml().unwrap();
        assert_eq!(parse(&written, "again.toml", "again", &[], &Registry::built_in()).unwrap(), config);
        let other = with(STUDY, &["batch.order=\"sequential\"", "convergence.factor=8", "convergence.stop_below=0.01"])
            .unwrap();
        assert_eq!(other.batch.order, Order::Sequential);
        assert_eq!(other.convergence.unwrap().sizes(), [1024, 8192]);
        assert!(with("", &[]).unwrap().resolved_json().unwrap().get("convergence").is_none());
    }

    #[test]
    fn contradictions_of_a_study_are_refused_with_what_to_do() {
        for (overrides, parts) in [
            (&["convergence.from=1000"][..], &["convergence.from = 1000", "multiple of 256", "768 or 1024"][..]),
            (&["convergence.to=9000"], &["convergence.to = 9000", "nearest: 8192 or 16384"]),
            (&["convergence.to=1024"], &["convergence.to = 1024", "expected 2048 or more"]),
            (&["convergence.factor=1"], &["convergence.factor = 1", "2 or more"]),
            (&["convergence.factor=3"], &["convergence.to = 8192", "nearest: 3072 or 9216"]),
            (&["convergence.stop_below=1.5"], &["convergence.stop_below = 1.5", "between 0 and 1"]),
            (&["convergence.draws=1"], &["convergence.draws = 1"]),
            (&["convergence.batches=\"a/b\""], &["convergence.batches", "folder"]),
            (&["convergence.frm=1"], &["convergence.frm", "did you mean `from`?"]),
            (&["batch.tokens=4096"], &["batch.tokens = 4096", "from 1024 to 8192; leave it out"]),
            (&["batch.segments=1"], &["batch.segments = 1", "at least 2"]),
            (&["batch.segments=8"], &["batch.segments = 8", "4 windows"]),
            (&["convergence.from=256"], &["convergence.from = 256", "two windows"]),
            (&["hessian.reduction=\"sum\""], &["hessian.reduction", "\"mean\""]),
            (&["lanczos.reorthogonalize=\"none\""], &["lanczos.reorthogonalize", "\"full\""]),
        ] {
            assert_refused(STUDY, overrides, parts);
        }
        assert_refused("[convergence]\nfrom = 1024\n", &[], &["convergence", "`to` is missing"]);
    }
}
