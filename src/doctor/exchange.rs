//! The ranks: who is there, whether their sums are right, how fast they exchange, whether their clocks agree.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Finding;
use crate::cluster::{Comm, World, gathered, host_name};
use crate::{Error, Result};

/// Entries of the vector that measures the bandwidth: 64 MB in f64.
const LEN: usize = 8 << 20;
/// Exchanges that are timed; the fastest counts.
const REPEATS: usize = 3;
/// Reductions of a few scalars that are timed.
const SHORT: u32 = 200;
/// Logs of ranks further apart are hard to read together.
const CLOCKS_DIFFER: f64 = 2.0;

/// What each rank says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Member {
    host: String,
    version: String,
    threads: usize,
    /// Processors that it may run on.
    processors: usize,
    /// Processors of its machine.
    present: usize,
    clock: f64,
}

/// Tries the exchange between ranks; every rank calls it, the findings are rank 0's.
///
/// # Errors
/// [`Error::Environment`] when an exchange fails: the job has to be ended.
pub fn exchange(comm: &Comm, world: &World) -> Result<Vec<Finding>> {
    let mut findings = vec![nccl()];
    if let Some(advice) = &world.advice {
        findings.push(Finding::warn("world", "one process", advice.clone()));
    }
    if comm.size() == 1 {
        findings.push(Finding::ok("ranks", "one process; start this under srun or mpirun to try the exchange"));
        return Ok(findings);
    }
    findings.extend(members(comm, world)?);
    findings.push(reductions(comm)?);
    Ok(findings)
}

fn members(comm: &Comm, world: &World) -> Result<Vec<Finding>> {
    comm.barrier()?; // the clocks are read as much at the same time as can be
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mine = Member {
        host: host_name(),
        version: env!("CARGO_PKG_VERSION").into(),
        threads: rayon::current_num_threads(),
        processors,
        present: machine_processors().unwrap_or(processors),
        clock: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
    };
    let Some(all) = gathered(comm, &mine)? else { return Ok(Vec::new()) };
    Ok(vec![who(&all, &world.launcher.to_string()), share(&all), clocks(&all)])
}

fn who(all: &[Member], launcher: &str) -> Finding {
    let mut hosts: Vec<&str> = all.iter().map(|member| member.host.as_str()).collect();
    hosts.dedup();
    let found = format!("{} ranks by {launcher} on {}", all.len(), hosts.join(", "));
    if all.iter().all(|member| member.version == all[0].version) {
        return Finding::ok("ranks", found);
    }
    Finding::fail("ranks", format!("{found}, of different versions"), "start the same program on all nodes")
}

/// Threads of the ranks of each machine against its processors. A launcher that binds ranks shows each its own share.
fn share(all: &[Member]) -> Finding {
    let what = "threads of all ranks";
    let crowded = all.iter().find_map(|one| {
        let here: Vec<&Member> = all.iter().filter(|member| member.host == one.host).collect();
        let threads: usize = here.iter().map(|member| member.threads).sum();
        let processors: usize = here.iter().map(|member| member.processors).sum();
        // unbound ranks all see the same processors
        let present = one.present.min(processors);
        (threads > present).then(|| (one.host.clone(), threads, present, here.len()))
    });
    match crowded {
        None => Finding::ok(what, "no more threads than processors on any machine"),
        Some((host, threads, processors, ranks)) => Finding::warn(
            what,
            format!("{threads} threads of {ranks} ranks on {processors} processors of {host}"),
            format!("give each rank its share: --set run.threads={}", (processors / ranks).max(1)),
        ),
    }
}

/// Processors of this machine, whatever this process is bound to.
fn machine_processors() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    Some(text.lines().filter(|line| line.starts_with("processor")).count()).filter(|count| *count > 0)
}

fn clocks(all: &[Member]) -> Finding {
    let clocks = all.iter().map(|member| member.clock);
    let apart = clocks.clone().fold(f64::MIN, f64::max) - clocks.fold(f64::MAX, f64::min);
    let found = format!("{apart:.3} s between the first and the last");
    if apart <= CLOCKS_DIFFER {
        return Finding::ok("clocks of all ranks", found);
    }
    Finding::warn("clocks of all ranks", found, "set the machines' clocks, or the logs of ranks cannot be compared")
}

/// Reduce-scatter and all-gather of a long vector, and a sum of two scalars, which is most of what a step exchanges.
fn reductions(comm: &Comm) -> Result<Finding> {
    let (rank, size) = (comm.rank(), comm.size());
    let shard = comm.shard(LEN);
    let vector: Vec<f64> = (0..LEN).map(|index| ((index + rank) % 1024) as f64).collect();
    let (mut slice, mut whole) = (vec![0.0; shard.slice_len()], vec![0.0; LEN]);
    let (mut scatter, mut gather) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..REPEATS {
        comm.barrier()?;
        let begin = Instant::now();
        comm.reduce_scatter_sum(&vector, &mut slice)?;
        scatter = scatter.min(begin.elapsed().as_secs_f64());
        comm.barrier()?;
        let begin = Instant::now();
        comm.all_gather(&slice, &mut whole)?;
        gather = gather.min(begin.elapsed().as_secs_f64());
    }
    let begin = Instant::now();
    for _ in 0..SHORT {
        comm.all_reduce_sum(&mut [1.0_f64, 0.0])?;
    }
    let short = begin.elapsed().as_secs_f64() / f64::from(SHORT);
    // sums of integers below 2^53 are exact in any order
    let expected = |index: usize| (0..size).map(|rank| ((index + rank) % 1024) as f64).sum::<f64>();
    let wrong = whole.iter().enumerate().find(|(index, found)| **found != expected(*index));
    if let Some((index, found)) = wrong {
        return Err(Error::Environment(format!(
            "entry {index} of a sum over {size} ranks is {found}, expected {}: this MPI or network corrupts data",
            expected(index)
        )));
    }
    // a ring moves (R - 1) / R of the vector over each rank's wire
    let moved = (size - 1) as f64 / size as f64 * (LEN * size_of::<f64>()) as f64 / 1e9;
    Ok(Finding::ok(
        "reductions",
        format!(
            "64 MB: reduce-scatter {:.2} GB/s, all-gather {:.2} GB/s per rank; a sum of two scalars {:.0} us",
            moved / scatter,
            moved / gather,
            1e6 * short
        ),
    ))
}

#[cfg(feature = "nccl")]
fn nccl() -> Finding {
    use crate::cluster::nccl;
    let found = nccl::library().and_then(|version| Ok((version, nccl::num_devices()?)));
    match found {
        Ok((version, devices)) => Finding::ok("NCCL", format!("version {version}, {devices} CUDA devices")),
        Err(error) => Finding::warn("NCCL", error.to_string(), "needed for several GPUs only"),
    }
}

#[cfg(not(feature = "nccl"))]
fn nccl() -> Finding {
    Finding::ok("NCCL", "not built")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Launcher, threads};
    use crate::doctor::Verdict;

    #[test]
    fn three_ranks_exchange() {
        let findings = threads::run(3, |comm| {
            let (rank, size) = (comm.rank(), comm.size());
            let world = World { rank, size, local_rank: rank, launcher: Launcher::Flags, advice: None };
            exchange(&comm, &world)
        });
        let findings = findings.unwrap().swap_remove(0);
        let of = |what: &str| findings.iter().find(|finding| finding.what == what).unwrap();
        assert!(of("ranks").found.starts_with("3 ranks"), "{findings:?}");
        assert!(of("reductions").found.contains("GB/s"), "{findings:?}");
        assert!(findings.iter().all(|finding| finding.verdict != Verdict::Fail), "{findings:?}");
    }

    #[test]
    fn crowded_machines_and_clocks_apart_are_said() {
        let member = |host: &str, threads, clock| Member {
            host: host.into(),
            version: "1".into(),
            threads,
            processors: 1,
            present: 8,
            clock,
        };
        let all = [member("a", 1, 0.0), member("b", 64, 9.0)];
        assert_eq!(share(&all).verdict, Verdict::Warn);
        assert_eq!(clocks(&all).verdict, Verdict::Warn);
        assert_eq!(share(&all[..1]).verdict, Verdict::Ok);
        assert_eq!(who(&all, "x").verdict, Verdict::Ok);
        let other = Member { version: "2".into(), ..member("b", 1, 0.0) };
        assert_eq!(who(&[all[0].clone(), other], "x").verdict, Verdict::Fail);
    }
}
