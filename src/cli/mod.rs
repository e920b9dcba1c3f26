//! The command line: raw arguments, one file a command, and how answers and progress are shown.
//!
//! Owns what is typed and what is printed; computes nothing. Answers go to stdout (as JSON with `--json`), everything else
//! to stderr. Exit codes are those of [`crate::Error`]; clap's usage errors are 2 as well.

mod bench;
mod check;
mod common;
mod data;
mod dense;
mod derive;
mod doctor;
mod hvp;
mod lanczos;
mod launch;
mod logging;
mod plan;
mod progress;
mod quadratic;
mod report;
mod run;
mod table;
mod tables;
mod train;
mod vectors;
mod weights;

use std::io::Write;
use std::process::exit;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::Result;
use crate::cluster::world;
use crate::networks::Registry;
use crate::shown::scrubbed;

/// Hessian spectra of neural networks by stochastic Lanczos quadrature, blockwise and full.
#[derive(Debug, Parser)]
#[command(name = "hesspec", version, max_term_width = 110, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Machine-readable output on stdout; logs stay on stderr.
    #[arg(long, global = true)]
    json: bool,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 2 usage or configuration, 3 environment (device, precision, feature, memory), \
     4 numerics, 5 storage, 75 interrupted and saved (run again), 1 anything else.\n\
     Logs: HESSPEC_LOG=debug (or RUST_LOG) shows more, HESSPEC_LOG=off nothing.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Compute the spectra a configuration asks for, or continue where an earlier run stopped.
    Run(launch::Arguments),
    /// Train the network as [train] says, with checkpoints and a held-out set, or continue where an earlier call stopped.
    Train(launch::Arguments),
    /// What a run would do: blocks, groups, products, memory, time.
    Plan(plan::Arguments),
    /// Check a configuration, its data and weights, and the operator on them.
    Check(check::Arguments),
    /// Hessian-vector (or Gauss-Newton-vector) products of given vectors, gradient, loss.
    Hvp(hvp::Arguments),
    /// The Lanczos recursion from given start vectors.
    Lanczos(lanczos::Arguments),
    /// Time forward pass, gradient, full and block products.
    Bench(bench::Arguments),
    /// Try this machine, its devices, ranks and storage: the first thing to run in a new place.
    Doctor(doctor::Arguments),
    /// Draw figures and an HTML page from a run's tables.
    Report(report::Arguments),
    /// Densities, distances and moments of a run again with other settings, from its tables alone.
    Derive(derive::Arguments),
    /// What the tables of a run hold: every column with its type and meaning.
    Tables(tables::Arguments),
    /// Dense Hessians of small blocks, and how block-diagonal they are.
    Dense(dense::Arguments),
    /// Gradient descent and Adam on quadratic problems whose blocks have given or measured spectra.
    Quadratic(quadratic::Arguments),
    /// Prepare and inspect files of tokens.
    #[command(subcommand)]
    Data(data::Command),
    /// Write a configuration's weights to a file.
    #[command(subcommand)]
    Weights(weights::Command),
    /// Print a completion script for a shell.
    Completions {
        /// bash, elvish, fish, powershell or zsh.
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// The name of a command that one process does by itself: several would write the same files.
    fn alone(&self) -> Option<&'static str> {
        match self {
            Self::Check(_) => Some("check"),
            Self::Hvp(_) => Some("hvp"),
            Self::Lanczos(_) => Some("lanczos"),
            Self::Bench(_) => Some("bench"),
            Self::Derive(_) => Some("derive"),
            Self::Dense(_) => Some("dense"),
            Self::Quadratic(_) => Some("quadratic"),
            Self::Report(_) => Some("report"),
            Self::Data(_) => Some("data"),
            Self::Weights(_) => Some("weights"),
            Self::Run(_)
            | Self::Train(_)
            | Self::Plan(_)
            | Self::Doctor(_)
            | Self::Tables(_)
            | Self::Completions { .. } => None,
        }
    }
}

/// Parses the command line of a program of this name, and does what it says with these networks.
///
/// # Errors
/// Those of the command; usage errors are printed, and end the process, here.
pub fn main(name: &'static str, networks: &Registry) -> Result<()> {
    let arguments = Cli::command().name(name).try_get_matches().unwrap_or_else(|error| refuse(&error));
    let Cli { command, json } = Cli::from_arg_matches(&arguments).unwrap_or_else(|error| refuse(&error));
    let shows_progress = matches!(
        command,
        Command::Run(_)
            | Command::Train(_)
            | Command::Hvp(_)
            | Command::Lanczos(_)
            | Command::Dense(_)
            | Command::Data(data::Command::Prepare(_))
    );
    if let Some(name) = command.alone() {
        world::alone(name, &world::environment())?;
    }
    let json_log = match &command {
        Command::Run(arguments) | Command::Train(arguments) => arguments.log_files()?,
        _ => None,
    };
    logging::start(shows_progress, json_log)?;
    match command {
        Command::Run(arguments) => run::main(&arguments, networks, json),
        Command::Train(arguments) => train::main(&arguments, networks, json),
        Command::Plan(arguments) => plan::main(&arguments, networks, json),
        Command::Check(arguments) => check::main(&arguments, networks, json),
        Command::Hvp(arguments) => hvp::main(&arguments, networks, json),
        Command::Lanczos(arguments) => lanczos::main(&arguments, networks, json),
        Command::Bench(arguments) => bench::main(&arguments, networks, json),
        Command::Doctor(arguments) => doctor::main(&arguments, networks, json),
        Command::Report(arguments) => report::main(&arguments, json),
        Command::Derive(arguments) => derive::main(&arguments, networks, json),
        Command::Tables(arguments) => tables::main(&arguments, json),
        Command::Dense(arguments) => dense::main(&arguments, networks, json),
        Command::Quadratic(arguments) => quadratic::main(&arguments, json),
        Command::Data(command) => data::main(command, json),
        Command::Weights(command) => weights::main(&command, networks, json),
        Command::Completions { shell } => completions(name, shell),
    }
}

/// Prints what clap says, which repeats arguments, and ends the process. Help keeps its colours.
fn refuse(error: &clap::Error) -> ! {
    if !error.use_stderr() {
        error.exit();
    }
    let _ = write!(std::io::stderr(), "{}", scrubbed(&error.to_string())); // there may be nobody to read it
    exit(error.exit_code());
}

fn completions(name: &str, shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), name, &mut script);
    common::print_bytes(&script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
