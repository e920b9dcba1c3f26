//! The run: guards, groups of slots in lock-step, tables.
//!
//! Drives the Lanczos recursions and owns the schedule and all output. What is computed once per group (alpha, beta,
//! segment matrices) is written as soon as the group ends and never computed again; nodes, densities and distances
//! follow from it at the end, at no further product.

use std::cell::Cell;
use std::time::{Instant, SystemTime};

use serde::Serialize;

use crate::block::Block;
use crate::checkpoint::{Checkpoint, Contents};
use crate::cluster::{Comm, signal, solo, told};
use crate::config::{self, Config};
use crate::doctor::{self, MatmulError};
use crate::engine::Kernels;
use crate::hessian::{Outcome as CheckOutcome, Pair, Precision, ProductError, Settings, product_errors, self_tests};
use crate::job::{self, Job, On, Task, dispatch};
use crate::lock::Lock;
use crate::metrics::StepMetrics;
use crate::output::{RunStore, Tables, TridiagonalRow, rfc3339};
use crate::plan::memory::Resources;
use crate::plan::shape::{self, Choice, Shape};
use crate::plan::{self, Plan};
use crate::shown::Url;
use crate::tables::{self, NOISE_FLOORS};
use crate::worker::{self, Observer, Progress, Slot};
use crate::{Error, Result, announce, inputs};

/// What the run's shape is remembered as.
const SHAPE: &str = "shape";
/// More samples than fit into any memory.
const MOST_SAMPLES: usize = 1 << 32;

/// How a run ended.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Name of the run.
    pub run: String,
    /// Where its tables are.
    pub url: Url,
    /// Groups that were already there.
    pub groups_found: usize,
    /// Groups computed now.
    pub groups_computed: usize,
    /// Products H v over the whole batch, computed now.
    pub num_products: usize,
    /// Seconds of this call.
    pub seconds: f64,
}

/// Computes what the configuration asks for and is not there yet. Every rank of `comm` calls it; rank 0 owns schedule
/// and output.
///
/// # Errors
/// [`Error::Config`] if the place holds a run of this name with another configuration; [`Error::Environment`] if it does
/// not fit in memory; [`Error::Numerics`] if a self-test fails or a number is not finite; [`Error::Storage`];
/// [`Error::Interrupted`] on all ranks after a stop signal on any.
pub fn run(config: &Config, comm: &Comm, progress: &dyn Progress) -> Result<Outcome> {
    let begin = Instant::now();
    let resources = resources(config, comm)?;
    let least = least(resources, comm)?;
    let (mut store, lock) = if comm.is_root() { open_store(config, least, progress)? } else { (None, None) };
    let found = store.as_ref().map_or(0, |store| store.finished_groups().len());
    let mut outcome = Outcome {
        run: config.run.name.clone(),
        url: config.output.url.clone(),
        groups_found: found,
        groups_computed: 0,
        num_products: 0,
        seconds: 0.0,
    };
    if told(comm, store.as_ref().map(RunStore::is_done))? {
        if comm.is_root() {
            progress.log(&format!("run `{}` at `{}` is already done", outcome.run, outcome.url));
        }
        return Ok(outcome);
    }
    // each rank's plan goes by its own machine's memory; how the data is cut must be the same for all
    let choice = told(comm, store.as_ref().map(|store| shape(config, store, resources, progress)).transpose()?)?;
    let plan = Plan::new(&choice.shape.fixed(config), &[], resources)?;
    plan::check_memory(&plan)?;
    if comm.is_root() {
        announce::opening(config, &plan, &choice, found, comm.size()).iter().for_each(|line| progress.log(line));
    }
    let task = Run { store: &mut store, lock: lock.as_ref(), comm, resources, shape: choice.shape, progress };
    let computed = dispatch(config, task).inspect_err(|error| {
        // a name is not kept for what could not be computed
        let released = match (&store, error) {
            (None, _) | (_, Error::Interrupted(_)) => Ok(()),
            (Some(store), _) => store.release(),
        };
        if let Err(error) = released {
            progress.log(&format!("the name of run `{}` could not be given up: {error}", config.run.name));
        }
    })?;
    outcome.groups_computed = computed.groups;
    outcome.num_products = computed.products;
    outcome.seconds = begin.elapsed().as_secs_f64();
    Ok(outcome)
}

/// What this rank has to work with: its share of its machine.
///
/// # Errors
/// [`Error::Environment`] if the machine does not say its memory; those of the exchange.
pub fn resources(config: &Config, comm: &Comm) -> Result<Resources> {
    Resources::of(config, comm.size(), ranks_here(comm)?)
}

/// The least that any rank has to work with, in the machine's memory.
///
/// # Errors
/// Those of the exchange.
pub fn least(resources: Resources, comm: &Comm) -> Result<Resources> {
    let all = comm.gather_bytes(0, &resources.budget.to_le_bytes())?;
    let number = |bytes: &Vec<u8>| bytes.as_slice().try_into().map_or(f64::INFINITY, f64::from_le_bytes);
    let budget = told(comm, all.map(|all| all.iter().map(number).fold(resources.budget, f64::min)))?;
    Ok(Resources { budget, ..resources })
}

/// The run's store, and its lock unless the run is done: nothing is touched before the lock is ours. For rank 0;
/// `resources`: what the poorest rank has.
///
/// # Errors
/// [`Error::Config`] if the place holds a run of this name with another configuration; [`Error::Environment`] for a new one
/// that does not fit in memory; [`Error::Storage`].
pub fn open_store(
    config: &Config,
    resources: Resources,
    progress: &dyn Progress,
) -> Result<(Option<RunStore>, Option<Lock>)> {
    let (url, run, provenance) = (&config.output.url, &config.run.name, tables::provenance(config)?);
    if !RunStore::check(url, run, &provenance, tables::differing)? {
        // a name is not claimed for what cannot be computed
        let mut sized = config.clone();
        sized.set_num_samples(Some(job::preflight(config)?));
        plan::check_memory(&Plan::new(&sized, &[], resources)?)?;
    }
    let mut store = RunStore::open(url, run, &provenance, tables::differing)?;
    if store.is_done() {
        return Ok((Some(store), None));
    }
    let lock = Lock::acquire(url, run, &|line| progress.log(line))?;
    store.begin()?;
    Ok((Some(store), Some(lock)))
}

/// How the run's sweeps are cut: as before if it was begun, for the same bits, else as chosen now. For rank 0.
fn shape(config: &Config, store: &RunStore, resources: Resources, progress: &dyn Progress) -> Result<Choice> {
    let (is_new, choice) = match store.recall::<Choice>(SHAPE)? {
        Some(before) => {
            let shape = as_before(config, store, before.shape, resources)?;
            (shape != before.shape, Choice { shape, ..before })
        }
        None => {
            let config = with_size(config)?;
            plan::check_memory(&Plan::new(&config, &[], resources)?)?;
            let stop = || signal::requested().is_some();
            (true, shape::choose(&config, resources, &stop, &|line| progress.log(line))?)
        }
    };
    if is_new && signal::requested().is_none() {
        store.remember(SHAPE, &choice)?; // a choice that was cut short is nothing to keep, and the run ends before it is used
    }
    progress.log(&choice.to_string());
    Ok(choice)
}

/// The configuration with the size of its batch, where that is all of the data.
fn with_size(config: &Config) -> Result<Config> {
    let mut config = config.clone();
    if config.num_samples().is_none() {
        let all = config.network.num_samples(&config.choice())?;
        config.set_num_samples(Some(all));
    }
    Ok(config)
}

/// A shape that was remembered, but for what the configuration gives.
fn as_before(config: &Config, store: &RunStore, before: Shape, resources: Resources) -> Result<Shape> {
    let Shape { micro_batch, slots } = before;
    let most = config.num_predictions().unwrap_or(MOST_SAMPLES); // a sample has a prediction or more
    if !(1..=most).contains(&micro_batch) || slots == 0 {
        return Err(store.damaged(SHAPE, &format!("micro-batches of {micro_batch} samples, {slots} slots")));
    }
    let shape = before.unless_given(config);
    let plan = Plan::new(&shape.fixed(config), &[], resources)?;
    plan::check_memory(&plan).map_err(|error| match error {
        Error::Environment(text) if config.batch.micro_batch.is_none() => Error::Environment(format!(
            "{text}. This run was begun with micro-batches of {} samples and keeps them, for the same bits, unless \
             batch.micro_batch is given",
            shape.micro_batch
        )),
        other => other,
    })?;
    Ok(Shape { micro_batch: plan.micro_batch, ..shape }) // no more than a segment has, whatever is given
}

/// Ranks on this machine: those that run under the same boot of a kernel.
fn ranks_here(comm: &Comm) -> Result<usize> {
    const BOOT: &str = "/proc/sys/kernel/random/boot_id";
    let boot = std::fs::read_to_string(BOOT)
        .map_err(|error| Error::Environment(format!("{BOOT}: {error}; it says which ranks share a machine")))?;
    let boots = comm.gather_bytes(0, boot.as_bytes())?;
    let boots: Vec<Vec<u8>> = told(comm, boots)?;
    Ok(boots.iter().filter(|other| other.as_slice() == boot.as_bytes()).count())
}

struct Computed {
    groups: usize,
    products: usize,
}

struct Run<'a> {
    /// On rank 0.
    store: &'a mut Option<RunStore>,
    /// On rank 0.
    lock: Option<&'a Lock>,
    comm: &'a Comm,
    /// Memory of this rank.
    resources: Resources,
    shape: Shape,
    progress: &'a dyn Progress,
}

/// What rank 0 has found out before the first group.
struct Start {
    matmul: MatmulError,
    finished: Vec<Pair>,
    begun: Vec<(String, Vec<Pair>)>,
}

impl Task for Run<'_> {
    type Output = Computed;

    fn run<K: Kernels, T: Precision>(self, config: &Config, on: On<'_, K, T>) -> Result<Computed> {
        let (begin, started) = (Instant::now(), SystemTime::now());
        let job = Job::open(config, &on, self.shape.micro_batch)?;
        inputs::agree(&job, self.comm)?;
        let planned = self.shape.fixed(config);
        let settings = job::settings(config);
        let checkpoint = match config.checkpoint.basis {
            config::Basis::Keep => {
                let identity = told(self.comm, self.store.as_ref().map(|store| store.identity().to_owned()))?;
                Some(Checkpoint::open(&config.output.url, &config.run.name, &identity)?)
            }
            config::Basis::None => None,
        };
        let matmul = doctor::matmul_error::<K, T>(&on.device, doctor::SHORT_PRODUCTS)?; // each rank its own device
        matmul.check()?;
        doctor::kernel_error(config)?.check()?;
        let start = self
            .store
            .as_ref()
            .map(|store| self.start(&job, &settings, matmul, store, checkpoint.as_ref()))
            .transpose()?;
        let errors = self.errors(&job, &planned, &settings)?;
        if let Some(store) = self.store.as_ref() {
            store.remember(NOISE_FLOORS, &tables::noted_floors(&job.blocks, &errors))?;
        }
        let etas: Vec<f64> = errors.iter().map(|error| error.eta).collect();
        let plan = start.as_ref().map(|s| schedule(&planned, &s.finished, &s.begun, self.resources)).transpose()?;
        let groups = told(self.comm, plan)?;
        let work = job.work(self.comm, &settings);
        let micro_batches = job.data().num_micro_batches() as u64;
        let sweeps: Vec<u64> =
            groups.iter().map(|(_, pairs)| work.num_sweeps(pairs, config.eigenvectors.is_some())).collect();
        if self.comm.is_root() {
            self.progress.begin(sweeps.iter().sum::<u64>() * micro_batches);
        }
        let mut computed = Computed { groups: 0, products: 0 };
        let to_do: Vec<(&str, u64)> =
            groups.iter().map(|(name, _)| name.as_str()).zip(sweeps.iter().copied()).collect();
        let whole = Plan::new(&planned, &[], self.resources)?;
        let is_paced = Cell::new(!self.comm.is_root());
        let structure = config.network.structure();
        for (index, (name, pairs)) in groups.iter().enumerate() {
            let before = sweeps[..index].iter().sum::<u64>() * micro_batches;
            let message = names(&job.blocks, pairs);
            let group_begin = Instant::now();
            if self.comm.is_root() {
                self.progress.log(&format!("group {} of {}: {message}", index + 1, groups.len()));
            }
            let pace = |seconds: f64| {
                if !is_paced.replace(true) {
                    let lines = announce::pace(&planned, &whole, &to_do[index..], seconds);
                    lines.iter().for_each(|line| self.progress.log(line));
                }
            };
            let observer = InGroup { run: &self, name, message, before, pace: &pace };
            let write_vectors = |pair, num_vectors, bytes| match self.store.as_ref() {
                Some(store) => store.write_vectors(&plan::group_name(pair), num_vectors, bytes),
                None => Err(Error::Other("only rank 0 writes eigenvectors".into())),
            };
            let context = worker::Context {
                etas: &etas,
                checkpoint: checkpoint.as_ref(),
                every: config.checkpoint.every.duration(),
                prefix: plan::prefix_budget(&planned, pairs, self.resources)?,
                eigenvectors: config
                    .eigenvectors
                    .map(|eigenvectors| worker::Wanted { count: eigenvectors.count, write: &write_vectors }),
                diagonal: config.diagonal.as_ref().map(|diagonal| (diagonal.by.as_slice(), structure)),
                num_predictions: job.data().num_predictions() as f64,
                observer: &observer,
            };
            let found = worker::run_group(&work, name, pairs, &context)?;
            computed.products += found.slots.iter().map(|slot| slot.tridiagonal.products()).sum::<usize>();
            computed.groups += 1;
            if let Some(store) = self.store.as_mut() {
                check_moments(&job.blocks, &found.slots)?;
                let mut rows = group_tables(&job.blocks, &found.slots);
                rows.metrics = found.steps.iter().map(|step| tables::metrics_row(name, step)).collect();
                tables::push_eigenvectors(&mut rows, &job.layout, &job.blocks, &found.eigenvectors);
                rows.diagonal_probes = tables::diagonal_probes(&job.blocks, found.diagonal);
                store.write_group(name, &rows)?;
                if let Some(checkpoint) = &checkpoint {
                    checkpoint.delete(name)?;
                }
                let took = plan::duration(group_begin.elapsed().as_secs_f64());
                self.progress.log(&format!("group {} of {} is done, in {took}", computed.groups, groups.len()));
            }
        }
        if let (Some(store), Some(start)) = (self.store.as_mut(), start) {
            let found = tables::read_groups(store, &job.blocks)?;
            let facts = tables::RunFacts {
                started: rfc3339(started),
                seconds: begin.elapsed().as_secs_f64(),
                world: self.comm.size(),
                batch_sha256: job.data().sha256()?,
                num_samples: job.data().num_predictions() / config.network.unit().predictions,
                shape: self.shape,
                errors,
                matmul: start.matmul,
            };
            let mut last = tables::final_tables(config, &job.layout, &job.blocks, &found, &facts)?;
            last.diagonal = tables::diagonal(store.read()?);
            store.finish(&last)?;
        }
        self.comm.barrier()?; // nobody leaves before the tables are there
        Ok(computed)
    }
}

impl Run<'_> {
    fn start<K: Kernels, T: Precision>(
        &self,
        job: &Job<K, T>,
        settings: &Settings,
        matmul: MatmulError,
        store: &RunStore,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Start> {
        self.progress.log(&matmul.to_string());
        inputs::hold(job, store)?;
        guard(job, settings, self.progress)?;
        let finished = finished_pairs(store, &job.blocks)?;
        let work = job.work(self.comm, settings);
        let planned = |pairs: &[Pair]| work.contents(pairs);
        let open = |checkpoint| still_open(checkpoint, &finished, &planned, self.progress);
        let begun = checkpoint.map(open).transpose()?.unwrap_or_default();
        Ok(Start { matmul, finished, begun })
    }

    /// eta of every block, on all ranks.
    fn errors<K: Kernels, T: Precision>(
        &self,
        job: &Job<K, T>,
        planned: &Config,
        settings: &Settings,
    ) -> Result<Vec<ProductError>> {
        let mut operator = job.operator(self.comm);
        operator.slots = job.blocks.iter().collect();
        let groups = self.comm.is_root().then(|| plan::error_groups(planned, self.resources)).transpose()?;
        let groups = told(self.comm, groups)?;
        let errors = product_errors(&operator, settings.seed, &groups, &|| signal::requested().is_some())?;
        let largest = errors.iter().map(|error| error.eta).fold(0.0, f64::max);
        if self.comm.is_root() {
            let of = errors.len();
            let summary = format!("error of a product with a unit vector: at most {largest:.2e} over {of} blocks");
            self.progress.log(&summary);
        }
        Ok(errors)
    }
}

/// A group of a run while it is computed.
struct InGroup<'a> {
    run: &'a Run<'a>,
    /// Its name.
    name: &'a str,
    /// What of it is shown.
    message: String,
    /// Micro-batches of the groups before.
    before: u64,
    /// Hears how long the first segment took.
    pace: &'a dyn Fn(f64),
}

impl InGroup<'_> {
    /// What rank 0 alone says.
    fn says(&self) -> Option<&dyn Progress> {
        self.run.comm.is_root().then_some(self.run.progress)
    }
}

impl Observer for InGroup<'_> {
    fn advance(&self, done: u64) {
        if let Some(progress) = self.says() {
            progress.advance(&self.message, self.before + done);
        }
    }

    fn skip(&self, count: u64) {
        if let Some(progress) = self.says() {
            progress.skip(count);
        }
    }

    fn segment(&self, seconds: f64) {
        (self.pace)(seconds);
    }

    fn measured(&self, step: &StepMetrics) {
        log_step(self.name, step);
    }

    fn log(&self, line: &str) {
        if let Some(progress) = self.says() {
            progress.log(line);
        }
    }

    fn check(&self) -> Result<()> {
        self.run.lock.map_or(Ok(()), Lock::check)
    }

    fn stop(&self) -> Option<String> {
        signal::requested().map(|name| format!("SIG{name}"))
    }
}

/// Groups that were begun and have no tables yet; the checkpoints of all others go.
fn still_open(
    checkpoint: &Checkpoint,
    finished: &[Pair],
    planned: &dyn Fn(&[Pair]) -> Option<Contents>,
    progress: &dyn Progress,
) -> Result<Vec<(String, Vec<Pair>)>> {
    let mut open = checkpoint.begun(planned, &plan::group_name)?;
    open.retain(|(_, pairs)| pairs.iter().all(|pair| !finished.contains(pair)));
    for group in checkpoint.keep_only(&open.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>())? {
        progress.log(&format!(
            "deleted what was left of the checkpoint of group {group}, without its group.bin: if the group has no tables, it is \
             computed anew"
        ));
    }
    Ok(open)
}

/// One line a step and rank, for `--log-dir`; on stderr from HESSPEC_LOG=debug on.
fn log_step(group: &str, metrics: &StepMetrics) {
    let split = &metrics.split;
    tracing::debug!(
        group,
        step = metrics.step,
        slots = metrics.slots,
        seconds = metrics.seconds,
        seconds_products = split.products,
        seconds_reduction = split.reduction,
        seconds_reorthogonalization = split.reorthogonalization,
        seconds_io = split.io,
        tokens_per_second = metrics.tokens_per_second(),
        products_per_second = metrics.products_per_second(),
        "step"
    );
}

/// Name and pairs of the groups to compute: those that were begun go on as they were, the rest is planned.
fn schedule(
    config: &Config,
    finished: &[Pair],
    begun: &[(String, Vec<Pair>)],
    resources: Resources,
) -> Result<Vec<(String, Vec<Pair>)>> {
    let open = begun.iter().flat_map(|(_, pairs)| pairs);
    let taken: Vec<Pair> = finished.iter().chain(open).copied().collect();
    let planned = Plan::new(config, &taken, resources)?.groups.into_iter().map(|group| (group.name, group.pairs));
    Ok(begun.iter().cloned().chain(planned).collect())
}

/// Refuses an operator that is not repeatable, linear, symmetric and the derivative of its gradient.
fn guard<K: Kernels, T: Precision>(job: &Job<K, T>, settings: &Settings, progress: &dyn Progress) -> Result<()> {
    let comm = solo::comm(); // rank 0 alone
    let mut operator = job.operator(&comm);
    operator.slots = job.blocks.iter().collect();
    let checks = self_tests(&operator, settings.seed)?;
    for check in &checks {
        progress.log(&format!("self-test {}: {}, {}", check.name, check.outcome, check.detail));
    }
    let failed: Vec<String> = checks
        .iter()
        .filter(|check| check.outcome == CheckOutcome::Failed)
        .map(|check| format!("{}: {}", check.name, check.detail))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    let what = checks.first().map_or("", |check| check.detail.as_str());
    Err(Error::Numerics(format!("the operator fails its self-tests: {what}; {}", failed.join("; "))))
}

/// The pairs whose groups are finished.
fn finished_pairs(store: &RunStore, blocks: &[Block]) -> Result<Vec<Pair>> {
    let rows = store.read::<TridiagonalRow>()?;
    let first_steps = rows.iter().filter(|row| row.step == 1);
    let pair = |row: &TridiagonalRow| {
        let at = blocks.iter().position(|block| block.name == row.block)?;
        Some((at, row.probe as u32))
    };
    Ok(first_steps.filter_map(pair).collect())
}

/// The moment identities, before anything is written.
fn check_moments(blocks: &[Block], slots: &[Slot]) -> Result<()> {
    slots.iter().try_for_each(|slot| {
        let (at, probe) = slot.pair;
        crate::spectrum::quadrature(&blocks[at].name, probe, &slot.tridiagonal, 0.0).map(drop)
    })
}

fn names(blocks: &[Block], pairs: &[Pair]) -> String {
    let mut names: Vec<String> = pairs.iter().map(|(at, probe)| format!("{}#{probe}", blocks[*at].name)).collect();
    if names.len() > 3 {
        let more = names.len() - 2;
        names.truncate(2);
        names.push(format!("and {more} more"));
    }
    names.join(", ")
}

fn group_tables(blocks: &[Block], slots: &[Slot]) -> Tables {
    let mut rows = Tables::default();
    for slot in slots {
        let (at, probe) = slot.pair;
        tables::push_tridiagonal(&mut rows, &blocks[at].name, probe, &slot.tridiagonal, &slot.seconds);
    }
    rows
}
