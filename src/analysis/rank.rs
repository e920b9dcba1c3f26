//! One rank's part in an analysis: errors of products, groups of slots, and what they say.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use super::Asked;
use super::curvature::{BlockResult, Curvature, Eigenpair};
use crate::Result;
use crate::block::{Block, Layout};
use crate::cluster::Comm;
use crate::engine::{Kernels, SecondOrder};
use crate::hessian::{
    BlockOperator, MicroBatches, OnData, Pair, Passes, Precision, Problem, ProductError, product_errors,
};
use crate::krylov::Tridiagonal;
use crate::models::VectorObject;
use crate::spectrum::{BlockSpectrum, noise_floor};
use crate::worker::{Context, Eigenvector, Observer, Wanted, Work, run_group};

/// What a rank works on.
pub(super) struct Rank<'a> {
    pub layout: &'a Layout,
    pub blocks: &'a [Block],
    pub asked: &'a Asked<'a>,
    pub comm: &'a Comm,
}

/// What the groups have found, by block.
struct Found {
    tridiagonals: Vec<Vec<Tridiagonal>>,
    eigenvectors: Vec<Eigenvector>,
    /// Their files.
    files: BTreeMap<usize, Vec<u8>>,
}

impl Rank<'_> {
    /// Computes the spectra in precision `T`.
    pub fn compute<K, T, P, D>(&self, problem: &P, model: &P::Model, data: &D) -> Result<Curvature>
    where
        K: Kernels,
        T: Precision,
        P: Problem<SecondOrder<K>>,
        D: MicroBatches<Batch = P::Batch>,
    {
        let (begin, settings) = (Instant::now(), &self.asked.settings);
        let passes: Rc<dyn Passes<K, T> + '_> = Rc::new(OnData::new(problem, model, self.layout, data));
        let mut operator = BlockOperator::<K, T>::of(passes.clone(), self.comm);
        (operator.kind, operator.reduction, operator.recompute) =
            (settings.kind, settings.reduction, settings.recompute);
        let work = Work { operator, blocks: self.blocks, settings, starts: None };
        let errors = self.errors(&work)?;
        let found = self.groups(&work, &errors)?;
        let blocks = self.results::<T>(found, errors, &segment_shares(&*passes)?)?;
        let (layout, settings) = (self.layout.clone(), settings.clone());
        Ok(Curvature { layout, blocks, settings, ranks: self.comm.size(), took: begin.elapsed() })
    }

    fn errors<K: Kernels, T: Precision>(&self, work: &Work<'_, K, T>) -> Result<Vec<ProductError>> {
        let mut operator = work.operator.again();
        operator.slots = self.blocks.iter().collect();
        let at: Vec<usize> = (0..self.blocks.len()).collect();
        let together: Vec<Vec<usize>> = at.chunks(self.slots()).map(<[usize]>::to_vec).collect();
        product_errors(&operator, self.asked.settings.seed, &together, &|| self.asked.is_stopped())
    }

    /// Most slots of a group.
    fn slots(&self) -> usize {
        self.asked.settings.slots.max(1)
    }

    fn groups<K: Kernels, T: Precision>(&self, work: &Work<'_, K, T>, errors: &[ProductError]) -> Result<Found> {
        let settings = &self.asked.settings;
        let probes = |(at, block): (usize, &Block)| (0..settings.probes_of(block)).map(move |probe| (at, probe));
        let pairs: Vec<Pair> = self.blocks.iter().enumerate().flat_map(probes).collect();
        let groups: Vec<&[Pair]> = pairs.chunks(self.slots()).collect();
        let has_eigenvectors = self.asked.eigenvectors > 0;
        let sweeps =
            |pairs: &[Pair]| work.num_sweeps(pairs, has_eigenvectors) * work.operator.passes.num_micro_batches() as u64;
        let progress = self.asked.progress.filter(|_| self.comm.is_root());
        if let Some(progress) = progress {
            progress.begin(groups.iter().map(|pairs| sweeps(pairs)).sum());
        }
        let files = RefCell::new(BTreeMap::new());
        let keep = |(block, _): Pair, _: usize, file: Vec<u8>| {
            files.borrow_mut().insert(block, file);
            Ok(String::new())
        };
        let etas: Vec<f64> = errors.iter().map(|error| error.eta).collect();
        let (mut tridiagonals, mut eigenvectors) = (vec![Vec::new(); self.blocks.len()], Vec::new());
        let mut before = 0;
        for (index, pairs) in groups.iter().enumerate() {
            let name = format!("{} of {}", index + 1, groups.len());
            let observer = InGroup { rank: self, name: &name, before };
            let context = Context {
                prefix: settings.prefix,
                eigenvectors: has_eigenvectors.then_some(Wanted { count: self.asked.eigenvectors, write: &keep }),
                ..Context::new(&etas, work.operator.passes.total_weight(), &observer)
            };
            let found = run_group(work, &name, pairs, &context)?;
            found.slots.into_iter().for_each(|slot| tridiagonals[slot.pair.0].push(slot.tridiagonal));
            eigenvectors.extend(found.eigenvectors);
            before += sweeps(pairs);
        }
        Ok(Found { tridiagonals, eigenvectors, files: files.into_inner() })
    }

    fn results<T: Precision>(
        &self,
        found: Found,
        errors: Vec<ProductError>,
        shares: &[f64],
    ) -> Result<Vec<BlockResult>> {
        let Found { tridiagonals, eigenvectors, files } = found;
        let mut results = Vec::new();
        for (at, ((block, tridiagonals), error)) in self.blocks.iter().zip(tridiagonals).zip(errors).enumerate() {
            let (dim, weights) = (block.num_params(self.layout), self.asked.settings.weights);
            let spectrum = BlockSpectrum::of(&block.name, dim, &tridiagonals, noise_floor(error.eta), weights, shares)?;
            let vectors =
                files.get(&at).map_or(Ok(Vec::new()), |file| VectorObject::read::<T>(file, self.layout, block))?;
            let of_block = eigenvectors.iter().filter(|vector| vector.block == at).zip(vectors);
            let eigenvectors = of_block.map(|(found, vector)| Eigenpair::new(self.layout, found, vector)).collect();
            results.push(BlockResult { block: block.clone(), error, tridiagonals, spectrum, eigenvectors });
        }
        Ok(results)
    }
}

/// A group of an analysis while it is computed.
struct InGroup<'a> {
    rank: &'a Rank<'a>,
    name: &'a str,
    /// Micro-batches of the groups before.
    before: u64,
}

impl Observer for InGroup<'_> {
    fn advance(&self, done: u64) {
        if let Some(progress) = self.rank.asked.progress.filter(|_| self.rank.comm.is_root()) {
            progress.advance(&format!("group {}", self.name), self.before + done);
        }
    }

    fn log(&self, line: &str) {
        if let Some(progress) = self.rank.asked.progress.filter(|_| self.rank.comm.is_root()) {
            progress.log(line);
        }
    }

    fn stop(&self) -> Option<String> {
        self.rank.asked.is_stopped().then(|| "its caller (Analysis::stop)".into())
    }
}

/// Share of each segment in the batch; none where a segment has nothing that counts, which then says nothing of the data's scatter.
fn segment_shares<K: Kernels, T: Precision>(passes: &dyn Passes<K, T>) -> Result<Vec<f64>> {
    let mut shares = vec![0.0; passes.num_segments()];
    for index in 0..passes.num_micro_batches() {
        shares[passes.segment(index)] += passes.weight(index)? / passes.total_weight();
    }
    Ok(if shares.iter().all(|share| *share > 0.0) { shares } else { Vec::new() })
}
