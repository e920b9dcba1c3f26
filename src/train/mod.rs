//! Training: `hesspec train`, from a configuration to weights at chosen steps and the table `training`.
//!
//! ```text
//! samples of step k (datasets) -Descent-> loss, gradient, the same on all ranks -clip-> -optimizer-> parameters
//! ```
//!
//! Parameters, gradient and moments are flat vectors in the network's order, whole on every rank. Ranks share a step's micro-batches,
//! and rank 0 alone writes. All that a step does is a function of the configuration and of the state before it, so that a training
//! that was stopped goes on with the same bits.

mod files;
mod grid;
mod optimizer;
mod rows;
mod schedule;
mod state;
mod steps;

use std::time::{Instant, SystemTime};

use serde::Serialize;

use crate::cluster::{Comm, told};
use crate::config::{Config, Train};
use crate::coordinator;
use crate::data::Cut;
use crate::datasets::Draw;
use crate::doctor;
use crate::engine::Kernels;
use crate::hessian::{Descent, Precision};
use crate::job::{self, Job, On, Task, dispatch};
use crate::lock::Lock;
use crate::networks::{Opening, Source};
use crate::output::{Results, RunStore, Tables, TrainingRow};
use crate::plan::training::TrainingPlan;
use crate::shown::Url;
use crate::worker::Progress;
use crate::{Error, Result, inputs, tables};

pub use grid::{Trained, run};
pub use optimizer::{Optimizer, Rule, clip};
pub use rows::Ending;
pub use schedule::learning_rate;

use state::{State, States};
use steps::Steps;

/// What the samples of a micro-batch are remembered as.
const MICRO_BATCH: &str = "micro_batch";

/// How one training ended.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Name of the run.
    pub run: String,
    /// Where its table and its weights are.
    pub url: Url,
    /// The largest learning rate of its steps.
    pub learning_rate: f64,
    /// Whether it was there already.
    pub was_done: bool,
    /// Where it came to.
    #[serde(flatten)]
    pub ending: Ending,
    /// Folders of weights below the URL.
    pub checkpoints: Vec<String>,
    /// Seconds of this call.
    pub seconds: f64,
}

/// Trains with one learning rate, or goes on. Every rank of `comm` calls it; rank 0 owns the output.
///
/// # Errors
/// [`Error::Config`] if the place holds a run of this name with another configuration; [`Error::Environment`] if it does not fit
/// in memory; [`Error::Storage`]; [`Error::Interrupted`] on all ranks after a stop signal on any.
fn train(config: &Config, rate: f64, comm: &Comm, progress: &dyn Progress) -> Result<Outcome> {
    let begin = Instant::now();
    let train = config.training()?;
    let plan = TrainingPlan::new(config, comm.size())?;
    plan.check_memory(coordinator::resources(config, comm)?)?;
    let (mut store, lock) = if comm.is_root() { open(config, progress)? } else { (None, None) };
    let was_done = told(comm, store.as_ref().map(RunStore::is_done))?;
    let ending = if was_done {
        told(comm, store.as_ref().map(|_| ending_of(config)).transpose()?)?
    } else {
        let (lock, planned) = (lock.as_ref(), plan.micro_batch);
        let task = Training { store: &mut store, lock, comm, rate, planned, progress };
        dispatch(config, task).inspect_err(|error| {
            // a name is not kept for what could not be begun
            let released = match (&store, error) {
                (None, _) | (_, Error::Interrupted(_)) => Ok(()),
                (Some(store), _) => store.release(),
            };
            if let Err(error) = released {
                progress.log(&format!("the name of run `{}` could not be given up: {error}", config.run.name));
            }
        })?
    };
    let written = train.checkpoint_steps().into_iter().filter(|step| *step <= ending.steps);
    Ok(Outcome {
        run: config.run.name.clone(),
        url: config.output.url.clone(),
        learning_rate: rate,
        was_done,
        checkpoints: written.map(|step| files::folder(&config.run.name, step)).collect(),
        ending,
        seconds: begin.elapsed().as_secs_f64(),
    })
}

/// The run's store, and its lock unless the run is done. For rank 0.
fn open(config: &Config, progress: &dyn Progress) -> Result<(Option<RunStore>, Option<Lock>)> {
    let (url, run, provenance) = (&config.output.url, &config.run.name, tables::provenance(config)?);
    if !RunStore::check(url, run, &provenance, tables::differing)? {
        job::preflight(config)?; // a name is not claimed for what cannot be computed
    }
    let mut store = RunStore::open(url, run, &provenance, tables::differing)?;
    if store.is_done() {
        return Ok((Some(store), None));
    }
    let lock = Lock::acquire(url, run, &|line| progress.log(line))?;
    store.begin()?;
    Ok((Some(store), Some(lock)))
}

/// Where a training that is done came to.
fn ending_of(config: &Config) -> Result<Ending> {
    let run = Results::open(&config.output.url)?.run(Some(&config.run.name))?;
    let mut rows = run.read::<TrainingRow>()?;
    rows.sort_by_key(|row| row.step);
    Ok(Ending::of(&rows))
}

struct Training<'a> {
    /// On rank 0.
    store: &'a mut Option<RunStore>,
    /// On rank 0.
    lock: Option<&'a Lock>,
    comm: &'a Comm,
    rate: f64,
    /// Samples of a micro-batch, if the training begins.
    planned: usize,
    progress: &'a dyn Progress,
}

impl Task for Training<'_> {
    type Output = Ending;

    fn run<K: Kernels, T: Precision>(self, config: &Config, on: On<'_, K, T>) -> Result<Ending> {
        let (started, train, comm) = (SystemTime::now(), config.training()?, self.comm);
        let micro_batch =
            told(comm, self.store.as_ref().map(|store| micro_batch(config, store, self.planned)).transpose()?)?;
        let job = Job::open(config, &on, micro_batch)?;
        inputs::agree(&job, comm)?;
        let matmul = doctor::matmul_error::<K, T>(&on.device, doctor::SHORT_PRODUCTS)?; // each rank its own device
        matmul.check()?;
        if let Some(store) = self.store.as_ref() {
            inputs::hold(&job, store)?;
        }
        check_batch(config, train, job.data().num_predictions())?;
        let held_out = config.held_out().map(|choice| {
            let (seed, samples) = (config.run.seed, Source::HeldOut(choice));
            let cut = Cut::MicroBatches; // none is smaller than it need be
            on.network.open(&Opening { seed, samples, micro_batch, segments: Some(1), cut }, &on.device)
        });
        let held_out = held_out.transpose()?;
        let draw = Draw { steps: train.steps, batch: train.batch, micro_batch, seed: train.seed };
        let recompute = config.hessian.recompute;
        let descent = Descent { passes: job.instance().drawn(draw), comm, recompute };
        let unseen = held_out.as_ref().map(|instance| Descent { passes: instance.passes(), comm, recompute });
        let states = self
            .store
            .as_ref()
            .map(|store| States::open(&config.output.url, &config.run.name, store.identity()))
            .transpose()?;
        let rule = Rule::of(train);
        let found = states.as_ref().map(|states| states.load(&rule, job.layout.num_params())).transpose()?.flatten();
        let state = found.unwrap_or_else(|| State::first(&rule, descent.passes.parameters())).shared(comm)?;
        let optimizer = Optimizer::resumed(rule, state.rows.len(), state.vectors);
        let mut steps = Steps {
            config,
            train,
            rate: self.rate,
            draw,
            descent: &descent,
            unseen: unseen.as_ref(),
            instance: job.instance(),
            layout: &job.layout,
            states: states.as_ref(),
            lock: self.lock,
            progress: self.progress,
            parameters: state.parameters,
            optimizer,
            rows: state.rows,
        };
        steps.all()?;
        let ending = told(comm, Some(Ending::of(&steps.rows)))?;
        if let (Some(store), Some(states)) = (self.store.as_mut(), states.as_ref()) {
            self.lock.map_or(Ok(()), Lock::check)?;
            let used = serde_json::json!({ "micro_batch": micro_batch, "batch_sha256": job.data().sha256()? });
            let row = rows::run_row(config, &used, comm.size(), matmul, started, &ending)?;
            store.finish(&Tables { training: steps.rows, runs: vec![row], ..Tables::default() })?;
            states.delete()?;
        }
        Ok(ending)
    }
}

/// Samples of a micro-batch: as before if the training was begun, for the same bits, else as given or planned. For rank 0.
fn micro_batch(config: &Config, store: &RunStore, planned: usize) -> Result<usize> {
    let train = config.training()?;
    if let Some(before) = store.recall::<MicroBatch>(MICRO_BATCH)? {
        return match (1..=train.batch).contains(&before.samples) {
            true => Ok(config.batch.micro_batch.map_or(before.samples, |given| given.min(train.batch))),
            false => Err(store.damaged(MICRO_BATCH, &format!("micro-batches of {} samples", before.samples))),
        };
    }
    store.remember(MICRO_BATCH, &MicroBatch { samples: planned })?;
    Ok(planned)
}

/// What a training remembers of its cut.
#[derive(Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct MicroBatch {
    samples: usize,
}

/// Refuses a step of more samples than there are: some would be in it twice.
fn check_batch(config: &Config, train: &Train, num_predictions: usize) -> Result<()> {
    let unit = config.network.unit();
    let all = num_predictions / unit.predictions;
    if train.batch <= all {
        return Ok(());
    }
    let (batch, sample, key) = (train.batch, unit.sample, unit.key());
    Err(Error::Config(format!(
        "train.batch = {batch}: there are only {all} {sample}s to draw from; expected {all} or less, or more data ({key})"
    )))
}
