//! What all commands share: the configuration with its overrides, threads, and answers on stdout.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::config::{self, Config};
use crate::networks::Registry;
use crate::shown::{Url, printable};
use crate::storage::local_path;
use crate::{Error, Result};

/// A configuration and what is changed in it.
#[derive(Debug, Args)]
pub struct ConfigArguments {
    /// The TOML file; see the folder configs.
    #[arg(value_name = "CONFIG", value_parser = local)]
    pub config: PathBuf,
    /// Override a key, as in `--set lanczos.steps=50`; may be repeated.
    #[arg(long = "set", value_name = "TABLE.KEY=VALUE")]
    pub set: Vec<String>,
}

impl ConfigArguments {
    /// Reads the configuration and gives its number of threads to the thread pool.
    ///
    /// # Errors
    /// [`Error::Config`]
    pub fn load(&self, networks: &Registry) -> Result<Config> {
        self.load_with([], networks)
    }

    /// As [`ConfigArguments::load`], with overrides that a command's own options stand for.
    ///
    /// # Errors
    /// [`Error::Config`]
    pub fn load_with(&self, more: impl IntoIterator<Item = String>, networks: &Registry) -> Result<Config> {
        let overrides: Vec<String> = self.set.iter().cloned().chain(more).collect();
        let config = config::load(&self.config, &overrides, networks)?;
        use_threads(&config)?;
        Ok(config)
    }
}

/// A file or folder of this machine, for clap. A URL would become a folder of that name, with its secrets.
pub fn local(text: &str) -> std::result::Result<PathBuf, String> {
    let path = local_path(&Url::from(text)).map_err(|error| error.to_string())?;
    path.ok_or_else(|| "expected a path on this machine, no URL".into())
}

/// The matrix products run on rayon's pool as well, so that one number rules all.
pub fn use_threads(config: &Config) -> Result<()> {
    let Some(threads) = config.run.threads else { return Ok(()) };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(|error| Error::Environment(format!("run.threads = {threads}: {error}")))
}

/// Prints an answer as JSON.
pub fn print_json(answer: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(answer).map_err(|error| Error::Other(format!("JSON: {error}")))?;
    print(&text)
}

/// Prints lines. Names and texts in them may come out of files.
pub fn print(text: &str) -> Result<()> {
    print_bytes(format!("{}\n", printable(text)).as_bytes())
}

/// Prints as it is. A reader that has seen enough (`| head`) is no error.
pub fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::Storage(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
