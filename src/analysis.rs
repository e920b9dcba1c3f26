//! The library's front door: the curvature of a burn model in one expression.
//!
//! ```no_run
//! # use hesspec::{Analysis, Problem, engine::SecondOrder, hessian::Listed};
//! # use burn_flex::Flex;
//! # fn of<P: Problem<SecondOrder<Flex>>>(problem: &P, model: &P::Model, data: &Listed<P::Batch>) -> hesspec::Result<()>
//! # where P::Batch: Clone {
//! let curvature = Analysis::new(problem, model, data).steps(60).probes(2).run()?;
//! println!("{curvature}");
//! let trace = curvature["full"].moments().trace;
//! # Ok(())
//! # }
//! ```
//!
//! It computes by [`spectrum`](crate::spectrum()), in the precision of the model's parameters, and owns what a result looks like.
//! The whole machine (ranks, checkpoints, tables) is a program: [`program`](crate::program()).

use std::fmt;
use std::ops::Index;

use burn::tensor::DType;

use crate::block::{Block, Layout};
use crate::engine::{Kernels, SecondOrder};
use crate::hessian::{
    BlockResult, Kind, MicroBatches, Problem, Reduction, Settings, Spectra, parameter_of_other_type, spectrum,
};
use crate::models::{Partition, Structure, parameters, partition};
use crate::spectrum::{
    AxisChoice, BlockSpectrum, Density, DistanceSettings, Divergence, Metric, Moments, Sigma, View, Weights, density,
};
use crate::{Error, Result};

/// Points of the grid of the paper's metric.
const GRID_POINTS: usize = 500_000;

/// What is going to be computed: every parameter tensor as a block, and the whole network, unless it is told otherwise.
pub struct Analysis<'a, K: Kernels, P: Problem<SecondOrder<K>>, D> {
    problem: &'a P,
    model: &'a P::Model,
    data: &'a D,
    blocks: Option<Vec<Block>>,
    settings: Settings,
}

impl<'a, K, P, D> Analysis<'a, K, P, D>
where
    K: Kernels,
    P: Problem<SecondOrder<K>>,
    D: MicroBatches<Batch = P::Batch>,
{
    /// Of a model with its loss, over all of some data.
    pub fn new(problem: &'a P, model: &'a P::Model, data: &'a D) -> Self {
        Self { problem, model, data, blocks: None, settings: Settings::default() }
    }

    /// Lanczos steps of each probe; default: 100.
    pub fn steps(mut self, steps: usize) -> Self {
        self.settings.steps = steps;
        self
    }

    /// Random start vectors of each block, the whole network among them; default: 4, and 2 for the whole network.
    pub fn probes(mut self, probes: u32) -> Self {
        (self.settings.probes, self.settings.full_probes) = (probes, probes);
        self
    }

    /// Seed of the probes; default: 1337.
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// The generalised Gauss-Newton matrix in place of the Hessian.
    pub fn gauss_newton(mut self) -> Self {
        self.settings.kind = Kind::GaussNewton;
        self
    }

    /// Sums the micro-batches' mean losses, and does not divide by their number, as the paper's code does.
    pub fn summed(mut self) -> Self {
        self.settings.reduction = Reduction::Sum;
        self
    }

    /// Which weights nodes have; default: those of Lanczos quadrature.
    pub fn weights(mut self, weights: Weights) -> Self {
        self.settings.weights = weights;
        self
    }

    /// These blocks, in this order, and no others; [`partition`] makes some, and any ranges of parameters are one.
    pub fn blocks(mut self, blocks: Vec<Block>) -> Self {
        self.blocks = Some(blocks);
        self
    }

    /// Everything else that can be asked for.
    pub fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// The parameters, whose ranges blocks are made of.
    pub fn layout(&self) -> Layout {
        parameters(self.model, self.problem.names())
    }

    /// Computes it, on all cores of this process.
    ///
    /// # Errors
    /// Those of [`spectrum`](crate::spectrum()); [`Error::Config`] for a model whose parameters are neither f32 nor f64.
    pub fn run(self) -> Result<Curvature> {
        let layout = self.layout();
        let blocks = match &self.blocks {
            Some(blocks) => blocks.clone(),
            None => {
                let mut blocks = partition(&layout, &Structure::UNKNOWN, Partition::Parameter)?;
                blocks.push(layout.full());
                blocks
            }
        };
        let Self { problem, model, data, settings, .. } = &self;
        let spectra = match parameter_of_other_type(*model, problem.names(), &layout, DType::F32) {
            None => spectrum::<f32, _, _, _>(*problem, model, *data, &layout, &blocks, settings)?,
            Some((_, DType::F64)) => spectrum::<f64, _, _, _>(*problem, model, *data, &layout, &blocks, settings)?,
            Some((name, dtype)) => {
                return Err(Error::Config(format!(
                    "Analysis: parameter `{name}` is in {}; expected all of them in f32, or all in f64 (`hessian::cast`)",
                    dtype.name()
                )));
            }
        };
        Ok(Curvature { spectra })
    }
}

/// What was found. Its Display is a table of the blocks.
#[derive(Debug, Clone)]
pub struct Curvature {
    spectra: Spectra,
}

impl Curvature {
    /// The blocks, in the order in which they were asked for.
    pub fn blocks(&self) -> &[BlockResult] {
        &self.spectra.blocks
    }

    /// A block by its name; `None` if it was not asked for.
    pub fn get(&self, name: &str) -> Option<&BlockResult> {
        self.blocks().iter().find(|block| block.block.name == name)
    }

    /// The parameters.
    pub fn layout(&self) -> &Layout {
        &self.spectra.layout
    }

    /// Density of every block on one axis for all of them: asinh(lambda / lambda_c), or linear.
    ///
    /// # Errors
    /// [`Error::Numerics`] for spectra that no axis holds.
    pub fn densities(&self, axis: AxisChoice, sigma: Sigma) -> Result<Vec<Density>> {
        let spectra: Vec<BlockSpectrum> = self.blocks().iter().map(|block| block.spectrum.clone()).collect();
        let view = View::new(&spectra, axis, sigma)?;
        Ok(spectra.iter().map(|spectrum| density(spectrum, &view)).collect())
    }

    /// Distances between all pairs of blocks but the whole network, in a metric and the ones that come with it.
    ///
    /// # Errors
    /// [`Error::Numerics`] for spectra that no axis holds.
    pub fn distances(&self, metric: Metric) -> Result<Vec<Divergence>> {
        let (axis, sigma) = (AxisChoice::Asinh(None), Sigma::Relative(None));
        self.spectra.distances(&DistanceSettings { metrics: vec![metric], axis, sigma, grid_points: GRID_POINTS })
    }
}

/// The block of this name.
///
/// # Panics
/// If it was not asked for; see [`Curvature::get`].
impl Index<&str> for Curvature {
    type Output = BlockResult;

    fn index(&self, name: &str) -> &BlockResult {
        let known = || self.blocks().iter().map(|block| block.block.name.as_str()).collect::<Vec<_>>().join(", ");
        self.get(name).unwrap_or_else(|| panic!("there is no block `{name}`; there are {}", known()))
    }
}

impl fmt::Display for Curvature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.blocks().iter().map(|block| block.block.name.chars().count()).max().unwrap_or(0).max(5);
        let [name, dim] = ["block", "dimension"];
        writeln!(
            f,
            "{name:<width$} {dim:>10} {:>11} {:>9} {:>11} {:>11} {:>11}  negative",
            "trace", "+-", "|H|_F", "min", "max"
        )?;
        for block in self.blocks() {
            let Moments { trace, trace_sem, frobenius, lambda_min, lambda_max, negative_mass, .. } = block.moments();
            let (name, dim) = (&block.block.name, block.spectrum.dim);
            write!(f, "{name:<width$} {dim:>10} {trace:>11.3e} {trace_sem:>9.1e} {frobenius:>11.3e}")?;
            write!(f, " {lambda_min:>11.3e} {lambda_max:>11.3e} {:>7.2} %", 100.0 * negative_mass)?;
            let zero = if block.spectrum.is_zero() { "  zero to the accuracy of the products" } else { "" };
            writeln!(f, "{zero}")?;
        }
        Ok(())
    }
}
