//! `hesspec bench`: seconds and share of sgemm's rate of forward pass, gradient, full and block products.
//!
//! Weights are random and tokens synthetic: speed depends on neither. Each case runs in a process of its own, so that its
//! peak memory is its own, and the allocator starts afresh.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Instant;

use burn::tensor::{DType, Tensor, TensorData, TensorPrimitive};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::common::{ConfigArguments, local, print, print_json};
use super::table::table;
use crate::block::Block;
use crate::cluster::solo;
use crate::config::{Backend, Config};
use crate::engine::Kernels;
use crate::hessian::{Precision, PrefixBudget, Settings, start};
use crate::job::{self, Job, On, Task};
use crate::networks::Registry;
use crate::plan::calibration::{Calibration, CalibrationCase, Conditions};
use crate::plan::cost::{Cost, Kept};
use crate::plan::memory::{Resources, free_on_device};
use crate::plan::{self, Plan};
use crate::{Error, Result};

/// Rows and columns of the product that gives the rate of products, and on CUDA.
const SGEMM: [usize; 2] = [2048, 8192];
/// Products that are timed; the fastest counts.
const SGEMM_REPEATS: usize = 5;
/// Activations below a block are kept, as between the sweeps of a run.
const PREFIX: PrefixBudget = PrefixBudget { memory: 1 << 30, file: 0 };
/// Name of the case of all blocks.
const TOGETHER: &str = "together";
/// Forward passes of a gradient: one forward, two backward.
const GRADIENT_PASSES: f64 = 3.0;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Slots of the products.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 10], value_name = "K,...")]
    slots: Vec<usize>,
    /// Timed repetitions, after one to warm up; the median counts.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Also all blocks together, with K probes each, in the groups of a run.
    #[arg(long)]
    together: bool,
    /// Also write the rate of products to FILE, for hesspec plan --calibration FILE.
    #[arg(long, value_name = "FILE", value_parser = local)]
    calibration: Option<PathBuf>,
    /// One case, in this process.
    #[arg(long, hide = true)]
    only: Option<String>,
}

#[derive(Debug, Serialize)]
struct Answer {
    machine: Machine,
    sgemm_gflops: f64,
    cases: Vec<Case>,
}

#[derive(Debug, Serialize)]
struct Machine {
    cpu: String,
    /// Accelerator that the backend computes on, by the driver's name; null for processors, and where it is not known.
    device: Option<String>,
    cores: usize,
    threads: usize,
    memory_gb: f64,
    os: &'static str,
    arch: &'static str,
    backend: Backend,
    precision: crate::config::Precision,
    hesspec: &'static str,
}

#[derive(Debug, Serialize)]
struct Case {
    what: String,
    slots: usize,
    seconds_per_slot: f64,
    matmul_gflop_per_slot: f64,
    gflops: f64,
    share_of_sgemm: f64,
    /// Largest resident set of the case's process, in units of 2^20 bytes; null where the system does not tell.
    peak_rss_mb: Option<f64>,
    /// Accelerator's memory that the case takes, in units of 2^20 bytes; null where it has none of its own.
    peak_device_mb: Option<f64>,
}

/// What a case's process prints.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    seconds_per_slot: f64,
    peak_rss_mb: Option<f64>,
    peak_device_mb: Option<f64>,
}

/// Times all cases and prints them.
pub fn main(arguments: &Arguments, networks: &Registry, json: bool) -> Result<()> {
    if arguments.repeats == 0 || arguments.slots.contains(&0) {
        return Err(Error::Config("--repeats and --slots: expected numbers from 1 on".into()));
    }
    let config = arguments.config.load(networks)?;
    if let Some(what) = &arguments.only {
        let (slots, repeats) = (arguments.slots[0], arguments.repeats);
        return print_json(&job::dispatch(&config, Timing { what, slots, repeats })?);
    }
    let sgemm_gflops = job::dispatch(&config, Sgemm)?;
    let cases = cases(&config, arguments)?
        .into_iter()
        .map(|planned| measured(arguments, planned, sgemm_gflops))
        .collect::<Result<Vec<_>>>()?;
    let answer = Answer { machine: machine(&config)?, sgemm_gflops, cases };
    if let Some(path) = &arguments.calibration {
        calibration(&config, &answer)?.save(path)?;
    }
    if json { print_json(&answer) } else { print(&describe(&answer)) }
}

/// What plans elsewhere need of the answer.
fn calibration(config: &Config, answer: &Answer) -> Result<Calibration> {
    let conditions = Conditions {
        machine: answer.machine.cpu.clone(),
        device: answer.machine.device.clone(),
        backend: answer.machine.backend,
        precision: answer.machine.precision,
        math: config.hessian.math,
        memory_gb: answer.machine.memory_gb,
        sgemm_gflops: answer.sgemm_gflops,
    };
    let products = answer.cases.iter().filter(|case| !["forward", "gradient"].contains(&case.what.as_str()));
    let case = |case: &Case| CalibrationCase {
        what: case.what.clone(),
        slots: case.slots,
        seconds_per_slot: case.seconds_per_slot,
        gflop_per_slot: case.matmul_gflop_per_slot,
    };
    Calibration::new(conditions, products.map(case).collect())
}

/// A case and its matrix work.
struct Planned {
    what: String,
    slots: usize,
    gflop_per_slot: f64,
}

/// Forward pass, gradient, then the whole network (where the configuration has it) and its blocks at every number of slots.
fn cases(config: &Config, arguments: &Arguments) -> Result<Vec<Planned>> {
    let (layout, cost) = (config.network.layout()?, Cost::of(&plan::profile(config)?));
    let tokens = num_samples(config)? * config.network.unit().predictions;
    let gflop = |passes: f64| 2.0 * cost.forward() * passes * tokens as f64 / 1e9;
    let single = |what: &str, passes| Planned { what: what.into(), slots: 1, gflop_per_slot: gflop(passes) };
    let mut cases = vec![single("forward", 1.0), single("gradient", GRADIENT_PASSES)];
    let kept = Kept { prefix: true, recompute: config.hessian.recompute };
    let mut blocks = job::blocks(config, &layout)?;
    blocks.sort_by_key(|block| !block.is_full()); // stable: the whole network first
    for block in &blocks {
        for &slots in &arguments.slots {
            let shares = (cost.block(&layout, block), block.is_full());
            let passes = cost.sweep(&vec![shares; slots], kept) / slots as f64;
            cases.push(Planned { what: block.name.clone(), slots, gflop_per_slot: gflop(passes) });
        }
    }
    for &probes in arguments.slots.iter().filter(|_| arguments.together) {
        let plan = together(config, probes)?;
        let slots: usize = plan.groups.iter().map(|group| group.pairs.len()).sum();
        let passes: f64 = plan.groups.iter().map(|group| group.forward_passes).sum();
        cases.push(Planned { what: TOGETHER.into(), slots: probes, gflop_per_slot: gflop(passes / slots as f64) });
    }
    Ok(cases)
}

/// The plan of all blocks but the whole network with so many probes each.
fn together(config: &Config, probes: usize) -> Result<Plan> {
    let mut config = config.clone();
    (config.blocks.full, config.lanczos.probes) = (false, probes);
    Plan::new(&config, &[], Resources::alone(&config)?)
}

fn num_samples(config: &Config) -> Result<usize> {
    config.num_samples().map_or_else(|| plan::micro_batch(config), Ok)
}

/// Runs a case in a process of its own.
fn measured(arguments: &Arguments, planned: Planned, sgemm_gflops: f64) -> Result<Case> {
    let Planned { what, slots, gflop_per_slot } = planned;
    let failed = |problem: String| Error::Other(format!("bench case `{what}` with {slots} slots: {problem}"));
    let program = std::env::current_exe().map_err(|error| failed(format!("where is hesspec? {error}")))?;
    let mut command = Command::new(program);
    command.arg("bench").arg(&arguments.config.config).args(["--only", &what, "--slots", &slots.to_string()]);
    command.args(["--repeats", &arguments.repeats.to_string()]);
    command.args(arguments.config.set.iter().flat_map(|set| ["--set", set.as_str()]));
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("it ended with {}", output.status)));
    }
    let Measured { seconds_per_slot, peak_rss_mb, peak_device_mb } =
        serde_json::from_slice(&output.stdout).map_err(|error| failed(format!("its answer is no JSON: {error}")))?;
    let gflops = gflop_per_slot / seconds_per_slot;
    Ok(Case {
        what,
        slots,
        seconds_per_slot,
        matmul_gflop_per_slot: gflop_per_slot,
        gflops,
        share_of_sgemm: gflops / sgemm_gflops,
        peak_rss_mb,
        peak_device_mb,
    })
}

struct Timing<'a> {
    what: &'a str,
    slots: usize,
    repeats: usize,
}

impl Task for Timing<'_> {
    type Output = Measured;

    fn run<K: Kernels, T: Precision>(self, config: &Config, on: On<'_, K, T>) -> Result<Measured> {
        let free = free_on_device(config);
        let job = Job::synthetic(config, &on, plan::micro_batch(config)?, num_samples(config)?)?;
        let comm = solo::comm();
        let operator = job.operator(&comm);
        let seconds = match self.what {
            "forward" => median(self.repeats, || operator.loss().map(drop))?,
            "gradient" => {
                let full = job.layout.full();
                median(self.repeats, || operator.gradient(&full).map(drop))?
            }
            TOGETHER => self.together(config, &job)?,
            name => {
                let block = job::block_named(config, &job.layout, name)?;
                let pairs: Vec<_> = (0..self.slots).map(|probe| (&block, probe as u32)).collect();
                self.group(&job, &pairs)? / self.slots as f64
            }
        };
        // what was freed stays in the pools, so that what is taken now is the peak
        let taken = |(before, now): (f64, f64)| (before - now) / 1024.0 / 1024.0;
        let peak_device_mb = free.zip(free_on_device(config)).map(taken);
        Ok(Measured { seconds_per_slot: seconds, peak_rss_mb: peak_rss_mb(), peak_device_mb })
    }
}

impl Timing<'_> {
    /// Seconds of the products of one group of (block, probe) pairs.
    fn group<K: Kernels, T: Precision>(&self, job: &Job<K, T>, pairs: &[(&Block, u32)]) -> Result<f64> {
        let comm = solo::comm();
        let mut operator = job.operator(&comm);
        operator.slots = pairs.iter().map(|(block, _)| *block).collect();
        let prefix = operator.prefix_of(&operator.slots, PREFIX);
        operator.prefix = prefix.map(Rc::new); // filled by the call that warms up
        let start =
            |(block, probe): &(&Block, u32)| start(block, &job.layout, *probe, &Settings::default(), &comm).values;
        let vectors: Vec<Vec<T>> = pairs.iter().map(start).collect();
        median(self.repeats, || operator.products(&vectors).map(drop))
    }

    /// Seconds of a slot of all groups with `slots` probes of each block.
    fn together<K: Kernels, T: Precision>(&self, config: &Config, job: &Job<K, T>) -> Result<f64> {
        let (mut seconds, mut slots) = (0.0, 0);
        for group in together(config, self.slots)?.groups {
            let pairs: Vec<_> = group.pairs.iter().map(|(at, probe)| (&job.blocks[*at], *probe)).collect();
            seconds += self.group(job, &pairs)?;
            slots += pairs.len();
        }
        Ok(seconds / slots as f64)
    }
}

/// Median of the seconds of `repeats` calls, after one to warm up.
fn median(repeats: usize, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    call()?;
    let mut seconds = Vec::with_capacity(repeats);
    for _ in 0..repeats {
        let begin = Instant::now();
        call()?;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok((seconds[(repeats - 1) / 2] + seconds[repeats / 2]) / 2.0)
}

/// The rate of a large f32 product through the kernel that the engine uses.
struct Sgemm;

impl Task for Sgemm {
    type Output = f64;

    fn run<K: Kernels, T: Precision>(self, config: &Config, on: On<'_, K, T>) -> Result<f64> {
        let size = SGEMM[usize::from(config.hessian.backend == Backend::Cuda)];
        let matrix = |phase: f32| {
            let values: Vec<f32> = (0..size * size).map(|at| (at as f32 * 0.618 + phase).sin()).collect();
            let tensor = Tensor::<K, 2>::from_data(TensorData::new(values, [size, size]), (&on.device, DType::F32));
            tensor.into_primitive().tensor()
        };
        let (a, b) = (matrix(0.0), matrix(0.5));
        let multiply = || {
            let begin = Instant::now();
            let product = K::sum_of_products(vec![(a.clone(), b.clone())]);
            // one entry read back: a device that computes behind our back has to have finished
            let product = Tensor::<K, 2>::from_primitive(TensorPrimitive::Float(product));
            let entry = product.slice([0..1, 0..1]).into_data();
            drop(entry);
            begin.elapsed().as_secs_f64()
        };
        multiply();
        let seconds = (0..SGEMM_REPEATS).map(|_| multiply()).fold(f64::INFINITY, f64::min);
        Ok(2.0 * (size as f64).powi(3) / seconds / 1e9)
    }
}

/// Largest resident set of this process so far.
fn peak_rss_mb() -> Option<f64> {
    proc_value("/proc/self/status", "VmHWM:").map(|kib| kib / 1024.0)
}

/// A value in KiB from a file of `key: value kB` lines.
fn proc_value(path: &str, key: &str) -> Option<f64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix("kB")?.trim().parse().ok())
}

fn machine(config: &Config) -> Result<Machine> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        text.lines()
            .find_map(|line| Some(line.strip_prefix("model name")?.trim_start_matches([' ', '\t', ':']).to_owned()))
    });
    let cores = std::thread::available_parallelism().map_err(|error| Error::Environment(error.to_string()))?;
    Ok(Machine {
        cpu: cpu.unwrap_or_else(|| "unknown".into()),
        device: job::accelerator(config),
        cores: cores.get(),
        threads: rayon::current_num_threads(),
        memory_gb: proc_value("/proc/meminfo", "MemTotal:").map_or(f64::NAN, |kib| kib * 1024.0 / 1e9),
        os: std::env::consts::OS,
        arch: std::env::consts::ARCH,
        backend: config.hessian.backend,
        precision: config.hessian.precision,
        hesspec: env!("CARGO_PKG_VERSION"),
    })
}

fn describe(answer: &Answer) -> String {
    let rows: Vec<Vec<String>> = answer
        .cases
        .iter()
        .map(|case| {
            vec![
                case.what.clone(),
                case.slots.to_string(),
                format!("{:.4}", case.seconds_per_slot),
                format!("{:.2}", case.matmul_gflop_per_slot),
                format!("{:.1}", case.gflops),
                format!("{:.2}", case.share_of_sgemm),
                case.peak_device_mb.or(case.peak_rss_mb).map_or("?".into(), |mb| format!("{mb:.0}")),
            ]
        })
        .collect();
    let header = ["what", "slots", "s/slot", "GFLOP/slot", "GFLOP/s", "of sgemm", "peak MB"];
    format!(
        "{}, {} threads; sgemm {:.1} GFLOP/s\n{}",
        answer.machine.device.as_ref().unwrap_or(&answer.machine.cpu),
        answer.machine.threads,
        answer.sgemm_gflops,
        table(&header, &rows)
    )
}
