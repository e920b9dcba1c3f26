//! `hesspec lanczos`: the recursion from given start vectors, for comparison with other programs.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::common::{ConfigArguments, local, print, print_json};
use super::hvp::DEFAULT_SLOTS;
use super::progress::Meter;
use super::table::table;
use super::vectors::{VectorFile, Vectors};
use crate::block::Block;
use crate::cluster::solo;
use crate::config::Config;
use crate::coordinator::{self, Progress};
use crate::engine::Kernels;
use crate::hessian::{Precision, Sharded};
use crate::job::{self, Job, On, Task};
use crate::krylov::{self, Tridiagonal};
use crate::networks::Registry;
use crate::spectrum::quadrature;
use crate::{Error, Result, plan};

/// The error of a product that the recursion is told, which only decides when it stops early. Zero: this command exists
/// to be compared with a recursion elsewhere, which knows no such number either; it stops at beta <= 1e-14 |T| alone.
const ETA: f64 = 0.0;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Start vectors, as the vectors of `hesspec hvp`; normalised inside.
    #[arg(long, value_name = "FILE", value_parser = local)]
    start: PathBuf,
    /// Cut the start vectors to this block, or `full`.
    #[arg(long, value_name = "NAME")]
    block: String,
    /// Steps.
    #[arg(long, value_name = "M")]
    steps: usize,
}

/// What came of one start vector. All lists have one entry a step, or a node.
#[derive(Debug, Serialize)]
struct Answer {
    /// Number behind the `@`.
    vector: Option<u32>,
    block: String,
    alpha: Vec<f64>,
    /// The norm *after* each step; 0 on breakdown.
    beta: Vec<f64>,
    nodes: Vec<f64>,
    weights: Vec<f64>,
    residual_bounds: Vec<f64>,
    orthogonality_loss: Vec<f64>,
    breakdown: bool,
}

/// Computes and prints.
pub fn main(arguments: &Arguments, networks: &Registry, json: bool) -> Result<()> {
    let mut config = arguments.config.load(networks)?;
    if arguments.steps == 0 {
        return Err(Error::Config("--steps 0: expected at least 1".into()));
    }
    config.lanczos.steps = arguments.steps;
    let answers = job::dispatch(&config, Recursion { arguments })?;
    if json {
        return print_json(&answers);
    }
    let tables: Vec<String> = answers.iter().map(describe).collect();
    print(&tables.join("\n\n"))
}

struct Recursion<'a> {
    arguments: &'a Arguments,
}

impl Task for Recursion<'_> {
    type Output = Vec<Answer>;

    fn run<K: Kernels, T: Precision>(self, config: &Config, on: On<'_, K, T>) -> Result<Vec<Answer>> {
        let job = Job::open(config, &on, plan::micro_batch(config)?)?;
        let block = job::block_named(config, &job.layout, &self.arguments.block)?;
        let file = VectorFile::open(&self.arguments.start)?;
        let vectors = file.vectors::<T>(&job.layout, &job::all_blocks(&job.config, &job.layout)?)?;
        let all: Vec<usize> = (0..vectors.len()).collect();
        let slots = config.hessian.slots.unwrap_or(DEFAULT_SLOTS);
        let meter = Meter::new();
        let sweeps = all.len().div_ceil(slots) * config.lanczos.steps.min(block.num_params(&job.layout));
        meter.begin((sweeps * job.data().num_micro_batches()) as u64);
        let done = std::cell::Cell::new(0);
        let advance = |_| {
            done.set(done.get() + 1);
            meter.advance(&block.name, done.get());
            Ok(())
        };
        let mut answers = Vec::new();
        for group in all.chunks(slots) {
            let comm = solo::comm();
            let mut operator = job.operator(&comm);
            operator.slots = vec![&block; group.len()];
            operator.progress = Some(&advance);
            let starts = group.iter().map(|index| start::<T>(&vectors, *index, &block)).collect::<Result<Vec<_>>>()?;
            let settings: Vec<_> = group.iter().map(|index| settings(config, &vectors, *index, &block)).collect();
            let found = {
                let starts = starts.iter().map(|start: &Vec<T>| operator.slice(start)).collect();
                krylov::lanczos(Sharded::<T>::new(&comm), &mut operator, starts, &settings)?
            };
            for (index, t) in group.iter().zip(found) {
                answers.push(answer(&block, vectors.number(*index), t)?);
            }
        }
        Ok(answers)
    }
}

fn start<T: Precision>(vectors: &Vectors<'_>, index: usize, block: &Block) -> Result<Vec<T>> {
    let vector = vectors.cut::<T>(index, block)?;
    if vector.iter().all(|x| x.to_f64() == 0.0) {
        let (label, name) = (vectors.label(index), &block.name);
        return Err(Error::Config(format!("--start: {label} is zero in block `{name}`; expected a direction in it")));
    }
    Ok(vector)
}

fn settings(config: &Config, vectors: &Vectors<'_>, index: usize, block: &Block) -> krylov::Settings {
    krylov::Settings {
        label: format!("block `{}`, {}", block.name, vectors.label(index)),
        steps: config.lanczos.steps,
        reorthogonalize: coordinator::settings(config).reorthogonalize,
        eta: ETA,
        segments: 0,
    }
}

fn answer(block: &Block, number: Option<u32>, t: Tridiagonal) -> Result<Answer> {
    let nodes = quadrature(&block.name, number.unwrap_or(0), &t, 0.0)?.nodes;
    Ok(Answer {
        vector: number,
        block: block.name.clone(),
        nodes: nodes.iter().map(|node| node.node).collect(),
        weights: nodes.iter().map(|node| node.weight).collect(),
        residual_bounds: nodes.iter().map(|node| node.residual_bound).collect(),
        breakdown: t.breakdown(),
        alpha: t.alpha,
        beta: t.beta,
        orthogonality_loss: t.orthogonality_loss,
    })
}

fn describe(answer: &Answer) -> String {
    let number = answer.vector.map(|number| format!("@{number}")).unwrap_or_default();
    let number_of = |x: f64| format!("{x:.9e}");
    let rows: Vec<Vec<String>> = (0..answer.alpha.len())
        .map(|at| {
            let columns =
                [&answer.alpha, &answer.beta, &answer.nodes, &answer.weights, &answer.residual_bounds].map(|c| c[at]);
            [(at + 1).to_string()].into_iter().chain(columns.map(number_of)).collect()
        })
        .collect();
    let header = ["step", "alpha", "beta", "node", "weight", "residual bound"];
    format!("{} {number}\n{}", answer.block, table(&header, &rows))
}
