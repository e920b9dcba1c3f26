//! The batch approximation as a result: the same spectra from nested batches, and how much they still change.
//!
//! A batch is named after the study and its tokens. The tables `convergence` and `convergence_pairs` compare each batch with the one before
//! and with the largest, whose spectra the study's own run also holds.

mod rows;

use super::finished::{Ending, Finished, add_spectra};
use super::{Member, Series};
use crate::Result;
use crate::cluster::Comm;
use crate::config::{Config, Convergence, Order};
use crate::coordinator::Outcome;
use crate::output::Tables;
use crate::spectrum::Weights;
use crate::spectrum::nested::{Resampling, Verdict, data_errors};
use crate::worker::Progress;

/// The run of one batch: the study's configuration with so many tokens, under a name of its own.
pub fn batch_config(config: &Config, study: &Convergence, tokens: usize) -> Config {
    let mut batch = config.clone();
    batch.run.name = format!("{}-{tokens}", study.batches.as_ref().unwrap_or(&config.run.name));
    batch.set_num_samples(Some(tokens / config.network.unit().predictions));
    batch.convergence = None;
    batch
}

/// Computes what is not there yet of all batches, smallest first, then the tables that compare them. Every rank calls it.
///
/// # Errors
/// Those of [`super::run`]; [`Error::Config`](crate::Error::Config) before anything is spent if the data has not as many tokens as the largest
/// batch.
pub fn run(config: &Config, study: &Convergence, comm: &Comm, progress: &dyn Progress) -> Result<Outcome> {
    super::run(config, Nested { config, study, batches: Vec::new() }, comm, progress)
}

/// Draws that depend on the run's seed alone, the same for all batches.
fn resampling<'a>(config: &Config, study: &Convergence, batch: &'a Finished) -> Resampling<'a> {
    Resampling { seed: config.run.seed, draws: study.draws, shares: &batch.shares }
}

/// Nested batches.
struct Nested<'a> {
    config: &'a Config,
    study: &'a Convergence,
    /// Batches that are done, ascending, without their segment matrices.
    batches: Vec<Finished>,
}

impl Nested<'_> {
    /// So many predictions, as messages have it.
    fn label(&self, tokens: usize) -> String {
        format!("{tokens} {}s", self.config.network.unit().prediction)
    }
}

/// What a study of sequential batches is told in every row.
const SEQUENTIAL: &str = "sequential_batches; windows that follow one another are no random sample, so errors are too small; \
     leave batch.order out";

impl Series for Nested<'_> {
    fn noun(&self) -> &'static str {
        "batch"
    }

    fn members(&self) -> Vec<Member> {
        let member =
            |tokens| Member { label: self.label(tokens), config: batch_config(self.config, self.study, tokens) };
        self.study.sizes().into_iter().map(member).collect()
    }

    fn naming(&self) -> &'static str {
        "batches are named after convergence.batches, by default after run.name"
    }

    /// Refuses a study whose largest batch the data cannot fill.
    fn check(&self) -> Result<()> {
        self.config.network.num_samples(&self.config.choice()).map(drop)
    }

    /// Reads a batch that is done, says how near it is to be enough, and decides whether it is the last.
    fn judge(&mut self, member: &Member, progress: &dyn Progress) -> Result<Option<String>> {
        let batch = Finished::read(&member.config, Weights::Raw)?;
        let tokens = batch.tokens;
        let errors = data_errors(&batch.segmented(), None, &[], resampling(self.config, self.study, &batch))?;
        let before = self.batches.last().map(|batch| batch.spectra.as_slice());
        let verdict = Verdict::new(&batch.spectra, &errors.blocks, before);
        let change = verdict.change.map_or("none yet".into(), |change| format!("{change:.2e}"));
        let (label, Verdict { block, error, .. }) = (&member.label, &verdict);
        progress.log(&format!(
            "batch of {label}: error {error:.2e} (block `{block}`), change against the batch before {change}, in spectral ranges"
        ));
        self.batches.push(batch.without_segments());
        let Some(share) = self.study.stop_below.filter(|share| tokens < self.study.to && verdict.is_enough(*share))
        else {
            return Ok(None);
        };
        let why = format!(
            "stopped at {tokens} of at most {}: error {error:.2e} and change {change} of the spectral range are below \
             convergence.stop_below = {share}",
            self.label(self.study.to)
        );
        progress.log(&why);
        Ok(Some(why))
    }

    fn tables(self, started: &str, stopped: Option<&str>, progress: &dyn Progress) -> Result<Tables> {
        progress.log(&format!("comparing {} batches", self.batches.len()));
        let remark = (self.config.batch.order == Order::Sequential).then_some(SEQUENTIAL);
        let mut tables = rows::comparison(self.config, self.study, &self.batches, remark)?;
        let done: Vec<Config> =
            self.batches.iter().map(|batch| batch_config(self.config, self.study, batch.tokens)).collect();
        if let Some(largest) = done.last() {
            let ending = Ending { config: self.config, started, status: stopped.or(remark).unwrap_or("done") };
            add_spectra(&mut tables, &ending, largest, &done)?;
        }
        Ok(tables)
    }
}
