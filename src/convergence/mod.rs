//! The batch approximation as a result: the same spectra from nested batches, and how much they still change.
//!
//! Every batch is an ordinary run of the coordinator, resumable and readable by itself, named after the study and its
//! tokens. This room owns which batches there are, when the study may end, and the tables `convergence` and
//! `convergence_pairs` of the study's own run, which also holds the largest batch's spectra. Nothing is computed twice: a
//! study that is run again finds its batches done.

mod batch;
mod rows;

use std::time::{Instant, SystemTime};

use crate::cluster::{Comm, told};
use crate::config::{Config, Convergence, Order};
use crate::coordinator::{self, Outcome, Progress, least, open_store, resources};
use crate::lock::Lock;
use crate::output::{Results, RunStore, rfc3339};
use crate::plan::memory::Resources;
use crate::spectrum::nested::{Verdict, data_errors};
use crate::{Error, Result, tables};
use batch::Batch;

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
/// Those of [`coordinator::run`]; [`Error::Config`] before anything is spent if the data has not as many tokens as the
/// largest batch, or a batch's name is that of a run with another configuration.
pub fn run(config: &Config, study: &Convergence, comm: &Comm, progress: &dyn Progress) -> Result<Outcome> {
    let (begin, started) = (Instant::now(), SystemTime::now());
    let resources = least(resources(config, comm)?, comm)?;
    let mut root = if comm.is_root() { Some(Root::open(config, study, resources, progress)?) } else { None };
    let mut outcome = nothing_yet(config);
    if told(comm, root.as_ref().map(|root| root.store.is_done()))? {
        if comm.is_root() {
            progress.log(&format!("study `{}` at `{}` is already done", outcome.run, outcome.url));
        }
        return Ok(outcome);
    }
    compute(config, study, comm, progress, &mut root, &mut outcome)?;
    if let Some(root) = root {
        root.finish(&rfc3339(started), progress)?;
    }
    comm.barrier()?; // nobody leaves before the tables are there
    outcome.seconds = begin.elapsed().as_secs_f64();
    Ok(outcome)
}

fn nothing_yet(config: &Config) -> Outcome {
    Outcome {
        run: config.run.name.clone(),
        url: config.output.url.clone(),
        groups_found: 0,
        groups_computed: 0,
        num_products: 0,
        seconds: 0.0,
    }
}

/// All batches, or those until rank 0 finds that one is enough.
fn compute(
    config: &Config,
    study: &Convergence,
    comm: &Comm,
    progress: &dyn Progress,
    root: &mut Option<Root>,
    outcome: &mut Outcome,
) -> Result<()> {
    let sizes = study.sizes();
    for (at, tokens) in sizes.iter().copied().enumerate() {
        if comm.is_root() {
            let unit = config.network.unit().prediction;
            progress.log(&format!("batch {} of {}: {tokens} {unit}s", at + 1, sizes.len()));
        }
        let found = coordinator::run(&batch_config(config, study, tokens), comm, progress)?;
        outcome.groups_found += found.groups_found;
        outcome.groups_computed += found.groups_computed;
        outcome.num_products += found.num_products;
        let enough = root.as_mut().map(|root| root.judge(tokens, progress)).transpose()?;
        if told(comm, enough)? {
            break;
        }
    }
    Ok(())
}

/// What rank 0 holds of a study.
struct Root<'a> {
    config: &'a Config,
    study: &'a Convergence,
    store: RunStore,
    /// None if the study is done.
    lock: Option<Lock>,
    /// Batches that are done, ascending, without their segment matrices.
    batches: Vec<Batch>,
    /// Why the study ended before its largest batch.
    stopped: Option<String>,
}

impl<'a> Root<'a> {
    fn open(config: &'a Config, study: &'a Convergence, resources: Resources, progress: &dyn Progress) -> Result<Self> {
        let found = Results::open(&config.output.url).and_then(|results| results.run(Some(&config.run.name)));
        if !found.is_ok_and(|run| run.is_done()) {
            // before the name is claimed for a study that cannot be
            check_data(config)?;
            check_names(config, study)?;
        }
        let (store, lock) = open_store(config, resources, progress)?;
        let store = store.ok_or_else(|| Error::Other("the output could not be opened".into()))?;
        Ok(Self { config, study, store, lock, batches: Vec::new(), stopped: None })
    }

    /// Reads a batch that is done, says how near it is to be enough, and decides whether it is the last.
    fn judge(&mut self, tokens: usize, progress: &dyn Progress) -> Result<bool> {
        let batch = Batch::read(self.config, self.study, tokens)?;
        let errors = data_errors(&batch.segmented(), None, &[], batch.resampling(self.config, self.study))?;
        let before = self.batches.last().map(|batch| batch.spectra.as_slice());
        let verdict = Verdict::new(&batch.spectra, &errors.blocks, before);
        let change = verdict.change.map_or("none yet".into(), |change| format!("{change:.2e}"));
        let (unit, Verdict { block, error, .. }) = (self.config.network.unit().prediction, &verdict);
        progress.log(&format!(
            "batch of {tokens} {unit}s: error {error:.2e} (block `{block}`), change against the batch before {change}, in spectral ranges"
        ));
        self.batches.push(batch.without_segments());
        let Some(share) = self.study.stop_below.filter(|share| tokens < self.study.to && verdict.is_enough(*share))
        else {
            return Ok(false);
        };
        let why = format!(
            "stopped at {tokens} of at most {} {unit}s: error {error:.2e} and change {change} of the spectral range are below \
             convergence.stop_below = {share}",
            self.study.to
        );
        progress.log(&why);
        self.stopped = Some(why);
        Ok(true)
    }

    fn finish(mut self, started: &str, progress: &dyn Progress) -> Result<()> {
        progress.log(&format!("comparing {} batches", self.batches.len()));
        let remark = (self.config.batch.order == Order::Sequential).then_some(SEQUENTIAL);
        let mut tables = rows::comparison(self.config, self.study, &self.batches, remark)?;
        if let Some(largest) = self.batches.last() {
            let status = self.stopped.as_deref().or(remark).unwrap_or("done");
            rows::add_largest(&mut tables, self.config, largest, &self.batches, started, status)?;
        }
        if let Some(lock) = &self.lock {
            lock.check()?;
        }
        self.store.finish(&tables)
    }
}

/// What a study of sequential batches is told in every row.
const SEQUENTIAL: &str = "sequential_batches; windows that follow one another are no random sample, so errors are too small; \
     leave batch.order out";

/// Refuses a study whose largest batch the data cannot fill.
fn check_data(config: &Config) -> Result<()> {
    config.network.num_samples(&config.choice()).map(drop)
}

/// Refuses a study one of whose batches has the name of a run with another configuration.
fn check_names(config: &Config, study: &Convergence) -> Result<()> {
    let unit = config.network.unit().prediction;
    study.sizes().into_iter().try_for_each(|tokens| {
        let batch = batch_config(config, study, tokens);
        let (url, run, provenance) = (&batch.output.url, &batch.run.name, tables::provenance(&batch)?);
        if *run == config.run.name {
            return Err(Error::Config(format!(
                "run.name = \"{run}\" is also the name of this study's batch of {tokens} {unit}s; choose another run.name"
            )));
        }
        RunStore::check(url, run, &provenance, tables::differing).map(drop).map_err(|error| match error {
            Error::Config(text) => Error::Config(format!(
                "{text}\nHINT: it would be this study's batch of {tokens} {unit}s; batches are named after \
                 convergence.batches, by default after run.name"
            )),
            other => other,
        })
    })
}
