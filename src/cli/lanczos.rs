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
use crate::engine::Kernels;
use crate::hessian::{Pair, Precision, Settings};
use crate::job::{self, Job, On, Task};
use crate::krylov::Tridiagonal;
use crate::networks::Registry;
use crate::spectrum::{Weights, quadrature};
use crate::worker::{self, Context, Observer, Progress, Starts, Work};
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
        let settings = Settings {
            weights: Weights::Raw, // no short recursions
            segment_matrices: false,
            probes: vectors.len() as u32,
            full_probes: vectors.len() as u32,
            ..job::settings(config)
        };
        let (comm, blocks) = (solo::comm(), [block]);
        let starts = Given { vectors: &vectors, block: &blocks[0] };
        let work = Work { operator: job.operator(&comm), blocks: &blocks, settings: &settings, starts: Some(&starts) };
        let pairs: Vec<Pair> = (0..vectors.len() as u32).map(|index| (0, index)).collect();
        let groups: Vec<&[Pair]> = pairs.chunks(config.hessian.slots.unwrap_or(DEFAULT_SLOTS)).collect();
        let sweeps: u64 = groups.iter().map(|pairs| work.num_sweeps(pairs, false)).sum();
        let meter = Meter::new();
        meter.begin(sweeps * job.data().num_micro_batches() as u64);
        let mut answers = Vec::new();
        let mut before = 0;
        for pairs in groups {
            let observer = Shown { meter: &meter, block: &blocks[0].name, before };
            let context = Context::new(&[ETA], job.data().num_predictions() as f64, &observer);
            for slot in worker::run_group(&work, "lanczos", pairs, &context)?.slots {
                answers.push(answer(&blocks[0], vectors.number(slot.pair.1 as usize), slot.tridiagonal)?);
            }
            before += work.num_sweeps(pairs, false) * job.data().num_micro_batches() as u64;
        }
        Ok(answers)
    }
}

/// The vectors of a file as start vectors.
struct Given<'a> {
    vectors: &'a Vectors<'a>,
    block: &'a Block,
}

impl<T: Precision> Starts<T> for Given<'_> {
    fn vector(&self, (_, index): Pair) -> Result<Vec<T>> {
        let vector = self.vectors.cut::<T>(index as usize, self.block)?;
        if vector.iter().all(|x| x.to_f64() == 0.0) {
            let (label, name) = (self.vectors.label(index as usize), &self.block.name);
            return Err(Error::Config(format!(
                "--start: {label} is zero in block `{name}`; expected a direction in it"
            )));
        }
        Ok(vector)
    }

    fn label(&self, (_, index): Pair) -> String {
        format!("block `{}`, {}", self.block.name, self.vectors.label(index as usize))
    }
}

/// Shows how far a group is.
struct Shown<'a> {
    meter: &'a Meter,
    block: &'a str,
    /// Micro-batches of the groups before.
    before: u64,
}

impl Observer for Shown<'_> {
    fn advance(&self, done: u64) {
        self.meter.advance(self.block, self.before + done);
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
