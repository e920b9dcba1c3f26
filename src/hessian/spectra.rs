//! The spectrum of every block of a model by one function, in three lines of glue.

use std::rc::Rc;

use super::complement::BlockComplement;
use super::error::{ProductError, product_errors};
use super::operator::{BlockOperator, Kind, Reduction};
use super::pass::Precision;
use super::passes::{OnData, Passes};
use super::prefix::PrefixBudget;
use super::problem::{MicroBatches, Problem};
use super::sharded::{Sharded, Slice};
use crate::block::{Block, Layout};
use crate::cluster::{Comm, solo, world};
use crate::engine::{Kernels, SecondOrder};
use crate::krylov::{self, Chain, Reorthogonalize, Schedule, SharedComplement, Short, Tridiagonal};
use crate::probe::{ProbeKind, probe};
use crate::spectrum::{
    self, BlockSpectrum, Moments, Weights, deflate, moments, noise_floor, quadrature, reduce_variance,
};
use crate::{Error, Result};

/// What is computed.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Hessian or Gauss-Newton.
    pub kind: Kind,
    /// How micro-batches add up.
    pub reduction: Reduction,
    /// Lanczos steps m.
    pub steps: usize,
    /// Random start vectors of each block.
    pub probes: u32,
    /// Random start vectors of the block `full`.
    pub full_probes: u32,
    /// Their distribution.
    pub probe: ProbeKind,
    /// Seed of the probes.
    pub seed: u64,
    /// How the basis is kept orthogonal.
    pub reorthogonalize: Reorthogonalize,
    /// Which weights densities, distances and moments use.
    pub weights: Weights,
    /// With [`Weights::Deflated`]: what follows every (block, probe) pair's steps. Else unused.
    pub short: Short,
    /// Most (block, probe) pairs that share a sweep: the memory grows with it.
    pub slots: usize,
    /// Whether activations are computed again in the reverse pass, for problems with [`Stages`](super::Stages): a fraction
    /// of the memory, for a third (the whole network) to a half (one block) more time.
    pub recompute: bool,
    /// What may be kept of the activations below a group's blocks, for problems with [`Stages`](super::Stages).
    pub prefix: PrefixBudget,
}

impl Default for Settings {
    /// 100 steps, 4 probes (2 of the whole network), full reorthogonalisation, 8 slots, 1 GiB of activations.
    fn default() -> Self {
        Self {
            kind: Kind::Hessian,
            reduction: Reduction::Mean,
            steps: 100,
            probes: 4,
            full_probes: 2,
            probe: ProbeKind::Gaussian,
            seed: 1337,
            reorthogonalize: Reorthogonalize::Full,
            weights: Weights::Raw,
            short: Short { starts: 20, steps: 5 },
            slots: 8,
            recompute: false,
            prefix: PrefixBudget { memory: 1 << 30, file: 0 },
        }
    }
}

impl Settings {
    /// Number of probes of a block.
    pub fn probes_of(&self, block: &Block) -> u32 {
        if block.kind == "full" { self.full_probes } else { self.probes }
    }

    /// The short recursions that are asked for.
    pub fn short(&self) -> Option<Short> {
        (self.weights == Weights::Deflated).then_some(self.short)
    }

    /// The steps of each of a block's probes, for a block of dimension `dim`.
    pub fn schedule(&self, dim: usize) -> Schedule {
        Schedule::new(dim, self.steps, self.short())
    }
}

/// What was found of one block.
#[derive(Debug, Clone)]
pub struct BlockResult {
    /// The block.
    pub block: Block,
    /// Error of its products.
    pub error: ProductError,
    /// The Jacobi matrix of each probe.
    pub tridiagonals: Vec<Tridiagonal>,
    /// Nodes and weights of each probe.
    pub spectrum: BlockSpectrum,
}

impl BlockResult {
    /// Trace, Frobenius norm, extreme eigenvalues and negative mass, with their errors.
    pub fn moments(&self) -> Moments {
        moments(&self.spectrum)
    }
}

/// What was found of a network.
#[derive(Debug, Clone)]
pub struct Spectra {
    /// Its parameters.
    pub layout: Layout,
    /// Its blocks, in the order asked for.
    pub blocks: Vec<BlockResult>,
}

impl Spectra {
    /// Distances between all pairs of blocks, on one axis for all; `full` is on it, and is left out of the pairs.
    ///
    /// # Errors
    /// [`Error::Config`] for an axis or sigma that is not above 0.
    pub fn distances(&self, settings: &spectrum::DistanceSettings) -> Result<Vec<spectrum::Divergence>> {
        let all: Vec<_> = self.blocks.iter().map(|block| block.spectrum.clone()).collect();
        let view = spectrum::View::new(&all, settings.axis, settings.sigma)?;
        let parts = self.blocks.iter().filter(|b| b.block.kind != "full").map(|b| b.spectrum.clone());
        spectrum::divergences_in(&view, &parts.collect::<Vec<_>>(), settings)
    }
}

/// The spectra of a problem's blocks over all of its data, by stochastic Lanczos quadrature.
///
/// `blocks` come from [`models::partition`](crate::models::partition()) over `layout`, or are your own lists of
/// parameter ranges. The precision `T` is that of the model's parameters. See `examples/own_model.rs`.
///
/// # Errors
/// [`Error::Environment`] for one of several processes of a launcher, each of which would do it all; [`Error::Config`] for
/// parameters of another type than `T`, and for a micro-batch without weight; [`Error::Numerics`] for products that are not finite and moment identities that do not hold; errors of `data`.
pub fn spectrum<T, K, P, D>(
    problem: &P,
    model: &P::Model,
    data: &D,
    layout: &Layout,
    blocks: &[Block],
    settings: &Settings,
) -> Result<Spectra>
where
    T: Precision,
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    D: MicroBatches<Batch = P::Batch>,
{
    world::alone("spectrum", &world::environment())?;
    if data.is_empty() {
        return Err(Error::Config("spectrum: there is no micro-batch to compute a loss from".into()));
    }
    if settings.recompute && problem.stages().is_none() {
        return Err(Error::Config(
            "spectrum: Settings::recompute needs Problem::stages, which this problem does not have; expected false"
                .into(),
        ));
    }
    let passes: Rc<dyn Passes<K, T> + '_> = Rc::new(OnData::new(problem, model, layout, data));
    if let Some((name, dtype)) = passes.parameter_of_other_type() {
        return Err(Error::Config(format!(
            "spectrum: parameter `{name}` is in {}, products were asked for in {}; expected the same: choose T, or \
             `hessian::cast` the model",
            dtype.name(),
            T::DTYPE.name()
        )));
    }
    let comm = solo::comm();
    let operator = |slots| {
        let mut operator = BlockOperator::<K, T>::of(passes.clone(), &comm);
        (operator.kind, operator.reduction, operator.slots) = (settings.kind, settings.reduction, slots);
        operator.recompute = settings.recompute;
        operator
    };
    let at: Vec<usize> = (0..blocks.len()).collect();
    let together: Vec<Vec<usize>> = at.chunks(settings.slots.max(1)).map(<[usize]>::to_vec).collect();
    let errors = product_errors(&operator(blocks.iter().collect()), settings.seed, &together, &|| false)?;
    let pairs: Vec<(usize, u32)> = blocks
        .iter()
        .enumerate()
        .flat_map(|(at, block)| (0..settings.probes_of(block)).map(move |probe| (at, probe)))
        .collect();
    let mut found: Vec<Vec<Tridiagonal>> = vec![Vec::new(); blocks.len()];
    for group in pairs.chunks(settings.slots.max(1)) {
        let mut operator = operator(group.iter().map(|(at, _)| &blocks[*at]).collect());
        let prefix = operator.prefix_of(&operator.slots, settings.prefix);
        operator.prefix = prefix.map(Rc::new);
        let slots = group.iter().map(|(at, probe)| {
            let (block, eta) = (&blocks[*at], errors[*at].eta);
            let asked = slot_settings(block, *probe, eta, data.num_segments(), settings);
            let short = settings.short().map(|short| (short, complement(block, layout, *probe, eta, settings, &comm)));
            Chain::new(Sharded::<T>::new(&comm), start(block, layout, *probe, settings, &comm), asked, short)
        });
        let slots = slots.collect::<Result<Vec<_>>>()?;
        for ((at, _), t) in group.iter().zip(krylov::run(&mut operator, slots)?) {
            found[*at].push(t);
        }
    }
    let shares = segment_shares(&*passes, data)?;
    let blocks = blocks.iter().zip(found).zip(errors).map(|((block, tridiagonals), error)| {
        let floor = noise_floor(error.eta);
        let dim = block.num_params(layout);
        let spectrum = block_spectrum(&block.name, dim, &tridiagonals, floor, settings.weights, &shares)?;
        Ok(BlockResult { block: block.clone(), error, tridiagonals, spectrum })
    });
    Ok(Spectra { layout: layout.clone(), blocks: blocks.collect::<Result<_>>()? })
}

/// This rank's slice of the start vector of a (block, probe) pair, not yet normalised.
pub fn start<T: Precision>(block: &Block, layout: &Layout, number: u32, settings: &Settings, comm: &Comm) -> Slice<T> {
    let len = block.num_params(layout);
    let entries = probe(settings.probe, settings.seed, &block.name, number, comm.shard(len).range());
    Slice { values: entries.into_iter().map(T::from_f64).collect(), len }
}

/// What Lanczos is asked to do for a (block, probe) pair.
pub fn slot_settings(block: &Block, probe: u32, eta: f64, segments: usize, settings: &Settings) -> krylov::Settings {
    let orthogonal = settings.reorthogonalize == Reorthogonalize::Full;
    krylov::Settings {
        label: format!("block `{}`, probe {probe}", block.name),
        steps: settings.steps,
        reorthogonalize: settings.reorthogonalize,
        eta,
        segments: if orthogonal { segments } else { 0 },
    }
}

/// Where the short recursions of a (block, probe) pair begin.
pub fn complement<'a, T: Precision>(
    block: &Block,
    layout: &Layout,
    probe: u32,
    eta: f64,
    settings: &'a Settings,
    comm: &'a Comm,
) -> SharedComplement<'a, Slice<T>> {
    Rc::new(BlockComplement::new(block, layout, probe, eta, settings, comm))
}

/// Share of each segment in the batch.
fn segment_shares<K: Kernels, T: Precision>(passes: &dyn Passes<K, T>, data: &impl MicroBatches) -> Result<Vec<f64>> {
    let mut shares = vec![0.0; data.num_segments()];
    for index in 0..data.len() {
        shares[data.segment(index)] += passes.weight(index)? / data.total_weight();
    }
    // a segment of which nothing counts says nothing of the data's scatter
    Ok(if shares.iter().all(|share| *share > 0.0) { shares } else { Vec::new() })
}

/// Nodes and weights of a block of dimension `dim` from its Jacobi matrices, with its pieces. `shares`: of each segment in the
/// batch; they count where segment matrices were kept.
///
/// # Errors
/// [`Error::Numerics`] for matrices that are not finite, moment identities that do not hold, and segments that do not fit.
pub fn block_spectrum(
    name: &str,
    dim: usize,
    tridiagonals: &[Tridiagonal],
    floor: f64,
    weights: Weights,
    shares: &[f64],
) -> Result<BlockSpectrum> {
    let quadratures = tridiagonals.iter().enumerate().map(|(probe, t)| quadrature(name, probe as u32, t, floor));
    let mut probes = quadratures.collect::<Result<Vec<_>>>()?;
    match weights {
        Weights::Raw => {}
        Weights::VarianceReduced => reduce_variance(&mut probes, dim, floor)?,
        Weights::Deflated => {
            probes.iter_mut().zip(tridiagonals).try_for_each(|(probe, t)| deflate(probe, t, dim, floor))?;
        }
    }
    let has_segments = tridiagonals.iter().all(|t| !t.segments.is_empty());
    BlockSpectrum::new(name, dim, probes, floor)?.with_pieces(tridiagonals, if has_segments { shares } else { &[] })
}
