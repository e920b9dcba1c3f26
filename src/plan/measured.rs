//! Memory of a network that does not say what it keeps: from passes over micro-batches of made-up samples that grow.
//!
//! The resident set at its peak grows with the micro-batch by what a prediction's pass keeps, once for the primal and once for
//! each slot. Work is guessed from the parameters: a rate measured by the same guess gives right times for the whole network.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::memory::OVERHEAD;
use crate::Result;
use crate::block::Layout;
use crate::config::{Backend, Config, Precision};
use crate::engine::Arithmetic;
use crate::engine::Kernels;
use crate::hessian::{Precision as Number, Settings, start};
use crate::job::{Job, On, Task, dispatch};
use crate::networks::Profile;

/// Growth of the resident set that tells a pass from what happens beside it, bytes.
const GROWTH: f64 = 16e6;
/// Ratio of two successive micro-batches.
const FACTOR: usize = 4;
/// No larger micro-batch is begun after this time.
const LONG_ENOUGH: Duration = Duration::from_secs(3);
/// More samples than a pass that keeps anything can have without growing.
const MOST_SAMPLES: usize = 1 << 20;

/// Where a profile comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The network brings it.
    Stated,
    /// Memory from passes, work guessed from the parameters.
    Measured,
    /// Both guessed from the parameters: no pass could be made, or none was large enough to be seen.
    Guessed,
}

/// What a plan adds to a prediction of memory.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stated => "",
            Self::Measured => "; measured with passes over made-up samples, work guessed from the parameters",
            Self::Guessed => "; guessed from the parameters, as is work: this network states neither, and no pass was large enough to be seen",
        })
    }
}

/// The profile of a network that brings none. Measured once in a process.
pub(super) fn profile(config: &Config, layout: &Layout) -> Result<(Profile, Source)> {
    static FOUND: Mutex<BTreeMap<String, Option<f64>>> = Mutex::new(BTreeMap::new());
    let (network, data) = (config.network.network_json()?, config.network.data_json()?);
    let key = format!("{network} {data} {:?}", config.hessian.operator);
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner); // one at a time: others would be measured with it
    let kept = match found.get(&key) {
        Some(kept) => *kept,
        None => {
            let kept = dispatch(&plain(config), Growing { layout }).unwrap_or_else(|error| {
                tracing::debug!(%error, "measuring a pass"); // what is wrong with the data is said by whoever needs it
                None
            });
            found.insert(key, kept);
            kept
        }
    };
    let guess = Profile::of_layout(layout);
    Ok(match kept {
        Some(kept) => (Profile { kept, ..guess }, Source::Measured),
        None => (guess, Source::Guessed),
    })
}

/// A configuration's network on the processor in f32.
fn plain(config: &Config) -> Config {
    let mut plain = config.clone();
    let hessian = &mut plain.hessian;
    (hessian.backend, hessian.precision, hessian.math, hessian.recompute) =
        (Backend::Flex, Precision::F32, Arithmetic::F32, false);
    plain
}

/// Numbers that a prediction's pass keeps for each component, if that can be seen.
struct Growing<'a> {
    layout: &'a Layout,
}

impl Task for Growing<'_> {
    type Output = Option<f64>;

    fn run<K: Kernels, T: Number>(self, config: &Config, on: On<'_, K, T>) -> Result<Option<f64>> {
        let (begin, full) = (Instant::now(), self.layout.full());
        let per_sample = (2 * config.network.unit().predictions * size_of::<T>()) as f64; // the primal and one slot
        let mut peaks: Vec<f64> = Vec::new();
        let mut samples = 1;
        while samples <= MOST_SAMPLES && begin.elapsed() < LONG_ENOUGH {
            let job = Job::synthetic(config, &on, samples, samples)?;
            let comm = crate::cluster::solo::comm();
            let mut operator = job.operator(&comm);
            operator.slots = vec![&full];
            let v = start::<T>(&full, self.layout, 0, &Settings::default(), &comm);
            operator.sweep(&[(0, &v)])?.rehearse(0)?;
            let Some(peak) = peak_bytes() else { return Ok(None) };
            peaks.push(peak);
            if let [.., first, second, third] = peaks[..]
                && second - first > GROWTH / FACTOR as f64
                && third - second > GROWTH
            {
                let more = (samples - samples / FACTOR) as f64;
                return Ok(Some((third - second) / OVERHEAD / (more * per_sample)));
            }
            samples *= FACTOR;
        }
        Ok(None)
    }
}

/// Largest resident set of this process so far.
fn peak_bytes() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
}
