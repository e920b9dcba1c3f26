//! One rank's part in a group: all slots in lock-step, segment by segment, saved and resumed anywhere.
//!
//! Every rank runs the same code on the same scalars; only rank 0's clock and any rank's stop signal decide when to save,
//! and that is agreed on at the end of each segment.

mod diagonal;
mod eigenvectors;
mod observer;
mod saving;

use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::block::{Block, Layout};
use crate::checkpoint::{Checkpoint, Contents, Position, Rows, SlotContents};
use crate::cluster::Comm;
use crate::engine::Kernels;
use crate::hessian::{
    BlockOperator, Pair, Precision, Prefix, PrefixBudget, Settings, Sharded, Slice, add_slice, complement, rounded,
    slot_settings, start,
};
use crate::krylov::{Chain, Schedule, SharedComplement, Tridiagonal};
use crate::metrics::{Phase, StepMetrics, Stopwatch};
use crate::models::Structure;
use crate::models::cells::CellKind;
use crate::{Error, Result};

pub use diagonal::DiagonalSum;
pub use eigenvectors::{Eigenvector, Wanted};
pub use observer::{Observer, Progress};

/// What is computed: the blocks of an operator, and how.
pub struct Work<'a, K: Kernels, T: Precision> {
    /// The operator over all data, with no slots; its ranks share the groups.
    pub operator: BlockOperator<'a, K, T>,
    /// The blocks that pairs count.
    pub blocks: &'a [Block],
    /// What is asked for.
    pub settings: &'a Settings,
    /// Start vectors in place of random ones; all ranks have the same ones.
    pub starts: Option<&'a dyn Starts<T>>,
}

/// Start vectors of a caller's own.
pub trait Starts<T> {
    /// All entries of a pair's start vector, not yet normalised.
    ///
    /// # Errors
    /// The caller's own.
    fn vector(&self, pair: Pair) -> Result<Vec<T>>;
    /// What to call it in messages.
    fn label(&self, pair: Pair) -> String;
}

impl<K: Kernels, T: Precision> Work<'_, K, T> {
    /// The parameters.
    pub fn layout(&self) -> &Layout {
        self.operator.passes.layout()
    }

    /// Number of parameters of a block.
    fn len(&self, block: usize) -> usize {
        self.blocks[block].num_params(self.layout())
    }

    /// What the checkpoints of a group of these pairs are of; `None` if the work has not all of them.
    pub fn contents(&self, pairs: &[Pair]) -> Option<Contents> {
        let slot = |&(at, probe): &Pair| {
            let block = self.blocks.get(at).filter(|block| probe < self.settings.probes_of(block))?;
            let dim = self.len(at);
            let steps = self.settings.schedule(dim).products();
            Some(SlotContents { pair: (at, probe), block: block.name.clone(), dim, steps })
        };
        let slots = pairs.iter().map(slot).collect::<Option<Vec<_>>>()?;
        Some(Contents::new(size_of::<T>(), self.operator.passes.num_segments(), slots))
    }

    /// Sweeps over the data that a group takes: one a step, and one for the gradient that eigenvectors are compared with.
    pub fn num_sweeps(&self, pairs: &[Pair], with_eigenvectors: bool) -> u64 {
        let steps = |(at, _): &Pair| self.settings.schedule(self.len(*at)).products();
        let gradient = with_eigenvectors && pairs.iter().any(|(_, probe)| *probe == 0);
        pairs.iter().map(steps).max().unwrap_or(0) as u64 + u64::from(gradient)
    }
}

/// How a group is run.
pub struct Context<'a> {
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
    /// Sums over the diagonal that are asked for: over which cells, and what parameters have inside.
    pub diagonal: Option<(&'a [CellKind], Structure)>,
    /// Predictions in the batch.
    pub num_predictions: f64,
    /// Who watches.
    pub observer: &'a dyn Observer,
}

impl<'a> Context<'a> {
    /// Recursions alone: nothing is saved, nothing kept between sweeps, and nothing formed from the bases.
    pub fn new(etas: &'a [f64], num_predictions: f64, observer: &'a dyn Observer) -> Self {
        let (every, prefix) = (Duration::MAX, PrefixBudget::NONE);
        Self { etas, checkpoint: None, every, prefix, eigenvectors: None, diagonal: None, num_predictions, observer }
    }
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
    pub eigenvectors: Vec<Eigenvector>,
    /// Sums over diagonals, where they are asked for.
    pub diagonal: Vec<DiagonalSum>,
}

/// Runs a group to its end, from its checkpoint if there is one.
///
/// # Errors
/// [`Error::Interrupted`] on all ranks after a stop signal on any, with everything saved.
pub fn run_group<K: Kernels, T: Precision>(
    work: &Work<'_, K, T>,
    name: &str,
    pairs: &[Pair],
    context: &Context<'_>,
) -> Result<Finished> {
    let mut group = Group::open(work, name, pairs, context)?;
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
    work: &'g Work<'g, K, T>,
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
    fn open(work: &'g Work<'g, K, T>, name: &'g str, pairs: &'g [Pair], context: &'g Context<'g>) -> Result<Self> {
        let contents = work
            .contents(pairs)
            .ok_or_else(|| Error::Other(format!("group {name}: a block or probe that the run has not")))?;
        let at = match context.checkpoint {
            Some(checkpoint) => agreed_position(work.operator.comm, checkpoint, name, &contents)?,
            None => Position::default(),
        };
        let blocks: Vec<&Block> = pairs.iter().map(|(at, _)| &work.blocks[*at]).collect();
        let mut group = Self {
            work,
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
            prefix: work.operator.prefix_of(&blocks, context.prefix).map(Rc::new),
        };
        match context.checkpoint.filter(|_| at != Position::default()) {
            Some(checkpoint) => group.resume(checkpoint, at)?,
            None => group.begin()?,
        }
        Ok(group)
    }

    fn comm(&self) -> &'g Comm {
        self.work.operator.comm
    }

    fn block(&self, slot: usize) -> &'g Block {
        &self.work.blocks[self.pairs[slot].0]
    }

    fn len(&self, slot: usize) -> usize {
        self.work.len(self.pairs[slot].0)
    }

    fn settings(&self, slot: usize) -> crate::krylov::Settings {
        let (at, probe) = self.pairs[slot];
        let segments = self.work.operator.passes.num_segments();
        let settings = slot_settings(self.block(slot), probe, self.context.etas[at], segments, self.work.settings);
        let label = self.work.starts.map_or(settings.label, |starts| starts.label((at, probe)));
        crate::krylov::Settings { label, steps: settings.steps.min(self.len(slot)), ..settings }
    }

    /// Whether bases are needed once their recursions are done.
    fn keeps_basis(&self) -> bool {
        self.context.eigenvectors.is_some() || self.context.diagonal.is_some()
    }

    fn schedule(&self, slot: usize) -> Schedule {
        self.work.settings.schedule(self.len(slot))
    }

    fn complement(&self, slot: usize) -> SharedComplement<'g, Slice<T>> {
        let (at, probe) = self.pairs[slot];
        let eta = self.context.etas[at];
        complement(self.block(slot), self.work.layout(), probe, eta, self.work.settings, self.comm())
    }

    fn start(&self, slot: usize) -> Result<Slice<T>> {
        match self.work.starts {
            Some(starts) => Ok(self.work.operator.slice(&starts.vector(self.pairs[slot])?)),
            None => {
                let (block, probe) = (self.block(slot), self.pairs[slot].1);
                Ok(start(block, self.work.layout(), probe, self.work.settings, self.comm()))
            }
        }
    }

    fn begin(&mut self) -> Result<()> {
        for slot in 0..self.pairs.len() {
            let short = self.work.settings.short().map(|short| (short, self.complement(slot)));
            let space = Sharded::new(self.comm());
            self.slots.push(Chain::new(space, self.start(slot)?, self.settings(slot), short)?);
        }
        Ok(())
    }

    /// Reads what the checkpoint has: Jacobi matrices, this rank's slices of the basis, and a sweep's sums.
    fn resume(&mut self, checkpoint: &Checkpoint, at: Position) -> Result<()> {
        let comm = self.comm();
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
            let complement = self.work.settings.short().map(|_| self.complement(slot));
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
        self.context.observer.skip((step * self.num_micro_batches() + self.before_segment(segments)) as u64);
        self.context
            .observer
            .log(&format!("group {}: resumed after step {step} and {segments} segments of the next sweep", self.name));
        Ok(())
    }

    fn num_micro_batches(&self) -> usize {
        self.work.operator.passes.num_micro_batches()
    }

    /// Micro-batches of the segments before one.
    fn before_segment(&self, segment: usize) -> usize {
        let passes = &self.work.operator.passes;
        (0..passes.num_micro_batches()).filter(|&index| passes.segment(index) < segment).count()
    }

    fn active(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|&slot| self.slots[slot].vector().is_some()).collect()
    }

    fn num_active(&self) -> usize {
        self.active().len()
    }

    /// One Lanczos step of all active slots: a sweep over the segments.
    fn step(&mut self) -> Result<()> {
        let mut watch = Stopwatch::start(self.comm());
        let active = self.active();
        let (work, pairs) = (self.work, self.pairs);
        let num_segments = work.operator.passes.num_segments();
        let done_before = (self.step * self.num_micro_batches()) as u64;
        let observer = self.context.observer;
        let progress = |done: usize| {
            observer.advance(done_before + done as u64);
            Ok(())
        };
        let mut operator = work.operator.again();
        operator.slots = pairs.iter().map(|(at, _)| &work.blocks[*at]).collect();
        operator.progress = Some(&progress);
        operator.prefix = self.prefix.clone();
        let mut partial = self.resumed.take().unwrap_or_else(|| Partial::of(pairs.len()));
        let (resumed_at, mut asked) = (partial.segments, Asked::default());
        let products = {
            let vectors: Vec<_> = active.iter().filter_map(|&slot| Some((slot, self.slots[slot].vector()?))).collect();
            let sweep = watch.time(Phase::Products, || operator.sweep(&vectors))?;
            while partial.segments < num_segments {
                let begin = Instant::now();
                let sums = watch.time(Phase::Products, || sweep.segment(partial.segments))?;
                watch.time(Phase::Reorthogonalization, || self.absorb(&active, &mut partial, sums))?;
                self.context.observer.segment(begin.elapsed().as_secs_f64());
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
        let (step, slots) = (self.step, active.len());
        let share = 1.0 - self.before_segment(resumed_at) as f64 / self.num_micro_batches() as f64;
        let tokens = share * self.context.num_predictions;
        let metrics = StepMetrics { step, slots, tokens, share, seconds, split };
        self.keep(metrics, active);
        self.context.observer.measured(&metrics);
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
