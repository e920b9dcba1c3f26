//! Series: a list of runs that are compared with one another, as one study.
//!
//! Every member is an ordinary run of the coordinator, resumable and readable by itself, under a name of its own. This room owns the
//! list, the study's name and lock, when the study may end, and the tables of the study's own run, which compare its members.
//! Nothing is computed twice: a study that is run again finds its members done. What is compared is a case's business
//! (`convergence`: nested batches of one data set; `states`: checkpoints of one training run, or seeds).

pub mod convergence;
mod finished;
pub mod states;

use std::time::{Instant, SystemTime};

use crate::cluster::{Comm, told};
use crate::config::Config;
use crate::coordinator::{self, Outcome, least, open_store, resources};
use crate::lock::Lock;
use crate::output::{Results, RunStore, Tables, rfc3339};
use crate::plan::memory::Resources;
use crate::worker::Progress;
use crate::{Error, Result, tables};

/// One run of a series.
pub struct Member {
    /// What tells it from the others, with its unit: `4096 tokens`.
    pub label: String,
    /// Its run.
    pub config: Config,
}

/// What the runs are, and how they are compared. All ranks have the same one; rank 0 alone judges and compares.
pub trait Series {
    /// What one of them is called in messages: `batch`.
    fn noun(&self) -> &'static str;

    /// The runs, in the order in which they are computed.
    fn members(&self) -> Vec<Member>;

    /// How names of members come about, for who has to choose others.
    fn naming(&self) -> &'static str;

    /// Refuses a series that cannot be computed, before its name is claimed.
    ///
    /// # Errors
    /// The case's own.
    fn check(&self) -> Result<()>;

    /// Called when a member is done: why it is the last one, if it is.
    ///
    /// # Errors
    /// The case's own.
    fn judge(&mut self, member: &Member, progress: &dyn Progress) -> Result<Option<String>>;

    /// The tables that compare the members that are done. `stopped`: why not all of them are.
    ///
    /// # Errors
    /// The case's own.
    fn tables(self, started: &str, stopped: Option<&str>, progress: &dyn Progress) -> Result<Tables>;
}

/// Computes what is not there yet of all members, then the tables that compare them. Every rank calls it.
///
/// # Errors
/// Those of [`coordinator::run`]; [`Error::Config`] before anything is spent for a series that cannot be, or if a member's name is
/// that of a run with another configuration.
pub fn run<S: Series>(config: &Config, mut series: S, comm: &Comm, progress: &dyn Progress) -> Result<Outcome> {
    let (begin, started) = (Instant::now(), SystemTime::now());
    let resources = least(resources(config, comm)?, comm)?;
    let root = if comm.is_root() { Some(Root::open(config, &series, resources, progress)?) } else { None };
    let mut outcome = nothing_yet(config);
    if told(comm, root.as_ref().map(|root| root.store.is_done()))? {
        if comm.is_root() {
            progress.log(&format!("study `{}` at `{}` is already done", outcome.run, outcome.url));
        }
        return Ok(outcome);
    }
    let stopped = compute(&mut series, comm, progress, &mut outcome)?;
    if let Some(root) = root {
        root.finish(&series.tables(&rfc3339(started), stopped.as_deref(), progress)?)?;
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

/// All members, or those until rank 0 finds that one is the last; why, on rank 0.
fn compute(
    series: &mut impl Series,
    comm: &Comm,
    progress: &dyn Progress,
    outcome: &mut Outcome,
) -> Result<Option<String>> {
    let (members, noun) = (series.members(), series.noun());
    for (at, member) in members.iter().enumerate() {
        if comm.is_root() {
            progress.log(&format!("{noun} {} of {}: {}", at + 1, members.len(), member.label));
        }
        let found = coordinator::run(&member.config, comm, progress)?;
        outcome.groups_found += found.groups_found;
        outcome.groups_computed += found.groups_computed;
        outcome.num_products += found.num_products;
        let why = if comm.is_root() { series.judge(member, progress)? } else { None };
        if told(comm, comm.is_root().then_some(why.is_some()))? {
            return Ok(why);
        }
    }
    Ok(None)
}

/// What rank 0 holds of a study.
struct Root {
    store: RunStore,
    /// None if the study is done.
    lock: Option<Lock>,
}

impl Root {
    fn open(config: &Config, series: &impl Series, resources: Resources, progress: &dyn Progress) -> Result<Self> {
        let found = Results::open(&config.output.url).and_then(|results| results.run(Some(&config.run.name)));
        if !found.is_ok_and(|run| run.is_done()) {
            // before the name is claimed for a study that cannot be
            series.check()?;
            check_names(config, series)?;
        }
        let (store, lock) = open_store(config, resources, progress)?;
        let store = store.ok_or_else(|| Error::Other("the output could not be opened".into()))?;
        Ok(Self { store, lock })
    }

    fn finish(mut self, tables: &Tables) -> Result<()> {
        if let Some(lock) = &self.lock {
            lock.check()?;
        }
        self.store.finish(tables)
    }
}

/// Refuses a study one of whose members has the name of a run with another configuration.
fn check_names(config: &Config, series: &impl Series) -> Result<()> {
    let noun = series.noun();
    series.members().into_iter().try_for_each(|Member { label, config: member }| {
        let (url, run, provenance) = (&member.output.url, &member.run.name, tables::provenance(&member)?);
        if *run == config.run.name {
            return Err(Error::Config(format!(
                "run.name = \"{run}\" is also the name of this study's {noun} of {label}; choose another run.name"
            )));
        }
        RunStore::check(url, run, &provenance, tables::differing).map(drop).map_err(|error| match error {
            Error::Config(text) => {
                let naming = series.naming();
                Error::Config(format!("{text}\nHINT: it would be this study's {noun} of {label}; {naming}"))
            }
            other => other,
        })
    })
}
