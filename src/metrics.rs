//! Where the time of a Lanczos step goes, as one rank sees it.
//!
//! A step's time falls into products (tangents and primal share their passes and are not told apart), reduction (whatever
//! is exchanged between ranks, the wait for slower ones included), reorthogonalisation, and checkpoints. Shares are taken
//! phase by phase: what a phase lasts, less what it spent exchanging. The rest (probes of the clock, loops) is noise.

use std::time::Instant;

use crate::cluster::Comm;

/// What part of a step is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Vectors into the model, passes over micro-batches, sums.
    Products,
    /// Gram-Schmidt, norms, segment rows.
    Reorthogonalization,
    /// Checkpoints.
    Storage,
}

/// Seconds by phase; exchange between ranks is taken out of the others.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Split {
    /// Passes over micro-batches.
    pub products: f64,
    /// Exchange between ranks.
    pub reduction: f64,
    /// Gram-Schmidt, norms, segment rows.
    pub reorthogonalization: f64,
    /// Checkpoints.
    pub io: f64,
}

/// One step of a group on this rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepMetrics {
    /// Step number from 1.
    pub step: usize,
    /// Slots that took part.
    pub slots: usize,
    /// Predicted tokens of all ranks in this call: less than the batch where the sweep was resumed.
    pub tokens: f64,
    /// Share of the sweep that was done in this call.
    pub share: f64,
    /// Wall seconds.
    pub seconds: f64,
    /// Where they went.
    pub split: Split,
}

impl StepMetrics {
    /// Predicted tokens per second, all ranks together.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Products H v over the whole batch per second, all ranks together.
    pub fn products_per_second(&self) -> f64 {
        self.share * self.slots as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }
}

/// Takes the times of one step.
pub struct Stopwatch<'c> {
    comm: &'c Comm,
    begin: Instant,
    split: Split,
}

impl<'c> Stopwatch<'c> {
    /// Starts a step.
    pub fn start(comm: &'c Comm) -> Self {
        Self { comm, begin: Instant::now(), split: Split::default() }
    }

    /// Does something that belongs to a phase.
    pub fn time<T>(&mut self, phase: Phase, work: impl FnOnce() -> T) -> T {
        let (begin, before) = (Instant::now(), self.comm.spent());
        let result = work();
        let exchange = (self.comm.spent() - before).as_secs_f64();
        let own = (begin.elapsed().as_secs_f64() - exchange).max(0.0);
        self.split.reduction += exchange;
        match phase {
            Phase::Products => self.split.products += own,
            Phase::Reorthogonalization => self.split.reorthogonalization += own,
            Phase::Storage => self.split.io += own,
        }
        result
    }

    /// Seconds since the start, and where they went.
    pub fn stop(self) -> (f64, Split) {
        (self.begin.elapsed().as_secs_f64(), self.split)
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;
    use crate::cluster::threads;

    /// Rank 1 comes 200 ms late: on rank 0 that is exchange, on rank 1 work.
    #[test]
    fn waiting_for_another_rank_is_exchange_and_not_work() {
        let times = threads::run(2, |comm| {
            let mut watch = Stopwatch::start(&comm);
            watch.time(Phase::Products, || {
                sleep(Duration::from_millis(200 * comm.rank() as u64));
                comm.barrier()
            })?;
            watch.time(Phase::Storage, || sleep(Duration::from_millis(20)));
            Ok(watch.stop())
        });
        let [(seconds, early), (_, late)] = times.unwrap()[..] else { panic!("two ranks") };
        assert!(early.reduction > 0.1 && early.products < 0.1, "{early:?}");
        assert!(late.products >= 0.2, "{late:?}");
        assert!(early.io >= 0.02 && early.reorthogonalization == 0.0, "{early:?}");
        assert!(early.products + early.reduction + early.io <= seconds);
    }

    #[test]
    fn rates_count_what_was_done_in_this_call() {
        let metrics =
            StepMetrics { step: 3, slots: 4, tokens: 500.0, share: 0.5, seconds: 2.0, split: Split::default() };
        assert_eq!((metrics.tokens_per_second(), metrics.products_per_second()), (250.0, 1.0));
    }
}
