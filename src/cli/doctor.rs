//! `hesspec doctor`: is this place fit to compute in?

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::common::{local, print, print_json, use_threads};
use super::table::table;
use crate::cluster::world::{Flags, discover, environment};
use crate::cluster::{self, Comm, World};
use crate::config::{self, Config};
use crate::doctor::{self, Finding, Verdict};
use crate::networks::Registry;
use crate::shown::Url;
use crate::{Error, Result};

/// Without a configuration only `[hessian]` and `[run]` matter, and these have defaults.
const DEFAULTS: &str = "[model.gpt2]\npreset = \"nano\"\n[data.tokens]\npath = \"none\"\n";

#[derive(Debug, Args)]
pub struct Arguments {
    /// Take backend, precision, threads and output from this configuration. Default: the defaults.
    #[arg(value_name = "CONFIG", value_parser = local)]
    config: Option<PathBuf>,
    /// Override a key, as in `--set hessian.backend=cuda`; may be repeated.
    #[arg(long = "set", value_name = "TABLE.KEY=VALUE")]
    set: Vec<String>,
    /// Storage to try. Default: the configuration's output.url; without a configuration, none.
    #[arg(long, value_name = "URL")]
    output: Option<Url>,
}

#[derive(Debug, Serialize)]
struct Answer {
    passed: bool,
    ranks: usize,
    findings: Vec<Finding>,
}

/// Tries everything on every rank, and prints on rank 0; a failure is exit code 3.
pub fn main(arguments: &Arguments, networks: &Registry, json: bool) -> Result<()> {
    let config = load(arguments, networks)?;
    use_threads(&config)?;
    let world = discover(&Flags::default(), &environment())?;
    let comm = cluster::start(&world)?;
    let all = match examine(arguments, &config, &comm, &world) {
        Err(error) if comm.size() > 1 => comm.abort(error.exit_code(), &error.to_string()),
        all => all?,
    };
    let ranks = comm.size();
    comm.finish()?;
    let Some(findings) = all else { return Ok(()) };
    let failed: Vec<String> =
        findings.iter().filter(|f| f.verdict == Verdict::Fail).map(|finding| finding.what.clone()).collect();
    let answer = Answer { passed: failed.is_empty(), ranks, findings };
    if json {
        print_json(&answer)?
    } else {
        print(&describe(&answer.findings))?
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Error::Environment(format!("not fit to compute in: {}", failed.join("; "))))
    }
}

fn load(arguments: &Arguments, networks: &Registry) -> Result<Config> {
    match &arguments.config {
        Some(path) => config::load(path, &arguments.set, networks),
        None => config::parse(DEFAULTS, "the defaults", "doctor", &arguments.set, &Registry::built_in()),
    }
}

/// What all ranks found, at rank 0: everything of its own, of the others only what is not well.
fn examine(arguments: &Arguments, config: &Config, comm: &Comm, world: &World) -> Result<Option<Vec<Finding>>> {
    let mut findings = vec![doctor::build()];
    findings.extend(doctor::machine());
    let (backend, device) = (config::as_toml(&config.hessian.backend), crate::tables::hardware(config));
    findings.push(Finding::ok("device", format!("backend {} on {device}", backend.trim_matches('"'))));
    findings.extend(doctor::products(config));
    findings.push(doctor::kernels(config));
    let others = doubts_of_others(comm, &findings)?;
    findings.extend(doctor::exchange(comm, world)?);
    if !comm.is_root() {
        return Ok(None);
    }
    let url = arguments.output.clone().or_else(|| arguments.config.as_ref().map(|_| config.output.url.clone()));
    if let Some(url) = url {
        findings.extend(doctor::disk(&url));
        findings.extend(doctor::storage(&url));
    }
    findings.extend(others);
    Ok(Some(findings))
}

fn doubts_of_others(comm: &Comm, findings: &[Finding]) -> Result<Vec<Finding>> {
    let named = |finding: &Finding| Finding {
        what: format!("rank {} on {}: {}", comm.rank(), cluster::host_name(), finding.what),
        ..finding.clone()
    };
    let doubts: Vec<Finding> = findings.iter().filter(|f| f.verdict != Verdict::Ok).map(named).collect();
    let all = cluster::gathered(comm, &doubts)?.unwrap_or_default();
    Ok(all.into_iter().skip(1).flatten().collect())
}

fn describe(findings: &[Finding]) -> String {
    let row = |finding: &Finding| {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        let advice = if finding.advice.is_empty() { String::new() } else { format!(" -> {}", finding.advice) };
        vec![finding.what.clone(), verdict.to_owned(), format!("{}{advice}", finding.found)]
    };
    table(&["what", "verdict", "found"], &findings.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_a_configuration() {
        let arguments = Arguments { config: None, set: vec!["hessian.precision=f64".into()], output: None };
        assert_eq!(load(&arguments, &Registry::built_in()).unwrap().hessian.precision, config::Precision::F64);
    }
}
