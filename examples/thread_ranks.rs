//! One run on several ranks that are threads of one process: no launcher, no MPI, the same collectives and sharded vectors.
//!
//!     cargo run --example thread_ranks 3 configs/smoke.toml [--output URL] [--set KEY=VALUE ...]
//!
//! tests/slurm/run.sh compares it with one process, mpirun and srun.

use std::path::Path;

use hesspec::cluster::threads;
use hesspec::coordinator::{self, Progress};
use hesspec::{Error, Result, config};

struct Lines;

impl Progress for Lines {
    fn begin(&self, _: u64) {}

    fn advance(&self, _: &str, _: u64) {}

    fn log(&self, line: &str) {
        eprintln!("{line}");
    }
}

fn main() {
    if let Err(error) = run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        eprintln!("error: {error}");
        std::process::exit(error.exit_code());
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let usage = || Error::Config("expected: RANKS CONFIG [--output URL] [--set KEY=VALUE ...]".into());
    let [ranks, path, options @ ..] = arguments else { return Err(usage()) };
    let ranks = ranks.parse().map_err(|_| usage())?;
    let mut overrides = Vec::new();
    for option in options.chunks(2) {
        match option {
            [flag, url] if flag == "--output" => overrides.push(format!("output.url=\"{url}\"")),
            [flag, setting] if flag == "--set" => overrides.push(setting.clone()),
            _ => return Err(usage()),
        }
    }
    let config = config::load(Path::new(path), &overrides)?;
    let outcomes = threads::run(ranks, |comm| coordinator::run(&config, &comm, &Lines))?;
    println!("{} products on {ranks} ranks; the tables are in {}", outcomes[0].num_products, config.output.url);
    Ok(())
}
