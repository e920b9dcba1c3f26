//! `hesspec weights export`: weights of one kind of file into another.

use burn_backend::tensor::Device;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::common::{ConfigArguments, print, print_json};
use crate::config::Config;
use crate::engine::Kernels;
use crate::hessian::Precision;
use crate::job::{self, Task};
use crate::models::weights::{self, Format, Naming};
use crate::models::{Names, parameters};
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
    out: String,
    /// Names and layout: huggingface, nanogpt, or paper (attn.wq, wk, wv, wo). Default: huggingface for safetensors,
    /// nanogpt for PyTorch.
    #[arg(long, value_name = "NAMING")]
    naming: Option<String>,
    /// Replace a file that is already there.
    #[arg(long)]
    force: bool,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Answer {
    out: String,
    naming: &'static str,
    num_params: usize,
}

/// Does it.
pub fn main(command: &Command, json: bool) -> Result<()> {
    let Command::Export(arguments) = command;
    let config = arguments.config.load()?;
    let naming = naming(arguments)?;
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
fn exists(out: &str) -> Result<bool> {
    if let Some(path) = local_path(out)? {
        return Ok(path.symlink_metadata().is_ok());
    }
    let (parent, object) = out.rsplit_once('/').unwrap_or((out, ""));
    Ok(Location::open(parent, Access::Read)?.size(object)?.is_some())
}

fn naming(arguments: &Export) -> Result<Naming> {
    let format = Format::of(&arguments.out)?;
    let default = if format == Format::PyTorch { Naming::NANO_GPT } else { Naming::HUGGING_FACE };
    let Some(asked) = &arguments.naming else { return Ok(default) };
    let known = Names::GPT2.namings;
    known.iter().find(|naming| naming.name == asked).copied().ok_or_else(|| {
        let known: Vec<&str> = known.iter().map(|naming| naming.name).collect();
        Error::Config(format!("--naming {asked}: there is no such naming; expected one of {}", known.join(", ")))
    })
}

struct Write<'a> {
    out: &'a str,
    naming: Naming,
}

impl Task for Write<'_> {
    type Output = Answer;

    fn run<K: Kernels, T: Precision>(self, config: &Config, device: Device<K>) -> Result<Answer> {
        let model = job::model::<K, T>(config, &device)?;
        weights::save(&model, &Names::GPT2, self.out, &self.naming)?;
        let num_params = parameters(&model, &Names::GPT2).num_params();
        Ok(Answer { out: self.out.into(), naming: self.naming.name, num_params })
    }
}
