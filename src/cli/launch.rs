//! Commands whose work several ranks share: the world they are started in, its configuration, and how all of them end.

use std::ffi::CStr;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tracing::Span;
use tracing::field::Empty;

use super::common::{ConfigArguments, local, print, print_json};
use super::logging::{self, RankFiles};
use crate::cluster::world::{Flags, World, discover, environment};
use crate::cluster::{self, Comm, signal, threads};
use crate::config::{Backend, Config};
use crate::networks::Registry;
use crate::shown::Url;
use crate::{Error, Result};

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Where the tables go; overrides output.url.
    #[arg(long, value_name = "URL")]
    output: Option<Url>,
    /// This process's number, if no launcher says so.
    #[arg(long)]
    rank: Option<usize>,
    /// Number of processes, if no launcher says so.
    #[arg(long)]
    world_size: Option<usize>,
    /// Each rank appends to DIR/rank-NNN.jsonl: what happens, and the times of each step.
    #[arg(long, value_name = "DIR", value_parser = local)]
    log_dir: Option<PathBuf>,
}

impl Arguments {
    fn world(&self) -> Result<World> {
        discover(&Flags { rank: self.rank, size: self.world_size }, &environment())
    }

    /// The files of `--log-dir`.
    pub fn log_files(&self) -> Result<Option<RankFiles>> {
        let Some(folder) = self.log_dir.as_deref() else { return Ok(None) };
        let rank = self.world()?.rank;
        RankFiles::open(folder, rank).map(Some).inspect_err(|_| cluster::take_turn(rank))
    }
}

/// What the ranks do together.
pub struct Shared<O> {
    /// The answer to the first request to stop.
    pub heard: &'static CStr,
    /// Refuses a configuration that is for something else.
    pub check: fn(&Config) -> Result<()>,
    /// One rank's part.
    pub on_rank: fn(&Config, &Comm) -> Result<O>,
    /// What rank 0 says at the end.
    pub summary: fn(&O) -> String,
}

/// Does it. Every rank of an mpirun or srun comes here; rank 0 answers.
pub fn launch<O: Serialize + Send>(
    arguments: &Arguments,
    networks: &Registry,
    json: bool,
    shared: &Shared<O>,
) -> Result<()> {
    let world = arguments.world()?;
    let span = tracing::info_span!("rank", rank = world.rank, host = cluster::host_name(), run = Empty);
    let _entered = span.enter();
    let comm = cluster::start(&world).inspect_err(|_| cluster::take_turn(world.rank))?;
    signal::install(comm.is_root().then_some(shared.heard))?;
    let config = configuration(arguments, networks, &world).and_then(|config| (shared.check)(&config).map(|()| config));
    let (comm, computed) = match agreed(config, &comm) {
        Ok(config) => {
            Span::current().record("run", config.run.name.as_str());
            if let Some(folder) = arguments.log_dir.as_ref().filter(|_| comm.is_root()) {
                tracing::info!("logs of each rank: {}/rank-NNN.jsonl", folder.display());
            }
            computed(&config, comm, shared.on_rank)
        }
        Err(error) => (comm, Err(error)),
    };
    if let Err(error) = &computed {
        tracing::debug!(code = error.exit_code(), "{error}"); // into --log-dir; on stderr it is shown anyway
    }
    match computed {
        Ok(outcome) => {
            let is_root = comm.is_root();
            comm.finish()?;
            match (is_root, json) {
                (true, true) => print_json(&outcome),
                (true, false) => print(&(shared.summary)(&outcome)),
                (false, _) => Ok(()),
            }
        }
        // a stop that all ranks agreed on: all leave with the same code
        Err(error @ Error::Interrupted(_)) => comm.finish().and(Err(error)),
        Err(error) if comm.size() == 1 => Err(error),
        Err(error) => comm.abort(error.exit_code(), &error.to_string()),
    }
}

/// A configuration that all ranks have. Where some have none, the first of them says why and ends the job; what is wrong is mostly
/// wrong on all of them, and is said once.
fn agreed(config: Result<Config>, comm: &Comm) -> Result<Config> {
    let mut failed = vec![0.0; comm.size()];
    failed[comm.rank()] = f64::from(u8::from(config.is_err()));
    comm.all_reduce_sum(&mut failed)?;
    let first = failed.iter().position(|failed| *failed > 0.0);
    if first.is_some_and(|first| first != comm.rank()) {
        comm.barrier()?; // until the job ends
    }
    config
}

/// What this rank is to compute: on a GPU of its own, where the backend has them.
fn configuration(arguments: &Arguments, networks: &Registry, world: &World) -> Result<Config> {
    let mut config = arguments.config.load(networks)?;
    if let Some(url) = &arguments.output {
        let empty = url.is_empty().then_some("expected a path or URL");
        if let Some(problem) = empty.or(url.refused()) {
            return Err(Error::Config(format!("--output {url:?}: {problem}")));
        }
        config.output.url = url.clone();
    }
    if config.hessian.backend == Backend::Cuda && config.hessian.device.is_none() {
        config.hessian.device = Some(world.device(&environment(), num_devices()?)?);
    }
    Ok(config)
}

/// CUDA devices that the driver counts, in builds that can ask it.
fn num_devices() -> Result<Option<usize>> {
    #[cfg(feature = "nccl")]
    return cluster::nccl::num_devices().map(Some);
    #[cfg(not(feature = "nccl"))]
    Ok(None)
}

/// One rank's part.
type OnRank<O> = fn(&Config, &Comm) -> Result<O>;

/// Computes, with vectors over NCCL where ranks have GPUs and the build has NCCL; gives the communicator back.
fn computed<O: Send>(config: &Config, comm: Comm, on_rank: OnRank<O>) -> (Comm, Result<O>) {
    #[cfg(feature = "nccl")]
    let comm = match config.hessian.device.filter(|_| comm.size() > 1 && config.hessian.backend == Backend::Cuda) {
        None => comm,
        Some(device) => match cluster::nccl::Nccl::start(&comm, device, cluster::nccl::TIMEOUT) {
            Ok(nccl) => match nccl.beside(comm) {
                Ok(comm) => comm,
                Err((comm, error)) => return (comm, Err(error)),
            },
            Err(error) => return (comm, Err(error)),
        },
    };
    let outcome = match config.run.ranks.unwrap_or(1) {
        1 => on_rank(config, &comm),
        ranks if comm.size() > 1 => Err(Error::Config(format!(
            "run.ranks = {ranks}: these are ranks of one process, and a launcher has started {} processes; expected one of the two",
            comm.size()
        ))),
        ranks => on_threads(config, ranks, on_rank),
    };
    (comm, outcome)
}

/// On ranks of this process, which share its threads.
fn on_threads<O: Send>(config: &Config, ranks: usize, on_rank: OnRank<O>) -> Result<O> {
    let threads = (rayon::current_num_threads() / ranks).max(1);
    let outcomes = threads::run_with_pools(ranks, threads, |comm| {
        logging::as_rank(comm.rank());
        let run = config.run.name.as_str();
        let span = tracing::info_span!("rank", rank = comm.rank(), host = cluster::host_name(), run);
        let _entered = span.enter();
        on_rank(config, &comm)
    })?;
    outcomes.into_iter().next().ok_or_else(|| Error::Other("no rank has come back".into()))
}
