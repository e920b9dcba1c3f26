//! The error to expect from a batch of so many tokens: c / sqrt(tokens), as shares of the spectral range.
//!
//! c comes from the table `convergence` of a study like the planned run, or, where there is none, from the committed study
//! of a small network (results/convergence_small.md): an order of magnitude for any other.

use serde::Serialize;

use crate::output::{ConvergenceRow, Results};
use crate::shown::Url;
use crate::{Error, Result};

/// c of results/convergence_small.md for W1 and for the extreme nodes: worst block, the larger of error and change at its
/// largest batch.
const STATED: (f64, f64) = (0.21, 8.5);

/// How errors from the data fall with the number of tokens; worst block.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Expectation {
    /// Error of the density (W1), times sqrt(tokens).
    pub w1: f64,
    /// Error of the smallest and largest node, times sqrt(tokens).
    pub extremes: f64,
    /// Where it comes from.
    pub source: String,
}

impl Expectation {
    /// The law of the committed study.
    pub fn stated() -> Self {
        let source = "results/convergence_small.md, another network: an order of magnitude".into();
        Self { w1: STATED.0, extremes: STATED.1, source }
    }

    /// From a study under a URL: the named one, or the only one.
    ///
    /// # Errors
    /// [`Error::Config`] if there is none, or more than one; those of reading.
    pub fn from_results(url: &Url, name: Option<&str>) -> Result<Self> {
        let results = Results::open(url)?;
        let mut studies: Vec<(String, Vec<ConvergenceRow>)> = Vec::new();
        for run in results.runs()?.into_iter().filter(|run| name.is_none_or(|name| name == run)) {
            let rows = results.run(Some(&run))?.read::<ConvergenceRow>()?;
            if !rows.is_empty() {
                studies.push((run, rows));
            }
        }
        match studies.as_slice() {
            [(run, rows)] => Ok(Self::of_rows(rows, format!("study `{run}` at {url}"))),
            _ => {
                let names: Vec<&str> = studies.iter().map(|(run, _)| run.as_str()).collect();
                Err(Error::Config(format!(
                    "--convergence {url}: expected the tables of one finished run with [convergence], found {}{}",
                    names.len(),
                    if names.is_empty() {
                        String::new()
                    } else {
                        format!(": {}; name one with --run", names.join(", "))
                    }
                )))
            }
        }
    }

    /// From each block's largest batch: the larger of its bootstrap error and of the change since the batch before, which
    /// also has what small batches have in common.
    fn of_rows(rows: &[ConvergenceRow], source: String) -> Self {
        let most = rows.iter().map(|row| row.tokens).max().unwrap_or(0);
        let counted = rows.iter().filter(|row| row.tokens == most && !row.status.starts_with("zero_block"));
        let (mut w1, mut extremes) = (0.0_f64, 0.0_f64);
        for row in counted {
            let unit = (row.lambda_max - row.lambda_min) / (most as f64).sqrt();
            let before = rows.iter().filter(|other| other.block == row.block && other.tokens < most);
            let before = before.max_by_key(|other| other.tokens).unwrap_or(row);
            let moves = (row.lambda_max - before.lambda_max).abs().max((row.lambda_min - before.lambda_min).abs());
            w1 = w1.max(row.w1_error.max(row.w1_previous.unwrap_or(0.0)) / unit);
            extremes = extremes.max(row.lambda_max_error.max(row.lambda_min_error).max(moves) / unit);
        }
        Self { w1, extremes, source }
    }

    /// Errors of W1 and of the extreme nodes in a batch.
    pub fn at(&self, tokens: usize) -> (f64, f64) {
        let root = (tokens as f64).sqrt();
        (self.w1 / root, self.extremes / root)
    }
}
