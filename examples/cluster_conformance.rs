//! The communicator's conformance suite, and the ways a rank can fail, under a real launcher: see tests/mpi/run.sh.
//!
//!     mpirun -np 4 cluster_conformance [conformance | error | panic | thread-panic | interrupt | wait | bandwidth]

use std::thread::sleep;
use std::time::{Duration, Instant};

use hesspec::cluster::{self, Comm, Flags, conformance, signal, world};
use hesspec::{Error, Result};

fn main() {
    let mode = std::env::args().nth(1).unwrap_or_else(|| "conformance".into());
    let code = match world::discover(&Flags::default(), &world::environment()).and_then(|world| cluster::start(&world))
    {
        Ok(comm) => live(comm, &mode),
        Err(error) => {
            eprintln!("{error}");
            error.exit_code()
        }
    };
    std::process::exit(code)
}

/// A good end passes `finish`, any other `abort`.
fn live(comm: Comm, mode: &str) -> i32 {
    let result = match mode {
        "conformance" => all_checks(&comm),
        "error" => fail_on_last(&comm, || Err(Error::Storage("the disk is full".into()))),
        "panic" => fail_on_last(&comm, || panic!("out of luck")),
        "thread-panic" => fail_on_last(&comm, || {
            std::thread::spawn(|| panic!("out of luck")).join().map_err(|_| Error::Other("a panic was survived".into()))
        }),
        "interrupt" => until_signal(&comm),
        "wait" => until_killed(&comm),
        "bandwidth" => bandwidth(&comm),
        other => Err(Error::Config(format!("unknown mode `{other}`"))),
    };
    match result {
        Ok(()) => finish(comm, 0),
        Err(Error::Interrupted(_)) => finish(comm, 75),
        Err(error) => comm.abort(error.exit_code(), &error.to_string()),
    }
}

fn finish(comm: Comm, code: i32) -> i32 {
    match comm.finish() {
        Ok(()) => code,
        Err(error) => error.exit_code(),
    }
}

fn all_checks(comm: &Comm) -> Result<()> {
    let checks = conformance(comm)?;
    println!("rank {} of {}: {checks} checks", comm.rank(), comm.size());
    Ok(())
}

/// The last rank fails while the others wait for it.
fn fail_on_last(comm: &Comm, failure: impl FnOnce() -> Result<()>) -> Result<()> {
    comm.barrier()?;
    if comm.rank() + 1 == comm.size() {
        failure()?;
    }
    comm.barrier()
}

/// Steps until any rank has a stop request; all leave after the same step.
fn until_signal(comm: &Comm) -> Result<()> {
    signal::install(None)?;
    println!("rank {} pid {}", comm.rank(), std::process::id());
    for step in 0.. {
        sleep(Duration::from_millis(20));
        let mut requests = [f64::from(u8::from(signal::requested().is_some()))];
        comm.all_reduce_sum(&mut requests)?;
        if requests[0] > 0.0 {
            println!("rank {} leaves after step {step}", comm.rank());
            return Err(Error::Interrupted("stopped by a signal".into()));
        }
    }
    Ok(())
}

/// Steps for a minute: something is going to kill a rank.
fn until_killed(comm: &Comm) -> Result<()> {
    println!("rank {} pid {}", comm.rank(), std::process::id());
    for _ in 0..3000 {
        sleep(Duration::from_millis(20));
        comm.all_reduce_sum(&mut [0.0_f64; 8])?;
    }
    Ok(())
}

/// Seconds of a reduce-scatter, an all-gather and an all-reduce of 32 Mi f32.
fn bandwidth(comm: &Comm) -> Result<()> {
    let len = 32 << 20;
    let mut vector = vec![1.0_f32; len];
    let mut slice = vec![0.0_f32; comm.shard(len).slice_len()];
    let timed = |what: &str, call: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        comm.barrier()?;
        let start = Instant::now();
        call()?;
        let seconds = start.elapsed().as_secs_f64();
        if comm.is_root() {
            println!("{what}: {seconds:.3} s, {:.2} GB/s", 4.0 * len as f64 / seconds / 1e9);
        }
        Ok(())
    };
    for _ in 0..2 {
        timed("reduce_scatter", &mut || comm.reduce_scatter_sum(&vector, &mut slice))?;
    }
    timed("all_gather", &mut || comm.all_gather(&slice, &mut vector))?;
    timed("all_reduce", &mut || comm.all_reduce_sum(&mut vector))
}
