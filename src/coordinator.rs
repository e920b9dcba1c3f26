//! The run: guards, groups of slots in lock-step, tables.
//!
//! Drives the Lanczos recursions and owns the schedule and all output. What is computed once per group (alpha, beta,
//! segment matrices) is written as soon as the group ends and never computed again; nodes, densities and distances
//! follow from it at the end, at no further product.

use std::time::{Instant, SystemTime};

use burn_backend::tensor::Device;
use serde::Serialize;

use crate::block::Block;
use crate::config::{self, Config};
use crate::engine::Kernels;
use crate::hessian::{
    Outcome as CheckOutcome, Precision, ProductError, Settings, product_errors, self_tests, slot_settings, start,
};
use crate::job::{Job, Task, dispatch};
use crate::krylov::{self, Lanczos, Local, Reorthogonalize, Tridiagonal};
use crate::output::{RunStore, Tables, TridiagonalRow, rfc3339};
use crate::plan::{self, Group, Pair, Plan};
use crate::probe::ProbeKind;
use crate::tables;
use crate::{Error, Result};

/// Who hears how far the run is.
pub trait Progress {
    /// The run has this many micro-batches to go through.
    fn begin(&self, total: u64);
    /// So many are done; `message` says at what.
    fn advance(&self, message: &str, done: u64);
    /// A line worth keeping.
    fn log(&self, line: &str);
}

/// How a run ended.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Name of the run.
    pub run: String,
    /// Where its tables are.
    pub url: String,
    /// Groups that were already there.
    pub groups_found: usize,
    /// Groups computed now.
    pub groups_computed: usize,
    /// Products H v over the whole batch, computed now.
    pub num_products: usize,
    /// Seconds of this call.
    pub seconds: f64,
}

/// Computes what the configuration asks for and is not there yet.
///
/// # Errors
/// [`Error::Config`] if the place holds a run of this name with another configuration; [`Error::Environment`] if it does
/// not fit in memory; [`Error::Numerics`] if a self-test fails or a number is not finite; [`Error::Storage`].
pub fn run(config: &Config, progress: &dyn Progress) -> Result<Outcome> {
    let begin = Instant::now();
    let mut store = open_store(config)?;
    let found = store.finished_groups().len();
    let mut outcome = Outcome {
        run: config.run.name.clone(),
        url: config.output.url.clone(),
        groups_found: found,
        groups_computed: 0,
        num_products: 0,
        seconds: 0.0,
    };
    if store.is_done() {
        progress.log(&format!("run `{}` at `{}` is already done", outcome.run, outcome.url));
        return Ok(outcome);
    }
    let plan = Plan::new(config, &[])?;
    plan::check_memory(&plan)?;
    let computed = dispatch(config, Run { store: &mut store, micro_batch: plan.micro_batch, progress })?;
    outcome.groups_computed = computed.groups;
    outcome.num_products = computed.products;
    outcome.seconds = begin.elapsed().as_secs_f64();
    Ok(outcome)
}

fn open_store(config: &Config) -> Result<RunStore> {
    let provenance = tables::provenance(config)?;
    RunStore::open(&config.output.url, &config.run.name, &provenance, tables::differing)
}

struct Computed {
    groups: usize,
    products: usize,
}

struct Run<'a> {
    store: &'a mut RunStore,
    micro_batch: usize,
    progress: &'a dyn Progress,
}

impl Task for Run<'_> {
    type Output = Computed;

    fn run<K: Kernels, T: Precision>(self, config: &Config, device: Device<K>) -> Result<Computed> {
        let (begin, started) = (Instant::now(), SystemTime::now());
        let job = Job::<K, T>::open(config, &device, self.micro_batch)?;
        let settings = settings(config);
        guard(&job, &settings, self.progress)?;
        let errors = errors(&job, &settings, self.progress)?;
        let finished = finished_pairs(self.store, &job.blocks)?;
        let plan = Plan::new(config, &finished)?;
        let micro_batches = crate::hessian::MicroBatches::len(&job.data) as u64;
        self.progress.begin(plan.num_sweeps() as u64 * micro_batches);
        let mut computed = Computed { groups: 0, products: 0 };
        let mut sweeps = 0;
        for group in &plan.groups {
            let done = run_group(&job, group, &errors, &settings, self.progress, &mut sweeps)?;
            computed.products += done.iter().map(|slot| slot.tridiagonal.steps()).sum::<usize>();
            self.store.write_group(&group.name, &group_tables(&job.blocks, &done))?;
            computed.groups += 1;
            self.progress.log(&format!(
                "group {} of {}: {}",
                computed.groups,
                plan.groups.len(),
                names(&job.blocks, group)
            ));
        }
        let found = tables::read_groups(self.store, &job.blocks)?;
        let run = tables::RunFacts {
            started: rfc3339(started),
            seconds: begin.elapsed().as_secs_f64(),
            batch_sha256: job.data.sha256()?,
            micro_batch: self.micro_batch,
            errors: errors.clone(),
        };
        self.store.finish(&tables::final_tables(config, &job.layout, &job.blocks, found, &run)?)?;
        Ok(computed)
    }
}

/// What `[hessian]` and `[lanczos]` say, as the library takes it.
pub fn settings(config: &Config) -> Settings {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Settings {
        steps: config.lanczos.steps,
        probes: count(config.lanczos.probes),
        full_probes: count(config.lanczos.full_probes),
        probe: match config.lanczos.probe {
            config::ProbeKind::Gaussian => ProbeKind::Gaussian,
            config::ProbeKind::Rademacher => ProbeKind::Rademacher,
        },
        seed: config.run.seed,
        reorthogonalize: match config.lanczos.reorthogonalize {
            config::Reorthogonalize::Full => Reorthogonalize::Full,
            config::Reorthogonalize::None => Reorthogonalize::None,
        },
        variance_reduced: config.lanczos.weights == config::WeightKind::VarianceReduced,
        slots: config.hessian.slots.unwrap_or(Settings::default().slots),
        ..Settings::default()
    }
}

/// Refuses an operator that is not repeatable, linear, symmetric and the derivative of its gradient.
fn guard<K: Kernels, T: Precision>(job: &Job<K, T>, settings: &Settings, progress: &dyn Progress) -> Result<()> {
    let mut operator = job.operator();
    operator.slots = job.blocks.first().into_iter().collect();
    let checks = self_tests(&operator, settings.seed)?;
    for check in &checks {
        progress.log(&format!("self-test {}: {:?}, {}", check.name, check.outcome, check.detail));
    }
    let failed: Vec<String> = checks
        .iter()
        .filter(|check| check.outcome == CheckOutcome::Failed)
        .map(|check| format!("{}: {}", check.name, check.detail))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    let block = &job.blocks[0].name;
    Err(Error::Numerics(format!("block `{block}`: the operator fails its self-tests: {}", failed.join("; "))))
}

fn errors<K: Kernels, T: Precision>(
    job: &Job<K, T>,
    settings: &Settings,
    progress: &dyn Progress,
) -> Result<Vec<ProductError>> {
    let mut operator = job.operator();
    operator.slots = job.blocks.iter().collect();
    let errors = product_errors(&operator, settings.seed, settings.slots)?;
    let largest = errors.iter().map(|error| error.eta).fold(0.0, f64::max);
    progress.log(&format!("error of a product with a unit vector: at most {largest:.2e} over {} blocks", errors.len()));
    Ok(errors)
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

/// One (block, probe) pair that is done.
struct Slot {
    pair: Pair,
    tridiagonal: Tridiagonal,
    /// Seconds of each step, the sweep's share of this slot.
    seconds: Vec<f64>,
}

fn run_group<K: Kernels, T: Precision>(
    job: &Job<K, T>,
    group: &Group,
    errors: &[ProductError],
    settings: &Settings,
    progress: &dyn Progress,
    sweeps: &mut u64,
) -> Result<Vec<Slot>> {
    let micro_batches = crate::hessian::MicroBatches::len(&job.data) as u64;
    let segments = crate::hessian::MicroBatches::num_segments(&job.data);
    let before = *sweeps * micro_batches;
    let steps_done = std::cell::Cell::new(0);
    let message = names(&job.blocks, group);
    let advance = |done: usize| {
        progress.advance(&message, before + steps_done.get() * micro_batches + done as u64);
        Ok(())
    };
    let mut operator = job.operator();
    operator.slots = group.pairs.iter().map(|(at, _)| &job.blocks[*at]).collect();
    operator.progress = Some(&advance);
    let begin_slot = |&(at, probe): &Pair| {
        let block = &job.blocks[at];
        let v: Vec<T> = start(block, &job.layout, probe, settings);
        Lanczos::new(Local::<T>::new(), v, slot_settings(block, probe, errors[at].eta, segments, settings))
    };
    let mut slots = group.pairs.iter().map(begin_slot).collect::<Result<Vec<_>>>()?;
    let mut seconds: Vec<Vec<f64>> = vec![Vec::new(); slots.len()];
    loop {
        let active: Vec<usize> = (0..slots.len()).filter(|&at| slots[at].vector().is_some()).collect();
        if active.is_empty() {
            break;
        }
        let begin = Instant::now();
        krylov::step(&mut operator, &mut slots)?;
        let share = begin.elapsed().as_secs_f64() / active.len() as f64;
        active.iter().for_each(|&at| seconds[at].push(share));
        steps_done.set(steps_done.get() + 1);
    }
    *sweeps += steps_done.get();
    let finished = group.pairs.iter().zip(slots).zip(seconds);
    let slots: Vec<Slot> = finished
        .map(|((pair, slot), seconds)| Slot { pair: *pair, tridiagonal: slot.into_tridiagonal(), seconds })
        .collect();
    for slot in &slots {
        let block = &job.blocks[slot.pair.0];
        // the moment identities are checked before anything is written
        crate::spectrum::quadrature(&block.name, slot.pair.1, &slot.tridiagonal, 0.0)?;
    }
    Ok(slots)
}

fn names(blocks: &[Block], group: &Group) -> String {
    let mut names: Vec<String> = Vec::new();
    for (at, probe) in &group.pairs {
        names.push(format!("{}#{probe}", blocks[*at].name));
    }
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
