//! The thread world: conformance, order, counting, and that no failure leaves a rank waiting.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::*;
use crate::Error;

#[test]
fn conformance_on_one_rank() {
    assert!(conformance(&solo::comm()).unwrap() > 100);
}

#[test]
fn conformance_on_one_to_seven_threads() {
    for size in 1..=7 {
        let checks = threads::run(size, |comm| conformance(&comm)).unwrap();
        assert_eq!(checks.len(), size);
        assert!(checks.iter().all(|count| *count == checks[0] && *count > 100), "{checks:?}");
    }
}

#[test]
fn conformance_notices_a_wrong_transport() {
    struct Doubling(Comm);
    impl Transport for Doubling {
        fn rank(&self) -> usize {
            self.0.rank()
        }
        fn size(&self) -> usize {
            self.0.size()
        }
        fn barrier(&self) -> Result<()> {
            Ok(())
        }
        fn broadcast(&self, _: usize, _: &mut [u8]) -> Result<()> {
            Ok(())
        }
        fn reduce_sum(&self, pair: Pair<'_>) -> Result<()> {
            match pair {
                Pair::F32(send, receive) => receive.iter_mut().zip(send).for_each(|(r, s)| *r = *s + *s),
                Pair::F64(send, receive) => receive.copy_from_slice(send),
            }
            Ok(())
        }
        fn reduce_scatter_sum(&self, pair: Pair<'_>) -> Result<()> {
            self.reduce_sum(pair)
        }
        fn all_gather(&self, send: &[u8], receive: &mut [u8]) -> Result<()> {
            receive.copy_from_slice(send);
            Ok(())
        }
        fn send(&self, _: usize, _: &[u8]) -> Result<()> {
            Ok(())
        }
        fn receive(&self, _: usize, _: &mut [u8]) -> Result<()> {
            Ok(())
        }
        fn abort(&self, _: i32, message: &str) -> ! {
            panic!("{message}")
        }
    }
    let error = conformance(&Comm::new(Box::new(Doubling(solo::comm())))).unwrap_err().to_string();
    assert!(error.contains("all_reduce_sum (f32, 2 entries)"), "{error}");
    assert!(error.contains("entry 1 is 14.0, expected 7.0"), "{error}");
}

#[test]
fn a_barrier_holds_until_the_last_rank_arrives() {
    let times = threads::run(4, |comm| {
        std::thread::sleep(Duration::from_millis(10 * comm.rank() as u64));
        let before = Instant::now();
        comm.barrier()?;
        Ok((before, Instant::now()))
    })
    .unwrap();
    let last_in = times.iter().map(|(before, _)| *before).max().unwrap();
    assert!(times.iter().all(|(_, after)| *after >= last_in));
}

/// A step's collectives on a vector of n entries: as many on 64 ranks as on 2, bytes by the formulas of `Traffic`.
#[test]
fn traffic_of_a_step_on_64_ranks() {
    let step = |comm: &Comm, len: usize| -> Result<()> {
        let mut slice = vec![0.0_f32; comm.shard(len).slice_len()];
        comm.reduce_scatter_sum(&vec![1.0_f32; len], &mut slice)?;
        comm.reduce_sum(&mut [0.0_f64; 4])?;
        comm.broadcast(0, &mut [0.0_f64; 2])?;
        comm.all_gather(&slice, &mut vec![0.0; len])
    };
    for size in [2_usize, 64] {
        let len = 10_007_usize;
        let traffic = threads::run(size, |comm| step(&comm, len).map(|()| comm.traffic())).unwrap();
        let padded = (len.div_ceil(size) * size) as u64;
        assert!(traffic.iter().all(|t| *t == Traffic { collectives: 4, bytes: 2 * 4 * padded + 6 * 8 }));
    }
}

#[test]
fn sums_have_the_same_bits_in_every_run() {
    let sum = || {
        threads::run(5, |comm| {
            let mut values: Vec<f32> = (0..1000).map(|i| 0.1 * (comm.rank() + 1) as f32 / (i as f32 + 3.0)).collect();
            comm.all_reduce_sum(&mut values)?;
            Ok(values)
        })
    };
    let first = sum().unwrap();
    assert!((0..5).all(|_| sum().unwrap() == first));
}

/// Runs `body` on four ranks, the result must be an error, soon.
fn failure(body: impl Fn(&Comm) -> Result<()> + Sync) -> Error {
    let start = Instant::now();
    let error = threads::run(4, |comm| body(&comm)).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    error
}

#[test]
fn an_error_of_one_rank_ends_all_with_its_own_error() {
    let seen = Mutex::new(Vec::new());
    let error = failure(|comm| {
        if comm.rank() == 2 {
            return Err(Error::Numerics("alpha is NaN".into()));
        }
        comm.barrier().inspect_err(|error| seen.lock().unwrap().push(error.to_string()))
    });
    assert!(matches!(&error, Error::Numerics(message) if message == "alpha is NaN"), "{error:?}");
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|message| message.contains("alpha is NaN")), "{seen:?}");
}

#[test]
fn a_panic_of_one_rank_ends_all() {
    let error = failure(|comm| {
        assert!(comm.rank() != 1, "out of luck");
        comm.broadcast(3, &mut [0.0_f64; 3])
    });
    assert!(matches!(&error, Error::Other(message) if message.contains("rank 1 panicked: out of luck")), "{error:?}");
}

#[test]
fn an_abort_ends_all_with_its_code() {
    for code in [2, 3, 4, 5, 75, 1] {
        let error = failure(|comm| if comm.rank() == 3 { comm.abort(code, "full disk") } else { comm.barrier() });
        assert_eq!(error.exit_code(), code);
        assert!(error.to_string().contains("rank 3") && error.to_string().contains("full disk"), "{error}");
    }
}

#[test]
fn a_rank_that_leaves_early_ends_all() {
    for patience in [0, 30] {
        let error = failure(|comm| {
            if comm.rank() == 0 {
                std::thread::sleep(Duration::from_millis(patience));
                return Ok(());
            }
            comm.barrier()
        });
        assert!(error.to_string().contains("rank 0 has returned"), "{error}");
    }
}

#[test]
fn a_missing_sender_is_noticed() {
    let error = failure(|comm| match comm.rank() {
        // the others agree to send three bytes and then do not
        0 => comm.gather_bytes(0, &[]).map(drop),
        _ => comm.all_reduce_sum(&mut [0.0_f32; 1]),
    });
    assert!(error.to_string().contains("same calls"), "{error}");
}

#[test]
fn different_calls_and_lengths_are_noticed() {
    let error = failure(|comm| if comm.rank() == 2 { comm.barrier() } else { comm.broadcast(0, &mut [0.0_f32; 2]) });
    assert!(error.to_string().contains("barrier") && error.to_string().contains("broadcast"), "{error}");
    let error = failure(|comm| comm.all_reduce_sum(&mut vec![0.0_f64; if comm.rank() == 1 { 3 } else { 4 }]));
    assert!(error.to_string().contains("len: 3") && error.to_string().contains("len: 4"), "{error}");
    let error = failure(|comm| comm.broadcast(comm.rank() % 2, &mut [0.0_f32; 2]));
    assert!(error.to_string().contains("root: 0") && error.to_string().contains("root: 1"), "{error}");
}

#[cfg(not(feature = "mpi"))]
#[test]
fn several_ranks_without_mpi_are_refused() {
    let world = World { rank: 0, size: 4, local_rank: 0, launcher: Launcher::OpenMpi, advice: None };
    let error = start(&world).err().unwrap();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("--features mpi"), "{error}");
}

#[test]
fn one_rank_is_solo_in_every_build() {
    let world = World { rank: 0, size: 1, local_rank: 0, launcher: Launcher::Solo, advice: None };
    let comm = start(&world).unwrap();
    assert_eq!((comm.rank(), comm.size(), comm.is_root()), (0, 1, true));
    comm.finish().unwrap();
}
