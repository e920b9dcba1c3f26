//! `hesspec weights export`: weights of one kind of file into another.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::common::{ConfigArguments, print, print_json};
use crate::config::Config;
use crate::engine::Kernels;
use crate::hessian::Precision;
use crate::job::{self, On, Task};
use crate::models::weights::{Format, Naming};
use crate::networks::Registry;
use crate::shown::Url;
use crate::storage::{Access, Location, local_path};
use crate::{Error, Result};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The weights that a configuration names (`--set model.gpt2.weights=FILE`), or its initialisation, under other names or
    /// in another kind of file.
    Export(Export),
}

#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    config: ConfigArguments,
    /// File to write: .safetensors, or .pt for PyTorch; path or URL.
    #[arg(value_name = "OUT")]
    out: Url,
    /// Names and layout: huggingface, nanogpt, or paper (attn.wq, wk, wv, wo); of BERT huggingface or gamma-beta (before 2019).
    /// Default: huggingface for safetensors, of GPT-2 nanogpt for PyTorch.
    #[arg(long, value_name = "NAMING")]
    naming: Option<String>,
    /// Replace a file that is already there.
    #[arg(long)]
    force: bool,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Answer {
    out: Url,
    naming: &'static str,
    num_params: usize,
}

/// Does it.
pub fn main(command: &Command, networks: &Registry, json: bool) -> Result<()> {
    let Command::Export(arguments) = command;
    let config = arguments.config.load(networks)?;
    let naming = naming(arguments, config.network.names().namings)?;
    if !arguments.force && exists(&arguments.out)? {
        let out = &arguments.out;
        return Err(Error::Config(format!("{out}: is already there; name another file, or replace it with --force")));
    }
    let answer = job::dispatch(&config, Write { out: &arguments.out, naming })?;
    match json {
        true => print_json(&answer),
        false => print(&format!("{}: {} parameters, naming {}", answer.out, answer.num_params, answer.naming)),
    }
}

/// Whether there is a file or an object of this name.
fn exists(out: &Url) -> Result<bool> {
    if let Some(path) = local_path(out)? {
        return Ok(path.symlink_metadata().is_ok());
    }
    let (parent, object) = out.split();
    Ok(Location::open(parent, Access::Read)?.size(object)?.is_some())
}

/// The naming that is asked for, of those that the network knows. Default: the first one for safetensors, for PyTorch's files
/// the first one that lays matrices out as PyTorch does, if there is one.
fn naming(arguments: &Export, known: &[Naming]) -> Result<Naming> {
    let format = Format::of(&arguments.out)?;
    let as_pytorch = |naming: &&Naming| naming.rules.iter().any(|rule| rule.transposed);
    let default = known.iter().find(as_pytorch).filter(|_| format == Format::PyTorch).or(known.first());
    let Some(asked) = &arguments.naming else { return Ok(default.copied().unwrap_or(Naming::PLAIN)) };
    known.iter().find(|naming| naming.name == asked).copied().ok_or_else(|| {
        let known: Vec<&str> = known.iter().map(|naming| naming.name).collect();
        Error::Config(format!("--naming {asked}: there is no such naming; expected one of {}", known.join(", ")))
    })
}

struct Write<'a> {
    out: &'a Url,
    naming: Naming,
}

impl Task for Write<'_> {
    type Output = Answer;

    fn run<K: Kernels, T: Precision>(self, config: &Config, on: On<'_, K, T>) -> Result<Answer> {
        let num_params = on.network.export(config.run.seed, &on.device, self.out, &self.naming)?;
        Ok(Answer { out: self.out.clone(), naming: self.naming.name, num_params })
    }
}
