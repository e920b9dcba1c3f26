//! One rank's part in a group: all slots in lock-step, segment by segment, saved and resumed anywhere.
//!
//! Every rank runs the same code on the same scalars; only rank 0's clock and any rank's stop signal decide when to save,
//! and that is agreed on at the end of each segment.

mod diagonal;
mod eigenvectors;
mod saving;

use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::block::Block;
use crate::checkpoint::{Checkpoint, Contents, Position, Rows, SlotContents};
use crate::cluster::Comm;
use crate::engine::Kernels;
use crate::hessian::{
    Precision, Prefix, PrefixBudget, Settings, Sharded, Slice, add_slice, complement, rounded, slot_settings, start,
};
use crate::job::Job;
use crate::krylov::{Chain, Schedule, SharedComplement, Tridiagonal};
use crate::metrics::{Phase, StepMetrics, Stopwatch};
use crate::output::DiagonalProbeRow;
use crate::plan::{self, Pair};
use crate::{Error, Result};

pub use eigenvectors::{Known, Wanted};

/// What a group needs beside the job.
pub struct Context<'a> {
    /// The ranks.
    pub comm: &'a Comm,
    /// What is asked for.
    pub settings: &'a Settings,
    /// Error of a product, block by block.
    pub etas: &'a [f64],
    /// Where to save, unless a group starts anew after a stop.
    pub checkpoint: Option<&'a Checkpoint>,
    /// Between two checkpoints.
    pub every: Duration,
    /// What may be kept of the activations below the group's blocks.
    pub prefix: PrefixBudget,
    /// Eigenvectors that are asked for.
    pub eigenvectors: Option<Wanted<'a>>,
    /// Called with the number of micro-batches done in the group.
    pub advance: &'a dyn Fn(u64),
    /// Called with the number of the group's micro-batches that an earlier call had done.
    pub skip: &'a dyn Fn(u64),
    /// Called with the seconds of each segment.
    pub segment: &'a dyn Fn(f64),
    /// Called at the end of each segment; an error ends the run.
    pub check: &'a dyn Fn() -> Result<()>,
    /// Called with a line worth keeping.
    pub log: &'a dyn Fn(&str),
    /// Called with the times of each step, on every rank.
    pub measured: &'a dyn Fn(&StepMetrics),
}

/// One (block, probe) pair that is done.
pub struct Slot {
    /// The pair.
    pub pair: Pair,
    /// Its Jacobi matrix.
    pub tridiagonal: Tridiagonal,
    /// Seconds of each step, the sweep's share of this slot, in the call that ended it.
    pub seconds: Vec<f64>,
}

/// What a group has found.
pub struct Finished {
    /// Its slots.
    pub slots: Vec<Slot>,
    /// The times of all its steps, those of earlier calls included; on rank 0, which saved them.
    pub steps: Vec<StepMetrics>,
    /// Eigenvectors of the blocks whose first probe is in the group; on rank 0.
    pub eigenvectors: Known,
    /// Sums over diagonals, where they are asked for.
    pub diagonal: Vec<DiagonalProbeRow>,
}

/// What the checkpoints of a group of these pairs are of; `None` if the run has not all of them.
pub fn contents<K: Kernels, T: Precision>(job: &Job<K, T>, settings: &Settings, pairs: &[Pair]) -> Option<Contents> {
    let slot = |pair: &Pair| {
        let block = job.blocks.get(pair.0).filter(|block| pair.1 < plan::probes_of(&job.config, block))?;
        let dim = block.num_params(&job.layout);
        Some(SlotContents { pair: *pair, block: block.name.clone(), dim, steps: settings.schedule(dim).products() })
    };
    let slots = pairs.iter().map(slot).collect::<Option<Vec<_>>>()?;
    Some(Contents::new(size_of::<T>(), job.data().num_segments(), slots))
}

/// Runs a group to its end, from its checkpoint if there is one.
///
/// # Errors
/// [`Error::Interrupted`] on all ranks after a stop signal on any, with everything saved.
pub fn run_group<K: Kernels, T: Precision>(
    job: &Job<K, T>,
    name: &str,
    pairs: &[Pair],
    context: &Context<'_>,
) -> Result<Finished> {
    let mut group = Group::open(job, name, pairs, context)?;
    while group.num_active() > 0 {
        group.step()?;
    }
    let (eigenvectors, diagonal) = (group.eigenvectors()?, group.diagonal()?);
    let finished = group.pairs.iter().zip(group.slots).zip(group.seconds);
    let slot = |((pair, slot), seconds): ((&Pair, Chain<'_, _>), Vec<f64>)| Slot {
        pair: *pair,
        tridiagonal: slot.into_tridiagonal(),
        seconds,
    };
    Ok(Finished { slots: finished.map(slot).collect(), steps: group.metrics, eigenvectors, diagonal })
}

/// The sums and rows of a sweep that is under way.
struct Partial {
    segments: usize,
    totals: Vec<Slice<f64>>,
    rows: Rows,
}

impl Partial {
    /// A sweep of so many slots that has not begun.
    fn of(slots: usize) -> Self {
        Self { segments: 0, totals: Vec::new(), rows: vec![Vec::new(); slots] }
    }

    /// Adds the next segment's sums.
    fn add(&mut self, sums: Vec<Slice<f64>>) {
        if self.totals.is_empty() {
            self.totals = sums;
        } else {
            self.totals.iter_mut().zip(&sums).for_each(|(total, sum)| add_slice(total, sum));
        }
        self.segments += 1;
    }
}

/// What all ranks are to do at the end of a segment.
#[derive(Clone, Copy, Default)]
struct Asked {
    stop: bool,
    save: bool,
}

struct Group<'g, K: Kernels, T: Precision> {
    job: &'g Job<K, T>,
    name: &'g str,
    pairs: &'g [Pair],
    context: &'g Context<'g>,
    slots: Vec<Chain<'g, Sharded<'g, T>>>,
    seconds: Vec<Vec<f64>>,
    /// Times of all steps.
    metrics: Vec<StepMetrics>,
    contents: Contents,
    step: usize,
    /// Steps whose vectors are saved; `None` before the start vectors are.
    saved: Option<usize>,
    last_save: Instant,
    resumed: Option<Partial>,
    prefix: Option<Rc<Prefix<T>>>,
}

impl<'g, K: Kernels, T: Precision> Group<'g, K, T> {
    fn open(job: &'g Job<K, T>, name: &'g str, pairs: &'g [Pair], context: &'g Context<'g>) -> Result<Self> {
        let contents = contents(job, context.settings, pairs)
            .ok_or_else(|| Error::Other(format!("group {name}: a block or probe that the run has not")))?;
        let at = match context.checkpoint {
            Some(checkpoint) => agreed_position(context.comm, checkpoint, name, &contents)?,
            None => Position::default(),
        };
        let mut group = Self {
            job,
            name,
            pairs,
            context,
            slots: Vec::new(),
            seconds: vec![Vec::new(); pairs.len()],
            metrics: Vec::new(),
            contents,
            step: at.step,
            saved: None,
            last_save: Instant::now(),
            resumed: None,
            prefix: {
                let blocks: Vec<&Block> = pairs.iter().map(|(at, _)| &job.blocks[*at]).collect();
                job.operator(context.comm).prefix_of(&blocks, context.prefix).map(Rc::new)
            },
        };
        match context.checkpoint.filter(|_| at != Position::default()) {
            Some(checkpoint) => group.resume(checkpoint, at)?,
            None => group.begin()?,
        }
        Ok(group)
    }

    fn block(&self, slot: usize) -> &'g Block {
        &self.job.blocks[self.pairs[slot].0]
    }

    fn len(&self, slot: usize) -> usize {
        self.block(slot).num_params(&self.job.layout)
    }

    fn settings(&self, slot: usize) -> crate::krylov::Settings {
        let (at, probe) = self.pairs[slot];
        let segments = self.job.data().num_segments();
        let settings = slot_settings(self.block(slot), probe, self.context.etas[at], segments, self.context.settings);
        crate::krylov::Settings { steps: settings.steps.min(self.len(slot)), ..settings }
    }

    /// Whether bases are needed once their recursions are done.
    fn keeps_basis(&self) -> bool {
        self.context.eigenvectors.is_some() || self.job.config.diagonal.is_some()
    }

    fn schedule(&self, slot: usize) -> Schedule {
        self.context.settings.schedule(self.len(slot))
    }

    fn complement(&self, slot: usize) -> SharedComplement<'g, Slice<T>> {
        let (at, probe) = self.pairs[slot];
        let Context { comm, settings, etas, .. } = self.context;
        complement(self.block(slot), &self.job.layout, probe, etas[at], settings, comm)
    }

    fn begin(&mut self) -> Result<()> {
        let Context { comm, settings, .. } = self.context;
        for slot in 0..self.pairs.len() {
            let v = start::<T>(self.block(slot), &self.job.layout, self.pairs[slot].1, settings, comm);
            let short = settings.short().map(|short| (short, self.complement(slot)));
            self.slots.push(Chain::new(Sharded::new(comm), v, self.settings(slot), short)?);
        }
        Ok(())
    }

    /// Reads what the checkpoint has: Jacobi matrices, this rank's slices of the basis, and a sweep's sums.
    fn resume(&mut self, checkpoint: &Checkpoint, at: Position) -> Result<()> {
        let comm = self.context.comm;
        let (matrices, timed) = checkpoint.load_steps(self.name, at.step, &self.contents)?;
        timed.into_iter().for_each(|(metrics, slots)| self.keep(metrics, &slots));
        for (slot, flat) in matrices.into_iter().enumerate() {
            let (len, schedule, settings) = (self.len(slot), self.schedule(slot), self.settings(slot));
            let needed = schedule.needed(&flat, settings.reorthogonalize, self.keeps_basis());
            let load = |steps: Range<usize>| -> Result<Vec<Slice<T>>> {
                let vector = |step| checkpoint.load_vector(self.name, step, slot, comm.shard(len));
                steps.map(|step| Ok(Slice { values: vector(step)?, len })).collect()
            };
            let vectors = [load(needed.main)?, load(needed.short)?];
            let complement = self.context.settings.short().map(|_| self.complement(slot));
            let chain = Chain::resume(Sharded::new(comm), flat, vectors, settings, schedule, complement)?;
            self.slots.push(chain);
        }
        self.saved = Some(at.step);
        if at.segments > 0 {
            let rows = checkpoint.load_sweep(self.name, at, self.pairs.len())?;
            let mut totals = Vec::new();
            let active = self.active();
            for slot in if active.is_empty() { self.first_probes() } else { active } {
                let len = self.len(slot);
                let values = checkpoint.load_sum(self.name, at, slot, comm.shard(len))?;
                totals.push(Slice { values, len });
            }
            self.resumed = Some(Partial { segments: at.segments, totals, rows });
        }
        let Position { step, segments } = at;
        let data = self.job.data();
        let in_sweep = (0..data.num_micro_batches()).filter(|&index| data.segment(index) < segments).count();
        (self.context.skip)((step * data.num_micro_batches() + in_sweep) as u64);
        (self.context.log)(&format!(
            "group {}: resumed after step {step} and {segments} segments of the next sweep",
            self.name
        ));
        Ok(())
    }

    fn active(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|&slot| self.slots[slot].vector().is_some()).collect()
    }

    fn num_active(&self) -> usize {
        self.active().len()
    }

    /// One Lanczos step of all active slots: a sweep over the segments.
    fn step(&mut self) -> Result<()> {
        let mut watch = Stopwatch::start(self.context.comm);
        let active = self.active();
        let (job, pairs) = (self.job, self.pairs);
        let num_segments = job.data().num_segments();
        let done_before = (self.step * job.data().num_micro_batches()) as u64;
        let advance = self.context.advance;
        let progress = |done: usize| {
            advance(done_before + done as u64);
            Ok(())
        };
        let prefix = self.prefix.clone();
        let mut operator = job.operator(self.context.comm);
        operator.slots = pairs.iter().map(|(at, _)| &job.blocks[*at]).collect();
        operator.progress = Some(&progress);
        operator.prefix = prefix;
        let mut partial = self.resumed.take().unwrap_or_else(|| Partial::of(pairs.len()));
        let (resumed_at, mut asked) = (partial.segments, Asked::default());
        let products = {
            let vectors: Vec<_> = active.iter().filter_map(|&slot| Some((slot, self.slots[slot].vector()?))).collect();
            let sweep = watch.time(Phase::Products, || operator.sweep(&vectors))?;
            while partial.segments < num_segments {
                let begin = Instant::now();
                let sums = watch.time(Phase::Products, || sweep.segment(partial.segments))?;
                watch.time(Phase::Reorthogonalization, || self.absorb(&active, &mut partial, sums))?;
                (self.context.segment)(begin.elapsed().as_secs_f64());
                watch.time(Phase::Storage, || {
                    asked = self.asked()?;
                    let is_last = partial.segments == num_segments; // the step's end has less to save
                    if is_last { Ok(()) } else { self.save_or_stop(asked, &active, &partial) }
                })?;
            }
            watch.time(Phase::Products, || sweep.finish(&partial.totals))?
        };
        watch.time(Phase::Reorthogonalization, || {
            active.iter().zip(products).try_for_each(|(&slot, product)| {
                self.slots[slot].advance(product, std::mem::take(&mut partial.rows[slot])).map(drop)
            })
        })?;
        self.step += 1;
        self.record(watch, &active, resumed_at);
        // what was asked for in the last segment; a group that has just ended is better written than saved
        if self.num_active() > 0 && (asked.stop || num_segments == 1) {
            self.save_or_stop(asked, &[], &Partial::of(pairs.len()))?;
        }
        Ok(())
    }

    /// Hands out the times of the step that has just ended; `resumed_at`: segments that an earlier call had done.
    fn record(&mut self, watch: Stopwatch<'_>, active: &[usize], resumed_at: usize) {
        let (seconds, split) = watch.stop();
        let (step, slots, data) = (self.step, active.len(), self.job.data());
        let share = data.share_from(resumed_at);
        let tokens = share * data.num_predictions() as f64;
        let metrics = StepMetrics { step, slots, tokens, share, seconds, split };
        self.keep(metrics, active);
        (self.context.measured)(&metrics);
    }

    /// The times of a step in which these slots took part.
    fn keep(&mut self, metrics: StepMetrics, slots: &[usize]) {
        slots.iter().for_each(|&slot| self.seconds[slot].push(metrics.seconds / slots.len() as f64));
        self.metrics.push(metrics);
    }

    fn absorb(&self, active: &[usize], partial: &mut Partial, sums: Vec<Slice<f64>>) -> Result<()> {
        for (&slot, sum) in active.iter().zip(&sums) {
            if self.slots[slot].wants_segments() {
                partial.rows[slot].push(self.slots[slot].segment_row(&rounded(sum))?);
            }
        }
        partial.add(sums);
        Ok(())
    }
}

/// Rank 0 reads the storage, all go by what it saw.
fn agreed_position(comm: &Comm, checkpoint: &Checkpoint, name: &str, contents: &Contents) -> Result<Position> {
    let found = if comm.is_root() { checkpoint.recover(name, contents)? } else { Position::default() };
    let mut bytes = [found.step as u64, found.segments as u64].map(u64::to_le_bytes).concat();
    comm.broadcast_bytes(0, &mut bytes)?;
    let number = |at: usize| {
        let bytes = bytes.get(8 * at..8 * at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u64::from_le_bytes).ok_or_else(|| Error::Other("a position of a checkpoint has 16 bytes".into()))
    };
    Ok(Position { step: number(0)? as usize, segments: number(1)? as usize })
}
