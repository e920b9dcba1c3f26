//! `hesspec check`: the configuration, every token of the batch, the weights, and the operator's self-tests.

use clap::Args;
use serde::Serialize;

use super::common::{ConfigArguments, print, print_json};
use super::table::table;
use crate::block::{Block, Layout};
use crate::cluster::solo;
use crate::config::Config;
use crate::doctor::{self, KernelError, MatmulError};
use crate::engine::Kernels;
use crate::hessian::{Outcome, Precision, self_tests};
use crate::job::{self, Job, On, Task};
use crate::networks::Registry;
use crate::plan::memory::{self, Memory, Resources};
use crate::{Error, Result, plan};

/// Vectors of the block's dimension that the self-tests hold at a time.
const TEST_VECTORS: usize = 10;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Test the operator on this block. Default: `full` where it fits in memory, else the first block of the run.
    #[arg(long, value_name = "NAME")]
    block: Option<String>,
}

#[derive(Debug, Serialize)]
struct Answer {
    run: String,
    num_params: usize,
    num_blocks: usize,
    tokens: usize,
    #[serde(skip)]
    prediction: &'static str,
    micro_batches: usize,
    segments: usize,
    batch_sha256: Option<String>,
    block: String,
    matmul: MatmulError,
    kernels: KernelError,
    passed: bool,
    checks: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    outcome: &'static str,
    detail: String,
}

/// Checks and prints; a test that fails is an error.
pub fn main(arguments: &Arguments, networks: &Registry, json: bool) -> Result<()> {
    let config = arguments.config.load(networks)?;
    let answer = job::dispatch(&config, SelfTests { block: arguments.block.as_deref() })?;
    if json {
        print_json(&answer)?;
    } else {
        print(&describe(&answer))?;
    }
    answer.matmul.check()?;
    answer.kernels.check()?;
    let failed: Vec<&str> = answer.checks.iter().filter(|row| row.outcome == "failed").map(|row| row.name).collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::Numerics(format!(
        "block `{}`: the operator fails its self-tests ({}); see the numbers above, and try hessian.precision=\"f64\"",
        answer.block,
        failed.join(", ")
    )))
}

struct SelfTests<'a> {
    block: Option<&'a str>,
}

impl Task for SelfTests<'_> {
    type Output = Answer;

    fn run<K: Kernels, T: Precision>(self, config: &Config, on: On<'_, K, T>) -> Result<Answer> {
        let job = Job::open(config, &on, plan::micro_batch(config)?)?;
        job.data().check()?;
        let block = match self.block {
            Some(name) => job::block_named(config, &job.layout, name)?,
            None => largest_that_fits(config, &job.layout, &job.blocks)?,
        };
        let matmul = doctor::matmul_error::<K, T>(&on.device, doctor::SHORT_PRODUCTS)?;
        let kernels = doctor::kernel_error(config)?;
        let comm = solo::comm();
        let mut operator = job.operator(&comm);
        operator.slots = vec![&block];
        let checks = self_tests(&operator, config.run.seed)?;
        let rows = checks.into_iter().map(|check| Row {
            name: check.name,
            outcome: match check.outcome {
                Outcome::Passed => "passed",
                Outcome::Failed => "failed",
                Outcome::NotApplicable => "not applicable",
            },
            detail: check.detail,
        });
        let checks: Vec<Row> = rows.collect();
        Ok(Answer {
            run: config.run.name.clone(),
            num_params: job.layout.num_params(),
            num_blocks: job.blocks.len(),
            tokens: job.data().num_predictions(),
            prediction: config.network.unit().prediction,
            micro_batches: job.data().num_micro_batches(),
            segments: job.data().num_segments(),
            batch_sha256: job.data().sha256()?,
            block: block.name.clone(),
            passed: matmul.check().is_ok()
                && kernels.check().is_ok()
                && checks.iter().all(|row| row.outcome != "failed"),
            matmul,
            kernels,
            checks,
        })
    }
}

/// The whole network, if the self-tests, which run in f64 as well, fit in memory with it.
fn largest_that_fits(config: &Config, layout: &Layout, blocks: &[Block]) -> Result<Block> {
    let num_params = layout.num_params();
    let predictions = plan::micro_batch(config)? * config.network.unit().predictions;
    let lanczos = memory::Lanczos { number: size_of::<f64>(), basis: TEST_VECTORS, ranks: 1 };
    let memory = Memory::of(&plan::profile(config)?, num_params, predictions, false, config.hessian.operator, lanczos);
    let Resources { budget, .. } = Resources::alone(config)?;
    let first = blocks.first().filter(|_| memory.group(&[(num_params as f64, 1.0)]) > budget);
    Ok(first.cloned().unwrap_or_else(|| layout.full()))
}

fn describe(answer: &Answer) -> String {
    let Answer {
        run, num_params, num_blocks, tokens, prediction, micro_batches, segments, block, matmul, kernels, ..
    } = answer;
    let rows: Vec<Vec<String>> =
        answer.checks.iter().map(|row| vec![row.name.into(), row.outcome.into(), row.detail.clone()]).collect();
    format!(
        "run `{run}`: {num_params} parameters, {num_blocks} blocks, {tokens} {prediction}s in {micro_batches} micro-batches and \
         {segments} segments\n{matmul}\n{kernels}\nself-tests on block `{block}`, first micro-batch\n{}",
        table(&["test", "outcome", "numbers"], &rows)
    )
}
