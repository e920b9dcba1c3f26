//! The library's front door: the curvature of a burn model in one expression.
//!
//! ```no_run
//! # use hesspec::{Analysis, Problem, engine::SecondOrder, hessian::Listed};
//! # use burn_flex::Flex;
//! # fn of<P: Problem<SecondOrder<Flex>>>(problem: &P, model: &P::Model, data: &Listed<P::Batch>) -> hesspec::Result<()>
//! # where P::Batch: Clone {
//! let curvature = Analysis::new(problem, model, data).steps(60).probes(2).eigenvectors(5).run()?;
//! println!("{curvature}");
//! let trace = curvature["full"].moments().trace;
//! let sharpest = &curvature["full"].eigenvectors[0];
//! # Ok(())
//! # }
//! ```
//!
//! It runs the same groups of slots as the program ([`worker`](crate::worker)), in the precision of the model's parameters, on one rank or
//! several, and owns what a result looks like. What only a program has (checkpoints, plans, object storage, signals) is [`program`](crate::program()).

mod curvature;
mod rank;
#[cfg(feature = "program")]
mod save;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use burn::tensor::DType;

use crate::block::{Block, Layout};
use crate::cluster::{Comm, solo, threads, world};
use crate::engine::{Kernels, SecondOrder};
use crate::hessian::{Kind, MicroBatches, Problem, Reduction, Settings, parameter_of_other_type};
use crate::models::{Partition, Structure, parameters, partition};
use crate::spectrum::Weights;
use crate::worker::Progress;
use crate::{Error, Result};

pub use curvature::{BlockResult, Curvature, Eigenpair};
use rank::Rank;

/// What is going to be computed: every parameter tensor as a block, and the whole network, unless it is told otherwise.
pub struct Analysis<'a, K: Kernels, P: Problem<SecondOrder<K>>, D> {
    problem: &'a P,
    model: &'a P::Model,
    data: &'a D,
    asked: Asked<'a>,
}

/// What is asked for, whatever the network.
#[derive(Clone, Default)]
struct Asked<'a> {
    blocks: Option<Vec<Block>>,
    settings: Settings,
    eigenvectors: usize,
    progress: Option<&'a (dyn Progress + Sync)>,
    stop: Option<&'a AtomicBool>,
}

impl Asked<'_> {
    fn is_stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }
}

impl<'a, K, P, D> Analysis<'a, K, P, D>
where
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    D: MicroBatches<Batch = P::Batch>,
{
    /// An analysis of a model with its loss, over all of some data.
    pub fn new(problem: &'a P, model: &'a P::Model, data: &'a D) -> Self {
        Self { problem, model, data, asked: Asked::default() }
    }

    /// Lanczos steps of each probe; default: 100.
    pub fn steps(mut self, steps: usize) -> Self {
        self.asked.settings.steps = steps;
        self
    }

    /// Random start vectors of each block, the whole network among them; default: 4, and 2 for the whole network.
    pub fn probes(mut self, probes: u32) -> Self {
        (self.asked.settings.probes, self.asked.settings.full_probes) = (probes, probes);
        self
    }

    /// Seed of the probes; default: 1337.
    pub fn seed(mut self, seed: u64) -> Self {
        self.asked.settings.seed = seed;
        self
    }

    /// The generalised Gauss-Newton matrix in place of the Hessian.
    pub fn gauss_newton(mut self) -> Self {
        self.asked.settings.kind = Kind::GaussNewton;
        self
    }

    /// Sums the micro-batches' mean losses, and does not divide by their number, as the paper's code does.
    pub fn summed(mut self) -> Self {
        self.asked.settings.reduction = Reduction::Sum;
        self
    }

    /// Which weights nodes have; default: those of Lanczos quadrature.
    pub fn weights(mut self, weights: Weights) -> Self {
        self.asked.settings.weights = weights;
        self
    }

    /// Eigenvectors of each block, at most so many: those that have converged, by magnitude of the eigenvalue. They take memory for as many
    /// vectors of the block's length, and one pass over the data for the gradient that they are compared with.
    pub fn eigenvectors(mut self, count: usize) -> Self {
        self.asked.eigenvectors = count;
        self
    }

    /// These blocks, in this order, and no others; [`partition`] makes some, and any ranges of parameters are one.
    pub fn blocks(mut self, blocks: Vec<Block>) -> Self {
        self.asked.blocks = Some(blocks);
        self
    }

    /// Everything else that can be asked for.
    pub fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.asked.settings);
        self
    }

    /// Who hears how far it is; with several ranks, from the first of them.
    pub fn progress(mut self, progress: &'a (dyn Progress + Sync)) -> Self {
        self.asked.progress = Some(progress);
        self
    }

    /// A flag that ends the computation at the end of a segment of the data, with [`Error::Interrupted`] on all ranks.
    pub fn stop(mut self, stop: &'a AtomicBool) -> Self {
        self.asked.stop = Some(stop);
        self
    }

    /// The parameters, whose ranges blocks are made of.
    pub fn layout(&self) -> Layout {
        parameters(self.model, self.problem.names())
    }

    /// Computes it, on all cores of this process.
    ///
    /// # Errors
    /// [`Error::Environment`] for one of several processes of a launcher, each of which would do it all; [`Error::Config`] for a
    /// model whose parameters are neither all f32 nor all f64, for no data, and for a micro-batch without weight; [`Error::Numerics`] for
    /// products that are not finite and moment identities that do not hold; errors of the data.
    pub fn run(self) -> Result<Curvature> {
        world::alone("Analysis::run", &world::environment())?;
        self.run_on(&solo::comm())
    }

    /// Computes it with the other ranks of `comm`, each of which calls this with the same network on the same data. All get the
    /// result, but for eigenvectors, which the first rank has.
    ///
    /// # Errors
    /// Those of [`Analysis::run`]; those of the exchange.
    pub fn run_on(self, comm: &Comm) -> Result<Curvature> {
        let Self { problem, model, data, asked } = self;
        compute(problem, model, data, &asked, comm)
    }

    /// Computes it on so many ranks of this process, each a thread with its share of the cores: they share vectors and bases, and
    /// on many cores they leave fewer of them idle than one rank does.
    ///
    /// # Errors
    /// Those of [`Analysis::run`]; [`Error::Config`] for no rank; [`Error::Environment`] where the system has no threads left.
    pub fn run_on_ranks(self, ranks: usize) -> Result<Curvature>
    where
        P: Sync,
        D: Sync,
        P::Model: Send,
    {
        world::alone("Analysis::run_on_ranks", &world::environment())?;
        if ranks == 0 {
            return Err(Error::Config("Analysis::run_on_ranks(0): expected at least 1 rank".into()));
        }
        let Self { problem, model, data, asked } = self;
        let models = Mutex::new(vec![model.clone(); ranks]); // a module can be sent to a thread, and not be shared by two
        let cores = (rayon::current_num_threads() / ranks).max(1);
        let results = threads::run_with_pools(ranks, cores, |comm| {
            let model = models.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let model = model.ok_or_else(|| Error::Other("there are fewer models than ranks".into()))?;
            compute(problem, &model, data, &asked, &comm)
        });
        results?.into_iter().next().ok_or_else(|| Error::Other("no rank has a result".into()))
    }
}

/// One rank's part, in the precision of the parameters.
fn compute<K, P, D>(problem: &P, model: &P::Model, data: &D, asked: &Asked<'_>, comm: &Comm) -> Result<Curvature>
where
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    D: MicroBatches<Batch = P::Batch>,
{
    if data.is_empty() {
        return Err(Error::Config("Analysis: there is no micro-batch to compute a loss from".into()));
    }
    if asked.settings.recompute && problem.stages().is_none() {
        return Err(Error::Config(
            "Analysis: Settings::recompute needs Problem::stages, which this problem does not have; expected false"
                .into(),
        ));
    }
    let layout = parameters(model, problem.names());
    let blocks = match &asked.blocks {
        Some(blocks) => blocks.clone(),
        None => {
            let mut blocks = partition(&layout, &Structure::UNKNOWN, Partition::Parameter)?;
            blocks.push(layout.full());
            blocks
        }
    };
    let rank = Rank { layout: &layout, blocks: &blocks, asked, comm };
    match parameter_of_other_type(model, problem.names(), &layout, DType::F32) {
        None => rank.compute::<K, f32, _, _>(problem, model, data),
        Some((_, DType::F64)) => match parameter_of_other_type(model, problem.names(), &layout, DType::F64) {
            None => rank.compute::<K, f64, _, _>(problem, model, data),
            Some((name, dtype)) => Err(other_type(&name, dtype)),
        },
        Some((name, dtype)) => Err(other_type(&name, dtype)),
    }
}

fn other_type(parameter: &str, dtype: DType) -> Error {
    Error::Config(format!(
        "Analysis: parameter `{parameter}` is in {}; expected all of them in f32, or all in f64 (`hessian::cast`)",
        dtype.name()
    ))
}
