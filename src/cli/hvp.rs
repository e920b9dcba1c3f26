//! `hesspec hvp`: products with given vectors, gradient and loss.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::common::{ConfigArguments, local, print, print_json};
use super::progress::Meter;
use super::vectors::{VectorFile, Writer};
use crate::block::Block;
use crate::cluster::solo;
use crate::config::Config;
use crate::engine::Kernels;
use crate::hessian::{Gradient, Kind, Precision};
use crate::job::{self, Job, On, Task};
use crate::krylov::Real;
use crate::networks::Registry;
use crate::worker::Progress;
use crate::{Error, Result, plan};

/// Vectors that share a pass where `hessian.slots` does not say.
pub const DEFAULT_SLOTS: usize = 8;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Vectors: safetensors by parameter name; several as `name@0`, `name@1`. A missing tensor is zero.
    #[arg(long, value_name = "FILE", requires = "out", required_unless_present_any = ["gradient", "loss"], value_parser = local)]
    vectors: Option<PathBuf>,
    /// Their products, under the same names.
    #[arg(long, value_name = "FILE", requires = "vectors", value_parser = local)]
    out: Option<PathBuf>,
    /// Cut vectors before and products after to this block, or `full`.
    #[arg(long, value_name = "NAME", default_value = "full")]
    block: String,
    /// Gauss-Newton products.
    #[arg(long)]
    gauss_newton: bool,
    /// Write the gradient, of the block.
    #[arg(long, value_name = "FILE", value_parser = local)]
    gradient: Option<PathBuf>,
    /// Print the loss.
    #[arg(long)]
    loss: bool,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Answer {
    block: String,
    num_params: usize,
    operator: Kind,
    num_vectors: usize,
    out: Option<PathBuf>,
    gradient: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<f64>,
}

/// Computes and writes.
pub fn main(arguments: &Arguments, networks: &Registry, json: bool) -> Result<()> {
    let mut config = arguments.config.load(networks)?;
    refuse_to_replace(arguments)?;
    if arguments.gauss_newton {
        config.hessian.operator = Kind::GaussNewton;
    }
    let answer = job::dispatch(&config, Products { arguments })?;
    match (json, answer.loss) {
        (true, _) => print_json(&answer),
        (false, Some(loss)) => print(&format!("loss {loss}")),
        (false, None) => Ok(()),
    }
}

/// What is written must not take the place of what is read, or of each other.
fn refuse_to_replace(arguments: &Arguments) -> Result<()> {
    let written = [("--out", &arguments.out), ("--gradient", &arguments.gradient)];
    let read = [("the configuration", Some(&arguments.config.config)), ("--vectors", arguments.vectors.as_ref())];
    let place =
        |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.into());
    for (at, (option, path)) in written.iter().enumerate() {
        let Some(path) = path else { continue };
        let others = written[..at].iter().map(|(option, path)| (*option, path.as_ref()));
        let taken = read
            .iter()
            .copied()
            .chain(others)
            .find(|(_, other)| other.is_some_and(|other| place(other) == place(path)));
        if let Some((what, _)) = taken {
            return Err(Error::Config(format!(
                "{option} {}: that is the file of {what}; name another one",
                path.display()
            )));
        }
    }
    Ok(())
}

struct Products<'a> {
    arguments: &'a Arguments,
}

impl Task for Products<'_> {
    type Output = Answer;

    fn run<K: Kernels, T: Precision>(self, config: &Config, on: On<'_, K, T>) -> Result<Answer> {
        let arguments = self.arguments;
        let job = Job::open(config, &on, plan::micro_batch(config)?)?;
        let block = job::block_named(config, &job.layout, &arguments.block)?;
        let gradient_writer = arguments.gradient.as_deref().map(Writer::create).transpose()?;
        let num_vectors = match (&arguments.vectors, &arguments.out) {
            (Some(vectors), Some(out)) => products(&job, &block, &VectorFile::open(vectors)?, Writer::create(out)?)?,
            _ => 0,
        };
        let comm = solo::comm();
        let operator = job.operator(&comm);
        let loss = match gradient_writer {
            Some(writer) => {
                let Gradient { loss, values } = operator.gradient(&block)?;
                write_gradient::<K, T>(&job, &block, &values, writer)?;
                Some(loss)
            }
            None if arguments.loss => Some(operator.loss()?),
            None => None,
        };
        Ok(Answer {
            num_params: block.num_params(&job.layout),
            block: block.name,
            operator: config.hessian.operator,
            num_vectors,
            out: arguments.out.clone(),
            gradient: arguments.gradient.clone(),
            loss: loss.filter(|_| arguments.loss),
        })
    }
}

/// Products of all vectors of a file, some slots at a time. Returns how many.
fn products<K: Kernels, T: Precision>(
    job: &Job<K, T>,
    block: &Block,
    file: &VectorFile,
    mut writer: Writer,
) -> Result<usize> {
    let vectors = file.vectors::<T>(&job.layout, &job::all_blocks(&job.config, &job.layout)?)?;
    let all: Vec<usize> = (0..vectors.len()).collect();
    let slots = job.config.hessian.slots.unwrap_or(DEFAULT_SLOTS);
    let (meter, per_sweep) = (Meter::new(), job.data().num_micro_batches() as u64);
    meter.begin(all.len().div_ceil(slots) as u64 * per_sweep);
    for (sweep, group) in all.chunks(slots).enumerate() {
        let advance = |done: usize| {
            meter.advance(&job.config.run.name, sweep as u64 * per_sweep + done as u64);
            Ok(())
        };
        let comm = solo::comm();
        let mut operator = job.operator(&comm);
        operator.slots = vec![block; group.len()];
        operator.progress = Some(&advance);
        let cut = group.iter().map(|index| vectors.cut::<T>(*index, block)).collect::<Result<Vec<_>>>()?;
        let applied = operator.products(&cut)?;
        for (index, product) in group.iter().zip(applied) {
            writer.push(&job.layout, block, &product, vectors.number(*index));
        }
    }
    writer.finish()?;
    Ok(all.len())
}

fn write_gradient<K: Kernels, T: Precision>(
    job: &Job<K, T>,
    block: &Block,
    values: &[f64],
    mut writer: Writer,
) -> Result<()> {
    let values: Vec<T> = values.iter().map(|x| <T as Real>::from_f64(*x)).collect();
    writer.push(&job.layout, block, &values, None);
    writer.finish()
}
